"""Begins rounds or goes on with unfinished ones, ends each with an entry in the ledger."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agent.bundle import Bundle
from agent.config.resume_check import check_unchanged
from agent.data import DataConfig
from agent.errors import LoopError
from agent.tasks.writing.stations_ahead import refuse_writing
from cluster.loop.collection import Collected, Wanted, collect
from cluster.loop.loop_config import LoopConfig
from cluster.loop.loop_round import Ending, LoopRound, check_rewards, check_self_training, find_trained, slice_digest
from cluster.loop.round_ledger import Entry, append, read_ledger
from cluster.loop.workspace import STEPS, Origin, RoundState, Workspace, write_rows
from cluster.output_lock import lock_output

# Keys that each step reads: those of finished steps may not change any more.
_KEYS = {
    "collect": ("agent", "live", "trained", "rewards", "min_feedback", "gates.texts", "self_training.texts"),
    "data": ("data", "max_caller_share", "check_callers", "gates.log_share", "self_training.threshold"),
    "train": ("start", "training"),
    "compress": ("compression",),
    "judge": ("gates.max_loss", "gates.max_log_loss", "gates.log_required", "gates.evidence"),
    "publish": (),
}
_ANY_TIME = ("directory", "every_s", "abandon", "show")


def run_round(config: LoopConfig) -> Entry:
    """Runs one round, or goes on with an unfinished one; returns its entry in the ledger.

    Raises:
        AgentError: Another loop works there, or a step failed; nothing is lost.
    """
    workspace = Workspace(config.directory)
    workspace.make()
    with lock_output(workspace.directory, error=LoopError), lock_output(config.live_path, error=LoopError):
        entries = read_ledger(workspace.ledger)
        ended = {int(entry["round"]) for entry in entries}
        state = _unfinished(workspace, ended)
        if state and config.abandon and not LoopRound(config, workspace, state).is_live:
            _end(config, workspace, state, Ending("abandoned", "by abandon=true; its feedback counts as new again"))
            ended, state = ended | {state.number}, None
        if state is None:
            number = max(ended, default=0) + 1
            found = _begin(config, workspace, number)
            if not isinstance(found, RoundState):
                return found
            state = found
        else:
            _check_config(config, state)
            print(f"round {state.number}: goes on behind {list(state.results)[-1]}", flush=True)
        return _end_of(config, workspace, state)


def _end_of(config: LoopConfig, workspace: Workspace, state: RoundState) -> Entry:
    current = LoopRound(config, workspace, state)
    ending = current.run()
    return _end(config, workspace, current.state, ending)


def _unfinished(workspace: Workspace, ended: set[int]) -> RoundState | None:
    """The round that has begun and is not in the ledger. What was killed before it had collected is removed."""
    for number in workspace.rounds():
        if number in ended:
            continue
        if state := workspace.read_state(number):
            return state
        shutil.rmtree(workspace.round(number))
    return None


def _begin(config: LoopConfig, workspace: Workspace, number: int) -> RoundState | Entry:
    """Collects; the entry of a round that has nothing to learn."""
    started = time.monotonic()
    live = Bundle.load(config.live_path)
    refuse_writing(live.task, live.path, "go round the loop with")
    check_rewards(config, live.task)
    check_self_training(config, live.task)
    trained = find_trained(config, live)
    wanted = Wanted(config.gates.texts, config.rewards == "teach", config.self_training.texts)
    found = collect(config.store, config.agent, workspace.read_taken(), wanted)
    counts = found.counts()
    print(
        f"round {number}: new are {counts['corrections']:,} corrections and {counts['rewards']:,} rewards", flush=True
    )
    if len(found.teaching()) < config.min_feedback:
        new = f"{counts['corrections']} new corrections"
        new += f" and {counts['rewards']} new rewards" if found.rewards_teach else ""
        why = f"{new} of the {config.min_feedback} that a round needs (min_feedback)"
        entry = _entry(number, _now(), Ending("nothing to learn", why), config, counts)
        entry |= {"digests": {"live": live.digest}, "seconds": {"collect": round(time.monotonic() - started, 3)}}
        append(workspace.ledger, entry)
        return entry
    if workspace.read_origin() is None:
        workspace.write_origin(_origin(Bundle.load(trained), config))
    result = counts | {"agent": found.agent, "seconds": round(time.monotonic() - started, 3)}
    return _keep(config, workspace, found, RoundState(
        number=number, started=_now(), config=config.recorded(), live=live.digest, trained=str(trained),
        results={"collect": result},
    ))  # fmt: skip


def _keep(config: LoopConfig, workspace: Workspace, found: Collected, state: RoundState) -> RoundState:
    directory = workspace.round(state.number)
    directory.mkdir(parents=True)
    write_rows(directory / "slice.jsonl", [one.as_object() for one in found.teaching()])
    write_rows(directory / "texts.jsonl", [{"text": text} for text in found.texts])
    write_rows(directory / "unlabelled.jsonl", [one.as_object() for one in found.unlabelled])
    result = {**state.results["collect"], "digests": {"slice": slice_digest(directory)}}
    return workspace.write_state(state.model_copy(update={"results": {"collect": result}}))


def _origin(trained: Bundle, config: LoopConfig) -> Origin:
    recorded = trained.manifest.lineage.config
    return Origin(
        data=config.data or DataConfig.model_validate(recorded["data"]),
        seed=int(recorded["seed"]),
        task=recorded["task"],
        objective=recorded["objective"],
        base_model=str(recorded["model"]["name"]),
    )


def _check_config(config: LoopConfig, state: RoundState) -> None:
    open_steps = [step for step in STEPS if step not in state.results]
    check_unchanged(
        f"round {state.number} in {config.directory}",
        state.config,
        config.recorded(),
        changeable=(*_ANY_TIME, *(key for step in open_steps for key in _KEYS[step])),
        remedy="give the settings it was started with, or abandon=true to give the round up",
    )


def _end(config: LoopConfig, workspace: Workspace, state: RoundState, ending: Ending) -> Entry:
    """Counts the feedback as used, unless the round was given up, and writes the entry."""
    ended = LoopRound(config, workspace, state)
    if ending.decision != "abandoned":
        workspace.add_taken(ended.keys())
    entry = _entry(state.number, state.started, ending, config, ended.feedback()) | {
        "digests": ended.digests(), "gates": ended.gates(), "seconds": ended.seconds(), "directory": str(ended.directory),
        "repeat": ended.repeat(),
    }  # fmt: skip
    append(workspace.ledger, entry)
    return entry


def _entry(
    number: int, started: str, ending: Ending, config: LoopConfig, feedback: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "round": number, "time": started, "decision": ending.decision, "why": ending.why, "feedback": dict(feedback),
        "digests": {}, "gates": [], "seconds": {}, "config": config.recorded(),
    }  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
