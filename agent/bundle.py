"""The bundle: the directory with an agent that training and compression write and serving reads.

It is a plain Hugging Face model directory plus the manifest `bundle.json`. It is written under a temporary name and renamed,
so that it is complete or absent; loading verifies the SHA-256 of every file.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from agent.config.base import Config
from agent.decisions.decision_policy import Policy, read_policy
from agent.drift.drift_reference import FILE as DRIFT_REFERENCE
from agent.drift.drift_reference import DriftReference
from agent.encoding import Encoder
from agent.errors import BundleError
from agent.files import draft_directory, replace_directory, sha256_of
from agent.segmentation import Segmentation
from agent.tasks import BaseTask, Report, Task
from agent.tasks.governed.governed_tasks import govern
from agent.tasks.relations.relation_extraction import RelationExtraction
from agent.tasks.relations.triple_extraction import with_entities
from agent.tasks.writing.stations_ahead import refuse_writing

FORMAT_VERSION = 2  # 2: how texts are cut is recorded
MANIFEST = "bundle.json"
Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
Hardware = Literal["cpu", "cuda", "tensorrt"]
HARDWARE: dict[Precision, tuple[Hardware, ...]] = {
    "fp32": ("cpu", "cuda", "tensorrt"),
    "fp16": ("cuda", "tensorrt"),  # ONNX Runtime has no half-precision kernels for the CPU and casts around every node
    "bf16": ("cuda", "tensorrt"),
    "int8": ("cpu",),  # nor integer ones for CUDA
    "int4": ("cpu",),
}
"""The hardware that a graph of each precision is for."""


class FileEntry(Config):
    """Size in bytes and SHA-256 of a file of the bundle."""

    size: int
    sha256: str


class OnnxVariant(Config):
    """An ONNX graph of the agent.

    Attributes:
        file: Name of the file in the bundle.
        precision: Precision of weights and matrix products.
        inputs: Names of its inputs, each int64 [rows, tokens].
        exporter: Kind of the exporter that wrote it.
        hardware: Hardware that it is for; all if a manifest does not say.
        pairs_fit: No pair of its 8-bit products exceeds 16 bits, in which CPUs without VNNI add them; false if a manifest does not say.
    """

    file: str
    precision: Precision
    inputs: tuple[str, ...]
    exporter: str
    hardware: tuple[Hardware, ...] = HARDWARE["fp32"]
    pairs_fit: bool = False

    @property
    def session_entries(self) -> Mapping[str, str]:
        """What a session of ONNX Runtime is configured with, so that the graph answers alike on every CPU.

        The entry takes slower kernels on CPUs without VNNI, which cannot overflow. Source: onnxruntime_session_options_config_keys.h,
        kOrtSessionOptionsAvx2PrecisionMode.
        """
        return {} if self.pairs_fit else {"session.x64quantprecision": "1"}


class Evaluation(Config):
    """The scores of a model file on a split."""

    split: str
    data_digest: str
    model: str
    report: Report


class Lineage(Config):
    """The origin of a bundle: base model, data, parent bundle, configuration and versions."""

    base_model: str
    data_digest: str
    parent_digest: str | None = None
    config: Mapping[str, Any] = Field(default_factory=dict)
    versions: Mapping[str, str] = Field(default_factory=dict)
    git_commit: str | None = None
    git_dirty: bool | None = None


class Manifest(Config):
    """The content of `bundle.json`. `max_tokens` counts special tokens; `stride` is the overlap of neighbouring windows; `segmentation` cuts texts."""

    format_version: int = FORMAT_VERSION
    task: Task
    max_tokens: int = Field(ge=8)
    stride: int = Field(ge=0)
    segmentation: Segmentation = Segmentation()
    lineage: Lineage
    evaluations: tuple[Evaluation, ...] = ()
    onnx: tuple[OnnxVariant, ...] = ()
    files: Mapping[str, FileEntry] = Field(default_factory=dict)

    def load_encoder(self, directory: Path) -> Encoder:
        """The tokenizer of a directory, set to this bundle's windows and its cut into pieces.

        Raises:
            BundleError: There is none.
        """
        return Encoder.load(directory, max_tokens=self.max_tokens, stride=self.stride, segmentation=self.segmentation)


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk. `policy` decides what it answers, if it has one; `tagger` finds the entities whose relations it knows."""

    path: Path
    manifest: Manifest
    digest: str
    policy: Policy | None = None
    tagger: Bundle | None = None

    @classmethod
    def load(cls, path: str | Path) -> Bundle:
        """Reads and verifies a bundle.

        Raises:
            BundleError: The bundle or a file of it is absent, altered, incomplete or newer than this program.
        """
        directory = Path(path)
        raw = _read_manifest(directory)
        manifest = _parse_manifest(directory, raw)
        for name, entry in manifest.files.items():
            _verify(directory / name, entry)
        for variant in manifest.onnx:
            if variant.file not in manifest.files:
                raise BundleError(f"bundle {directory} lists the graph {variant.file} but not the file", remedy=_REMEDY)
        policy = read_policy(directory, manifest.files, manifest.task)
        return cls(directory, manifest, hashlib.sha256(raw).hexdigest(), policy)

    @cached_property
    def task(self) -> BaseTask[Any]:
        """The task with its labels, under the bundle's policy or beside its tagger; the manifest has it without."""
        task = self.manifest.task
        if self.tagger and isinstance(task, RelationExtraction):
            return with_entities(task)
        return govern(task, self.policy.thresholds) if self.policy else task

    def beside(self, tagger: Bundle) -> Bundle:
        """The same agent, asked about the entities that a tagger finds in texts without marks.

        Raises:
            BundleError: It says no relations of entities, or the other bundle finds none.
        """
        wanted_of = {"bundle": (self, "relation_extraction"), "entities": (tagger, "token_classification")}
        for key, (bundle, wanted) in wanted_of.items():
            if bundle.task.kind != wanted:
                raise BundleError(
                    f"{key}={bundle.path} is an agent of {bundle.task.kind}",
                    allowed=f"with entities=..., {key} is an agent of {wanted}",
                    remedy="leave entities out" if bundle is self else "give the bundle of a tagger",
                )
        return replace(self, tagger=tagger)

    @cached_property
    def encoder(self) -> Encoder:
        """The tokenizer, with the model's maximum length."""
        return self.manifest.load_encoder(self.path)

    @cached_property
    def drift_reference(self) -> DriftReference | None:
        """What its texts and answers were like when it was made; None where nobody recorded it.

        Raises:
            BundleError: The file cannot be read, or is no longer this bundle's.
        """
        entry, file = self.manifest.files.get(DRIFT_REFERENCE), self.path / DRIFT_REFERENCE
        if entry is None:
            return None
        _verify(file, entry)  # another version may stand there by now
        return DriftReference.load(file)

    def onnx_variant(self, precision: str = "auto", hardware: str = "cpu") -> OnnxVariant:
        """The graph of a precision; `auto` takes the last one listed for the hardware, or else the last one at all.

        Raises:
            BundleError: The bundle has no such graph.
        """
        refuse_writing(self.manifest.task, self.path, "serve")
        found = [variant for variant in self.manifest.onnx if precision in ("auto", variant.precision)]
        fitting = [variant for variant in found if precision != "auto" or hardware in variant.hardware]
        if found:
            return (fitting or found)[-1]
        raise BundleError(
            f"bundle {self.path} has no ONNX graph of precision {precision!r}",
            allowed=", ".join(["auto", *(each.precision for each in self.manifest.onnx)]) if self.manifest.onnx else "",
            remedy=f"run python compression/run.py bundle={self.path} output=...",
        )


