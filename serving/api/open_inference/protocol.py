"""The Open Inference Protocol v2, over HTTP and gRPC alike: which tensors an agent takes and gives.

One tensor of BYTES goes in for each text of an input (most tasks have one, `text`), one input in each row. What comes out are the columns of the agent's task, one row for each
text. A model's version is the beginning of its bundle's digest.
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError
from pydantic_core import from_json

from agent.bundle import installed_versions
from agent.errors import RequestError
from agent.tasks import Parameters
from agent.tasks.base import Column
from serving.api.endpoint import check_name
from serving.api.open_inference.tensor_parameters import request_parameters
from serving.api.request_body import explain, refuse_empty
from serving.scheduling.prediction import Answers
from serving.scheduling.predictor import Predictor

SERVER = "bert-agent"
EXTENSIONS = ("binary_tensor_data",)
_VERSION_CHARACTERS = 12
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request that was read: the texts, how to answer them, and the names of the tensors asked for."""

    texts: list[str]
    parameters: Parameters
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An output: one value for each text."""

    name: str
    datatype: str
    values: list[Any]


class OpenInference:
    """An agent as a model of the protocol.

    Args:
        predictor: What answers.
        name: The model's name.
    """

    def __init__(self, predictor: Predictor, name: str) -> None:
        self.predictor, self.name = predictor, name

    @property
    def version(self) -> str:
        """The version that is served."""
        return self.predictor.engine.bundle.digest[:_VERSION_CHARACTERS]

    @property
    def platform(self) -> str:
        """What computes it."""
        return f"{SERVER}_{'ctranslate2' if self.predictor.engine.bundle.task.writes else 'onnx'}"

    @property
    def columns(self) -> tuple[Column, ...]:
        """The tensors that come out."""
        return self.predictor.engine.bundle.task.columns

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors that go in."""
        return self.predictor.engine.bundle.task.input_fields

    def joined(self, tensors: Sequence[tuple[str, list[str]]]) -> list[str]:
        """The inputs whose texts came as tensors.

        Raises:
            RequestError: A tensor is missing or there twice, or they have different numbers of texts.
        """
        task = self.predictor.engine.bundle.task
        given, names = dict(tensors), [name for name, _ in tensors]
        possible = [self.inputs] + ([self.inputs[:1]] if task.takes_single else [])
        if (
            sorted(names) not in [sorted(each) for each in possible]
            or len({len(texts) for texts in given.values()}) > 1
        ):
            sizes = ", ".join(f"{name} of {len(texts)}" for name, texts in tensors)
            raise RequestError(
                f"inputs holds the tensors {sizes}",
                allowed=" or ".join(" with ".join(each) for each in possible) + ", of the same number of texts",
                remedy="send each once",
                field="inputs",
            )
        if len(given) < len(self.inputs) or len(given) == 1:
            return given[self.inputs[0]]
        return [task.as_input(texts) for texts in zip(*(given[name] for name in self.inputs), strict=True)]

    def check(self, name: str, version: str = "") -> None:
        """Refuses models that are not this one.

        Raises:
            RequestError: 404, the name or the version is another one.
        """
        check_name(name, self.name)
        if version not in ("", self.version):
            raise RequestError(
                f"{name} has no version {version[:80]!r}",
                allowed=self.version,
                remedy="leave the version out for the one that is served",
                status=404,
                field="version",
            )

    def parameters(self, given: Mapping[str, Any]) -> Parameters:
        """Reads parameters of a carrier that knows no lists, where they are written as JSON: `["O", "PER"]`.

        Raises:
            RequestError: One is unknown or has a wrong value.
        """
        kind = request_parameters(self.predictor.engine.bundle.task.parameters)
        try:
            return kind.model_validate({name: _maybe_list(value) for name, value in given.items()})
        except ValidationError as error:
            told = explain(error, kind, {})
            field = f"parameters.{told.field}"
            raise RequestError(
                told.what.replace(told.field, field, 1), allowed=told.allowed, remedy=told.remedy, field=field
            ) from None

    def outputs(self, names: Sequence[str]) -> tuple[str, ...]:
        """The tensors that a request asks for; all of them by default.

        Raises:
            RequestError: There is no such tensor.
        """
        known = [column.name for column in self.columns]
        for index, name in enumerate(names):
            if name not in known:
                raise RequestError(
                    f"outputs[{index}].name is {name[:80]!r}",
                    allowed=", ".join(known),
                    remedy="leave outputs out for all of them",
                    field=f"outputs[{index}].name",
                )
        return tuple(names) or tuple(known)

    async def infer(self, wanted: Wanted, timeout_s: float | None) -> list[Tensor]:
        """Answers the texts of one request.

        Raises:
            RequestError: As `Predictor.predict`.
        """
        answers = await self.predictor.predict(wanted.texts, wanted.parameters, timeout_s=timeout_s)
        return self.tensors(wanted.outputs, answers)

    def tensors(self, names: Sequence[str], answers: Answers) -> list[Tensor]:
        """The tensors of these names."""
        columns = {column.name: column for column in self.columns}
        return [
            Tensor(name, columns[name].datatype, [columns[name].value(answer) for answer in answers]) for name in names
        ]


