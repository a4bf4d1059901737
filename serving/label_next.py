"""Names the texts whose labels would teach an agent most: `python serving/label_next.py bundle=DIR input=PATH output=FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # Python puts serving/ there, where our file names would shadow libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from agent.config import cli
from serving.active_learning.labelling_round import LabelNextConfig, label_next

_USAGE = """
Names the texts whose labels would teach an agent most: of the most uncertain ones those that stand for all of them, duplicates and labelled ones left out.
They are written with the agent's answers, for people to correct them (docs/feedback.md).

  python serving/label_next.py bundle=DIR input=texts.jsonl labelled=DATA output=next.jsonl [config.yaml] [key.path=value ...]
  python serving/label_next.py bundle=DIR log=sqlite:///decisions.db number=200 format=doccano output=next.jsonl
"""


if __name__ == "__main__":
    sys.exit(cli.run(LabelNextConfig, label_next, usage=_USAGE))
