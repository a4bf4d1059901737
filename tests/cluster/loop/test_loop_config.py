"""What a loop is told, and what the stations are told by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.base import load
from agent.data import DataConfig
from agent.errors import BundleError, ConfigError
from agent.tasks import KINDS
from cluster.loop.candidate_gates import Gate, Versions, ask_the_log, no_verdict
from cluster.loop.loop_config import LoopConfig
from cluster.loop.loop_round import check_rewards, check_self_training, objective_for
from cluster.loop.rounds import run_round
from cluster.loop.stations import merged
from cluster.loop.workspace import Origin
from tests.tiny_writers import publish_writer
from training.objectives import PolicyGradient

PLACES = ("directory=loop", "store=sqlite:///d.db", "live=small")


def test_places_are_needed_except_to_show_the_ledger() -> None:
    with pytest.raises(ConfigError, match="store and live are needed"):
        load(LoopConfig, ["directory=loop"])
    assert load(LoopConfig, ["directory=loop", "show=true"]).show


@pytest.mark.parametrize("key", ["training.output", "training.data.path", "compression.bundle"])
def test_what_the_loop_sets_itself_cannot_be_given(key: str) -> None:
    with pytest.raises(ConfigError, match="is set by the loop itself"):
        load(LoopConfig, [*PLACES, f"{key}=x"])


def test_callers_are_checked_unless_it_is_said_otherwise() -> None:
    assert load(LoopConfig, list(PLACES)).check_callers
    assert not load(LoopConfig, [*PLACES, "check_callers=false"]).check_callers


def test_rewards_choose_the_objective() -> None:
    rewarded = (*PLACES, "rewards=teach")
    assert load(LoopConfig, [*rewarded, "training.objective.label_shift=1"]).training == {
        "objective": {"label_shift": 1}
    }
    assert load(LoopConfig, [*rewarded, "training.objective.kind=policy_gradient"]).rewards == "teach"
    with pytest.raises(ConfigError, match=r"training\.objective\.kind=focal does not learn from rewards.*leave it out"):
        load(LoopConfig, [*rewarded, "training.objective.kind=focal"])
    assert load(LoopConfig, [*PLACES, "training.objective.kind=focal"]).rewards == "judge"


@pytest.mark.parametrize("kind", KINDS)
def test_self_training_is_for_agents_that_learn_from_labels(kind: str) -> None:
    task = KINDS[kind].model_validate({"kind": kind})
    check_self_training(load(LoopConfig, list(PLACES)), task)
    config = load(LoopConfig, [*PLACES, "self_training.texts=5"])
    if task.learns_from_text:
        with pytest.raises(
            ConfigError,
            match=f"small is an agent for {kind}, which learns from texts as they are.*token_classification",
        ):
            check_self_training(config, task)
    else:
        check_self_training(config, task)


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_teach_agents_that_answer_one_label(kind: str) -> None:
    config = load(LoopConfig, [*PLACES, "rewards=teach"])
    task = KINDS[kind].model_validate({"kind": kind})
    able = ("text_classification", "text_pair_classification", "relation_extraction")
    if kind in able:
        assert PolicyGradient().refusal_of(task) == ""
        check_rewards(config, task)
    else:
        with pytest.raises(ConfigError, match=f"rewards=teach, and small is an agent for {kind}.*{', '.join(able)}"):
            check_rewards(config, task)
        check_rewards(load(LoopConfig, list(PLACES)), task)


def test_the_objective_is_that_of_the_first_agent_unless_there_are_rewards() -> None:
    focal = {"kind": "focal", "class_weights": "sqrt", "gamma": 3.0}
    first = Origin(data=DataConfig(path="data"), seed=1, task={}, base_model="base", objective=focal)
    assert objective_for({"objective": focal}, first, rewarded=False) == focal
    rewarded = {"kind": "reward_likelihood", "class_weights": "sqrt"}
    assert objective_for({"objective": focal}, first, rewarded=True) == rewarded
    clipped = {"kind": "policy_gradient", "class_weights": "sqrt", "clip": 5.0}
    assert objective_for({"objective": clipped}, first, rewarded=True) == clipped
    assert objective_for({"objective": clipped}, first, rewarded=False) == focal


def test_a_log_that_cannot_tell_refuses_where_it_is_required() -> None:
    assert no_verdict("it is short", load(LoopConfig, list(PLACES))) == Gate(gate="log", passed=None, why="it is short")
    config = load(LoopConfig, [*PLACES, "gates.log_required=true", "gates.log_share=0"])
    why = "left out by gates.log_share=0 (gates.log_required)"
    versions = Versions(Path("candidate"), Path("live"))
    assert ask_the_log(versions, "agent", config, Path()) == Gate(gate="log", passed=False, why=why)


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


def test_an_agent_that_writes_goes_no_round(tmp_path: Path) -> None:
    live = publish_writer(tmp_path / "agent", "text_generation")
    config = load(LoopConfig, [f"directory={tmp_path / 'loop'}", f"store=sqlite:///{tmp_path}/d.db", f"live={live}"])
    with pytest.raises(
        BundleError, match=r"of text_generation, which writes texts, .*loop.*Allowed: .*Remedy: .*AutoModelForCausalLM"
    ):
        run_round(config)
