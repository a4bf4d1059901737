"""Rounds of the loop by its command, on a tiny classifier: what is learned is published, what is spoiled is refused, what is killed goes on."""

from __future__ import annotations

import io
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
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from agent.bundle import Bundle, write_bundle
from agent.data import DataConfig, load_splits
from agent.decisions.decision import Decision, Feedback
from agent.decisions.held_out import is_held_out
from agent.decisions.store import DecisionStore
from agent.files import sha256_of
from agent.tasks import TextClassification
from cluster.loop.collection import Wanted, collect
from cluster.loop.loop_config import LoopConfig
from cluster.loop.round_ledger import read_ledger
from cluster.loop.rounds import run_round
from cluster.loop.workspace import RoundState, Workspace, write_rows
from cluster.output_lock import lock_output
from serving.inference.engine import Engine
from tests.commands import commands_run_here, run_here
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
    compress(place / "agent", place / "small", [{"kind": "export", "exporter": "torchscript"}, "quantize"])
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
            self.arguments(*more), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
        )

    def run_here(self, *more: str) -> subprocess.CompletedProcess[str]:
        """The same in this process, and what it starts too."""
        out, errors = io.StringIO(), io.StringIO()
        with commands_run_here(), redirect_stdout(out), redirect_stderr(errors):
            status = run_here(self.arguments(*more))
        return subprocess.CompletedProcess(self.arguments(*more), status, out.getvalue(), errors.getvalue())

    def ledger(self) -> list[dict[str, Any]]:
        return [dict(entry) for entry in read_ledger(self.directory / "ledger.jsonl")]

    def digest(self) -> str:
        return Bundle.load(self.live).digest


@pytest.fixture
def loop(first: Path, tmp_path: Path) -> Iterator[Loop]:
    return Loop(tmp_path, first)


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.usefixtures("ray_for_commands")
def test_what_was_corrected_is_learned_once_and_lies_are_refused(loop: Loop, first: Path) -> None:
    """The first round by the commands, in processes of their own; what is asked of the next ones is what they decide."""
    before, given = loop.digest(), texts(250, 10)
    give(loop.url, given, truth, "anna")
    done = loop.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "round 1: new are 250 corrections and 0 rewards" in done.stdout
    (entry,) = loop.ledger()
    assert entry["decision"] == "published", entry["why"]
    check_published(loop, first, entry, before, given)

    done = loop.run_here()
    assert (done.returncode, loop.ledger()[1]["decision"]) == (0, "nothing to learn")
    assert loop.ledger()[1]["why"] == "0 new corrections of the 100 that a round needs (min_feedback)"

    live = content(loop.live)
    give(loop.url, texts(1_000, 11), lie, "mallory")
    done = loop.run_here()
    assert done.returncode == 0, done.stdout + done.stderr
    refused = loop.ledger()[2]
    assert refused["decision"] == "refused"
    (test,) = [gate for gate in refused["gates"] if gate["gate"] == "test"]
    assert test["passed"] is False
    assert test["numbers"]["candidate"] < test["numbers"]["live"] - 0.05
    assert test["why"] in refused["why"]
    assert content(loop.live) == live
    assert refused["digests"]["live"] == entry["digests"]["candidate"] == loop.digest()

    shown = loop.run_here("show=true").stdout
    assert [line.split(" | ")[2] for line in shown.splitlines() if line[:3] in ("| 1", "| 2", "| 3")] == [
        "published", "nothing to learn", "refused"
    ]  # fmt: skip
    assert f"python training/run.py {loop.directory}/rounds/0003/training.yaml output=AGENT" in shown