def server_version() -> str:
    """The version of this program."""
    return installed_versions([SERVER]).get(SERVER, "unknown")


class Shaped(NamedTuple):
    """An input tensor without its data."""

    name: str
    datatype: str
    shape: Sequence[int]


def check_tensor(place: str, tensor: Shaped, num_texts: int, names: Sequence[str]) -> None:
    """Refuses every input tensor but those of these names, of BYTES, with as many texts as its shape says.

    Raises:
        RequestError: Names what is wrong.
    """
    shape = tensor.shape
    for field, given, allowed in (("name", tensor.name, names), ("datatype", tensor.datatype, ("BYTES",))):
        if given not in allowed:
            raise RequestError(
                f"{place}.{field} is {given[:80]!r}",
                allowed=" or ".join(allowed),
                remedy=f"send tensors {' and '.join(map(repr, names))} of datatype BYTES",
                field=f"{place}.{field}",
            )
    if len(shape) not in (1, 2) or math.prod(shape) != num_texts or (len(shape) == 2 and shape[1] != 1):
        raise RequestError(
            f"{place}.shape is {str(list(shape[:4]))[:80]} for {num_texts} texts",
            allowed=f"[{num_texts}] or [{num_texts}, 1]",
            remedy="give the number of texts",
            field=f"{place}.shape",
        )
    if not num_texts:
        raise RequestError(f"{place} holds no text", allowed="at least one text", remedy="send a text", field=place)


def decode(values: Sequence[bytes], place: str) -> list[str]:
    """Texts of bytes.

    Raises:
        RequestError: They are no UTF-8.
    """
    try:
        texts = [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{place} holds bytes that are no UTF-8 ({error.reason})",
            allowed="texts in UTF-8",
            remedy="encode the texts as UTF-8",
            field=place,
        ) from None
    refuse_empty(texts, place + "[{}]")
    return texts


def unpack(raw: bytes, place: str) -> list[bytes]:
    """Elements of a BYTES tensor in binary: each after its length, four bytes little-endian.

    Raises:
        RequestError: The bytes end within an element.
    """
    values: list[bytes] = []
    position = 0
    while position < len(raw):
        start = position + _LENGTH.size
        end = start + _LENGTH.unpack_from(raw, position)[0] if start <= len(raw) else len(raw) + 1
        if end > len(raw):
            raise RequestError(
                f"{place} ends within element {len(values)}",
                allowed="elements of BYTES, each after its length in four bytes, little-endian",
                remedy="see the binary tensor data extension of the Open Inference Protocol",
                field=place,
            )
        values.append(raw[start:end])
        position = end
    return values


def pack(tensor: Tensor) -> bytes:
    """A tensor in binary."""
    if tensor.datatype == "FP32":
        return np.asarray(tensor.values, "<f4").tobytes()
    if tensor.datatype == "BOOL":
        return bytes(tensor.values)
    encoded = [value.encode() for value in tensor.values]
    return b"".join(part for value in encoded for part in (_LENGTH.pack(len(value)), value))


def _maybe_list(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith("["):
        return value
    try:
        return from_json(value)
    except ValueError:
        return value
