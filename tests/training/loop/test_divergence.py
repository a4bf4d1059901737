from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import TrainingError
from training.loop.divergence import DivergenceMonitor

ROWS = np.arange(3)


def tripped(losses):
    """The step at which a guard stops, or None."""
    guard = DivergenceMonitor()
    for step, loss in enumerate(losses, 1):
        try:
            guard.check(float(loss), step=step, learning_rate=1e-3, sentences=ROWS)
        except TrainingError:
            return step
    return None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("step", [1, 2, 20, 21, 400])
def test_a_loss_that_is_no_number_stops_at_once(bad, step):
    assert tripped([1.0] * (step - 1) + [bad, 1.0]) == step


@given(
    start=st.floats(0.01, 12.0),
    end_share=st.floats(0.001, 1.0),
    half_life=st.integers(1, 2000),
    noise=st.floats(0.0, 0.6),
    tail=st.floats(0.0, 0.05),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_noisy_but_healthy_curve_never_trips_it(*, start, end_share, half_life, noise, tail, seed):
    """Losses that fall from `start` to a floor, with log-normal noise and now and then a batch that is ten times as bad."""
    rng = np.random.default_rng(seed)
    steps = np.arange(600)
    mean = start * (end_share + (1 - end_share) * 0.5 ** (steps / half_life))
    odd = np.where(rng.random(600) < tail, 10.0, 1.0)
    assert tripped(mean * rng.lognormal(-noise * noise / 2, noise, 600) * odd) is None


@given(seed=st.integers(0, 2**32 - 1), noise=st.floats(0.0, 0.5), resumed_at=st.floats(1e-5, 0.05))
def test_a_resumed_run_with_tiny_losses_may_fluctuate(seed, noise, resumed_at):
    losses = resumed_at * np.random.default_rng(seed).lognormal(0, 1 + noise, 400)
    losses[200] = 3.0  # one sentence that nobody has labelled well
    assert tripped(losses) is None


@pytest.mark.parametrize("growth", [1.05, 1.3, 2.0, 10.0])
@pytest.mark.parametrize("onset", [1, 5, 19, 100])
def test_a_loss_that_runs_away_is_stopped_whenever_it_begins(growth, onset):
    losses = [2.0] * onset + [2.0 * growth**n for n in range(1, 250)]
    step = tripped(losses)
    assert step is not None
    assert losses[step - 1] < 2.0 * 1e5  # before it has become a meaningless number
    assert losses[step - 1] > 5.0


def test_a_loss_that_settles_far_above_its_start_is_stopped():
    assert tripped([0.7] * 30 + [30.0] * 30)


def test_one_odd_batch_does_not_end_a_run():
    assert tripped([1.0] * 50 + [30.0] + [1.0] * 50) is None


def message(sentences, loss=float("nan")):
    with pytest.raises(TrainingError) as caught:
        DivergenceMonitor().check(loss, step=17, learning_rate=0.0025, sentences=np.array(sentences))
    return caught.value


def test_the_message_has_step_rate_sentences_and_remedy():
    error = message([3, 5, 8])
    assert error.what == "the loss is nan at step 17, learning rate 0.0025, training sentences 3, 5, 8 (counted from 0)"
    for knob in ("optimizer.learning_rate", "schedule.warmup_fraction", "engine.precision=fp32", "resume=false"):
        assert knob in error.remedy


def test_many_sentences_are_counted_not_listed():
    assert "9, 10, 11 and 88 more" in message(range(100)).what


def test_a_runaway_message_says_from_where_to_where():
    guard = DivergenceMonitor()
    for step in range(1, 21):
        guard.check(2.0, step=step, learning_rate=1e-3, sentences=ROWS)
    with pytest.raises(TrainingError, match=r"the loss rose to 51\.8, from 2 at step 21, learning rate 0\.001"):
        guard.check(500.0, step=21, learning_rate=1e-3, sentences=ROWS)
