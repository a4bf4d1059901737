"""`python -m agent.decisions store=URL`: shows, exports and deletes what a log of decisions holds."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from agent.config import cli
from agent.config.base import Config
from agent.decisions.decision import LoggedDecision
from agent.decisions.store import DecisionStore
from agent.errors import DataError, StoreError
from agent.files import draft_file

_DAY_S = 86_400.0
_USAGE = """
Shows, exports and deletes what a log of decisions holds (serving writes it where feedback.store is set).

  python -m agent.decisions store=sqlite:///decisions.db                                       how much there is of what
  python -m agent.decisions store=URL output=log.jsonl                                         a line of JSON per decision
  python -m agent.decisions store=URL output=train.jsonl content=corrections                   corrected texts as training data
  python -m agent.decisions store=URL output=DIR/train-log.jsonl content=rewards               answers with rewards, for objective.kind=reward_likelihood
  python -m agent.decisions store=URL delete=ID                                                all of one request
  python -m agent.decisions store=URL delete_older_than_days=30
"""


class DecisionsConfig(Config):
    """Which log, and what to do with it."""

    store: str = Field(description="database of the log, as serving's feedback.store")
    agent: str = Field("", description="name of the agent whose decisions are shown or exported; empty takes all")
    since_days: float | None = Field(None, gt=0, description="age of the oldest decision that is shown or exported")
    output: str = Field("", description="file to export to, in JSON lines; its directory is made where it is absent")
    content: Literal["decisions", "corrections", "rewards"] = Field(
        "decisions",
        description="what is exported: decisions with their feedback, the corrected ones as labelled records for training, or a classifier's "
        "with rewards as records that training learns from with objective.kind=reward_likelihood",
    )
    delete: str = Field(
        "", description="id of a request (x-request-id) all of whose decisions and feedback are deleted"
    )
    delete_older_than_days: float | None = Field(
        None, ge=0, description="deletes all decisions of that age, with their feedback"
    )


def run(config: DecisionsConfig) -> None:
    """Does what the configuration says.

    Raises:
        ConfigError: The store's address is wrong.
        StoreError: The database cannot be reached.
        DataError: The output cannot be written, or a decision is not what is asked for.
    """
    store = DecisionStore(config.store)
    try:
        if config.delete:
            print(f"{store.delete(config.delete)} decisions of request {config.delete} deleted")
        if config.delete_older_than_days is not None:
            days = config.delete_older_than_days
            print(f"{store.delete_before(time.time() - days * _DAY_S)} decisions older than {days:g} days deleted")
        since = 0.0 if config.since_days is None else time.time() - config.since_days * _DAY_S
        logged = store.read(config.agent, since=since)
        if config.output:
            print(f"{config.output}: {_export(logged, Path(config.output), config.content):,} {config.content}")
        elif not config.delete and config.delete_older_than_days is None:
            print("\n".join(_summary(logged)))
    finally:
        store.close()


def _export(logged: Iterator[LoggedDecision], file: Path, content: str) -> int:
    number = 0
    try:
        with draft_file(file.expanduser()) as draft:
            draft.touch(0o600)
            with draft.open("w", encoding="utf-8") as stream:
                for one in logged:
                    line = _LINES[content](one)
                    if line is not None:
                        stream.write(json.dumps(line, ensure_ascii=False) + "\n")
                        number += 1
    except StoreError:
        raise
    except OSError as error:
        raise DataError(f"{file} cannot be written ({error.strerror})", remedy="give another output") from None
    return number


_LINES: Mapping[str, Callable[[LoggedDecision], dict[str, Any] | None]] = {
    "decisions": LoggedDecision.as_object,
    "corrections": LoggedDecision.as_record,
    "rewards": LoggedDecision.as_rewarded_record,
}


def _summary(logged: Iterator[LoggedDecision]) -> list[str]:
    """A line for every agent and version."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for decision, feedback in logged:
        count = counts.setdefault((decision.agent, decision.bundle[:12]), Counter())
        count["decisions"] += 1
        count["explored"] += decision.chosen != "greedy"
        if feedback is not None:
            count["rewards" if feedback.reward is not None else "corrections"] += 1
    return [
        f"{agent} {bundle}: {count['decisions']:,} decisions, {count['explored']:,} of them drawn, "
        f"{count['rewards']:,} rewards, {count['corrections']:,} corrections"
        for (agent, bundle), count in counts.items()
    ] or ["the log holds no decisions"]


def main() -> int:
    """Runs the command line."""
    return cli.run(DecisionsConfig, run, usage=_USAGE)


if __name__ == "__main__":
    sys.exit(main())
