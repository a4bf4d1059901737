"""The rival of the benchmark of served texts writes with the same model, and the aims are told by what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.bundle import Bundle
from agent.tasks.writing.writing_parameters import SequenceParameters
from benchmarks.generation.served_texts import Rival, ServedTextsConfig, show
from serving.inference.writing_engine import WritingEngine
from tests.tiny_writers import publish_converted, written_records

TEXTS = [record["text"] for record in written_records(12)]


@pytest.mark.parametrize("beams", [1, 4])
def test_the_rival_writes_what_the_server_writes(tmp_path: Path, beams: int) -> None:
    bundle = Bundle.load(publish_converted(tmp_path / "bundle", "sequence_to_sequence", init_std=1.0))
    rival = Rival(bundle, ServedTextsConfig(bundle=str(bundle.path), max_new_tokens=8, threads=1))
    written, seconds = rival.write(TEXTS, 5, beams)
    assert seconds > 0
    engine = WritingEngine(bundle, precision="fp32", num_cpus=1)
    answers = engine.predict(TEXTS, SequenceParameters(num_beams=beams, max_new_tokens=8))
    assert written == [answer["translation_text"] for (answer,) in answers]
    assert len(set(written)) > 1
    assert rival.count(TEXTS[0]) == len(TEXTS[0].split()) + 1


def test_aims_are_told_by_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    rates = {
        "ours, 1 in flight": 400.0,
        "generate, 1 at a time": 100.0,
        "ours, 16 in flight": 450.0,
        "generate, batches of 16": 200.0,
    }
    scores = {"ours, 1 in flight": 0.304, "ours, 16 in flight": 0.306}
    show(
        [{"beams": 1, "way": name, "tokens_per_s": rate, "lowest": rate, "highest": rate, "score": scores.get(name, 0.31)} for name, rate in rates.items()],
        "bleu",
    )  # fmt: skip
    told = capsys.readouterr().out
    assert "1 in flight beside generate: 4.000 (aim at least 3) met" in told
    assert "16 in flight beside generate: 4.500 (aim at least 5) missed" in told
    assert "points of bleu lost: 0.600 (aim at most 0.3) missed" in told
