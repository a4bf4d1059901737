"""Makes a model to train from nothing: `python training/new_model.py [config.yaml] [key.path=value ...]`."""

import sys
from pathlib import Path

sys.path[0] = str(
    Path(__file__).resolve().parents[1]
)  # the repository, not this directory, whose names would shadow others

from agent.config.cli import run  # noqa: E402
from training.model.model_from_nothing import NewModelConfig, make_model  # noqa: E402

USAGE = """usage: python training/new_model.py [config.yaml ...] [key.path=value ...] [--print-config] [--help]

Trains a tokenizer on the training texts and writes it with the shape of a model that writes, without weights: training/run.py makes
random ones (model.init=random). The same data and keys make the same files.

  python training/new_model.py data.path=data/en-de data.languages=[en,de] family=pegasus output=models/en-de
  python training/run.py task.kind=sequence_to_sequence data.path=data/en-de data.languages=[en,de] model.name=models/en-de model.init=random"""


def main(config: NewModelConfig) -> None:
    """Writes the model and says what to do with it."""
    print(make_model(config))


if __name__ == "__main__":
    sys.exit(run(NewModelConfig, main, usage=USAGE))
