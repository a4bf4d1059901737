"""The gates between a candidate and its publication, each with its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agent.config.base import Config
from agent.data import DataConfig
from cluster.loop.loop_config import LoopConfig
from cluster.loop.stations import run_station

_EARLIER = 10  # rounds whose answers are looked at


class Gate(Config):
    """What a gate found.

    Attributes:
        gate: Its name.
        passed: None where it cannot tell, which stops nothing.
        why: In one sentence.
        numbers: By which it decided.
    """

    gate: str
    passed: bool | None
    why: str
    numbers: Mapping[str, float | None] = {}


class Versions(NamedTuple):
    """Directories of the candidate and of the live bundle."""

    candidate: Path
    live: Path


def compression_gate(report: Path, *, passed: bool) -> Gate:
    """What the gate of compression said in its report."""
    verdict: dict[str, Any] = json.loads(report.read_bytes())["verdict"]
    numbers = {name: float(verdict[name]) for name in ("score", "original", "needed")}
    said = (
        f"{verdict['model']} scores {numbers['score']:.4f} of the {numbers['needed']:.4f} it needs ({verdict['split']})"
    )
    return Gate(gate="compression", passed=passed, why=said, numbers=numbers)


def compare(versions: Versions, data: DataConfig, config: LoopConfig, directory: Path) -> list[Gate]:
    """The score on the test split beside the live agent's, and the agreement on the latest texts, which is only reported.

    Both agents are scored anew, the same way on the same split.

    Raises:
        LoopError: The comparison failed.
    """
    output = directory / "comparison.json"
    settings = {
        "bundle": str(versions.candidate), "other": str(versions.live), "data": data.model_dump(mode="json"),
        "texts": str(directory / "texts.jsonl"), "output": str(output),
    }  # fmt: skip
    run_station("serving/compare.py", settings, directory)
    found = json.loads(output.read_bytes())
    candidate, live = (_score(found[name]["report"]) for name in ("bundle", "other"))
    most = config.gates.max_loss
    test = Gate(
        gate="test",
        passed=candidate >= live - most,
        why=f"{found['bundle']['report']['primary']} {candidate:.4f} on the test split, the live agent {live:.4f}; "
        f"a loss of {most:g} is allowed (gates.max_loss)",
        numbers={"candidate": candidate, "live": live, "max_loss": most, "examples": found["num_examples"]},
    )
    alike = found["agreement"]
    said = "there are none" if alike is None else f"{alike:.1%} of {found['num_texts']} are answered alike"
    numbers = {"agreement": alike, "texts": found["num_texts"]}
    return [test, Gate(gate="agreement", passed=None, why=f"latest texts: {said} (reported only)", numbers=numbers)]


def ask_the_log(versions: Versions, agent: str, config: LoopConfig, directory: Path) -> Gate:
    """What the log says of a classifier, on texts that are kept from training.

    Raises:
        LoopError: The judge failed.
    """
    gates = config.gates
    if not gates.log_share:
        return no_verdict("left out by gates.log_share=0", config)
    output = directory / "judgement.json"
    settings = {
        "bundle": str(versions.candidate), "other": str(versions.live), "log": config.store, "agent": agent,
        "answered_by": _earlier_bundles(directory), "text_share": gates.log_share, "evidence": gates.evidence.model_dump(mode="json"), "output": str(output),
    }  # fmt: skip
    told = run_station("serving/judge.py", settings, directory, refusal=output, secret=("log",))
    found = json.loads(output.read_bytes())
    if not told:
        return no_verdict(found["refused"], config)
    candidate, live = (float(each["estimates"]["doubly_robust"]["value"]) for each in (found, found["other"]))
    value, low, share = (float(found["difference"][name]) for name in ("value", "low", "share"))
    return Gate(
        gate="log",
        passed=low >= -gates.max_log_loss,
        why=f"the candidate is worth {candidate:.4f}, the live agent {live:.4f} (doubly robust); they answer {share:.1%} of the decisions "
        f"differently, which gains {value:.4f}, at least {low:.4f}; a loss of {gates.max_log_loss:g} is allowed (gates.max_log_loss)",
        numbers={
            "candidate": candidate, "live": live, "gain": value, "low": low, "share": share, "rewards": found["rewards"]
        },
    )  # fmt: skip


def _earlier_bundles(directory: Path) -> list[str]:
    """Compressed agents of the rounds before, of which those that were published have answered."""
    found = sorted(directory.parent.glob("*/agent-small-*/bundle.json"))
    return [str(file.parent) for file in found if file.parent.parent != directory][-_EARLIER:]


def no_verdict(why: str, config: LoopConfig) -> Gate:
    """The gate where the log cannot tell."""
    if config.gates.log_required:
        return Gate(gate="log", passed=False, why=f"{why} (gates.log_required)")
    return Gate(gate="log", passed=None, why=why)


def _score(report: Mapping[str, Any]) -> float:
    return float(report["metrics"][report["primary"]])
