"""Whether a run is new, half done or finished. Compares what was asked for with what was begun; computes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.bundle import MANIFEST, Bundle, check_output
from agent.config import nested
from agent.errors import CheckpointError, ConfigError
from training.state.checkpoint import LAST
from training.state.directory_store import DirectoryStore, below

if TYPE_CHECKING:
    from training.config import TrainingConfig

_RUN = "run"  # entry with what the run was begun with
_NONE: Mapping[str, str] = {}
# What may differ between a run and its continuation: where and how fast it computes, not what comes out.
_FREE = (
    "output", "overwrite", "resume", "num_workers", "num_workers_min", "max_failures", "resize_check_s", "cluster",
    "checkpoint", "tracking", "ingest", "engine.zero_stage", "engine.offload_optimizer", "engine.activation_checkpointing",
    "engine.compile", "batch.micro_tokens", "batch.halve_on_oom",
)  # fmt: skip


@dataclass(frozen=True)
class ResumeState:
    """A run that may start.

    Attributes:
        store: Where its checkpoints lie.
        resumes: Whether it goes on from one.
    """

    store: DirectoryStore
    resumes: bool


def checkpoint_store(config: TrainingConfig, output: Path) -> DirectoryStore:
    """The place of a run's checkpoints, told by its output alone."""
    if config.checkpoint.storage is None:
        return DirectoryStore(str(output.parent / f".{output.name}.run"))
    return DirectoryStore(
        below(config.checkpoint.storage, f"{output.name}.run")
    )  # storage may well be where output itself goes


def finished(config: TrainingConfig, output: Path) -> Bundle | None:
    """The bundle at `output`, if this very run wrote it and is not to be repeated.

    Raises:
        BundleError: Something else is there that may not be replaced.
    """
    if config.overwrite or not config.resume or not (output / MANIFEST).is_file():
        check_output(output, overwrite=config.overwrite)
        return None
    bundle = Bundle.load(output)
    if differences(bundle.manifest.lineage.config, config.model_dump(mode="json")):
        check_output(output, overwrite=False)
    return bundle


def begin(config: TrainingConfig, output: Path, data_digest: str, others: Mapping[str, str] = _NONE) -> ResumeState:
    """Looks for an unfinished run of the same output and makes the place ready.

    Args:
        config: What is wanted.
        output: Where the bundle is to go.
        data_digest: Of the data's content.
        others: Digests of what else is read, by the key that names it.

    Raises:
        ConfigError: There is one, and it was begun with other settings, other data or another teacher.
        CheckpointError: The storage cannot be used.
    """
    if found := unfinished(config, output, data_digest, others):
        return found
    store = checkpoint_store(config, output)
    if store.names():
        print(f"resume=false: starting afresh, the unfinished run in {store.place} is removed", flush=True)
        store.clear()
    with store.draft(_RUN) as directory:
        (directory / "run.json").write_text(
            json.dumps(_wanted(config, data_digest, others), indent=1), encoding="utf-8"
        )
    return ResumeState(store, resumes=False)


def unfinished(
    config: TrainingConfig, output: Path, data_digest: str, others: Mapping[str, str] = _NONE
) -> ResumeState | None:
    """The run that this one would go on with, if there is one and it may be gone on with. Changes nothing.

    Raises:
        ConfigError: There is one, and it was begun with other settings, other data or another teacher.
        CheckpointError: The storage cannot be read.
    """
    store = checkpoint_store(config, output)
    if not config.resume or not store.names():
        return None
    # Without a `run` entry nobody knows what the others are of: refused there.
    _compare(store, _wanted(config, data_digest, others))
    return ResumeState(store, resumes=bool(store.names(LAST)))


def differences(begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Keys by which two resolved configurations would give different agents, with both values."""
    return nested.differences(begun, wanted, without=_FREE)


def _wanted(config: TrainingConfig, data_digest: str, others: Mapping[str, str]) -> dict[str, Any]:
    return {"config": config.model_dump(mode="json"), "data_digest": data_digest, "other_digests": dict(others)}


def _compare(store: DirectoryStore, wanted: Mapping[str, Any]) -> None:
    with store.fetch(_RUN) as directory:
        try:
            begun = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{store.place} holds a damaged run.json ({error})", remedy=_AFRESH) from None
    changed = differences(begun["config"], wanted["config"])
    if begun["data_digest"] != wanted["data_digest"]:
        changed.append("the content of the data")
    before, now = begun.get("other_digests", {}), wanted["other_digests"]
    changed += [f"the content of {key}" for key in now if before.get(key, now[key]) != now[key]]
    if changed:
        raise ConfigError(
            f"an unfinished run in {store.place} was begun otherwise: {'; '.join(changed)}",
            allowed="the same settings and data, or a new start",
            remedy=_AFRESH,
        )


_AFRESH = "give the settings it was begun with, or set resume=false to start afresh, or choose another output"
