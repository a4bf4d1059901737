"""Parts of docs/kubernetes.md: its sections, and the commands that it prints."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from tests.manifests.world import World

NAME = "docs/kubernetes.md"


def section(world: World, title: str) -> str:
    """The text below a heading of the second level; empty if there is none."""
    return world.texts[NAME].partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def step(world: World, number: int) -> str:
    """One of the ten commands, with what is said about it."""
    steps = re.split(r"^(\d+)\. ", section(world, "Ten commands"), flags=re.MULTILINE)
    return dict(zip(steps[1::2], steps[2::2], strict=True)).get(str(number), "")


def without_gpus(world: World) -> str:
    """The paragraph on a small cluster, with its commands."""
    return section(world, "Ten commands").partition("\nWithout GPUs")[2]


def commands(text: str) -> Iterator[list[str]]:
    """Each indented command as its words; one that ends in a backslash goes on, and && begins another."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    for line in (line for line in lines if line.startswith("    ")):
        for part in line.split(" && "):
            yield shlex.split(part, comments=True)


def option(words: list[str], *names: str) -> str:
    """What stands behind an option, as `-k DIRECTORY` or `--timeout=2h`; empty if it is not given."""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else words[index + 1]
    return ""
