"""Errors travel between processes whole, and say what to do."""

import copy
import pickle

import pytest

from agent import errors
from agent.errors import AgentError, RequestError, one_line

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AgentError)]
STDLIB_KIN = {
    "ConfigError": ValueError, "DataError": ValueError, "BundleError": ValueError, "RequestError": ValueError,
    "ModelError": OSError, "ClusterError": RuntimeError, "ExportError": RuntimeError, "GateError": RuntimeError,
    "TrainingError": RuntimeError, "LossError": RuntimeError, "CheckpointError": OSError,
    "StoreError": OSError, "EvidenceError": RuntimeError, "LoopError": RuntimeError,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("send", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_every_error_survives_pickling_with_all_fields(kind, send):
    error = kind("file x:3: no tag", allowed="WORD TAG", remedy="add the tag")
    back = send(error)
    assert type(back) is kind
    assert vars(back) == vars(error)
    assert str(back) == str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_says_what_is_wrong_what_is_allowed_and_what_to_do(kind):
    assert str(kind("x is 3", allowed="1 or 2", remedy="lower x")) == "x is 3. Allowed: 1 or 2. Remedy: lower x."
    assert str(kind("x is 3", remedy="lower x")) == "x is 3. Remedy: lower x."
    assert str(kind("x is 3")) == "x is 3."


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not AgentError])
def test_every_error_is_caught_as_its_kin_of_the_standard_library(kind):
    assert issubclass(kind, STDLIB_KIN[kind.__name__])


def test_a_request_error_keeps_its_status_and_field():
    back = pickle.loads(pickle.dumps(RequestError("too long", allowed="a", remedy="b", status=413, field="inputs[3]")))
    assert (back.status, back.field, back.allowed, back.remedy) == (413, "inputs[3]", "a", "b")


def test_a_chained_error_reaches_the_other_side_when_raised_again():
    with pytest.raises(AgentError, match="remote"):
        raise pickle.loads(pickle.dumps(errors.ClusterError("remote")))


def test_a_message_of_several_lines_becomes_one_of_a_length():
    assert one_line(ValueError("first\n   second\tthird")) == "first second third"
    assert one_line(ValueError("x" * 400)) == "x" * 300
    assert one_line("a text " * 3, 9) == "a text a "
    assert one_line(KeyError()) == "KeyError"
