"""Data to prediction by the documented commands, on tiny parts; every other kind of task goes the same way in test_every_station.py."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.bundle import Bundle
from tests.ports import free_port
from tests.tiny import make_model, write_conll

pytestmark = [pytest.mark.system, pytest.mark.long]
ROOT = Path(__file__).resolve().parents[2]


def station(*arguments):
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def post(url, inputs):
    body = json.dumps({"inputs": inputs}).encode()
    with urllib.request.urlopen(
        urllib.request.Request(url, body, {"content-type": "application/json"}), timeout=30
    ) as answer:
        return json.load(answer)


@contextmanager
def server(bundle):
    port = free_port()
    command = [sys.executable, "serving/run.py", f"bundle={bundle}", f"port={port}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for line in process.stdout:
                if line.startswith("serving at"):
                    break
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.timeout(900)
def test_a_task_goes_from_data_to_predictions_by_the_documented_commands(tmp_path):
    make_model(tmp_path / "model")
    write_conll(tmp_path / "data")
    trained, small = tmp_path / "agent", tmp_path / "agent-small"
    curve = station(
        "training/run.py", "task.kind=token_classification", f"data.path={tmp_path / 'data'}", f"model.name={tmp_path / 'model'}", f"output={trained}",
        "epochs=15", "batch.tokens=128", "optimizer.learning_rate=0.002", "model.stride=8",
    )  # fmt: skip
    assert "test split after fine-tuning" in curve
    scores = {evaluation.split: evaluation.report.value for evaluation in Bundle.load(trained).manifest.evaluations}
    assert scores["test"] > 0.9
    table = station("compression/run.py", f"bundle={trained}", f"output={small}", "gate.min_score_kept=0.8")
    assert "WARNING" not in table
    assert "Gate passed" in table
    texts = ["anna went to oslo .", "in lima , acme hired bruno .", "nothing happened today ."]
    with server(small) as url:
        served = post(url, texts)
    from serving.inference.engine import Engine

    bundle = Bundle.load(small)
    assert served == Engine(bundle).predict(texts)
    assert bundle.manifest.lineage.parent_digest == Bundle.load(trained).digest
    assert {variant.precision for variant in bundle.manifest.onnx} == {"fp32", "int8"}
