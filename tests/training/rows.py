"""Rows of a run that never was."""

from __future__ import annotations


def step_row(step, **changes):
    row = {
        "kind": "step", "step": step, "epoch": step / 10, "loss": 2.0 / step, "learning_rate": 1e-3, "tokens": 100,
        "padded_tokens": 125, "sentences": 5, "seconds": 0.125, "host_s": 0.0125, "num_workers": 2,
    }  # fmt: skip
    return row | changes


def epoch_row(epoch, **changes):
    row = {
        "kind": "epoch", "epoch": epoch, "step": 10 * epoch, "loss": 1.0 / epoch, "dev_score": 1 - 0.5**epoch, "learning_rate": 1e-3,
        "seconds": 1.0, "tokens_per_s": 800.0, "sentences_per_s": 50.0, "padding_share": 0.2, "host_share": 0.1,
    }  # fmt: skip
    return row | changes
