"""The shape that every command shares: `program [config.yaml] [key.path=value ...] [--print-config | --help]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from agent.config import Config, describe, dump, load
from agent.errors import AgentError

ConfigT = TypeVar("ConfigT", bound=Config)

EXIT_USAGE = 2  # the customary status of wrong arguments
EXIT_FAILURE = 1


def run(
    kind: type[ConfigT], main: Callable[[ConfigT], object], *, usage: str, arguments: Sequence[str] | None = None
) -> int:
    """Loads the configuration and calls `main` with it; returns the exit status.

    Errors of ours are printed as one readable message; anything else is a mistake in this program and keeps its trace.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(usage.strip(), "", "Keys:", *describe(kind), "", _OPTIONS, sep="\n")
        return 0
    flags = [argument for argument in given if argument.startswith("-")]
    if unknown := [flag for flag in flags if flag != "--print-config"]:
        print(
            f"error: unknown option {unknown[0]!r}. Allowed: --print-config, --help. Keys are given as key.path=value",
            file=sys.stderr,
        )
        return EXIT_USAGE
    try:
        config = load(kind, [argument for argument in given if argument not in flags])
        if flags:
            print(dump(config), end="")
            return 0
        main(config)
    except AgentError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ValueError) else EXIT_FAILURE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


_OPTIONS = """Options:
  --print-config   print the resolved configuration as YAML and stop
  --help           print this text and stop"""
