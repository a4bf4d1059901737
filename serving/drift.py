"""Tells whether texts are like those that a bundle was made with: `python serving/drift.py bundle=DIR input=texts.jsonl`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

if __name__ == "__main__":  # Python puts serving/ there, where our file names would shadow libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from agent.config import cli
from agent.config.base import Config

_USAGE = """
Compares texts, and what a bundle answers to them, with the distributions that the bundle recorded when it was made: length, unknown sub-words,
labels, scores and logits. The bundle answers as serving/run.py would let it (docs/drift.md).

  python serving/drift.py bundle=DIR input=texts.jsonl [output=drift.json] [key.path=value ...]
  python serving/drift.py bundle=DIR log=sqlite:///decisions.db since_days=1 [agent=NAME]
"""
_DAY_S = 86_400.0


class DriftCheckConfig(Config):
    """Which texts are compared with which bundle."""

    bundle: str = Field(description="the bundle: a directory, or s3://bucket/prefix")
    input: str = Field(
        "", description="texts: a file, a directory or an s3:// prefix of JSON lines, lines of text or Parquet"
    )
    text_field: str | None = Field(None, description="field of the text in records; empty takes the task's own")
    log: str = Field("", description="database with decisions whose texts are compared, as serving's feedback.store")
    agent: str = Field("", description="name of the agent whose decisions count; needed where the log has several")
    since_days: float | None = Field(None, gt=0, description="age of the oldest decision that counts")
    false_alarms: float = Field(
        0.01, gt=0, lt=1, description="how often texts like those of the reference may be called drifted"
    )
    precision: str = Field("auto", description="precision of the ONNX graph, as in serving")
    output: str = Field("", description="file for the comparison as JSON; its directory is made where it is absent")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.input) == bool(self.log):
            raise ValueError("give either input or log")
        return self


def main(config: DriftCheckConfig) -> None:
    """Compares, and prints what was found.

    Raises:
        BundleError: The bundle cannot be served, or recorded no distributions.
        ConfigError: The log is of several agents, or the input does not fit the task.
        DataError: There is no text, or the input cannot be read.
        StoreError: The log cannot be read.
    """
    from agent.files import write_file
    from cluster import bundles
    from serving.active_learning.candidate_texts import read_files, read_log
    from serving.judging.drift_check import check_drift, table

    bundle = bundles.fetch(config.bundle)
    if config.log:
        since = 0.0 if config.since_days is None else time.time() - config.since_days * _DAY_S
        texts = read_log(config.log, bundle.task, config.agent, since)
    else:
        texts = read_files(config.input, bundle.task, config.text_field, "auto")
    if texts.rejected:
        print(f"{texts.rejected} records hold no text, the first is {texts.reason}", file=sys.stderr)
    every = [*texts.unlabelled, *texts.labelled]
    found = check_drift(bundle, every, config.false_alarms, precision=config.precision)
    print(table(found))
    if config.output:
        write_file(Path(config.output).expanduser(), found.model_dump_json(indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(cli.run(DriftCheckConfig, main, usage=_USAGE))
