"""MLServer with its Hugging Face runtime, which needs no code: only this configuration.

The runtime imports `transformers.pipelines.Conversation`, which 4.42 dropped, and optimum 1.27 a module that torch has moved
since; neither is used here. The roster pins the former, `_SHIM` gives the latter its old name. It also sets the threads of a
session, which the runtime's settings cannot.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from pathlib import Path

from agent.bundle import Bundle
from benchmarks.rivals.rival_environment import BUNDLE, PLACE, PORT, SETTINGS

_SHIM = """
import sys
import onnxruntime
import torch.onnx
from torch.onnx._internal.torchscript_exporter import symbolic_opset14

sys.modules["torch.onnx.symbolic_opset14"] = symbolic_opset14

class Session(onnxruntime.InferenceSession):
    def __init__(self, path, sess_options=None, *given, **named):
        options = sess_options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = {threads}
        super().__init__(path, options, *given, **named)

onnxruntime.InferenceSession = Session
"""


def model() -> Path:
    """A model directory as optimum wants it, with our graph under optimum's name; the bundle itself for PyTorch."""
    if not SETTINGS["optimum_model"]:
        return Path(BUNDLE)
    bundle, copy = Bundle.load(BUNDLE), PLACE / "model"
    copy.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundle.path / name, copy / name)
    shutil.copy(bundle.path / bundle.onnx_variant().file, copy / "model.onnx")
    return copy


def write_settings() -> None:
    """Writes the server's and the model's settings."""
    extra = {"task": "token-classification", "pretrained_model": str(model())}
    given = {name: SETTINGS[name] for name in ("optimum_model", "framework", "intra_op_threads") if name in SETTINGS}
    server = {"host": "127.0.0.1", "http_port": PORT, "grpc_port": free_port(), "metrics_port": free_port()}
    server |= {"parallel_workers": SETTINGS["parallel_workers"], "debug": False, "metrics_dir": str(PLACE / "metrics")}
    agent = {"name": "agent", "implementation": "mlserver_huggingface.HuggingFaceRuntime"}
    (PLACE / "settings.json").write_text(json.dumps(server))
    (PLACE / "model-settings.json").write_text(json.dumps(agent | {"parameters": {"extra": extra | given}}))


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    write_settings()
    (PLACE / "sitecustomize.py").write_text(_SHIM.format(threads=SETTINGS["onnx_threads_of_each"]))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PLACE), os.environ["PYTHONPATH"]])
    program = str(Path(sys.executable).with_name("mlserver"))
    os.execv(sys.executable, [sys.executable, program, "start", str(PLACE)])
