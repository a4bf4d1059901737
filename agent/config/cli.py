"""The command line that all commands share: `program [config.yaml] [key.path=value ...] [--print-config | --dry-run | --help]`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from agent.config.base import Config, describe, dump, load
from agent.errors import AgentError

ConfigT = TypeVar("ConfigT", bound=Config)

EXIT_USAGE = 2  # the customary status of wrong arguments
EXIT_FAILURE = 1


def run(
    kind: type[ConfigT],
    main: Callable[[ConfigT], object],
    *,
    usage: str,
    dry_run: Callable[[ConfigT], object] | None = None,
    arguments: Sequence[str] | None = None,
) -> int:
    """Loads the configuration and calls `main` with it, or `dry_run` where --dry-run asks for it; returns the exit status.

    An AgentError is printed as one message; any other error is a fault of this program and keeps its traceback.

    Raises:
        SystemExit: SIGTERM came; the status is 143. `finally` blocks have run before.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = {name: text for name, text in _OPTIONS.items() if name != _DRY_RUN or dry_run}
    if {"-h", "--help"} & set(given):
        print(usage.strip(), "", "Keys:", *describe(kind), "", "Options:", sep="\n")
        print(*(f"  {name:<16} {text}" for name, text in options.items()), sep="\n")
        return 0
    flags = [argument for argument in given if argument.startswith("-")]
    if unknown := [flag for flag in flags if flag not in options]:
        print(
            f"error: unknown option {unknown[0]!r}. Allowed: {', '.join(options)}. Keys are given as key.path=value",
            file=sys.stderr,
        )
        return EXIT_USAGE
    try:
        config = load(kind, [argument for argument in given if argument not in flags])
        if _PRINT in flags:
            print(dump(config), end="")
        else:
            with _sigterm_is_an_exit():
                (dry_run if dry_run and flags else main)(config)
    except AgentError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ValueError) else EXIT_FAILURE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


@contextmanager
def _sigterm_is_an_exit() -> Iterator[None]:
    """Turns SIGTERM into SystemExit, so that `finally` blocks end what this process started."""
    if threading.current_thread() is not threading.main_thread():  # handlers can be set only there
        yield
        return
    status = 128 + signal.SIGTERM  # as in shells
    asked = threading.Event()

    def leave(*_: object) -> NoReturn:
        asked.set()
        sys.exit(status)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit:
        if asked.is_set():
            sys.exit(status)  # again, since ray.get turns it into 1
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


_PRINT, _DRY_RUN = "--print-config", "--dry-run"
_OPTIONS = {
    _PRINT: "print the resolved configuration as YAML and stop",
    _DRY_RUN: "check everything and do the smallest part of it, leave nothing behind",
    "--help": "print this text and stop",
}
