"""Fine-tunes an agent: `python training/run.py [config.yaml] [key.path=value ...]`."""

import sys
from pathlib import Path

sys.path[0] = str(
    Path(__file__).resolve().parents[1]
)  # the repository, not this directory, whose names would shadow others

from agent.config.cli import run  # noqa: E402
from training.config import TrainingConfig  # noqa: E402
from training.lifecycle.job import TrainingResult, train  # noqa: E402
from training.loop.worker_io import TrainingOutcome  # noqa: E402

_LEAST_GAIN = 0.02  # of score over guessing, which comes to more or less by chance
USAGE = """usage: python training/run.py [config.yaml ...] [key.path=value ...] [--dry-run] [--print-config] [--help]

Fine-tunes a pre-trained encoder on labelled data and writes a bundle. Uses the Ray cluster that RAY_ADDRESS names,
or starts a local Ray. Without arguments: the embedded model on the embedded data. --dry-run reads and checks all data, then
makes one step on two examples and a bundle that is removed again.

  python training/run.py data.path=data/ner model.name=minilm output=runs/ner epochs=3
  ray job submit --working-dir . -- python training/run.py data.path=/shared/ner output=/shared/runs/ner"""


def main(config: TrainingConfig) -> None:
    """Trains and prints the result."""
    print(render(train(config)))


def render(result: TrainingResult) -> str:
    """The result as text: the training curve, scores on the test split before and after, the path of the bundle."""
    outcome, bundle = result.outcome, result.bundle
    if outcome is None:
        scores = ", ".join(f"{e.split} {e.report.value:.4f}" for e in bundle.manifest.evaluations)
        return (
            f"this run is finished: {bundle.path} (sha256 {bundle.digest[:12]}) holds its bundle ({scores}). "
            "Set overwrite=true to train it anew"
        )
    score = outcome.after.score_name
    curve = [
        f"  epoch {row['epoch']:.0f}  loss {row['loss']:.4f}  dev {score} {row['dev_score']:.4f}  {'#' * round(40 * row['dev_score'])}"
        for row in outcome.history
    ]
    return "\n".join([
        "", f"training curve ({outcome.description}; best epoch {outcome.best_epoch})", *curve,
        "", f"test split before fine-tuning ({outcome.before.mode})", outcome.before.text.rstrip(),
        "", f"test split after fine-tuning ({outcome.after.mode})", outcome.after.text.rstrip(),
        "", f"bundle: {bundle.path} (sha256 {bundle.digest[:12]}), test {score} {outcome.after.value:.4f}",
        *([] if bundle.task.learns_from_text else _warn_if_useless(outcome)),  # a model may know its language before
    ])  # fmt: skip


def _warn_if_useless(outcome: TrainingOutcome) -> list[str]:
    """Says where an agent is no better than guessing, and what would help."""
    after = outcome.after.value
    if after > outcome.guess + _LEAST_GAIN:
        return []
    return [
        "",
        f"NOT READY FOR USE: on the test split this agent is no better than guessing ({outcome.after.score_name} {after:.4f}, by guessing {outcome.guess:.4f}).",
        "What helps: more epochs (epochs=60), more labelled examples, a finished agent as teacher (teacher.bundle=DIR) with text of your field "
        "(teacher.unlabelled=FILE). The learning curve above and report.md show whether the loss still fell.",
    ]


def check(config: TrainingConfig) -> None:
    """Checks everything that a run needs."""
    from training.lifecycle.dry_run import dry_run

    dry_run(config)


if __name__ == "__main__":
    sys.exit(run(TrainingConfig, main, usage=USAGE, dry_run=check))
