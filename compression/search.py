"""The command that searches the fastest agent: `python compression/search.py bundle=DIR output=DIR [config.yaml] [key=value ...]`."""

import os
import sys
from pathlib import Path

# As in run.py, and before Ray starts the processes of the trials.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this directory's files must not pass for libraries

from agent.config import cli
from compression.reporting.report_files import terminal_table
from compression.tuning.compression_search import CompressionSearchConfig
from compression.tuning.search_runner import search
from compression.tuning.trial_record import render

USAGE = """
usage: python compression/search.py bundle=DIR output=DIR [config.yaml ...] [key.path=value ...]

Tries options of steps, drawn from the ranges in space, and publishes the fastest agent that loses no more than max_score_loss of
its score on the dev split; the gate then judges it on the test split. Steps that trials have in common are taken once. An
interrupted search goes on when the same command is given again. All other keys are those of compression/run.py.

  python compression/search.py bundle=runs/agent output=runs/agent-fast num_trials=16 max_score_loss=0.01
  python compression/search.py bundle=runs/agent output=runs/agent-fast 'space.prune.ffn_ratio=uniform(0.2, 0.6)' \\
      'space.quantize.embeddings=choice(true, false)' 'space.prune.taken=choice(true, false)'
"""


def main(config: CompressionSearchConfig) -> None:
    """Searches, prints the Pareto set and the best agent's table."""
    record, report = search(config)
    print("", *render(record, config.max_score_loss), "", terminal_table(report), sep="\n")
    print(f"published: {config.output} (report: {config.output}/report.md)")


if __name__ == "__main__":
    sys.exit(cli.run(CompressionSearchConfig, main, usage=USAGE))
