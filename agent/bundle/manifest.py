"""The manifest of a bundle, `bundle.json`: what the agent is, and the size and digest of every file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from agent.bundle.lineage import Lineage
from agent.bundle.model_variants import ConvertedVariant, OnnxVariant
from agent.config.base import Config
from agent.encoding import Encoder
from agent.errors import BundleError
from agent.files import sha256_of
from agent.segmentation import Segmentation
from agent.tasks import Report, Task

FORMAT_VERSION = 2  # 2: how texts are cut is recorded
MANIFEST = "bundle.json"
REMEDY = "copy the bundle again or write it anew"


class FileEntry(Config):
    """Size in bytes and SHA-256 of a file of the bundle."""

    size: int
    sha256: str


class Evaluation(Config):
    """The scores of a model file on a split."""

    split: str
    data_digest: str
    model: str
    report: Report


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
    converted: tuple[ConvertedVariant, ...] = ()
    files: Mapping[str, FileEntry] = Field(default_factory=dict)

    def load_encoder(self, directory: Path) -> Encoder:
        """The tokenizer of a directory, set to this bundle's windows and its cut into pieces.

        Raises:
            BundleError: There is none.
        """
        return Encoder.load(directory, max_tokens=self.max_tokens, stride=self.stride, segmentation=self.segmentation)


def read_manifest(directory: Path) -> bytes:
    """The bytes of a directory's manifest.

    Raises:
        BundleError: There is none.
    """
    try:
        return (directory / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(
            f"{directory} is no bundle: {MANIFEST} cannot be read ({error.strerror})",
            remedy="give the output directory of training/run.py or compression/run.py",
        ) from None


def parse_manifest(directory: Path, raw: bytes) -> Manifest:
    """The manifest that these bytes hold.

    Raises:
        BundleError: They are damaged, or of another release.
    """
    try:
        tree = json.loads(raw)
        version = tree["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{directory / MANIFEST} is damaged ({error!r})", remedy=REMEDY) from None
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
        raise BundleError(f"{directory / MANIFEST}: {key}: {first['msg']}", remedy=REMEDY) from None


def measure(file: Path) -> FileEntry:
    """Size and digest of a file."""
    return FileEntry(size=file.stat().st_size, sha256=sha256_of(file))


def verify(file: Path, entry: FileEntry) -> None:
    """Checks a file against its entry in the manifest.

    Raises:
        BundleError: It is missing or altered.
    """
    if not file.is_file():
        raise BundleError(f"bundle file {file} is missing", remedy=REMEDY)
    if measure(file) != entry:
        raise BundleError(f"bundle file {file} was altered: its size or sha256 differs from {MANIFEST}", remedy=REMEDY)
