"""Logged decisions and drawn answers in whole runs: the same loss however windows are batched, refusals, and what is learned."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from agent.data import DataConfig, load_splits
from agent.data.digests import example_digest
from agent.data.exports import write_split
from agent.errors import DataError
from agent.tasks import KINDS, TextClassification, TokenClassification
from tests.tiny import write_classes
from tests.training.runs import settings, train_by_ranks, train_here
from tests.training.state.resharding import LABELS, VOCABULARY, windows
from training.data.batch_plan import BatchConfig, plan_epoch
from training.data.ingest import IngestConfig, open_data
from training.data.packing import JoinedWindows, PackedWindows
from training.data.token_cache import StoredWindows
from training.loop.train_step import BatchPrefetcher, ModelInputs
from training.model.models import load_tokenizer, make_encoder
from training.objectives import PolicyGradient, RewardLikelihood, SelfCritical

CPU = torch.device("cpu")
CITIES = ("lima", "oslo", "pune")
POLICY_GRADIENT = {"kind": "policy_gradient"}


# --- the loss of a step


def decisions() -> PackedWindows:
    """Windows with one target each, two in three of them logged."""
    per_token, rng = windows(), np.random.default_rng(1)
    count = len(per_token.labelled)
    logged = rng.uniform(0.05, 1, (count, 2)).astype(np.float32)
    logged[::3] = np.nan
    return PackedWindows(
        per_token.input_ids, rng.integers(0, LABELS, count).astype(np.int32), per_token.bounds, np.ones(count, np.int32),
        per_token.owners, per_token.seconds, logged,
    )  # fmt: skip


def step_gradients(objective, source, *, micro_tokens, num_workers, seed=3):
    """Of the steps of an epoch: loss and gradient of a model that knows words alone, summed over micro-batches and workers."""
    task = (
        TokenClassification(labels=("X", "Y", "Z")) if source.per_token else TextClassification(labels=tuple("abcdefg"))
    )
    loss = objective.bind([1] * LABELS, CPU, task.decision, task)
    inputs = ModelInputs(frozenset({"input_ids", "attention_mask"}), CPU, packed=False)
    batch = BatchConfig(tokens=256, micro_tokens=micro_tokens)
    plan = plan_epoch(source.lengths, config=batch, seed=0, epoch=1)
    table = torch.randn(VOCABULARY, LABELS, generator=torch.Generator().manual_seed(0))
    found = []
    workers = [
        BatchPrefetcher(source, inputs, batch, 0, rank, num_workers, 1, finds_touched_rows=False, seed=seed).steps(plan, 0, epoch=1)
        for rank in range(num_workers)
    ]  # fmt: skip
    for steps in zip(*workers, strict=True):
        weights = table.clone().requires_grad_()
        for step, _ in steps:
            for host, targets, facts in step.micro_batches:
                rows = weights[host["input_ids"]]
                mask = host["attention_mask"][..., None]
                logits = rows if source.per_token else (rows * mask).sum(1) / mask.sum(1)
                (loss(logits, targets, facts) / steps[0][0].labelled).backward()
        found.append(weights.grad)
    return torch.stack(found)


@pytest.mark.parametrize(
    ("objective", "source"),
    [
        (PolicyGradient(clip=2, entropy=0.1), decisions()), (RewardLikelihood(), decisions()),
        (SelfCritical(samples=3, supervised=0.25), windows()),
    ],
    ids=["policy_gradient", "reward_likelihood", "self_critical"],
)  # fmt: skip
def test_a_step_does_not_depend_on_workers_and_micro_batches(objective, source):
    whole = step_gradients(objective, source, micro_tokens=10_000, num_workers=1)
    assert whole.abs().sum() > 0
    for micro_tokens, num_workers in ((32, 1), (48, 3), (10_000, 2)):
        parts = step_gradients(objective, source, micro_tokens=micro_tokens, num_workers=num_workers)
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)
    again = step_gradients(objective, source, micro_tokens=10_000, num_workers=1, seed=4)
    assert torch.equal(again, whole) != isinstance(objective, SelfCritical)  # which alone draws


def test_targets_of_logged_answers_are_no_counts_of_labels():
    source = decisions()
    labels = source.targets[np.isnan(source.logged[:, 0])]
    assert source.target_counts(LABELS).tolist() == np.bincount(labels, minlength=LABELS).tolist()
    assert 0 < len(labels) < len(source.targets)


def test_rewards_are_summed_by_answer():
    source = decisions()
    known = ~np.isnan(source.logged[:, 0])
    wanted = [source.logged[known & (source.targets == label), 1].sum() for label in range(LABELS)]
    assert source.reward_sums(LABELS) == pytest.approx(wanted, rel=1e-5)
    assert JoinedWindows(source, source).reward_sums(LABELS) == pytest.approx(np.multiply(wanted, 2), rel=1e-5)
    assert windows().reward_sums(LABELS).tolist() == [0.0] * LABELS


# --- records


def record(**changes):
    return {"text": "a red card", "label": "red", "propensity": 0.25, "reward": 1} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"propensity": 0}, r"propensity 0\b.*above 0"),
        ({"propensity": 1.5}, r"propensity 1\.5"),
        ({"propensity": "0.5"}, r"propensity '0\.5'"),
        ({"propensity": float("nan")}, "propensity nan"),
        ({"reward": -0.1}, r"reward -0\.1.*from 0 to 1"),
        ({"reward": 2}, "reward 2"),
        ({"reward": True}, "reward True"),
        ({"propensity": None}, "a reward without a propensity"),
        ({"reward": None}, "a propensity without a reward"),
    ],
)
def test_a_wrong_reward_is_named_with_its_place(tmp_path, changes, message):
    write(tmp_path, "train", [record(), record(**changes)])
    for name in ("dev", "test"):
        write(tmp_path, name, [{"text": "red", "label": "red"}])
    with pytest.raises(DataError, match=rf"(?s)train\.jsonl:2: {message}"):
        load_splits(DataConfig(path=str(tmp_path)), TextClassification())


@pytest.mark.parametrize(
    ("kind", "labelled"),
    [
        ("token_classification", {"text": "red", "spans": []}),
        ("multi_label_classification", {"text": "red", "labels": ["red"]}),
        ("question_answering", {"question": "?", "context": "red", "answers": {"text": [], "answer_start": []}}),
    ],
)
def test_other_tasks_refuse_logged_decisions(kind, labelled):
    assert KINDS[kind]().read_record(labelled, "x:1")
    with pytest.raises(DataError, match=rf"x:1: a logged decision .* {kind}"):
        KINDS[kind]().read_record(labelled | {"propensity": 0.5, "reward": 1.0}, "x:1")


def test_pairs_and_relations_may_be_logged():
    logged = {"propensity": 0.5, "reward": 0}
    pair = KINDS["text_pair_classification"]().read_record(
        {"text": "a", "text_pair": "b", "label": "x", **logged}, "x:1"
    )
    relation = KINDS["relation_extraction"]().read_record(
        {"text": "<e1>a</e1> <e2>b</e2>", "label": "x", **logged}, "x:1"
    )
    assert pair.logged == relation.logged == (0.5, 0.0)


def test_digests_of_labelled_data_stay_and_rewards_change_them():
    task = TextClassification()
    plain = task.read_record({"text": "a red card", "label": "red"}, "x:1")
    logged = [task.read_record(record(reward=reward), "x:1") for reward in (0, 1)]
    assert example_digest(plain).hex() == "c2e4f122c7da14ca3f866cd18148a649f2a38ba320b6e379211c386b798b082a"
    assert len({example_digest(one) for one in (plain, *logged)}) == 3


def test_rewards_are_kept_where_data_is_written_anew(tmp_path):
    write_split(tmp_path, "train", [(record(), "x:1"), ({"text": "a", "label": "red"}, "x:2")], "jsonl", " ".join)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert rows == [record(), {"text": "a", "label": "red"}]


# --- whole runs


def write(directory, name, rows):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def logged_classes(tmp_path_factory):
    """Three labels, and a log of a policy that answers by throwing dice: which city is a text about?"""
    directory, rng = tmp_path_factory.mktemp("logged") / "classes", random.Random(0)

    def rows(count):
        cities = [rng.choice(CITIES) for _ in range(count)]
        return [{"text": f"{rng.choice(('anna', 'bruno'))} went to {city} .", "label": city} for city in cities]

    log = [(row, rng.choice(CITIES)) for row in rows(297)]
    write(directory, "train-labels", rows(3))
    write(directory, "train-log", [
        row | {"label": answer, "propensity": 1 / 3, "reward": int(answer == row["label"])} for row, answer in log
    ])  # fmt: skip
    for name in ("dev", "test"):
        write(directory, name, rows(24))
    return directory


def run(places, name, data, **changes):
    given = {"data": {"path": str(data)}, "task": {"kind": "text_classification"}, "objective": POLICY_GRADIENT}
    return settings(places, name, **given | changes)


@pytest.mark.long
@pytest.mark.parametrize(
    ("objective", "task"),
    [
        (POLICY_GRADIENT, "text_classification"), ({"kind": "reward_likelihood"}, "text_classification"),
        ({"kind": "self_critical", "samples": 3}, "token_classification"),
    ],
    ids=["policy_gradient", "reward_likelihood", "self_critical"],
)  # fmt: skip
def test_two_workers_that_shard_with_zero_learn_what_one_learns(places, logged_classes, objective, task):
    data = {"data": {"path": str(logged_classes)}} if task == "text_classification" else {}
    changes = {"epochs": 2, "task": {"kind": task}, "objective": objective, **data}
    name = objective["kind"]
    one = train_here(settings(places, f"one {name}", **changes)).outcome
    changes |= {"num_workers": 2, "engine": {"zero_stage": 2}, "batch": {"micro_tokens": 32}}
    two = train_by_ranks(settings(places, f"two {name}", **changes))
    assert [row["loss"] for row in two.history] == pytest.approx([row["loss"] for row in one.history], rel=1e-3)
    assert two.after.metrics == pytest.approx(one.after.metrics, abs=0.02)


@pytest.mark.parametrize(("kind", "epochs"), [("policy_gradient", 4), ("reward_likelihood", 10)])
def test_a_log_of_dice_teaches_what_is_right(places, logged_classes, kind, epochs):
    found = train_here(run(places, f"learned by {kind}", logged_classes, epochs=epochs, objective={"kind": kind}))
    assert found.outcome.after.metrics["accuracy"] > 0.9  # the log's own answers: a third


def test_a_log_is_the_same_from_a_cache(places, logged_classes, tmp_path):
    config = run(places, "cached", logged_classes)
    one, other = (
        open_data(
            config.data, config.task, ingest=IngestConfig(cache=cache), seed=0,
            make_encoder=lambda: make_encoder(load_tokenizer(config.model.name), config.model),
        ).train
        for cache in (None, str(tmp_path / "cache"))
    )  # fmt: skip
    assert type(one) is PackedWindows
    assert type(other) is StoredWindows
    np.testing.assert_array_equal(one.logged, other.logged)
    assert np.isnan(one.logged[:3]).all()
    assert one.logged[3:, 0] == pytest.approx(1 / 3)
    assert set(one.logged[3:, 1].tolist()) == {0.0, 1.0}


def test_rewards_are_not_taken_for_labels_and_labels_not_for_rewards(places, logged_classes, tmp_path):
    with pytest.raises(DataError, match=r"297 of 300 records in train are logged .* objective.kind=cross_entropy"):
        train_here(run(places, "refused", logged_classes, objective={"kind": "cross_entropy"}))
    with pytest.raises(DataError, match="no record in train has a reward"):
        train_here(run(places, "refused", write_classes(tmp_path / "labels")))


@pytest.mark.parametrize("split", ["dev", "test"])
def test_logged_decisions_are_no_truth_to_score_by(places, logged_classes, tmp_path, split):
    for name in ("train", "dev", "test"):
        write(tmp_path, name, [record()] if name == split else [{"text": "red", "label": "red"}])
    with pytest.raises(DataError, match=rf"{split}\.jsonl:1: a logged decision in the {split} split"):
        train_here(run(places, "refused", tmp_path))


def test_a_tagger_is_trained_by_its_own_answers(places):
    objective = {"kind": "self_critical", "samples": 2}
    found = train_here(settings(places, "self-critical", epochs=4, objective=objective))
    assert found.outcome.after.value > 0.9
