"""Parameters of requests and tensors of the Open Inference Protocol: ours, and what clients of Triton and MLServer send beside them."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, StrictBool, StrictStr, create_model

from agent.tasks import Parameters
from agent.tasks.requests.request_parameters import WHOLE

_NO_STATE = "As clients of Triton send it; without effect: requests do not depend on each other."
_Codec = Annotated[
    Literal["str"] | None, Field(description="As clients of MLServer send it: elements of BYTES are texts in UTF-8.")
]
_Whole = Annotated[int, Strict(), WHOLE]


class StrictBody(BaseModel):
    """A part of a request, which holds no other keys."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class InputParameters(StrictBody):
    """Parameters of an input tensor."""

    binary_data_size: Annotated[int, Strict()] | None = Field(
        None, ge=0, description="The tensor's bytes behind the JSON; then it has no data."
    )
    content_type: _Codec = None


class OutputParameters(StrictBody):
    """Parameters of an output tensor."""

    binary_data: StrictBool | None = Field(None, description="Send it in binary behind the JSON.")
    content_type: _Codec = None


@cache
def request_parameters(parameters: type[Parameters]) -> type[Parameters]:
    """The parameters of a task's requests, and those that the protocol's clients add.

    Args:
        parameters: The task's own.
    """
    state: Any = (_Whole | StrictStr | None, Field(None, description=_NO_STATE))
    edge: Any = (StrictBool | None, Field(None, description=_NO_STATE))
    number = "As clients of Triton send it; without effect"
    further: dict[str, Any] = {
        "content_type": (_Codec, None),
        "sequence_id": state,
        "sequence_start": edge,
        "sequence_end": edge,
        "priority": (_Whole | None, Field(None, description=f"{number}: requests are answered in turn.")),
        "timeout": (
            _Whole | None,
            Field(None, description=f"{number}: the header x-request-timeout-seconds, or a deadline of gRPC, ends a request."),
        ),
    }  # fmt: skip
    return create_model("ProtocolParameters", __base__=parameters, **further)
