"""What `inputs` of a request may be: texts, their words, or objects of the texts of one input, one or several."""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Strict, StrictBool, Tag, create_model

from agent.tasks import BaseTask

# Tags of the union; no key of a request can be mistaken for them.
_ONE, _SEVERAL, _OBJECT, _SEVERAL_OBJECTS = "<one>", "<several>", "<object>", "<several objects>"
TAGS = frozenset((_ONE, _SEVERAL, _OBJECT, _SEVERAL_OBJECTS))
INPUTS = "a string, or a list of strings"
_OR_ONE_OF_WORDS = ', or {"words": [...]} with the words of a text'
_OR_WORDS = ', or {"words": [...]} with the words of a text, or a list of such objects'


def _shape(value: Any) -> str | None:
    if isinstance(value, str):
        return _ONE
    return _SEVERAL if isinstance(value, list) else None


def _shape_with_objects(value: Any) -> str | None:
    if isinstance(value, dict | BaseModel):
        return _OBJECT
    if isinstance(value, list) and value and isinstance(value[0], dict | BaseModel):
        return _SEVERAL_OBJECTS
    return _shape(value)


def _shape_of_one(value: Any) -> str | None:
    return _OBJECT if isinstance(value, dict | BaseModel) else _ONE if isinstance(value, str) else None


_Text = Annotated[str, Strict(), Field(json_schema_extra={"minLength": 1})]  # said here, seen to by refuse_empty
_OneText = Annotated[_Text, Tag(_ONE)]


class Words(BaseModel):
    """A text that the caller has cut into words. Answers count its characters with single blanks between them."""

    model_config = ConfigDict(extra="forbid")

    words: Annotated[list[_Text], Field(min_length=1)] = Field(description="The words, in order.")


class HubOptions(BaseModel):
    """What Hugging Face's API takes beside parameters; an agent that is served is loaded, and nothing is cached: they change nothing."""

    model_config = ConfigDict(extra="forbid")

    use_cache: StrictBool | None = None
    wait_for_model: StrictBool | None = None
    use_gpu: StrictBool | None = None
    dont_load_model: StrictBool | None = None


OneOrSeveral = Annotated[_OneText | Annotated[list[_Text], Tag(_SEVERAL)], Discriminator(_shape)]


def input_object_of(task: BaseTask[Any]) -> type[BaseModel] | None:
    """What an input may be that is no string: words, or the texts that it has several of."""
    if len(task.input_fields) == 1:
        return Words if task.takes_words else None
    fields: dict[str, Any] = {field: (_Text, Field(description="One of its texts.")) for field in task.input_fields}
    return create_model(
        "InputTexts", __config__=ConfigDict(extra="forbid"), __doc__="The texts of one input.", **fields
    )


def told_inputs(task: BaseTask[Any], *, several: bool = True) -> str:
    """What `inputs` may be, for errors.

    Args:
        task: Whose.
        several: Whether a request may hold several inputs.
    """
    if len(task.input_fields) == 1:
        if not several:
            return "a string" + (_OR_ONE_OF_WORDS if task.takes_words else "")
        return INPUTS + (_OR_WORDS if task.takes_words else "")
    shape = "{" + ", ".join(f'"{field}": "..."' for field in task.input_fields) + "}"
    if not several:
        return f"an object {shape}" + (", or a string, as parameters say" if task.takes_single else "")
    single = ", or a string or a list of strings, as parameters say" if task.takes_single else ""
    return f"an object {shape}, or a list of them{single}"


def input_type(task: BaseTask[Any], input_object: type[BaseModel] | None) -> Any:
    """The type of `inputs` of a request about one input."""
    shapes: list[Any] = []
    if len(task.input_fields) == 1 or task.takes_single:
        shapes.append(_OneText)
    if input_object:
        shapes.append(Annotated[input_object, Tag(_OBJECT)])
    if len(shapes) == 1:
        return shapes[0]
    return Annotated[Union[tuple(shapes)], Discriminator(_shape_of_one)]  # noqa: UP007  # of a list


def inputs_type(task: BaseTask[Any], input_object: type[BaseModel] | None, max_texts: int | None) -> Any:
    """The type of `inputs`; bounds are only described, whoever reads and predicts sees to them."""
    bounds: dict[str, Any] = {"minItems": 1} | ({"maxItems": max_texts} if max_texts else {})
    shapes: list[Any] = []
    if len(task.input_fields) == 1 or task.takes_single:
        shapes += [_OneText, Annotated[list[_Text], Field(json_schema_extra=bounds), Tag(_SEVERAL)]]
    if input_object:
        many: Any = list[input_object]  # type: ignore[valid-type]
        shapes.append(Annotated[input_object, Tag(_OBJECT)])
        shapes.append(Annotated[many, Field(json_schema_extra=bounds), Tag(_SEVERAL_OBJECTS)])
    return Annotated[Union[tuple(shapes)], Discriminator(_shape_with_objects if input_object else _shape)]  # noqa: UP007  # of a list
