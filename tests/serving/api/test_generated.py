"""The generated code is that of inference.proto, and inference.proto is a part of what other clients call."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from serving.api.open_inference import inference_pb2

ROOT = Path(__file__).parents[3]


def test_the_generated_code_is_that_of_the_proto_file(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    out = tmp_path / "set"
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I.",
        f"--descriptor_set_out={out}",
        "serving/api/open_inference/inference.proto",
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    (compiled,) = FileDescriptorSet.FromString(out.read_bytes()).file
    for message in _messages(compiled.message_type).values():
        for field in message.field:
            field.ClearField("json_name")  # protoc adds what follows from the name
    assert compiled == FileDescriptorProto.FromString(inference_pb2.DESCRIPTOR.serialized_pb)


def test_every_message_is_the_one_that_tritonclient_sends() -> None:
    """In a process of its own: two files with messages of the same names do not fit into one."""
    code = "import base64; from tritonclient.grpc import service_pb2 as s; print(base64.b64encode(s.DESCRIPTOR.serialized_pb).decode())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    theirs = FileDescriptorProto.FromString(base64.b64decode(done.stdout))
    known = _messages(theirs.message_type)
    ours = _messages(FileDescriptorProto.FromString(inference_pb2.DESCRIPTOR.serialized_pb).message_type)
    assert len(ours) > 20
    for name, message in ours.items():
        fields = {(field.number, field.name, field.type, field.label, field.type_name) for field in message.field}
        assert fields <= {(f.number, f.name, f.type, f.label, f.type_name) for f in known[name].field}, name
    calls = {(call.name, call.input_type, call.output_type) for call in theirs.service[0].method}
    service = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert {(m.name, f".{m.input_type.full_name}", f".{m.output_type.full_name}") for m in service.methods} <= calls


def _messages(messages: object, prefix: str = "") -> dict[str, DescriptorProto]:
    found = {}
    for message in messages:  # type: ignore[attr-defined]
        found[prefix + message.name] = message
        found |= _messages(message.nested_type, f"{prefix}{message.name}.")
    return found
