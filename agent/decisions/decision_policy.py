"""`policy.json` of a bundle: the thresholds by which a served agent decides what it answers, and the evidence that they were chosen on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from agent.config.base import Config
from agent.errors import BundleError
from agent.tasks import BaseTask

POLICY = "policy.json"
FORMAT_VERSION = 1
_REMEDY = "copy the bundle again, or choose the policy anew with serving/decide.py"


class CostEstimate(Config):
    """A mean cost of a text with its interval."""

    value: float
    low: float
    high: float


class PolicyEvidence(Config):
    """What a policy was chosen on.

    Attributes:
        kind: A log of decisions, or labelled data.
        texts: How many.
        digest: sha256 of texts and labels or feedback.
        agent: Whose decisions.
        first, last: Times of the first and the last decision, in UTC (ISO 8601).
    """

    kind: Literal["log", "data"]
    texts: int
    digest: str
    agent: str | None = None
    first: str | None = None
    last: str | None = None


class Policy(Config):
    """By which score of a label the agent answers with it.

    Attributes:
        task: Kind of the agent's task.
        thresholds: By label; a score that reaches it is answered, and none reaches 1.1.
        costs: What wrong answers and abstentions cost.
        evidence: What it was chosen on.
        bundle: Digest of the bundle that it was chosen for.
        precision: Of the graph whose scores it was chosen on.
        confidence: Of the intervals.
        expected: Costs of a text that the thresholds were not chosen on: `plain`, `policy`, `silent` and `saving`.
        withheld, added: Part of what the agent would say that it does not say any more, and what it says more.
    """

    format_version: int = FORMAT_VERSION
    task: str
    thresholds: Mapping[str, Annotated[float, Field(ge=0)]]
    costs: Mapping[str, Any]
    evidence: PolicyEvidence
    bundle: str
    precision: str
    confidence: float
    expected: Mapping[str, CostEstimate]
    withheld: float
    added: float

    def as_json(self) -> str:
        """The content of the file."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def read_policy(directory: Path, files: Mapping[str, Any], task: BaseTask[Any]) -> Policy | None:
    """The policy of a bundle; None without one.

    Args:
        directory: Of the bundle.
        files: Those that its manifest lists, already verified.
        task: Of the agent.

    Raises:
        BundleError: There is a file that the manifest does not list, or that is no policy for this agent.
    """
    file = directory / POLICY
    if POLICY not in files:
        if file.exists():
            raise BundleError(
                f"bundle {directory} holds {POLICY}, which its manifest does not list",
                allowed="a policy that serving/decide.py wrote for this bundle",
                remedy=f"delete {file}, or choose a policy with serving/decide.py",
            )
        return None
    policy = _parse(file)
    if policy.task != task.kind or set(policy.thresholds) != set(task.labels):
        raise BundleError(
            f"{file} is for an agent for {policy.task} with {len(policy.thresholds)} labels",
            allowed=f"{task.kind} with the labels {', '.join(task.labels)[:200]}",
            remedy=_REMEDY,
        )
    return policy


def _parse(file: Path) -> Policy:
    try:
        tree = json.loads(file.read_bytes())
        version = tree["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{file} is damaged ({error!r})", remedy=_REMEDY) from None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{file} has format version {version!r}",
            allowed=f"format version {FORMAT_VERSION}",
            remedy="use the release of bert-agent that wrote it, or a newer one",
        )
    try:
        return Policy.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BundleError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}", remedy=_REMEDY) from None
