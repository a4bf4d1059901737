"""Bundles that recorded the distributions of texts, made without compression."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from agent.bundle import Bundle, Draft
from agent.drift.drift_reference import FILE, DriftReference
from agent.drift.observer import Observation, Observer
from serving.inference.engine import Engine
from tests.tiny import sentences


def calm_texts(count: int, seed: int) -> list[str]:
    """Different pairs of sentences of the toy language."""
    said = [" ".join(words) for words, _ in sentences(4 * count, seed)]
    return list(dict.fromkeys(map(" ".join, zip(said[::2], said[1::2], strict=True))))[:count]


def observed(bundle: Bundle, texts: Sequence[str]) -> list[Observation]:
    """What the bundle's graph answers to texts."""
    engine, observer = Engine(bundle), Observer(bundle.task, bundle.encoder)
    documents = engine.encode(texts)
    return [observer.observe(*one) for one in zip(texts, documents, engine.run(documents), strict=True)]


def record(source: Path, place: Path, texts: Sequence[str]) -> Path:
    """Copies a bundle and lets it record the distributions of texts."""
    shutil.copytree(source, place)
    bundle = Bundle.load(place)
    (place / FILE).write_text(DriftReference.of(observed(bundle, texts), "dev").model_dump_json())
    Draft(place).publish(bundle.manifest)
    return place
