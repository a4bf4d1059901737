"""Explains an agent's decisions offline: `python serving/explain.py bundle=DIR text="..."`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

if __name__ == "__main__":  # Python puts serving/ there, where our file names would shadow libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from agent.config import cli
from agent.config.base import Config

_USAGE = """
Says which words of a text caused the agent's decisions, by hiding words and asking the agent again (docs/explain.md).

  python serving/explain.py bundle=DIR text="Anna Berg flew to Lima." [text_pair="..."] [config.yaml] [key.path=value ...]
  python serving/explain.py bundle=DIR input=texts.jsonl output=explanations.jsonl parameters.replacement=remove
"""


class ExplainCommandConfig(Config):
    """Which decisions on which texts are explained."""

    bundle: str = Field(description="the agent's bundle: a directory, or s3://bucket/prefix")
    text: str = Field("", description="one text, whose explanation is printed")
    text_pair: str = Field("", description="its second text, for agents that judge pairs")
    input: str = Field("", description='file with a record a line, such as {"text": "..."}, instead of one text')
    output: str = Field("", description="file for explanations as JSON, a line for each record")
    precision: str = Field("auto", description="precision of the ONNX graph, as in serving")
    max_interventions: int = Field(500, ge=16, description="texts with hidden words that are computed for one text")
    max_tokens: int = Field(1_000_000, ge=1, description="tokens of all these texts together")
    parameters: Mapping[str, Any] = Field(
        default_factory=dict,
        description="parameters of POST /explain, such as parameters.labels=[PER] or parameters.seed=1",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if bool(self.text) == bool(self.input):
            raise ValueError("give text=... or input=FILE, one of the two")
        if self.input and not self.output:
            raise ValueError("give output=FILE with input=FILE")
        return self


def main(config: ExplainCommandConfig) -> None:
    """Explains one text or a file of them.

    Raises:
        BundleError: The bundle cannot be served.
        ConfigError: Its task is not explained, or a parameter is wrong.
        DataError: A record cannot be read.
        RequestError: The text is too long, or there is no such decision.
    """
    from serving.explanation.explanation_files import Explainer, explain_file, table
    from serving.scheduling.limits import ExplainLimits

    limits = ExplainLimits(max_interventions=config.max_interventions, max_tokens=config.max_tokens)
    explainer = Explainer(config.bundle, config.parameters, limits=limits, precision=config.precision)
    if config.input:
        print(explain_file(explainer, Path(config.input).expanduser(), Path(config.output).expanduser()))
        return
    given = {"text": config.text} | ({"text_pair": config.text_pair} if config.text_pair else {})
    found = explainer.explain(explainer.read(given, "the command line"))
    print(table(found))
    if config.output:
        from agent.files import write_file

        write_file(Path(config.output).expanduser(), found.model_dump_json() + "\n")


def verbatim(arguments: Sequence[str]) -> list[str]:
    """Arguments in which texts stand as they were typed: as YAML, `text=Minutes: all # well` would be something else."""
    given = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        is_text = key in ("text", "text_pair") and value
        given.append(f"{key}={json.dumps(value, ensure_ascii=False)}" if is_text else argument)
    return given


if __name__ == "__main__":
    sys.exit(cli.run(ExplainCommandConfig, main, usage=_USAGE, arguments=verbatim(sys.argv[1:])))
