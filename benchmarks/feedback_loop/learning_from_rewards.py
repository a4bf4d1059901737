"""What rewards of logged answers add to few labels: accuracy of a classifier before and after, on real classification data.

    python benchmarks/feedback_loop/learning_from_rewards.py data=DIR/cls_banking77 [seeds=3] [decisions=4000]

A linear head over the frozen encoder (mean of minilm's hidden states) stands for the agent. It learns `labelled` labels, answers `decisions` other training texts
with exploration (agent/decisions/exploration.py), and each answer earns 1 if it is right, else 0; with `lies` so many rewards are turned around. From its
weights on, the same number of steps at the same settings are made with: the labels alone; the labels and the log by `objective.kind=reward_likelihood` and `policy_gradient`, with its own
loss; the labels and the answers with a reward of 1 as labels; and the labels of all these texts. Writes benchmarks/results/learning_from_rewards.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from pydantic import Field  # noqa: E402

from agent import markdown  # noqa: E402
from agent.bundle import installed_versions  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.data.formats.json_records import read_jsonl  # noqa: E402
from agent.data.lines import Part  # noqa: E402
from agent.decisions.exploration import ExploreConfig  # noqa: E402
from agent.files import write_file  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402
from training.model.models import resolve  # noqa: E402
from training.objectives import BaseObjective, CrossEntropy, PolicyGradient, RewardLikelihood  # noqa: E402
from training.objectives.window_facts import WindowFacts  # noqa: E402

RESULT = ROOT / "benchmarks/results/learning_from_rewards.json"
BASELINES = ("mean", "none")
EXPLORATION = {
    "temperature 1": ExploreConfig(temperature=1),
    "temperature 2": ExploreConfig(temperature=2),
    "epsilon 0.2": ExploreConfig(epsilon=0.2),
}
_CPU = torch.device("cpu")


class RewardsConfig(Config):
    """What is measured."""

    data: str = Field(description="directory with train.jsonl and test.jsonl of {text, label}")
    labelled: int = Field(1_000, ge=100, description="training texts with labels")
    decisions: int = Field(4_000, ge=100, description="other training texts that are answered")
    lies: tuple[float, ...] = Field((0.0, 0.2), description="parts of the rewards that are turned around")
    steps: int = Field(600, ge=1, description="optimizer steps from the agent's weights on, 64 texts each")
    learning_rate: float = Field(0.003, gt=0, description="of AdamW, falling linearly to 0")
    seeds: int = Field(3, ge=1, description="repetitions, each with other texts")
    output: str = Field(str(RESULT), description="file for the result")


class Texts(NamedTuple):
    """Features, float32 [texts, width], and right labels, int64 [texts]."""

    features: torch.Tensor
    right: torch.Tensor

    def at(self, places: Any) -> Texts:
        """Some of them."""
        return Texts(self.features[places], self.right[places])


class Taught(NamedTuple):
    """What a head learns from: features, targets, and propensity and reward of those that are logged answers (NaN elsewhere)."""

    features: torch.Tensor
    targets: torch.Tensor
    logged: np.ndarray[Any, np.dtype[np.float32]]


def measure(config: RewardsConfig) -> None:
    """Measures, prints and writes."""
    torch.set_num_threads(1)
    train, test = read(Path(config.data))
    rows = [row for seed in range(config.seeds) for row in _of_seed(config, train, test, seed)]
    keys = list(dict.fromkeys((row["explored by"], row["lies"]) for row in rows))
    ways = list(rows[0]["accuracy"])
    table = []
    for key in keys:
        chosen = [row for row in rows if (row["explored by"], row["lies"]) == key]
        means = [np.mean([row["accuracy"][way] for row in chosen]) for way in ways]
        table.append(
            [
                key[0],
                f"{key[1]:g}",
                f"{np.mean([row['mean reward'] for row in chosen]):.3f}",
                *(f"{mean:.4f}" for mean in means),
            ]
        )
    print("\n".join(markdown.table([["explored by", "lies", "mean reward", *ways], *table])))
    content = {
        "config": config.model_dump(mode="json", exclude={"output"}) | {"data": Path(config.data).name},
        "rows": rows, "machine": machine(), "versions": installed_versions(("numpy", "torch", "transformers")),
    }  # fmt: skip
    write_file(Path(config.output), json.dumps(content, indent=1) + "\n")


def _of_seed(config: RewardsConfig, train: Texts, test: Texts, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(train.right))
    known, others = train.at(order[: config.labelled]), train.at(order[config.labelled :][: config.decisions])
    labels = Taught(known.features, known.right, np.full((len(known.right), 2), np.nan, np.float32))
    num_outputs = int(train.right.max()) + 1
    torch.manual_seed(seed)
    agent = torch.nn.Linear(known.features.shape[1], num_outputs)
    agent = _trained(config, agent, labels, CrossEntropy(), seed)
    truth = _joined(labels, others.features, others.right, None)
    fixed = {
        "before": _accuracy(agent, test),
        "labels again": _accuracy(_trained(config, agent, labels, CrossEntropy(), seed), test),
        "all labels": _accuracy(_trained(config, agent, truth, CrossEntropy(), seed), test),
    }
    rows = []
    for name, explore in EXPLORATION.items():
        with torch.inference_mode():
            scores = agent(others.features).softmax(-1).numpy()
        propensities = explore.propensities(scores)
        answers = np.array([rng.choice(num_outputs, p=row / row.sum()) for row in propensities])
        chosen = propensities[np.arange(len(answers)), answers]
        for lies in config.lies:
            told = (answers == others.right.numpy()) ^ (rng.random(len(answers)) < lies)
            log = _joined(labels, others.features, torch.from_numpy(answers), np.stack([chosen, told], 1))
            rewarded = _joined(labels, others.features[told], torch.from_numpy(answers[told]), None)
            found = {
                f"policy_gradient, baseline={baseline}": _accuracy(
                    _trained(config, agent, log, PolicyGradient(baseline=baseline), seed), test
                )
                for baseline in BASELINES
            }
            found["reward_likelihood"] = _accuracy(_trained(config, agent, log, RewardLikelihood(), seed), test)
            found["answers with reward 1 as labels"] = _accuracy(
                _trained(config, agent, rewarded, CrossEntropy(), seed), test
            )
            rows.append({
                "seed": seed, "explored by": name, "lies": lies, "mean reward": float(told.mean()),
                "accuracy": fixed | found,
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    return rows


def _joined(labels: Taught, features: torch.Tensor, targets: torch.Tensor, logged: Any) -> Taught:
    known = np.full((len(targets), 2), np.nan, np.float32) if logged is None else logged.astype(np.float32)
    return Taught(
        torch.cat([labels.features, features]), torch.cat([labels.targets, targets]), np.concatenate([labels.logged, known])
    )  # fmt: skip


def _trained(
    config: RewardsConfig, start: torch.nn.Linear, taught: Taught, objective: BaseObjective, seed: int
) -> torch.nn.Linear:
    """A copy of a head after so many steps of batches of 64."""
    head = torch.nn.Linear(start.in_features, start.out_features)
    head.load_state_dict(start.state_dict())
    told = ~np.isnan(taught.logged[:, 1])
    counts = np.bincount(taught.targets[~told], minlength=start.out_features).tolist()
    sums = np.bincount(taught.targets[told], weights=taught.logged[told, 1], minlength=start.out_features).tolist()
    loss = objective.bind(counts, _CPU, rewarded=sums)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / config.steps)
    mean = float(taught.logged[told, 1].mean()) if told.any() else float("nan")
    rng = np.random.default_rng(seed)
    for _ in range(config.steps):
        rows = rng.choice(len(taught.targets), 64, replace=False)
        facts = WindowFacts(rows.astype(np.uint64), taught.logged[rows], mean)
        optimizer.zero_grad()
        (loss(head(taught.features[rows]), taught.targets[rows], facts) / len(rows)).backward()
        optimizer.step()
        schedule.step()
    return head


def _accuracy(head: torch.nn.Linear, test: Texts) -> float:
    with torch.inference_mode():
        return float((head(test.features).argmax(-1) == test.right).float().mean())


def read(directory: Path) -> tuple[Texts, Texts]:
    """The training and the test split as features."""
    from transformers import AutoModel, AutoTokenizer

    name = resolve("minilm")
    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
    splits = {
        split: [record for record, _ in read_jsonl(Part(directory / f"{split}.jsonl"))] for split in ("train", "test")
    }
    labels = sorted({record["label"] for record in splits["train"]})
    found = []
    for records in splits.values():
        order = sorted(range(len(records)), key=lambda place: len(records[place]["text"]))
        features = torch.empty(len(records), model.config.hidden_size)
        with torch.inference_mode():
            for first in range(0, len(order), 128):
                places = order[first : first + 128]
                batch = tokenizer([records[place]["text"] for place in places], padding=True, return_tensors="pt")
                states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
                features[places] = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)) * 10
        found.append(Texts(features, torch.tensor([labels.index(record["label"]) for record in records])))
    return found[0], found[1]


if __name__ == "__main__":
    sys.exit(cli.run(RewardsConfig, measure, usage=__doc__ or ""))
