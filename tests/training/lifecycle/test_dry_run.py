"""--dry-run: all that a real run checks and does, on two examples, and nothing left of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.bundle import Bundle
from agent.errors import BundleError, CheckpointError, ClusterError, ConfigError, DataError
from tests.tiny import write_conll
from tests.training.runs import in_this_process, settings, train_here
from training.config import output_of
from training.lifecycle.dry_run import dry_run
from training.lifecycle.preparation import prepare_run
from training.lifecycle.resume import start_or_resume

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("local_ray")]


def files_below(places):
    return {path: path.read_bytes() for path in places.rglob("*") if path.is_file()}


def test_a_dry_run_tells_what_a_run_would_do_and_leaves_nothing(places, capfd, monkeypatch):
    monkeypatch.chdir(places)
    before = files_below(places)
    storage, events = places / "elsewhere" / "storage", places / "events"
    with in_this_process():
        dry_run(
            settings(
                places, "runs/agent", epochs=3, data={"path": "ner"}, model={"name": "model"},
                checkpoint={"storage": str(storage)}, tracking={"tensorboard": str(events)},
            )
        )  # fmt: skip
    out = capfd.readouterr().out
    assert out.endswith("dry run passed\n")
    assert "1 worker(s) on CPU" in out
    assert "fp32, ZeRO" in out
    assert "120 examples and evaluate on 24 (dev) and 24 (test), 3 epochs of about" in out
    assert f"write {places / 'runs' / 'agent'}" in out
    assert files_below(places) == before
    assert not (places / "runs").exists()
    assert not events.exists()


def test_an_unfinished_run_is_left_as_it_is_and_must_fit(places):
    config = settings(places, "runs/begun")
    start_or_resume(config, output_of(config), prepare_run(config).data.digest)
    before = files_below(places)
    with pytest.raises(ConfigError, match=r"started with other settings: seed=7 \(was 0\)"):
        dry_run(settings(places, "runs/begun", seed=7))
    with in_this_process():
        dry_run(config)
    assert files_below(places) == before


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"output": "/proc/agent"}, BundleError, "nothing can be written at output"),
        ({"checkpoint": {"storage": "/proc/store"}}, CheckpointError, "/proc/store"),
        ({"num_workers": 64}, ClusterError, "num_workers=64"),
        ({"data": {"path": "nowhere/at/all/"}}, DataError, "nowhere"),
        ({"task": {"kind": "token_classification", "labels": ["PER"]}}, DataError, "LOC|ORG"),
    ],
)
def test_what_would_fail_a_run_fails_its_dry_run(places, changes, error, told):
    with pytest.raises(error, match=told):
        dry_run(settings(places, "runs/failing", **changes))
    assert not list((places / "runs").glob("*failing*"))


def test_a_mistake_on_the_last_line_of_the_data_is_found(places, tmp_path):
    data = write_conll(tmp_path / "broken")
    with (data / "train.conll").open("a", encoding="utf-8") as file:
        file.write("\nword B-NOWHERE extra column\nword\n")
    with pytest.raises(DataError, match=r"train\.conll"):
        dry_run(settings(places, "runs/broken", data={"path": str(data)}))


def test_an_output_that_holds_another_bundle_is_refused(places, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(BundleError, match="is no bundle"):
        dry_run(settings(places, "x", output=str(tmp_path / "full")))


def test_a_finished_run_is_told_also_where_its_paths_were_relative(places, capfd, monkeypatch):
    monkeypatch.chdir(places)
    config = settings(places, "runs/done", epochs=1, data={"path": "ner"}, model={"name": "./model"})
    digest = train_here(config).bundle.digest
    dry_run(config)
    assert "this run is finished" in capfd.readouterr().out
    assert Bundle.load(Path(config.output)).digest == digest