def check_published(loop: Loop, first: Path, entry: dict[str, Any], before: str, given: list[str]) -> None:
    """What holds after the first round."""
    place = loop.directory / "rounds" / "0001"
    bundle, trained = Bundle.load(loop.live), Bundle.load(place / "agent-0001")
    assert entry["digests"]["live"] == before != bundle.digest == entry["digests"]["candidate"]
    assert bundle.manifest.lineage.parent_digest == trained.digest == entry["digests"]["trained"]
    assert trained.manifest.lineage.base_model == str(first / "model")
    assert trained.manifest.lineage.data_digest == entry["digests"]["data"]
    assert entry["digests"]["slice"] == sha256_of(place / "slice.jsonl")
    taught = {
        example.text: example.label
        for example in load_splits(DataConfig(path=str(place / "data")), TextClassification()).train
    }
    held = [text for text in given if is_held_out(text, 0.2)]
    assert held
    assert not set(held) & set(taught)
    assert all(taught[text] == truth(text) for text in taught)
    assert loop.url not in (place / "serving-judge.yaml").read_text()  # an address may hold a password
    assert entry["feedback"]["corrections"] == 250
    assert entry["feedback"]["callers"] == {"anna": 250}
    assert entry["feedback"]["used"] + sum(entry["feedback"]["left_out"].values()) == 250
    gates = {gate["gate"]: gate for gate in entry["gates"]}
    assert {name: gate["passed"] for name, gate in gates.items()} == {
        "compression": True, "test": True, "agreement": None, "log": True
    }  # fmt: skip
    assert gates["log"]["numbers"]["rewards"] == len(held)
    assert gates["test"]["numbers"]["examples"] == 120
    assert gates["agreement"]["numbers"]["texts"] == 250
    assert loop.url not in (loop.directory / "ledger.jsonl").read_text()
    assert (loop.directory.stat().st_mode | place.stat().st_mode) & 0o077 == 0


