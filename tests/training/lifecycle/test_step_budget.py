"""Epochs, batch size and patience by the size of the data, and what is said of an agent that learned nothing."""

from types import SimpleNamespace

import numpy as np
import pytest

from agent.config.base import load
from agent.errors import ConfigError
from agent.tasks import Report, TokenClassification
from training.config import TrainingConfig
from training.lifecycle.job import TrainingResult
from training.lifecycle.step_budget import MIN_STEPS, STEPS_FROM_NOTHING, fill_in_auto
from training.loop.worker_io import TrainingOutcome
from training.run import render


def filled(num_windows, *arguments, length=20, width=384):
    return fill_in_auto(load(TrainingConfig, list(arguments)), np.full(num_windows, length, np.int64), width)


@pytest.mark.parametrize(
    ("num_sentences", "tokens", "epochs", "patience"),
    [(50, 256, 60, 20), (100, 256, 34, 12), (1_000, 512, 8, 3), (3_000, 1024, 6, 2), (14_000, 1024, 3, None)],
)
def test_little_data_gets_small_batches_and_many_epochs(num_sentences, tokens, epochs, patience):
    config, line = filled(num_sentences)
    assert (config.batch.tokens, config.epochs, config.early_stopping.patience) == (tokens, epochs, patience)
    assert f"batch.tokens={tokens}, epochs={epochs}" in line
    assert f"{MIN_STEPS} steps are wanted" in line


def test_what_the_user_sets_stays():
    config, line = filled(100, "epochs=2", "batch.tokens=64", "early_stopping.patience=1", "optimizer.kind=sgd")
    assert (config.epochs, config.batch.tokens, config.early_stopping.patience) == (2, 64, 1)
    assert line == ""
    config, line = filled(100, "batch.tokens=64", "early_stopping.patience=null")
    assert config.early_stopping.patience is None
    assert line.startswith("auto: epochs=9 ")


@pytest.mark.parametrize(
    ("width", "arguments", "rate"),
    [
        (128, [], 2e-4), (384, [], 2e-4), (768, [], 5e-5), (1024, [], 2.8e-5), (4096, [], 1e-5),
        (768, ["model.lora={}"], 1e-3), (768, ["model.trainable=head_only"], 2e-4), (768, ["optimizer.learning_rate=3e-5"], 3e-5),
        (768, ["optimizer.kind=sgd"], 0.1),
    ],
)  # fmt: skip
def test_wide_encoders_get_low_rates_and_a_rate_that_is_set_stays(width, arguments, rate):
    config, line = filled(14_000, *arguments, width=width)
    assert config.optimizer.peak_learning_rate == rate
    assert config.auto_keys == ()
    assert (f"optimizer.learning_rate={rate:g} (" in line) is ("optimizer" not in "".join(arguments))


@pytest.mark.parametrize(
    ("arguments", "rate"),
    [([], 1e-4), (["batch.tokens=512"], 1.4e-4), (["batch.tokens=4096"], 2e-4), (["model.lora={}"], 1e-3), (["model.trainable=head_only"], 2e-4)],
)  # fmt: skip
def test_small_steps_get_lower_rates(arguments, rate):
    config, line = filled(100, *arguments, width=384)
    assert config.optimizer.peak_learning_rate == rate
    assert ("steps of 256 tokens" in line) is (not arguments)


@pytest.mark.parametrize(("width", "rate"), [(64, 2e-3), (192, 2e-3), (768, 1e-3)])
@pytest.mark.parametrize("kind", ["sequence_to_sequence", "text_generation"])
def test_models_that_write_from_nothing_get_many_steps_and_high_rates(kind, width, rate):
    config, line = filled(5_000, f"task.kind={kind}", "model.init=random", width=width)
    assert (config.epochs, config.batch.tokens, config.optimizer.peak_learning_rate) == (31, 1024, rate)
    assert f"{STEPS_FROM_NOTHING:,} steps are wanted" in line
    trained, _ = filled(5_000, f"task.kind={kind}", width=192)
    assert (trained.epochs, trained.optimizer.peak_learning_rate) == (4, 2e-4)
    tagger, _ = filled(5_000, "model.init=random", width=192)
    assert (tagger.epochs, tagger.optimizer.peak_learning_rate) == (4, 2e-4)


@pytest.mark.parametrize(
    ("given", "shown"), [("0", "0: Input should be greater than 0"), ("fast", "'fast': Input should be a valid number")]
)
def test_a_rate_is_positive_or_auto(given, shown):
    with pytest.raises(ConfigError) as raised:
        load(TrainingConfig, [f"optimizer.learning_rate={given}"])
    assert str(raised.value).startswith(f"optimizer.learning_rate={shown}")
    assert "; or Input should be 'auto'. Remedy:" in str(raised.value)


@pytest.mark.parametrize("kind", ["sgd", "adafactor"])
def test_other_optimizers_have_rates_of_their_own(kind):
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate='auto': Input should be a valid number"):
        load(TrainingConfig, [f"optimizer.kind={kind}", "optimizer.learning_rate=auto"])


def test_texts_of_any_length_and_one_text_alone_can_be_planned():
    assert filled(1, length=3)[0].num_epochs == 60
    assert filled(2, length=512)[0].batch.tokens == 256


@pytest.mark.parametrize(("after", "useless"), [(0.0, True), (0.03, True), (0.5, False)])
def test_an_agent_that_learned_nothing_is_not_called_done(after, useless):
    reports = [
        Report(metrics={"f1": value}, primary="f1", support=9, mode="m", text="t") for value in (0.02, after, after)
    ]
    outcome = TrainingOutcome(*reports, guess=0.02, best_epoch=1, history=[])
    shown = render(TrainingResult(SimpleNamespace(path="p", digest="d" * 64, task=TokenClassification()), outcome))
    assert ("NOT READY FOR USE" in shown) is useless
