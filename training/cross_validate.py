"""Cross-validates a training run: `python training/cross_validate.py [config.yaml] [key.path=value ...]`."""

import sys
from pathlib import Path

sys.path[0] = str(
    Path(__file__).resolve().parents[1]
)  # the repository, not this directory, whose names would shadow others

from agent.config.cli import run  # noqa: E402
from training.search.cross_validation import CrossValidationConfig, CrossValidationResult, cross_validate, render_table  # noqa: E402

USAGE = """usage: python training/cross_validate.py [config.yaml ...] [key.path=value ...] [--print-config] [--help]

Cuts train and dev together into folds, fine-tunes once for each with that fold as dev, and tells the mean and the spread of
the scores. The test split takes no part. An interrupted command goes on when it is given again. All keys of training/run.py
mean what they mean there.

  python training/cross_validate.py data.path=data/ner model.name=minilm folds=5 epochs=4 output=runs/ner-folds"""


def main(config: CrossValidationConfig) -> None:
    """Trains all folds and prints the result."""
    print(render(cross_validate(config)))


def render(result: CrossValidationResult) -> str:
    """The table of folds, and the score in one line."""
    score, directory = result.validation.summary["score"], result.directory
    lines = ["", *render_table(result.validation), ""]
    lines.append(f"score {score.mean:.4f} ± {score.deviation:.4f} over {score.num_folds} folds: {directory}")
    if not result.is_new:
        lines.append("this cross-validation is finished; set overwrite=true to make it anew")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(CrossValidationConfig, main, usage=USAGE))
