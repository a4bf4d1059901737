"""Reads the name lists, and assigns every name to one split."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from importlib import resources

SPLITS = ("train", "dev", "test")
_SHARES = ("train", "test", "train", "dev", "train", "train", "test", "train", "dev", "train")

Groups = dict[str, list[str]]


def read_text(folder: str, name: str) -> str:
    """Returns a data file of this package."""
    return (resources.files(__package__) / folder / name).read_text(encoding="utf-8")


def read_groups(name: str) -> Groups:
    """Reads `group: name, name, ...` lines; a group may have several lines, a name is kept once per group."""
    groups: Groups = {}
    for line in read_text("names", name).splitlines():
        if line and not line.startswith("#"):
            group, _, names = line.partition(": ")
            groups.setdefault(group, []).extend(names.split(", "))
    return {group: list(dict.fromkeys(names)) for group, names in groups.items()}


def load_gazetteers() -> Groups:
    """Returns all lists: `given.CULTURE`, `surname.CULTURE` and the kinds of places and organisation stems."""
    given = {f"given.{culture}": names for culture, names in read_groups("given.txt").items()}
    surnames = {f"surname.{culture}": names for culture, names in read_groups("surnames.txt").items()}
    return surnames | given | read_groups("places.txt") | read_groups("organisations.txt")


def name_parts(name: str, generic: Iterable[str] = ()) -> list[str]:
    """Returns the casefolded words of a name, split at spaces and hyphens, without initials and generic words."""
    words = re.split(r"[\s\-]+", name.casefold())
    return [word for word in words if word and not word.endswith(".") and word not in generic]


def generic_parts() -> frozenset[str]:
    """Returns the words, such as `van` and `new`, that may occur in the names of every split."""
    return frozenset(word for words in read_groups("generic.txt").values() for word in words)


def partition(groups: Mapping[str, list[str]]) -> dict[str, Groups]:
    """Assigns every name to one split, 6:2:2 within its group, so that no distinguishing part is in two splits.

    Names are assigned in the order of their SHA-256, hence in the same way on every machine and for every seed. A name that
    shares a part with an earlier one goes to the same split; one whose parts already belong to two splits is left out.
    """
    generic = generic_parts()
    owner: dict[str, str] = {}
    assigned: dict[str, Groups] = {split: {} for split in SPLITS}
    for group, names in groups.items():
        turn = 0
        for name in sorted(names, key=_digest):
            parts = name_parts(name, generic) or [name.casefold()]
            owners = {owner[part] for part in parts if part in owner}
            if len(owners) > 1:
                continue
            split = owners.pop() if owners else _SHARES[turn % len(_SHARES)]
            turn += 1
            owner.update(dict.fromkeys(parts, split))
            assigned[split].setdefault(group, []).append(name)
    return assigned


def _digest(name: str) -> str:
    return hashlib.sha256(name.casefold().encode()).hexdigest()
