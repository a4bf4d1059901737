"""What a loop is told, and what the stations are told by it."""

from __future__ import annotations

import pytest

from agent.config.base import load
from agent.errors import ConfigError
from cluster.loop.loop_config import LoopConfig
from cluster.loop.stations import merged

PLACES = ("directory=loop", "store=sqlite:///d.db", "live=small")


def test_places_are_needed_except_to_show_the_ledger() -> None:
    with pytest.raises(ConfigError, match="store and live are needed"):
        load(LoopConfig, ["directory=loop"])
    assert load(LoopConfig, ["directory=loop", "show=true"]).show


@pytest.mark.parametrize("key", ["training.output", "training.data.path", "compression.bundle"])
def test_what_the_loop_sets_itself_cannot_be_given(key: str) -> None:
    with pytest.raises(ConfigError, match="is set by the loop itself"):
        load(LoopConfig, [*PLACES, f"{key}=x"])


def test_a_password_is_not_kept() -> None:
    config = load(LoopConfig, [*PLACES[::2], "store=postgresql+psycopg://u:secret@h/d", "training.epochs=2"])
    assert "secret" not in str(config.recorded())
    assert config.recorded()["training"] == {"epochs": 2}


def test_keys_are_merged_and_another_kind_starts_from_its_defaults() -> None:
    recorded = {"epochs": 3, "optimizer": {"kind": "adamw", "learning_rate": 1e-3, "layer_decay": 0.9}, "steps": ["a"]}
    assert merged(recorded, {"epochs": 5, "optimizer": {"learning_rate": 1e-4}, "steps": ["b"]}) == {
        "epochs": 5, "optimizer": {"kind": "adamw", "learning_rate": 1e-4, "layer_decay": 0.9}, "steps": ["b"],
    }  # fmt: skip
    assert merged(recorded, {"optimizer": {"kind": "sgd"}})["optimizer"] == {"kind": "sgd"}
    assert recorded["epochs"] == 3
