"""Learns from feedback, a round at a time: `python -m cluster.loop directory=DIR store=URL live=DIR`."""

from __future__ import annotations

import os
import sys
import time

from agent.config import cli
from agent.errors import StoreError
from cluster.loop.loop_config import LoopConfig
from cluster.loop.round_ledger import read_ledger, table
from cluster.loop.rounds import run_round
from cluster.loop.workspace import Workspace

_USAGE = """
One round: collects new corrections from the store (rewards=teach: and rewards of a classifier's answers), trains and compresses on the
labelled data and them, judges the candidate beside the live agent, and puts it in the live agent's place if every gate lets it pass. A killed round goes on by the same command.

  python -m cluster.loop directory=runs/loop store=sqlite:///decisions.db live=runs/agent-small [config.yaml] [key.path=value ...]
  python -m cluster.loop directory=runs/loop show=true         the ledger, and how the last round is repeated
"""


def run(config: LoopConfig) -> None:
    """Runs a round, or one after the other, or shows the ledger.

    Raises:
        AgentError: Another loop works there, or a step failed; the same command goes on with it.
    """
    if config.show:
        print(table(read_ledger(Workspace(config.directory).ledger)))
        return
    os.umask(0o077)  # what is written below the directory holds texts of callers
    while True:
        _report(config)
        if config.every_s is None:
            return
        time.sleep(config.every_s)


def _report(config: LoopConfig) -> None:
    try:
        entry = run_round(config)
    except StoreError as error:
        if config.every_s is None:
            raise
        print(f"error: {error} The next try is in {config.every_s:g} s.", file=sys.stderr, flush=True)
        return
    print(f"round {entry['round']}: {entry['decision']}: {entry['why']}", flush=True)


if __name__ == "__main__":
    sys.exit(cli.run(LoopConfig, run, usage=_USAGE))
