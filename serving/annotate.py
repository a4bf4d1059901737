"""Annotates a corpus offline: `python serving/annotate.py bundle=DIR input=PATH output=DIR`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # Python puts serving/ there, where our file names would shadow libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from agent.config import cli
from serving.annotation.annotation_job import AnnotateConfig, annotate, dry_run

_USAGE = """
Annotates every record of a corpus once, on all cores, without a server. The same command again resumes an interrupted run.

  python serving/annotate.py bundle=DIR input=corpus.jsonl output=annotated [config.yaml] [key.path=value ...]
  python serving/annotate.py bundle=TRANSLATOR input=corpus.jsonl output=translated parameters.num_beams=1
  python serving/annotate.py bundle=DIR input=s3://bucket/texts output=s3://bucket/annotated parameters.aggregation_strategy=simple

On a cluster: ray job submit --working-dir . -- python serving/annotate.py bundle=DIR input=... output=...
"""


if __name__ == "__main__":
    sys.exit(cli.run(AnnotateConfig, annotate, usage=_USAGE, dry_run=dry_run))
