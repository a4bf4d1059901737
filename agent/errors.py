"""The errors that users can act on. Each can be pickled and inherits from the nearest error of the standard library."""

from __future__ import annotations

from typing import Any


class AgentError(Exception):
    """Base of all errors of bert-agent: what was wrong, what is allowed and what to do about it.

    Args:
        what: Where it happened and what was given, in one clause.
        allowed: What would have been accepted.
        remedy: What the user can do now.
    """

    def __init__(self, what: str, *, allowed: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.allowed, self.remedy = what, allowed, remedy

    def __str__(self) -> str:
        allowed = f" Allowed: {self.allowed}." if self.allowed else ""
        remedy = f" Remedy: {self.remedy}." if self.remedy else ""
        return f"{self.what}.{allowed}{remedy}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.what, self.allowed, self.remedy)


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """The message of an error on one line of at most `limit` characters; the name of its type where it has no message."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def _restore(kind: type[AgentError], what: str, allowed: str, remedy: str) -> AgentError:
    return kind(what, allowed=allowed, remedy=remedy)


class ConfigError(AgentError, ValueError):
    """A key or a value of a configuration is wrong."""


class DataError(AgentError, ValueError):
    """A data file, or a line of one, is wrong."""


class BundleError(AgentError, ValueError):
    """A bundle is missing, altered, incomplete or newer than this program."""


class ModelError(AgentError, OSError):
    """A base model can neither be found nor read."""


class ClusterError(AgentError, RuntimeError):
    """The Ray cluster cannot be reached or lacks what was asked for."""


class TrainingError(AgentError, RuntimeError):
    """A training run cannot continue."""


class LossError(TrainingError):
    """The loss is not finite, or diverges."""


class CheckpointError(AgentError, OSError):
    """A checkpoint cannot be written, or one that exists cannot be read."""


class ExportError(AgentError, RuntimeError):
    """No ONNX graph with the model's logits can be made, or no converted model with its probabilities."""


class GateError(AgentError, RuntimeError):
    """A compressed agent lost more quality than its configuration permits."""


class StoreError(AgentError, OSError):
    """The store of decisions cannot be used."""


class EvidenceError(AgentError, RuntimeError):
    """The log of decisions cannot tell what was asked."""


class LoopError(AgentError, RuntimeError):
    """A round of the loop from feedback to a new version cannot go on."""


class RequestError(AgentError, ValueError):
    """A prediction request cannot be answered as it stands.

    Args:
        status: The HTTP status that answers it.
        field: The part of the request that is wrong, as a path (`inputs[3]`).
    """

    def __init__(self, what: str, *, allowed: str = "", remedy: str = "", status: int = 422, field: str = "") -> None:
        super().__init__(what, allowed=allowed, remedy=remedy)
        self.status, self.field = status, field

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_request, (self.what, self.allowed, self.remedy, self.status, self.field)


def _restore_request(what: str, allowed: str, remedy: str, status: int, field: str) -> RequestError:
    return RequestError(what, allowed=allowed, remedy=remedy, status=status, field=field)
