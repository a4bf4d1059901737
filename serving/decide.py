"""Chooses when an agent answers and when it abstains, by costs: `python serving/decide.py bundle=DIR costs=FILE log=STORE output=DIR`."""

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
from agent.decisions.judgement import EvidenceConfig
from serving.deciding.policy_choice import ChoiceConfig

_USAGE = """
Chooses for each label of an agent the score from which on it is answered, so that decisions cost least, and writes a bundle with that policy
(docs/feedback.md). Refuses where the evidence cannot tell, or where the policy may be worse than none.

  python serving/decide.py bundle=DIR costs=costs.yaml log=sqlite:///decisions.db output=DIR [agent=NAME] [config.yaml] [key.path=value ...]
  python serving/decide.py bundle=DIR costs=costs.yaml data=test.jsonl output=DIR

costs.yaml of an agent for text classification:          of an agent that finds entities, or several labels:
  abstain: 0.2             # a person takes over           false_alarm: 1
  wrong: 1                 # any wrong answer              missed: 2
  answered: {refund: 5}    # wrongly answered so           labels: {PER: {missed: 5}}
  pairs: {fraud: {refund: 20}}   # right label: answered
"""
_DAY_S = 86_400.0


class DecideConfig(Config):
    """For which bundle, by which costs and on which evidence."""

    bundle: str = Field(description="the bundle to decide for: a directory, or s3://bucket/prefix")
    costs: Path = Field(description="file with the costs of decisions, in YAML or JSON")
    output: Path = Field(description="directory of the bundle with the policy")
    overwrite: bool = Field(False, description="replace a bundle at output")
    log: str = Field("", description="database of logged decisions with feedback, as serving's feedback.store")
    data: str = Field("", description="file of labelled data that the agent has not learned from, instead of a log")
    agent: str = Field("", description="name of the agent whose decisions count; needed where the log has several")
    since_days: float | None = Field(None, gt=0, description="age of the oldest decision that counts")
    text_share: float = Field(
        1,
        gt=0,
        le=1,
        description="part of the log's texts that count, by their hash: those that a loop keeps from training (gates.log_share)",
    )
    choice: ChoiceConfig = Field(default_factory=ChoiceConfig)
    evidence: EvidenceConfig = Field(default_factory=EvidenceConfig)
    precision: str = Field("auto", description="precision of the ONNX graph that will be served, as in serving")
    force: bool = Field(False, description="write a policy that may be worse than none")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if bool(self.log) == bool(self.data):
            raise ValueError("give log=STORE or data=FILE, one of the two")
        return self


def main(config: DecideConfig) -> None:
    """Chooses, prints what was found, and writes the bundle.

    Raises:
        EvidenceError: The evidence cannot tell, or the policy may be worse than none.
        BundleError: The bundle cannot be served, or the output may not be replaced.
        ConfigError: The costs are wrong, agents for this task have no policies, or the log is of several agents.
        DataError: The data is for another task.
        StoreError: The log cannot be read.
    """
    from agent.bundle import check_output
    from cluster import bundles
    from serving.deciding.policy_choice import choose_policy, read_costs, require_saving, table, write_governed
    from serving.deciding.policy_evidence import read_feedback, read_labelled_file
    from serving.inference.engine import Engine

    output = config.output.expanduser().absolute()
    check_output(output, overwrite=config.overwrite)
    bundle = bundles.fetch(config.bundle)
    costs = read_costs(config.costs.expanduser(), bundle.task)
    if config.data:
        evidence = read_labelled_file(Path(config.data).expanduser(), bundle.task)
    else:
        since = 0.0 if config.since_days is None else time.time() - config.since_days * _DAY_S
        evidence = read_feedback(config.log, bundle.task, config.agent, since=since, text_share=config.text_share)
    engine = Engine(bundle, precision=config.precision)
    policy = choose_policy(engine, evidence, costs, config.choice, config.evidence)
    print(table(policy))
    if not config.force:
        require_saving(policy)
    write_governed(bundle, policy, output, overwrite=config.overwrite)
    print(f"\n{output}")


if __name__ == "__main__":
    sys.exit(cli.run(DecideConfig, main, usage=_USAGE))
