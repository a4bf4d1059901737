"""The parameter by which a caller asks for the answer without the bundle's policy."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from agent.tasks.requests.request_parameters import Parameters


class PolicyParameters(Parameters):
    """Parameters of a request to an agent that may have a policy."""

    policy: Annotated[bool, Strict()] | None = Field(
        None, description="false: the answer of the agent alone, even where its bundle has a policy."
    )
