"""Both train for the same time, and are scored by the same code; what was trained is not trained again."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmarks.training_quality.translation import TranslationConfig, main

pytestmark = pytest.mark.system
WORDS = {"anna": "anna", "went": "ging", "met": "traf", "to": "nach", "oslo": "oslo", "and": "und", "bruno": "bruno"}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_both_are_trained_once_and_told_beside_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")  # of the commands, which start their own
    rng, data = random.Random(0), tmp_path / "data"
    data.mkdir()
    for name, count in {"train": 240, "dev": 8, "test": 8}.items():
        texts = [rng.choices(list(WORDS), k=rng.randint(4, 7)) for _ in range(count)]
        (data / f"{name}.en").write_text("".join(" ".join(words) + "\n" for words in texts))
        (data / f"{name}.de").write_text("".join(" ".join(map(WORDS.__getitem__, words)) + "\n" for words in texts))
    config = TranslationConfig(
        data=str(data), test_name=None, width=32, layers=1, vocabulary=300, epochs=1, tokens=256, threads=1, trial_steps=5,
        workdir=str(tmp_path / "work"), result=str(tmp_path / "result.json"),
    )  # fmt: skip
    main(config)
    found = json.loads((tmp_path / "result.json").read_text())
    ours, rival = found["ours"], found["trainer"]
    assert (ours["steps"] > 5, rival["steps"] >= 1) == (True, True)
    assert ours["mode"] == rival["mode"]
    assert all(0 <= one[name] <= 1 for one in (ours, rival) for name in ("bleu", "chrf"))
    assert rival["texts_per_step"] == round(ours["texts_per_step"])
    before = (tmp_path / "work/trainer/result.json").stat().st_mtime_ns
    capfd.readouterr()
    main(config)
    told = capfd.readouterr().out
    assert "epoch 1/1" not in told
    assert (tmp_path / "work/trainer/result.json").stat().st_mtime_ns == before
    assert "ours " in told
    assert "Seq2SeqTrainer" in told
