"""The parameters that requests of every task have, and how their values are read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""Makes a strict integer one as JSON Schema means it: `4` and `4.0`, but neither `"4"` nor `true`."""


def _nullable(schema: dict[str, Any]) -> None:
    """Says in a schema that every parameter may be null."""
    for name, told in schema.get("properties", {}).items():
        if told.get("type") != "null" and {"type": "null"} not in told.get("anyOf", ()):
            beside = {key: told.pop(key) for key in ("title", "description", "default") if key in told}
            schema["properties"][name] = {"anyOf": [told, {"type": "null"}], **beside}


class Parameters(BaseModel):
    """What a prediction request may ask for beside its inputs; null stands for the default, as clients of Hugging Face send it."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_nullable)

    stride: Annotated[int, Strict(), Field(ge=0, le=1_000_000), WHOLE] | None = Field(
        None,
        description="Sub-words by which neighbouring windows of a text longer than the model overlap; the agent's own by default.",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None or name not in cls.model_fields}
