"""Decides whether a run is new, unfinished or finished, and refuses to resume one with other settings or data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.bundle import MANIFEST, Bundle, check_output
from agent.config.nested import differences
from agent.config.resume_check import REMEDY, check_unchanged
from agent.errors import CheckpointError
from cluster.file_system import join
from training.config import TrainingConfig
from training.state.checkpoint import LAST
from training.state.directory_store import DirectoryStore

_RUN = "run"  # entry with the settings and digests that the run was started with
_NONE: Mapping[str, str] = {}
# Keys that may differ when a run is resumed: where and how fast it computes, not its result.
CHANGEABLE = (
    "output", "overwrite", "resume", "num_workers", "num_workers_min", "max_failures", "resize_check_s", "cluster",
    "checkpoint", "tracking", "ingest", "engine.zero_stage", "engine.offload_optimizer", "engine.activation_checkpointing",
    "engine.compile", "batch.micro_tokens", "batch.halve_on_oom",
)  # fmt: skip


@dataclass(frozen=True)
class ResumeState:
    """A run that may start.

    Attributes:
        store: Of its checkpoints.
        resumes: Whether it goes on from a checkpoint.
    """

    store: DirectoryStore
    resumes: bool


def checkpoint_store(config: TrainingConfig, output: Path) -> DirectoryStore:
    """The store of a run's checkpoints, found by its output alone."""
    if config.checkpoint.storage is None:
        return DirectoryStore(str(output.parent / f".{output.name}.run"))
    return DirectoryStore(
        join(config.checkpoint.storage, f"{output.name}.run")
    )  # storage may be the output's directory


def find_finished(config: TrainingConfig, output: Path) -> Bundle | None:
    """The bundle at `output`, if a run with these settings wrote it and is not to be repeated.

    Raises:
        BundleError: Something else is there that may not be replaced.
    """
    if config.overwrite or not config.resume or not (output / MANIFEST).is_file():
        check_output(output, overwrite=config.overwrite)
        return None
    bundle = Bundle.load(output)
    if differences(
        bundle.manifest.lineage.config, config.model_dump(mode="json"), without=CHANGEABLE + config.auto_keys
    ):
        check_output(output, overwrite=False)
    return bundle


def start_or_resume(
    config: TrainingConfig, output: Path, data_digest: str, other_digests: Mapping[str, str] = _NONE
) -> ResumeState:
    """Finds the unfinished run of an output, or records the start of a new one.

    Args:
        config: Of this command.
        output: Where the bundle is to go.
        data_digest: Of the data's content.
        other_digests: Of what else is read, by its key.

    Raises:
        ConfigError: There is one, and it was started with other settings, other data or another teacher.
        CheckpointError: The storage cannot be used.
    """
    if found := find_unfinished(config, output, data_digest, other_digests):
        return found
    store = checkpoint_store(config, output)
    if store.names():
        print(f"resume=false: starting afresh, the unfinished run in {store.url} is removed", flush=True)
        store.clear()
    record = {
        "config": config.model_dump(mode="json"), "data_digest": data_digest, "other_digests": dict(other_digests)
    }  # fmt: skip
    with store.draft(_RUN) as directory:
        (directory / "run.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return ResumeState(store, resumes=False)


def find_unfinished(
    config: TrainingConfig, output: Path, data_digest: str, other_digests: Mapping[str, str] = _NONE
) -> ResumeState | None:
    """The unfinished run of an output that this one may resume, if there is one. Changes nothing.

    Raises:
        ConfigError: There is one, and it was started with other settings, other data or another teacher.
        CheckpointError: The storage cannot be read.
    """
    store = checkpoint_store(config, output)
    if not config.resume or not store.names():
        return None
    started = _read_record(store)  # without a `run` entry it is unknown what the others belong to: refused there
    before = started.get("other_digests", {})
    content = ["the content of the data"] if started["data_digest"] != data_digest else []
    content += [f"the content of {key}" for key, digest in other_digests.items() if before.get(key, digest) != digest]
    check_unchanged(
        f"an unfinished run in {store.url}",
        started["config"],
        config.model_dump(mode="json"),
        changeable=CHANGEABLE,
        content=content,
    )
    return ResumeState(store, resumes=bool(store.names(LAST)))


def _read_record(store: DirectoryStore) -> dict[str, Any]:
    with store.fetch(_RUN) as directory:
        try:
            record: dict[str, Any] = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{store.url} holds a damaged run.json ({error})", remedy=REMEDY) from None
        return record
