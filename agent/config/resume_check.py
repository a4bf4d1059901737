"""Refuses to resume work that was started with other settings or data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from agent.config.nested import differences
from agent.errors import ConfigError

REMEDY = "give the settings it was started with, or set resume=false to start afresh, or choose another output"


def check_unchanged(  # noqa: PLR0913  # each by its name
    what: str,
    started: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    changeable: Collection[str] = (),
    content: Iterable[str] = (),
    remedy: str = REMEDY,
) -> None:
    """Compares the settings of unfinished work with those of this command.

    Args:
        what: The work, for the message: `an unfinished run in DIRECTORY`.
        started: Its resolved configuration.
        now: That of this command.
        changeable: Keys, dotted, that may differ.
        content: What else has changed, such as `the content of the data`.
        remedy: Of the error.

    Raises:
        ConfigError: They differ; names each key with both values.
    """
    if changes := [*differences(started, now, without=changeable), *content]:
        raise ConfigError(
            f"{what} was started with other settings: {'; '.join(changes)}",
            allowed="the same settings and data, or a new start",
            remedy=remedy,
        )
