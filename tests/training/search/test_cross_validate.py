"""Cross-validation: folds that are exact, real runs on tiny models, results that go on where they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.bundle import Bundle
from agent.config.base import load
from agent.data import DataConfig, load_splits
from agent.errors import BundleError, ConfigError, DataError
from agent.tasks import TokenClassification
from tests.training.runs import in_this_process, settings_of
from training import cross_validate as command
from training.search.cross_validation import RECORD, CrossValidationConfig, cross_validate, cut

NUM_EXAMPLES = 144  # train and dev of write_conll


def settings(places, name, **changes):
    return settings_of(CrossValidationConfig, places, name, **{"epochs": 6, "folds": 2} | changes)


def loaded(places):
    return load_splits(DataConfig(path=str(places / "ner")), TokenClassification())


def test_every_example_of_train_and_dev_is_left_out_once_and_test_stays_apart(places):
    splits = loaded(places)
    folds = [cut(splits, 5, number, seed=0) for number in range(1, 6)]
    pool = [example.where for example in (*splits.train, *splits.dev)]
    assert sorted(example.where for fold in folds for example in fold.dev) == sorted(pool)
    for fold in folds:
        assert sorted(example.where for example in (*fold.train, *fold.dev)) == sorted(pool)
        assert len(fold.dev) in (NUM_EXAMPLES // 5, NUM_EXAMPLES // 5 + 1)
        assert fold.test == splits.test
        assert fold.task == splits.task
    assert len({fold.digest for fold in folds}) == 5


def test_the_folds_follow_the_seed(places):
    splits = loaded(places)
    assert cut(splits, 3, 1, seed=1).digest == cut(splits, 3, 1, seed=1).digest
    assert cut(splits, 3, 1, seed=1).digest != cut(splits, 3, 1, seed=2).digest


def test_more_folds_than_examples_and_streaming_are_refused(places):
    with pytest.raises(DataError, match=f"folds={NUM_EXAMPLES + 1}, but .* has {NUM_EXAMPLES} examples"):
        cross_validate(settings(places, "many", folds=NUM_EXAMPLES + 1))
    with pytest.raises(ConfigError, match=r"ingest\.mode=stream"):
        cross_validate(settings(places, "stream", ingest={"mode": "stream"}))
    with pytest.raises(ConfigError, match="folds"):
        load(CrossValidationConfig, ["folds=1"])
    assert not list(places.glob("many*"))


def test_an_output_that_holds_something_else_is_refused(places, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BundleError, match="is no cross-validation"):
        cross_validate(settings(places, "x", output=str(tmp_path), overwrite=True))


@pytest.fixture(scope="module")
def finished(places, local_ray):
    with in_this_process():
        return cross_validate(settings(places, "whole", keep=True))


@pytest.mark.system
def test_the_summary_is_of_what_the_folds_bundles_say(finished):
    dev = [
        {item.split: item for item in Bundle.load(finished.directory / f"whole.fold-{n}").manifest.evaluations}["dev"]
        for n in (1, 2)
    ]
    first, second = (evaluation.report for evaluation in dev)
    assert first.value > 0.5
    score = finished.validation.summary["score"]
    assert score.mean == pytest.approx((first.value + second.value) / 2)
    assert score.deviation == pytest.approx(abs(first.value - second.value) / 2**0.5)
    assert finished.validation.summary["f1.PER"].mean == pytest.approx(
        (first.metrics["f1.PER"] + second.metrics["f1.PER"]) / 2
    )
    assert [fold.num_dev for fold in finished.validation.folds] == [72, 72]
    assert dev[0].data_digest != dev[1].data_digest
    assert json.loads((finished.directory / RECORD).read_text())["summary"]["score"]["mean"] == score.mean


@pytest.mark.system
def test_the_page_and_the_command_show_all_folds(finished):
    page = (finished.directory / "report.md").read_text(encoding="utf-8")
    shown = command.render(finished)
    for text in (page, shown):
        assert "| 1 | 72 | 72 |" in text
        assert "| mean |" in text
        assert "| standard deviation |" in text
    assert "over 2 folds" in shown


@pytest.mark.system
def test_the_same_command_says_that_it_is_finished_and_another_is_refused(finished, places):
    again = cross_validate(settings(places, "whole", keep=True))
    assert (again.is_new, again.validation) == (False, finished.validation)
    with pytest.raises(ConfigError, match=r"started with other settings: epochs=2 \(was 6\)"):
        cross_validate(settings(places, "whole", keep=True, epochs=2))


@pytest.mark.system
def test_an_interrupted_cross_validation_goes_on_and_keeps_no_bundles_unasked(finished, places, capfd):
    config = settings(places, "halted")
    folds = finished.validation.folds[:1]
    half = finished.validation.model_copy(update={"config": config.model_dump(mode="json"), "folds": folds})
    (places / "halted").mkdir()
    (places / "halted" / RECORD).write_text(half.model_dump_json(), encoding="utf-8")
    with in_this_process():
        result = cross_validate(config)
    out = capfd.readouterr().out
    assert "fold 2 of 2" in out
    assert "fold 1 of 2" not in out
    assert result.validation.folds == finished.validation.folds
    assert result.validation.summary == finished.validation.summary
    assert sorted(path.name for path in Path(config.output).iterdir()) == [RECORD, "report.md"]