@contextmanager
def write_bundle(output: str | Path, *, overwrite: bool = False) -> Iterator[Draft]:
    """Opens a draft beside `output` and renames it to `output` when the block ends without an error; otherwise removes it.

    Raises:
        BundleError: `output` exists and may not be replaced, or nothing was published.
    """
    place = Path(output).resolve()
    check_output(place, overwrite=overwrite)
    with ExitStack() as stack:
        try:
            draft = stack.enter_context(draft_directory(place))
        except OSError as error:
            raise BundleError(
                f"nothing can be written at output {place} ({error.strerror})", remedy="choose another output"
            ) from None
        yield Draft(draft)
        if not (draft / MANIFEST).is_file():
            raise BundleError(f"nothing was published to {place}")
        draft.chmod(0o755)
        replace_directory(draft, place)


def check_output(place: Path, *, overwrite: bool) -> None:
    """Checks that an output may be written.

    Raises:
        BundleError: There is a bundle and `overwrite` is false, or anything else.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not (place / MANIFEST).is_file():
        raise BundleError(
            f"output {place} exists and is no bundle",
            allowed="a new or an empty directory",
            remedy="choose another output",
        )
    if not overwrite:
        raise BundleError(
            f"output {place} already holds a bundle", remedy="choose another output or set overwrite=true"
        )


@dataclass(frozen=True)
class Draft:
    """A bundle being written: fill `path`, then publish once."""

    path: Path

    def publish(self, manifest: Manifest) -> None:
        """Writes the manifest with sizes and digests of all files, and makes them readable for all (safetensors writes 0600)."""
        names = sorted(file.relative_to(self.path).as_posix() for file in self.path.rglob("*") if file.is_file())
        files = {name: _measure(self.path / name) for name in names if name != MANIFEST}
        complete = manifest.model_copy(update={"files": files}).model_dump(mode="json")
        for name in names:
            (self.path / name).chmod(0o644)
        content = json.dumps(complete, indent=1, ensure_ascii=False) + "\n"
        (self.path / MANIFEST).write_text(content, encoding="utf-8")


def lineage_now(**fields: Any) -> Lineage:
    """A lineage with the installed versions of libraries and the state of this program's git tree."""
    commit, dirty = _git_state(Path(__file__).resolve().parent)
    return Lineage(versions=installed_versions(_RECORDED), git_commit=commit, git_dirty=dirty, **fields)


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of the installed ones of these packages."""
    found = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


_REMEDY = "copy the bundle again or write it anew"
_RECORDED = (
    "bert-agent", "torch", "transformers", "deepspeed", "ray", "onnx", "onnxruntime-gpu", "onnxruntime", "optimum", "tokenizers",
)  # fmt: skip


def _read_manifest(directory: Path) -> bytes:
    try:
        return (directory / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(
            f"{directory} is no bundle: {MANIFEST} cannot be read ({error.strerror})",
            remedy="give the output directory of training/run.py or compression/run.py",
        ) from None


def _parse_manifest(directory: Path, raw: bytes) -> Manifest:
    try:
        tree = json.loads(raw)
        version = tree["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{directory / MANIFEST} is damaged ({error!r})", remedy=_REMEDY) from None
    if version != FORMAT_VERSION:
        older = isinstance(version, int) and version < FORMAT_VERSION
        raise BundleError(
            f"bundle {directory} has format version {version!r}"
            + (", which does not say how the agent cuts texts into words" if older else ""),
            allowed=f"format version {FORMAT_VERSION}",
            remedy="train the agent anew" if older else "use the release of bert-agent that wrote it, or a newer one",
        )
    try:
        return Manifest.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise BundleError(f"{directory / MANIFEST}: {key}: {first['msg']}", remedy=_REMEDY) from None


def _measure(file: Path) -> FileEntry:
    return FileEntry(size=file.stat().st_size, sha256=sha256_of(file))


def _verify(file: Path, entry: FileEntry) -> None:
    if not file.is_file():
        raise BundleError(f"bundle file {file} is missing", remedy=_REMEDY)
    if _measure(file) != entry:
        raise BundleError(f"bundle file {file} was altered: its size or sha256 differs from {MANIFEST}", remedy=_REMEDY)


def _git_state(directory: Path) -> tuple[str | None, bool | None]:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=directory, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None, None
