"""What tests of whole runs share: a tiny model, data, and an agent trained on them."""

from __future__ import annotations

import shutil

import pytest

from tests.local_ray import share_ray
from tests.tiny import make_model, write_conll
from tests.training.runs import settings, train_here


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A directory with `model` and `ner` that no test writes to."""
    root = tmp_path_factory.mktemp("toy")
    make_model(root / "model")
    write_conll(root / "ner")
    return root


@pytest.fixture(scope="module")
def places(toy, tmp_path_factory):
    """A directory with `model` and `ner` for a module's runs."""
    root = tmp_path_factory.mktemp("places")
    shutil.copytree(toy, root, dirs_exist_ok=True)
    return root


@pytest.fixture(scope="session")
def reference(toy, tmp_path_factory):
    """The run that others are compared with and whose agent teaches: six epochs, one worker. No test changes its bundle."""
    share_ray()
    return train_here(settings(toy, "reference", epochs=6, output=str(tmp_path_factory.mktemp("reference") / "agent")))
