"""An agent whose answers are right from a known score of each label on, and bundles with policies made by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from agent.bundle import Bundle
from agent.decisions.decision_policy import CostEstimate, Policy, PolicyEvidence
from serving.deciding.policy_choice import write_governed
from serving.inference.engine import Engine
from tests.serving.tiny import CLASSIFIER, TEXTS

NUMBER = 400


def texts(number: int = NUMBER) -> list[str]:
    words = " ".join(TEXTS[:3]).split()
    rng = random.Random(0)
    return list(dict.fromkeys(" ".join(rng.choices(words, k=rng.randint(3, 12))) for _ in range(2 * number)))[:number]


def planted(engine: Engine) -> tuple[dict[str, float], list[str]]:
    """Just above the median score of each label among the texts that it is answered to; and right labels: the answered ones from there on."""
    best = [answer[0] for answer in engine.predict(texts())]
    cuts = {
        label: float(np.median([item["score"] for item in best if item["label"] == label] or [0.5])) + 1e-5
        for label in CLASSIFIER.labels
    }
    other = dict(zip(CLASSIFIER.labels, (*CLASSIFIER.labels[1:], CLASSIFIER.labels[0]), strict=True))
    right = [item["label"] if item["score"] >= cuts[item["label"]] else other[item["label"]] for item in best]
    return cuts, right


def write_data(file: Path, right: list[str]) -> Path:
    rows = zip(texts(), right, strict=True)
    file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return file


def governed(path: Path, output: Path, thresholds: Mapping[str, float]) -> Path:
    """A copy of a bundle whose policy has these thresholds."""
    bundle = Bundle.load(path)
    estimate = CostEstimate(value=0, low=0, high=0)
    policy = Policy(
        task=bundle.task.kind, thresholds=thresholds, costs={}, bundle=bundle.digest, precision="fp32", confidence=0.95,
        evidence=PolicyEvidence(kind="data", texts=1, digest="none"), withheld=0, added=0,
        expected=dict.fromkeys(("plain", "policy", "silent", "saving"), estimate),
    )  # fmt: skip
    write_governed(bundle, policy, output)
    return output
