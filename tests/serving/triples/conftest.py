"""Perfect agents, alone and beside each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.bundle import Bundle
from tests.serving.triples.gold import relater_bundle, tagger_bundle


@pytest.fixture(scope="session")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tagger_bundle(tmp_path_factory.mktemp("gold") / "tagger")


@pytest.fixture(scope="session")
def relater(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return relater_bundle(tmp_path_factory.mktemp("gold") / "relater")


@pytest.fixture(scope="session")
def pair(relater: Path, tagger: Path) -> Bundle:
    return Bundle.load(relater).beside(Bundle.load(tagger))
