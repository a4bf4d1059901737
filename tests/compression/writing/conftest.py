"""Agents that write, which several tests compress; none of them changes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compression.writing.written_agents import writer_bundle


@pytest.fixture(scope="session")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writer_bundle(tmp_path_factory.mktemp("translator"), "sequence_to_sequence")


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writer_bundle(tmp_path_factory.mktemp("talker"), "text_generation")
