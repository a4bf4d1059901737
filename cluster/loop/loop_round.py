"""One round: its steps in order, each kept when it is finished, so that a killed round goes on behind the last of them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.bundle import Bundle
from agent.data import DataConfig
from agent.errors import BundleError, ConfigError, LoopError
from agent.files import sha256_of
from agent.tasks import KINDS, BaseTask
from agent.tasks.output_decision import PER_WINDOW
from cluster import bundles
from cluster.loop.candidate_gates import Versions, ask_the_log, compare, compression_gate, no_verdict
from cluster.loop.data.original_data import OriginalData, pinned
from cluster.loop.data.round_data import TeachingRules, build, feedback_rows, is_reward
from cluster.loop.data.self_training import SelfTaught, SelfTraining, split_learned, unlabelled_rows
from cluster.loop.loop_config import REWARDED, LoopConfig
from cluster.loop.stations import merged, run_station
from cluster.loop.workspace import Origin, RoundState, Row, Workspace, key_of, read_rows, write_rows

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Ending:
    """How a round ended: `published`, `refused`, `abandoned` or `nothing to learn`, and why."""

    decision: str
    why: str


class LoopRound:
    """A round that has collected its feedback.

    Args:
        config: Of this command.
        workspace: The loop's directory.
        state: Of the round.
    """

    def __init__(self, config: LoopConfig, workspace: Workspace, state: RoundState) -> None:
        self.config, self.workspace, self.state = config, workspace, state
        self.directory = workspace.round(state.number)
        self.trained, self.small = (self.directory / f"{name}-{state.number:04}" for name in ("agent", "agent-small"))

    @property
    def is_live(self) -> bool:
        """Whether its candidate has been published already."""
        candidate = self.state.results.get("compress", {}).get("digests", {}).get("candidate")
        return candidate is not None and _digest_of(self.config.live_path) == candidate

    def run(self) -> Ending:
        """Goes on to the end of the round.

        Raises:
            AgentError: A step failed; the same command goes on there.
        """
        self._step("data", self._build_data)
        if not self.state.results["data"]["used"]:
            what = "no correction and no reward" if self.config.rewards == "teach" else "no correction"
            return Ending("refused", f"data: {what} can be taught ({self._left_out()})")
        self._step("train", self._train)
        if not self._step("compress", self._compress)["gate"]["passed"]:
            return self._refused()
        if ending := self._live_replaced():
            return ending
        self._step("judge", self._judge)
        if not self._passed():
            return self._refused()
        return self._live_replaced() or self._publish()

    def gates(self) -> list[dict[str, Any]]:
        """What the gates found so far."""
        results = self.state.results
        first = [results["compress"]["gate"]] if "compress" in results else []
        return first + list(results.get("judge", {}).get("gates", []))

    def feedback(self) -> dict[str, Any]:
        """What came in, and what became of it."""
        data = self.state.results.get("data", {})
        names = ("used", "used_rewards", "taught", "taught_rewards", "left_out", "self_training")
        kept = {name: data[name] for name in names if name in data}
        return {name: self.state.results["collect"][name] for name in ("corrections", "rewards", "callers")} | kept

    def digests(self) -> dict[str, str]:
        """Of all that went in and came out."""
        found = {"live": self.state.live}
        for step in self.state.results.values():
            found |= step.get("digests", {})
        return found

    def seconds(self) -> dict[str, float]:
        """Of each finished step, in its last try."""
        return {name: float(step["seconds"]) for name, step in self.state.results.items()}

    def repeat(self) -> list[str]:
        """The commands that make the candidate again."""
        if "train" not in self.state.results:
            return []
        steps = [("training/run.py", "training.yaml", "output=AGENT")]
        steps += [("compression/run.py", "compression.yaml", "bundle=AGENT output=AGENT-SMALL")]
        return [f"python {program} {self.directory / file} {more}" for program, file, more in steps]

    def keys(self) -> list[str]:
        """Of the feedback that it has used."""
        rows = read_rows(self.directory / "slice.jsonl")
        return [key_of(row["agent"], row["id"], row["position"]) for row in rows]

    def _step(self, name: str, work: Callable[[], Result]) -> Result:
        if name not in self.state.results:
            print(f"round {self.state.number}: {name}", flush=True)
            started = time.monotonic()
            result = {**work(), "seconds": round(time.monotonic() - started, 3)}
            changes = {"results": {**self.state.results, name: result}, "config": self.config.recorded()}
            self.state = self.workspace.write_state(self.state.model_copy(update=changes))
        return self.state.results[name]

    def _build_data(self) -> Result:
        origin = self.workspace.read_origin()
        assert origin
        original = OriginalData(
            origin if self.config.data is None else origin.model_copy(update={"data": self.config.data})
        )
        self.workspace.write_origin(pinned(original.origin, original))
        fresh = feedback_rows(original.task, read_rows(self.directory / "slice.jsonl"), self.state.number)
        teaching = self.config.rewards == "teach"
        rules = TeachingRules(
            self.config.gates.log_share, self.config.max_caller_share, rewards=teaching, check_callers=self.config.check_callers
        )  # fmt: skip
        told, own = split_learned(self.workspace.read_learned())
        labelled = self._self_taught(original, told + fresh, own, rules)
        data = build(self.directory / "data", original, told + labelled.rows, fresh, rules)
        write_rows(self.directory / "taught.jsonl", data.rows)
        what = "corrections and rewards" if teaching else "corrections"
        num_told = len(data.rows) - len(labelled.rows)
        print(f"  {len(data.new)} of {len(fresh)} {what} are new to the agent, {num_told} are taught", flush=True)
        counts = {"texts": labelled.texts, "taught": len(labelled.rows), "left_out": labelled.left_out}
        if self.config.self_training.texts:
            print(
                f"  {counts['taught']} of {counts['texts']} texts without feedback are taught as the live agent answers them",
                flush=True,
            )
        return {
            "used": len(data.new), "used_rewards": sum(map(is_reward, data.new)),
            "taught": num_told, "taught_rewards": sum(map(is_reward, data.rows)), "num_logged": data.num_logged,
            "left_out": dict(data.left_out), **({"self_training": counts} if labelled.texts else {}), "labels": list(data.labels), "config": data.config.model_dump(mode="json"), "digests": {"data": data.digest},
        }  # fmt: skip

    def _self_taught(
        self, original: OriginalData, told: Sequence[Row], own: Sequence[Row], rules: TeachingRules
    ) -> SelfTaught:
        """Texts without feedback, where they teach."""
        config = self.config.self_training
        if not config.texts:
            return SelfTaught([], 0, {})
        logged = unlabelled_rows(read_rows(self.directory / "unlabelled.jsonl"), self.state.number)
        return SelfTraining(original, rules, config, self.config.live_path, self.directory).label(own, told, logged)

    def _train(self) -> Result:
        recorded = Bundle.load(self.state.trained).manifest.lineage.config
        origin = self.workspace.read_origin()
        assert origin
        data = self.state.results["data"]
        rewarded = bool(data["num_logged"])
        from_live = self.config.start == "live" or (self.config.start == "auto" and rewarded)
        settings = merged(recorded, {"model": {"name": self.state.trained if from_live else origin.base_model}})
        settings = merged(settings, {"objective": objective_for(recorded, origin, rewarded=rewarded)})
        if data["labels"]:
            settings = merged(settings, {"task": {"labels": data["labels"]}})
        settings = merged(settings, self.config.training)
        settings |= {"data": data["config"], "output": str(self.trained), "overwrite": False, "resume": True}
        run_station("training/run.py", settings, self.directory)
        return {"digests": {"trained": Bundle.load(self.trained).digest, "training": _digest(settings)}}

    def _compress(self) -> Result:
        recorded = dict(Bundle.load(self.config.live_path).manifest.lineage.config)
        settings = merged({key: value for key, value in recorded.items() if key != "data"}, self.config.compression)
        settings |= {"bundle": str(self.trained), "output": str(self.small), "overwrite": False}
        refusal = self.small.with_name(f"{self.small.name}.report.json")
        if self.small.exists():  # finished by a command that was killed before it could say so
            passed = True
        else:
            passed = run_station("compression/run.py", settings, self.directory, refusal=refusal)
        gate = compression_gate(self.small / "report.json" if passed else refusal, passed=passed)
        digests = {"compression": _digest(settings)} | ({"candidate": Bundle.load(self.small).digest} if passed else {})
        return {"gate": gate.model_dump(), "digests": digests}

    def _judge(self) -> Result:
        versions = Versions(self.small, self.config.live_path)
        data = DataConfig.model_validate(self.state.results["data"]["config"])
        gates = compare(versions, data, self.config, self.directory)
        if Bundle.load(self.small).task.explores:
            gates.append(ask_the_log(versions, self.state.results["collect"]["agent"], self.config, self.directory))
        else:
            gates.append(no_verdict("it judges classifiers, which alone explore", self.config))
        for gate in gates:
            print(f"  {gate.gate}: {_WORDS[gate.passed]}: {gate.why}", flush=True)
        return {"gates": [gate.model_dump() for gate in gates]}

    def _publish(self) -> Ending:
        self._step("publish", self._replace_live)
        gates = self.gates()
        unsure = [gate["gate"] for gate in gates if gate["passed"] is None and gate["gate"] != "agreement"]
        more = f"; {', '.join(unsure)} cannot tell" if unsure else ""
        passed = ", ".join(gate["gate"] for gate in gates if gate["passed"])
        return Ending("published", f"passed {passed}{more}")

    def _replace_live(self) -> Result:
        live, candidate = self.config.live_path, Bundle.load(self.small).digest
        if _digest_of(live) != candidate:
            bundles.copy(str(self.small), str(live), overwrite=True)
        self.workspace.write_learned(read_rows(self.directory / "taught.jsonl"))
        return {"digests": {"published": candidate}}

    def _live_replaced(self) -> Ending | None:
        """Ends the round where somebody else has published meanwhile: it was judged beside another version."""
        if "publish" in self.state.results:
            return None
        found = _digest_of(self.config.live_path)
        candidate = self.state.results["compress"]["digests"]["candidate"]
        if found in (None, self.state.live, candidate):  # None: killed while it was being replaced
            return None
        why = f"live: {self.config.live_path} was replaced by {found[:12]} meanwhile; its feedback counts as new again"
        return Ending("abandoned", why)

    def _passed(self) -> bool:
        return all(gate["passed"] is not False for gate in self.gates())

    def _refused(self) -> Ending:
        refusing = [gate for gate in self.gates() if gate["passed"] is False]
        return Ending("refused", "; ".join(f"{gate['gate']}: {gate['why']}" for gate in refusing))

    def _left_out(self) -> str:
        left_out: Mapping[str, int] = self.state.results["data"]["left_out"]
        return ", ".join(f"{number} {reason}" for reason, number in left_out.items())


_WORDS = {True: "passed", False: "REFUSED", None: "no verdict"}


def find_trained(config: LoopConfig, live: Bundle) -> Path:
    """The bundle that the live one was compressed from, verified.

    Raises:
        LoopError: It is not where it was, or is another one.
    """
    lineage = live.manifest.lineage
    place = Path(config.trained or str(lineage.config.get("bundle", ""))).expanduser().absolute()
    try:
        found = Bundle.load(place)
    except BundleError as error:
        reason = error.what
    else:
        if found.digest == lineage.parent_digest:
            return place
        reason = f"{place} holds {found.digest[:12]}"
    raise LoopError(
        f"the agent that {config.live} was compressed from (sha256 {str(lineage.parent_digest)[:12]}) is not found: {reason}",
        allowed="the bundle that training/run.py wrote and compression/run.py read",
        remedy="give trained=DIR",
    )


def check_rewards(config: LoopConfig, task: BaseTask[Any]) -> None:
    """Refuses rewards as lessons for an agent whose answers are not one label.

    Raises:
        ConfigError: It is one.
    """
    if config.rewards == "teach" and task.decision != PER_WINDOW:
        able = [name for name, kind in KINDS.items() if kind.decision == PER_WINDOW]
        raise ConfigError(
            f"rewards=teach, and {config.live} is an agent for {task.kind}, whose answers are not one label",
            allowed=f"rewards=teach for {', '.join(able)}",
            remedy="leave out rewards; corrections teach every agent",
        )


def check_self_training(config: LoopConfig, task: BaseTask[Any]) -> None:
    """Refuses self-training for an agent that learns from text alone.

    Raises:
        ConfigError: It is one.
    """
    if config.self_training.texts and task.learns_from_text:
        able = [name for name, kind in KINDS.items() if not kind.learns_from_text and not kind.writes]
        raise ConfigError(
            f"self_training.texts={config.self_training.texts}, and {config.live} is an agent for {task.kind}, which learns from texts as they are",
            allowed=f"self-training for {', '.join(able)}",
            remedy="leave out self_training; add the texts to its data",
        )


def objective_for(recorded: Mapping[str, Any], origin: Origin, *, rewarded: bool) -> Mapping[str, Any]:
    """What a round is taught by: the recorded objective, unless it learns from rewards and there are none, or the other way round.

    Args:
        recorded: Settings of the training before.
        origin: Of the loop: its objective is that of all rounds without rewards.
        rewarded: Whether train has answers with rewards.
    """
    before: Mapping[str, Any] = recorded["objective"]
    if rewarded == (before["kind"] in REWARDED):
        return before
    weights = {key: before[key] for key in ("class_weights",) if key in before}
    return {"kind": REWARDED[0], **weights} if rewarded else origin.objective


def _digest_of(place: Path) -> str | None:
    """The digest of a bundle; None where nothing stands."""
    return Bundle.load(place).digest if place.exists() else None


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def slice_digest(directory: Path) -> str:
    """The digest of what a round has collected."""
    return sha256_of(directory / "slice.jsonl")
