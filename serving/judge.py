"""Judges a bundle on a log of decisions: `python serving/judge.py bundle=DIR log=sqlite:///decisions.db`."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

from pydantic import Field

if __name__ == "__main__":  # Python puts serving/ there, where our file names would shadow libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from agent.config import cli
from agent.config.base import Config
from agent.decisions.exploration import ExploreConfig
from agent.decisions.judgement import EvidenceConfig

_USAGE = """
Tells what a bundle would have earned on logged decisions, by importance weighting and by a doubly robust estimator; refuses where the log cannot tell.
The bundle answers as serving/run.py would let it.

  python serving/judge.py bundle=DIR log=sqlite:///decisions.db [agent=NAME] [config.yaml] [key.path=value ...]
  python serving/judge.py bundle=DIR other=LIVE log=sqlite:///decisions.db
  python serving/judge.py bundle=DIR log=postgresql+psycopg://USER@HOST/DATABASE since_days=7 output=judgement.json
"""
_DAY_S = 86_400.0


class JudgeConfig(Config):
    """Which bundle is judged on which log."""

    bundle: str = Field(description="the bundle to judge: a directory, or s3://bucket/prefix")
    other: str = Field(
        "", description="another bundle, such as the live one: judged too, and what the first earns more"
    )
    answered_by: tuple[str, ...] = Field(
        (),
        description="earlier bundles that gave logged answers: beside the two, they tell whether the log lacks decisions by what was answered",
    )
    log: str = Field(description="database of the log, as serving's feedback.store")
    agent: str = Field("", description="name of the agent whose decisions count; needed where the log has several")
    since_days: float | None = Field(None, gt=0, description="age of the oldest decision that counts")
    text_share: float = Field(
        1,
        gt=0,
        le=1,
        description="part of the texts that count, by their hash: those that a loop keeps from training (gates.log_share)",
    )
    missing_reward: float | None = Field(
        None, ge=0, le=1, description="reward of decisions without feedback; empty leaves them out"
    )
    explore: ExploreConfig = Field(
        default_factory=ExploreConfig, description="how the bundle would answer; by default the best label"
    )
    evidence: EvidenceConfig = Field(default_factory=EvidenceConfig)
    precision: str = Field("auto", description="precision of the ONNX graph, as in serving")
    output: str = Field("", description="file for the judgement as JSON; its directory is made where it is absent")


def main(config: JudgeConfig) -> None:
    """Judges, and prints what was found.

    Raises:
        EvidenceError: The log cannot tell.
        BundleError: A bundle cannot be served.
        ConfigError: The log is of several agents, or not of a classifier.
        StoreError: The log cannot be read.
    """
    from agent.errors import EvidenceError
    from agent.files import write_file
    from serving.judging import bundle_judgement as judging
    from serving.judging.classified_log import read_log
    from serving.judging.drawn_answers import check_draws

    output = Path(config.output).expanduser() if config.output else None
    since = 0.0 if config.since_days is None else time.time() - config.since_days * _DAY_S
    read = partial(read_log, config.log, config.agent, since=since, missing_reward=config.missing_reward)
    log = read(text_share=config.text_share)
    whole = log if config.text_share == 1 else read()
    how = log, config.explore, config.evidence
    bundles = [config.bundle, *([config.other] if config.other else []), *config.answered_by]
    try:
        check_draws(whole, bundles, precision=config.precision)
        if config.other:
            both = judging.compare_bundles((config.bundle, config.other), *how, precision=config.precision)
            shown = f"{judging.table(both.judged, log)}\n\n{judging.comparison_table(both)}"
            content = judging.comparison_as_json(both, log)
        else:
            found = judging.judge_bundle(config.bundle, *how, precision=config.precision)
            shown, content = judging.table(found, log), judging.as_json(found, log)
    except EvidenceError as error:
        if output:
            write_file(output, judging.refusal_as_json(error, log))
        raise
    print(shown)
    if output:
        write_file(output, content)


if __name__ == "__main__":
    sys.exit(cli.run(JudgeConfig, main, usage=_USAGE))
