"""A bundle on disk, verified and read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from agent.bundle.manifest import REMEDY, Manifest, parse_manifest, read_manifest, verify
from agent.bundle.model_variants import ConvertedVariant, OnnxVariant, variant_for
from agent.decisions.decision_policy import Policy, read_policy
from agent.drift.drift_reference import FILE as DRIFT_REFERENCE
from agent.drift.drift_reference import DriftReference
from agent.encoding import Encoder
from agent.errors import BundleError
from agent.tasks import BaseTask
from agent.tasks.governed.governed_tasks import govern
from agent.tasks.relations.relation_extraction import RelationExtraction
from agent.tasks.relations.triple_extraction import with_entities
from agent.tasks.writing.stations_ahead import refuse_writing


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
        raw = read_manifest(directory)
        manifest = parse_manifest(directory, raw)
        for name, entry in manifest.files.items():
            verify(directory / name, entry)
        for variant in manifest.onnx:
            for graph in filter(None, (variant, variant.shallow)):
                if graph.file not in manifest.files:
                    raise BundleError(
                        f"bundle {directory} lists the graph {graph.file} but not the file", remedy=REMEDY
                    )
        for converted in manifest.converted:
            if f"{converted.directory}/model.bin" not in manifest.files:
                raise BundleError(
                    f"bundle {directory} lists the model {converted.directory} but not its files", remedy=REMEDY
                )
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
        verify(file, entry)  # another version may stand there by now
        return DriftReference.load(file)

    def onnx_variant(self, precision: str = "auto", hardware: str = "cpu") -> OnnxVariant:
        """The graph of a precision; `auto` takes the last one listed for the hardware, or else the last one at all.

        Raises:
            BundleError: The bundle has no such graph.
        """
        refuse_writing(self.manifest.task, self.path, "judge or explain")
        return variant_for(OnnxVariant, self.manifest.onnx, precision, hardware, self.path)

    def converted_variant(self, precision: str = "auto", hardware: str = "cpu") -> ConvertedVariant:
        """The model for CTranslate2 of a precision, chosen as graphs are.

        Raises:
            BundleError: The bundle has no such model.
        """
        return variant_for(ConvertedVariant, self.manifest.converted, precision, hardware, self.path)

    def variant(self, precision: str = "auto", hardware: str = "cpu") -> OnnxVariant | ConvertedVariant:
        """What its engine computes with: a model for CTranslate2 where the agent writes, a graph otherwise.

        Raises:
            BundleError: The bundle has none of that precision.
        """
        of_kind = self.converted_variant if self.manifest.task.writes else self.onnx_variant
        return of_kind(precision, hardware)
