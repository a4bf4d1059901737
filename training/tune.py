"""Searches settings: `python training/tune.py [config.yaml] [key.path=value ...]`."""

import sys
from pathlib import Path

sys.path[0] = str(
    Path(__file__).resolve().parents[1]
)  # the repository, not this directory, whose names would shadow others

from agent.config.cli import run  # noqa: E402
from training.search.hyperparameter_search import SearchResult, search  # noqa: E402
from training.search.search_config import TuneConfig  # noqa: E402
from training.search.search_record import render_table  # noqa: E402

USAGE = """usage: python training/tune.py [config.yaml ...] [key.path=value ...] [--print-config] [--help]

Fine-tunes with several settings, drawn from the ranges in space, and writes the bundle of the one that is best on the dev
split. Trials that fall behind are stopped early (ASHA). An interrupted search goes on when the same command is given again.
All keys of training/run.py mean what they mean there.

  python training/tune.py data.path=data/ner epochs=4 num_trials=16 output=runs/ner
  python training/tune.py recipe.yaml 'space.optimizer.learning_rate=loguniform(5e-5, 5e-4)' 'space.batch.tokens=choice(512, 1024)'"""


def main(config: TuneConfig) -> None:
    """Searches and prints the result."""
    print(render(search(config)))


def render(result: SearchResult) -> str:
    """The table of trials, and the path of the best one's bundle."""
    bundle = result.bundle
    lines = ["", *render_table(result.record), "", f"bundle: {bundle.path} (sha256 {bundle.digest[:12]})"]
    if not result.is_new:
        lines.append("this search is finished; set overwrite=true to search anew")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run(TuneConfig, main, usage=USAGE))
