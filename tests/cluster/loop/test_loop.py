"""Rounds of the loop by its command, on a tiny classifier: what is learned is published, what is spoiled is refused, what is killed goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.bundle import Bundle
from agent.data import DataConfig, load_splits
from agent.decisions.decision import Decision, Feedback
from agent.decisions.held_out import is_held_out
from agent.decisions.store import DecisionStore
from agent.files import sha256_of
from agent.tasks import TextClassification
from cluster.loop.round_ledger import read_ledger
from cluster.output_lock import lock_output
from tests.compression.pipeline.test_pipeline import run as compress
from tests.tiny import NAMES, make_model
from tests.training.runs import settings, train_here

pytestmark = pytest.mark.system
ROOT = Path(__file__).resolve().parents[3]
LABELS = ["known", "unknown"]
KNOWN = {"anna", "oslo", "acme"}
FILLERS = ["went", "to", "in", "hired", "nothing", "happened", "today"]
WORDS = [word for names in NAMES.values() for word in names] + FILLERS


def texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 7))) for _ in range(count)]


def truth(text: str) -> str:
    """Is a known name in it?"""
    return "known" if KNOWN & set(text.split()) else "unknown"


def lie(text: str) -> str:
    return "unknown" if truth(text) == "known" else "known"


def give(url: str, given: Sequence[str], label: Callable[[str], str], caller: str) -> None:
    """Texts that a server answered by drawing among both labels, and whose answers a caller has corrected."""
    rng, store, batch, now = random.Random(0), DecisionStore(url), uuid.uuid4().hex[:8], time.time()
    for number, text in enumerate(given):
        answer = json.dumps([{"label": rng.choice(LABELS), "score": 0.5}])
        decision = Decision("agent", f"{batch}-{number}", 0, now, "d" * 64, caller, text, answer, 0.5, "epsilon")
        store.write([decision])
        store.give(decision, Feedback(now + 1, caller, None, json.dumps({"label": label(text)})))
    store.close()


def content(directory: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in directory.iterdir()}


@pytest.fixture(scope="module")
def first(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `agent`, trained on little data, and `small`, compressed from it."""
    place = tmp_path_factory.mktemp("first")
    make_model(place / "model")
    (place / "data").mkdir()
    for seed, (name, number) in enumerate({"train": 30, "dev": 60, "test": 120}.items()):
        lines = [json.dumps({"text": text, "label": truth(text)}) + "\n" for text in texts(number, seed)]
        (place / "data" / f"{name}.jsonl").write_text("".join(lines))
    changes: dict[str, Any] = {"task": {"kind": "text_classification"}, "data": {"path": str(place / "data")}}
    train_here(settings(place, "agent", **changes, epochs=8, early_stopping={"patience": None}))
    compress(place / "agent", place / "small", ["export", "quantize"])
    return place


class Loop:
    """A loop on a copy of the compressed agent."""

    def __init__(self, place: Path, first: Path) -> None:
        self.live, self.directory = place / "served" / "live", place / "loop"
        self.url = f"sqlite:///{place / 'decisions.db'}"
        shutil.copytree(first / "small", self.live)

    def arguments(self, *more: str) -> list[str]:
        given = [f"directory={self.directory}", f"store={self.url}", f"live={self.live}", "min_feedback=100"]
        given += ["gates.evidence.min_decisions=20", "gates.evidence.min_effective=10", "gates.max_log_loss=0.5"]
        return [sys.executable, "-m", "cluster.loop", *given, "gates.max_loss=0.05", *more]

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            self.arguments(*more), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
        )

    def ledger(self) -> list[dict[str, Any]]:
        return [dict(entry) for entry in read_ledger(self.directory / "ledger.jsonl")]

    def digest(self) -> str:
        return Bundle.load(self.live).digest


@pytest.fixture
def loop(first: Path, tmp_path: Path) -> Iterator[Loop]:
    return Loop(tmp_path, first)


@pytest.mark.timeout(600)
def test_what_was_corrected_is_learned_once_and_lies_are_refused(loop: Loop, first: Path) -> None:
    before, given = loop.digest(), texts(250, 10)
    give(loop.url, given, truth, "anna")
    done = loop.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "round 1: new are 250 corrections and 0 rewards" in done.stdout
    (entry,) = loop.ledger()
    print(done.stdout, json.dumps(entry, indent=1))
