"""Agents that several tests compress; none of them changes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.compression.agents import tiny_bundle

torch.set_num_threads(1)  # threads of tiny products only wait for each other


@pytest.fixture(scope="session")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("tagger"))


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("classifier"), "text_classification")
