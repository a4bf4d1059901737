from __future__ import annotations

import math
import threading

import pytest
import torch
from pydantic import ValidationError

from agent.errors import CheckpointError
from training.engine.optimizer_state import OptimizerState
from training.state.checkpoint import BEST, LAST, Checkpoint, CheckpointConfig, CheckpointWriter
from training.state.directory_store import DirectoryStore
from training.state.run_state import EpochTotals, RunState


def checkpoint():
    generator = torch.Generator().manual_seed(0)
    weights = {
        "layer.weight": torch.randn(7, 5, generator=generator),
        "turned": torch.randn(4, 6, generator=generator).T,
        "strange": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "number": torch.tensor(3.0),
        "ids": torch.arange(5),
        "none": torch.empty(0, 3),
    }
    moments = {
        f"{name}/{key}": torch.rand(7, 5, generator=generator)
        for name in ("a", "b")
        for key in ("exp_avg", "exp_avg_sq")
    }
    state = RunState(
        epoch=2, steps_in_epoch=3, step=23, best_epoch=1, stale=1, totals=EpochTotals(steps=3, loss_sum=0.1 + 0.2, labelled=9),
        history=[{"epoch": 1, "loss": 1 / 3}], trackers={"mlflow": "id"},
    )  # fmt: skip
    metrics_log = ['{"kind":"step","loss":null}', '{"kind":"epoch","label":"a\u2028b\u0085c"}', '{"x":"ü"}']
    return Checkpoint(weights, OptimizerState(moments, {"step": 23.0}), state, metrics_log)


def same_bits(ours, theirs):
    return ours.keys() == theirs.keys() and all(
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()
        for one, other in ((ours[name], theirs[name]) for name in ours)
    )


def test_a_checkpoint_is_read_as_it_was_written_to_the_last_bit(tmp_path):
    written = checkpoint()
    written.write(tmp_path)
    read = Checkpoint.read(tmp_path)
    assert same_bits(written.weights, read.weights)
    assert same_bits(written.optimizer.moments, read.optimizer.moments)
    assert read.optimizer.counters == {"step": 23.0}
    assert read.metrics_log == written.metrics_log
    assert math.isnan(read.state.probe_loss)
    assert read.state.model_copy(update={"probe_loss": 1.0}) == written.state.model_copy(update={"probe_loss": 1.0})


@pytest.mark.parametrize("probe_loss", [float("nan"), float("inf"), 0.1 + 0.2])
def test_numbers_of_the_state_keep_all_digits(tmp_path, probe_loss):
    Checkpoint({}, OptimizerState({}, {}), RunState(probe_loss=probe_loss), []).write(tmp_path)
    read = Checkpoint.read(tmp_path)
    assert repr(read.state.probe_loss) == repr(probe_loss)
    assert read.optimizer == OptimizerState({}, {})  # as of SGD without momentum
    assert read.metrics_log == []


def test_a_checkpoint_holds_no_pickle(tmp_path):
    checkpoint().write(tmp_path)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".jsonl", ".safetensors", ".safetensors"]


@pytest.mark.parametrize("storage", ["s3://key:secret@bucket/x", "s3://key@bucket/x?scheme=http"])
def test_keys_in_a_uri_are_refused_for_they_would_be_printed_and_saved(storage):
    with pytest.raises(ValidationError, match="AWS_ACCESS_KEY_ID"):
        CheckpointConfig(storage=storage)


@pytest.mark.parametrize("storage", [None, "/nfs/a@b", "runs", "s3://bucket/a@b?scheme=http"])
def test_places_without_keys_are_taken(storage):
    assert CheckpointConfig(storage=storage).storage == storage


def writes(text):
    return lambda directory: (directory / "a").write_text(text)


def fails(directory):
    (directory / "a").write_text("half")
    raise OSError(28, "No space left on device")


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(str(tmp_path / "store"))


@pytest.fixture
def writer(store):
    writer = CheckpointWriter(store)
    yield writer
    writer._pool.shutdown()


def test_a_new_entry_replaces_the_older_of_its_kind(store, writer):
    for number in (1, 2, 30):
        writer.submit(LAST, number, writes(str(number)))
    writer.wait()
    assert store.names() == ["last-00000030"]
    with store.fetch("last-00000030") as directory:
        assert (directory / "a").read_text() == "30"


def test_the_older_entry_stays_until_the_new_one_is_complete(store, writer):
    writer.submit(LAST, 1, writes("1"))
    writer.wait()
    written, go_on = threading.Event(), threading.Event()

    def slowly(directory):
        (directory / "a").write_text("2")
        written.set()
        assert go_on.wait(30)

    writer.submit(LAST, 2, slowly)
    assert written.wait(30)
    assert store.names() == ["last-00000001"]
    go_on.set()
    writer.wait()
    assert store.names() == ["last-00000002"]


def test_an_older_best_model_stays_until_a_checkpoint_knows_the_new_one(store, writer):
    writer.submit(BEST, 1, writes("best 1"))
    writer.submit(LAST, 10, writes("knows best 1"))
    writer.submit(BEST, 2, writes("best 2"))
    writer.wait()
    assert store.names() == [
        "best-00000001",
        "best-00000002",
        "last-00000010",
    ]  # killed here, last-10 finds what it knows
    writer.submit(LAST, 20, writes("knows best 2"))
    writer.wait()
    assert store.names() == ["best-00000002", "last-00000020"]


def test_an_entry_that_is_there_already_is_left_alone(store, writer):
    writer.submit(LAST, 1, writes("first"))
    writer.submit(LAST, 1, writes("second"))
    writer.wait()
    with store.fetch("last-00000001") as directory:
        assert (directory / "a").read_text() == "first"


@pytest.mark.parametrize("next_call", ["submit", "wait", "close"])
def test_a_failure_surfaces_at_the_next_call_and_the_older_entry_stays(store, writer, next_call):
    writer.submit(LAST, 1, writes("1"))
    writer.submit(LAST, 2, fails)
    call = {"submit": lambda: writer.submit(LAST, 3, writes("3")), "wait": writer.wait, "close": writer.close}[
        next_call
    ]
    with pytest.raises(CheckpointError, match="No space left") as caught:
        call()
    assert store.url in str(caught.value)
    assert store.names() == ["last-00000001"]
    if next_call == "close":
        with pytest.raises(RuntimeError):  # the thread has ended all the same
            writer.submit(LAST, 4, writes("4"))
    else:
        writer.wait()  # said once
        writer.submit(LAST, 4, writes("4"))
        writer.wait()
        assert store.names() == ["last-00000004"]


def test_closing_waits_for_what_is_being_written(store, writer):
    begun = threading.Event()

    def slowly(directory):
        begun.set()
        threading.Event().wait(0.2)
        (directory / "a").write_text("1")

    writer.submit(LAST, 1, slowly)
    assert begun.wait(30)
    writer.close()
    assert store.names() == ["last-00000001"]