@pytest.mark.faults
@pytest.mark.timeout(1_200)
@pytest.mark.usefixtures("ray_for_commands")
def test_a_killed_round_goes_on_by_the_same_command(loop: Loop) -> None:
    give(loop.url, texts(250, 10), truth, "anna")
    log = loop.directory / "rounds" / "0001" / "training.log"
    with subprocess.Popen(loop.arguments(), cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 240
        while not (log.exists() and "epoch 1" in log.read_text()) and process.poll() is None:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    slice_before = (log.parent / "slice.jsonl").read_bytes()
    give(loop.url, texts(120, 12), truth, "anna")  # comes in the next round
    done = loop.run("gates.log_share=0.5")
    assert done.returncode == 2
    assert "gates.log_share=0.5 (was 0.2)" in done.stderr
    assert "abandon=true" in done.stderr
    done = loop.run()
    assert done.returncode == 0, done.stdout + done.stderr + log.read_text()
    assert "round 1: goes on behind data" in done.stdout
    assert (log.parent / "slice.jsonl").read_bytes() == slice_before
    (entry,) = loop.ledger()
    assert (entry["decision"], entry["feedback"]["corrections"]) == ("published", 250)
    done = loop.run("min_feedback=121")
    assert loop.ledger()[1]["why"].startswith("120 new corrections of the 121"), done.stderr


def reward(url: str, given: Sequence[str], caller: str) -> None:
    """Texts that a server answered as in `give`, and a caller has called right or wrong."""
    rng, store, now = random.Random(1), DecisionStore(url), time.time()
    for number, text in enumerate(given):
        label = rng.choice(LABELS)
        answer = json.dumps([{"label": label, "score": 0.5}])
        decision = Decision("agent", f"rewarded-{number:03}", 0, now, "d" * 64, caller, text, answer, 0.5, "epsilon")
        store.write([decision])
        store.give(decision, Feedback(now + 1, caller, float(label == truth(text)), None))
    store.close()


def test_rewards_alone_begin_a_round_and_are_what_training_learns_from(loop: Loop, first: Path) -> None:
    """Its training is told of a model that is not there, and ends before it begins."""
    given = texts(40, 20)
    reward(loop.url, given, "anna")
    assert loop.run_here().returncode == 0
    assert loop.ledger()[0]["why"] == "0 new corrections of the 100 that a round needs (min_feedback)"
    done = loop.run_here("rewards=teach", "min_feedback=41")
    assert done.returncode == 0, done.stderr
    assert loop.ledger()[1]["why"] == "0 new corrections and 40 new rewards of the 41 that a round needs (min_feedback)"
    assert loop.ledger()[1]["feedback"] == {"corrections": 0, "rewards": 40, "callers": {"anna": 40}}

    told = ("rewards=teach", "min_feedback=40", "training.objective.label_shift=0.25")
    done = loop.run_here(*told, "training.model.name=/nowhere")
    assert done.returncode == 1
    assert "model.name='/nowhere': /nowhere holds no config.json" in done.stderr
    place = loop.directory / "rounds" / "0003"
    held = [text for text in given if is_held_out(text, 0.2)]
    known = {text for seed, number in enumerate((30, 60, 120)) for text in texts(number, seed)}
    lines = [json.loads(line) for line in (place / "data" / "train.jsonl").read_text().splitlines()]
    rewarded = [line for line in lines if "reward" in line]
    assert len(lines) == 30 + len(rewarded)
    assert [line["text"] for line in rewarded] == [text for text in given if text not in {*held, *known}]
    assert all(line["reward"] == float(line["label"] == truth(line["text"])) for line in rewarded)
    written = json.loads((place / "training.yaml").read_text())
    assert written["objective"] == {"kind": "reward_likelihood", "class_weights": "none", "label_shift": 0.25}

    done = loop.run_here(*told, "training.epochs=0")  # goes on, from the agent that answered
    assert "epochs" in done.stderr
    written = json.loads((place / "training.yaml").read_text())
    assert written["model"]["name"] == str(first / "agent")
    assert loop.run_here(*told[1:], "abandon=true", "min_feedback=41").returncode == 0
    assert loop.ledger()[2]["feedback"]["used_rewards"] == len(rewarded) == loop.ledger()[2]["feedback"]["taught"]


def test_texts_without_feedback_are_taught_beside_it_and_replayed(loop: Loop, first: Path) -> None:
    """Its training is told of a model that is not there, and ends before it begins."""
    corrected, asked = texts(20, 30), texts(120, 31)
    give(loop.url, corrected, truth, "anna")
    store, now = DecisionStore(loop.url), time.time()
    answer = json.dumps([{"label": LABELS[0], "score": 0.5}])
    store.write([
        Decision("agent", f"asked-{number:03}", 0, now, "d" * 64, "bo", text, answer, 1.0, "greedy") for number, text in enumerate(asked)
    ])  # fmt: skip
    store.close()
    scores = sorted(answer[0]["score"] for answer in Engine(Bundle.load(loop.live)).predict(asked))
    own = ("self_training.texts=100", f"self_training.threshold={scores[60]:.4f}", "min_feedback=20")
    done = loop.run_here(*own, "training.model.name=/nowhere")
    assert (done.returncode, "/nowhere holds no config.json" in done.stderr) == (1, True)
    place = loop.directory / "rounds" / "0001"
    rows = [json.loads(line) for line in (place / "taught.jsonl").read_text().splitlines()]
    taught = [row for row in rows if "confidence" in row]
    sure = dict(answered(first / "small", [row["text"] for row in taught]))
    assert 0 < len(taught) < 100
    assert {row["text"] for row in taught} <= set(asked) - {text for text in asked if is_held_out(text, 0.2)}
    assert all(row["record"] == {"text": row["text"], "label": sure[row["text"]]} for row in taught)
    assert {(row["caller"], row["round"]) for row in taught} == {("bo", 1)}
    lines = [json.loads(line) for line in (place / "data" / "train.jsonl").read_text().splitlines()]
    assert lines[30:] == [row["record"] for row in rows]
    done = loop.run_here(own[0], "self_training.threshold=0.7", own[2])
    assert (done.returncode, f"self_training.threshold=0.7 (was {scores[60]:.4f}" in done.stderr) == (2, True)
    assert loop.run_here(*own[1:], own[0], "abandon=true", "min_feedback=200").returncode == 0
    found = loop.ledger()[0]["feedback"]
    assert found["self_training"]["taught"] == len(taught)
    assert found["self_training"]["texts"] == len(taught) + sum(found["self_training"]["left_out"].values())
    assert found["taught"] == found["used"] == len(rows) - len(taught)

    workspace = Workspace(str(loop.directory))
    workspace.write_learned([{**row, "record": {**row["record"], "label": "other"}} for row in taught])
    store = DecisionStore(loop.url)
    assert sum(store.delete(f"asked-{number:03}") for number in range(len(asked))) == len(asked)
    store.close()
    assert loop.run_here(*own, "training.model.name=/nowhere").returncode == 1
    again = [
        json.loads(line) for line in (loop.directory / "rounds" / "0003" / "taught.jsonl").read_text().splitlines()
    ]
    assert [row for row in again if "confidence" in row] == taught  # by what was learned, labelled anew
    assert loop.run_here("abandon=true", "min_feedback=20", "training.model.name=/nowhere").returncode == 1
    assert "confidence" not in (loop.directory / "rounds" / "0004" / "taught.jsonl").read_text()


def test_two_loops_and_a_store_that_is_gone_are_refused_by_name(loop: Loop) -> None:
    give(loop.url, texts(3, 10), truth, "anna")
    for place, run in ((loop.directory, loop.run), (loop.live, loop.run_here)):
        with lock_output(place):
            done = run()
        assert done.returncode == 1
        assert f"{place} is being written by process {os.getpid()}" in done.stderr
    done = loop.run_here("store=sqlite:////proc/nowhere/d.db")
    assert done.returncode == 1
    assert "the decision store sqlite:////proc/nowhere/d.db cannot be used" in done.stderr
    assert loop.ledger() == []
    shutil.rmtree(loop.live)
    done = loop.run_here()
    assert f"{loop.live} is no bundle" in done.stderr


def judged_round(loop: Loop, first: Path) -> tuple[LoopConfig, Workspace, str]:
    """A round that was killed behind its gates; returns the digest of its candidate too."""
    give(loop.url, texts(5, 10), truth, "anna")
    config = LoopConfig(directory=str(loop.directory), store=loop.url, live=str(loop.live), min_feedback=1)
    workspace = Workspace(config.directory)
    place = workspace.round(1)
    place.mkdir(parents=True)
    found = collect(loop.url, "", set(), Wanted())
    write_rows(place / "slice.jsonl", [one.as_object() for one in found.feedback])
    write_rows(place / "taught.jsonl", [{"text": "one"}])
    candidate = variant(first / "small", place / "agent-small-0001", git_commit="candidate")
    assert candidate != loop.digest()
    gates = [{"gate": "test", "passed": True, "why": "", "numbers": {}}]
    results: dict[str, dict[str, Any]] = {
        "collect": found.counts() | {"agent": "agent"},
        "data": {"used": 1, "taught": 1, "left_out": {}},
        "train": {},
        "compress": {"gate": gates[0] | {"gate": "compression"}, "digests": {"candidate": candidate}},
        "judge": {"gates": gates},
    }
    done = {name: result | {"seconds": 0.0} for name, result in results.items()}
    workspace.write_state(
        RoundState(number=1, started="2026-11-29T12:00:00", config=config.recorded(), live=loop.digest(),
                   trained=str(first / "agent"), results=done)
    )  # fmt: skip
    return config, workspace, candidate


def variant(source: Path, place: Path, **lineage: Any) -> str:
    """A copy of a bundle with another digest."""
    manifest = Bundle.load(source).manifest
    with write_bundle(place, overwrite=True) as draft:
        shutil.copytree(source, draft.path, dirs_exist_ok=True)
        draft.publish(manifest.model_copy(update={"lineage": manifest.lineage.model_copy(update=lineage)}))
    return Bundle.load(place).digest


def answered(bundle: Path, given: Sequence[str]) -> list[tuple[str, str]]:
    """Texts with the best labels of a bundle."""
    found = Engine(Bundle.load(bundle)).predict(given)
    return [(text, answer[0]["label"]) for text, answer in zip(given, found, strict=True)]


@pytest.mark.parametrize("found", ["as it was", "gone", "replaced already"])
def test_a_round_killed_while_it_published_does_it_once(loop: Loop, first: Path, found: str) -> None:
    config, workspace, candidate = judged_round(loop, first)
    if found == "gone":  # between the two renames
        shutil.rmtree(loop.live)
    elif found == "replaced already":
        shutil.rmtree(loop.live)
        shutil.copytree(workspace.round(1) / "agent-small-0001", loop.live)
        config = config.model_copy(update={"abandon": True})  # too late: it is served
    entry = run_round(config)
    assert (entry["decision"], entry["why"]) == ("published", "passed compression, test")
    assert loop.digest() == candidate
    assert workspace.read_learned() == [{"text": "one"}]
    assert len(workspace.read_taken()) == 5
    assert run_round(config)["decision"] == "nothing to learn"
    assert [line["round"] for line in loop.ledger()] == [1, 2]


def test_a_live_bundle_that_somebody_else_replaced_gives_the_round_up(loop: Loop, first: Path) -> None:
    config, workspace, _ = judged_round(loop, first)
    theirs = variant(first / "small", loop.live, git_commit="theirs")
    entry = run_round(config)
    assert entry["decision"] == "abandoned"
    assert f"was replaced by {theirs[:12]} meanwhile" in entry["why"]
    assert loop.digest() == theirs
    assert (workspace.read_learned(), workspace.read_taken()) == ([], set())


def test_a_round_that_is_given_up_leaves_its_feedback_for_the_next(loop: Loop, first: Path) -> None:
    config, workspace, _ = judged_round(loop, first)
    give(loop.url, texts(2, 13), truth, "anna")
    entry = run_round(config.model_copy(update={"abandon": True, "min_feedback": 100}))
    assert entry["why"] == "7 new corrections of the 100 that a round needs (min_feedback)"
    assert [line["decision"] for line in loop.ledger()] == ["abandoned", "nothing to learn"]
    assert workspace.read_taken() == set()
    assert Bundle.load(loop.live).digest == Bundle.load(first / "small").digest
