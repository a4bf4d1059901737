"""Labels texts by an agent's own answers, where it is sure of them: `python serving/active_learning/self_labels.py bundle=DIR input=FILE output=FILE`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # Python puts this directory there, where our file names would shadow libraries
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from pydantic import Field

from agent.config import cli
from agent.config.base import Config

_USAGE = """
Writes the texts whose answers an agent is sure of as labelled data, for self-training (docs/loop.md). It answers as it is: without exploration or a policy.

  python serving/active_learning/self_labels.py bundle=DIR input=texts.jsonl output=labelled.jsonl [threshold=0.9]
"""
_TEXTS_AT_ONCE = 1_000


class SelfLabelsConfig(Config):
    """Which texts are labelled, by which agent, and how sure it must be."""

    bundle: str = Field(description="the agent's bundle: a directory, or s3://bucket/prefix")
    input: str = Field(description="a file, a directory or an s3:// URL with .jsonl, .txt or .parquet files")
    output: str = Field(description="file for the labelled records; its directory is made where it is absent")
    threshold: float = Field(
        0.9, gt=0, lt=1, description="least probability of the likeliest option of every decision of an answer"
    )
    precision: str = Field("auto", description="precision of the ONNX graph, as in serving")
    overwrite: bool = Field(False, description="replace a file that stands at output")


def label_surely(config: SelfLabelsConfig) -> None:
    """Labels the texts, and prints how many.

    An answer is as sure as the least sure decision that it rests on (`BaseTask.choices`): the one label, the least sure word, the least sure of several
    labels.

    Raises:
        BundleError: The bundle cannot be served.
        ConfigError: The output is there already.
        DataError: There is no file, or it cannot be read.
    """
    from agent.bundle import Bundle
    from agent.files import draft_file
    from cluster import bundles
    from cluster.progress import Progress
    from serving.active_learning.candidate_texts import read_files
    from serving.active_learning.labelling_files import check_output
    from serving.active_learning.uncertainty import score_texts
    from serving.inference.engine import Engine

    bundle: Bundle = replace(bundles.fetch(config.bundle), policy=None)
    engine, task, output = Engine(bundle, precision=config.precision), bundle.task, Path(config.output).expanduser()
    check_output(output, "jsonl", task, overwrite=config.overwrite)
    read = read_files(config.input, task, None, "auto")
    texts = list(dict.fromkeys(read.unlabelled))
    with Progress("scoring", len(texts), unit="text", rate=lambda per_s: f"{per_s:,.0f} texts/s") as progress:
        scored = score_texts(engine, texts, "least_confidence", progress.advance, averaged=False)
    sure = [
        (text, 1 - unsure)
        for text, unsure in zip(texts, scored.uncertainty.tolist(), strict=True)
        if 0 <= unsure <= 1 - config.threshold
    ]
    with draft_file(output) as draft, draft.open("w", encoding="utf-8", newline="") as stream:
        for first in range(0, len(sure), _TEXTS_AT_ONCE):
            part = sure[first : first + _TEXTS_AT_ONCE]
            answers = engine.predict([text for text, _ in part])
            for (text, confidence), answer in zip(part, answers, strict=True):
                record = task.record_of(text, answer) | {"confidence": round(confidence, 6)}
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    print(
        f"{config.output}: {len(sure):,} of {len(texts):,} texts are answered with a confidence of at least {config.threshold:g}; "
        f"{scored.refused:,} are refused by the agent, {read.rejected:,} records hold no text"
    )


if __name__ == "__main__":
    sys.exit(cli.run(SelfLabelsConfig, label_surely, usage=_USAGE))
