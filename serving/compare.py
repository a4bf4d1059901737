"""Scores one bundle or compares two: `python serving/compare.py bundle=DIR other=DIR data.path=DIR`."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import Field

if __name__ == "__main__":  # Python puts serving/ there, where our file names would shadow libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from agent.config import cli
from agent.config.base import Config
from agent.data import DataConfig

_USAGE = """
Scores a bundle, or two on the same test split, and tells how many texts both answer alike, and shows some that writers write differently. They compute as serving/run.py would let them.

  python serving/compare.py bundle=DIR other=DIR data.path=DIR [texts=FILE] [output=comparison.json] [key.path=value ...]
  python serving/compare.py bundle=DIR data.path=DIR            # one bundle alone
  python serving/compare.py bundle=DIR precision=fp32 other_precision=int8 data.path=DIR    # its two models
  python serving/compare.py bundle=RELATIONS entities=TAGGER data.path=DIR   # triples, end to end
"""


class CompareConfig(Config):
    """Which bundles are compared, and on what."""

    bundle: str = Field(description="one bundle: a directory, or s3://bucket/prefix")
    other: str = Field("", description="the other bundle, for the same task; empty scores one alone")
    entities: str = Field(
        "",
        description="bundle of a tagger beside both, agents of relation_extraction: micro F1 over triples, end to end",
    )
    data: DataConfig = Field(default_factory=DataConfig, description="its test split is scored")
    texts: str = Field(
        "",
        description="file of JSON lines with a `text` each, which both answer; empty compares none, save what is written for scores",
    )
    precision: str = Field("auto", description="precision of the models, as in serving")
    other_precision: str = Field(
        "", description="that of the other one; default: as precision. Without other, the bundle's own two are compared"
    )
    output: str = Field("", description="file for the comparison as JSON; its directory is made where it is absent")


def main(config: CompareConfig) -> None:
    """Compares, and prints what was found.

    Raises:
        BundleError: A bundle cannot be served, the two are for different tasks, or a tagger stands beside other agents than of relations.
        DataError: There is no test split, or it is for another task.
    """
    from agent.files import write_file
    from cluster import bundles
    from serving.judging.bundle_comparison import Served, compare, read_texts, table

    texts = read_texts(Path(config.texts).expanduser()) if config.texts else []
    given = [(config.bundle, config.precision)]
    if config.other or config.other_precision:
        given.append((config.other or config.bundle, config.other_precision or config.precision))
    served = [Served(place, bundles.fetch_served(place, config.entities), precision) for place, precision in given]
    found = compare(served, config.data, texts)
    print(table(found))
    if config.output:
        write_file(Path(config.output).expanduser(), found.model_dump_json(indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(cli.run(CompareConfig, main, usage=_USAGE))
