"""The demonstration corpus: synthetic English sentences with persons, organisations and places marked.

What it is: written by us for this project (Apache-2.0), drawn with a seed from small context-free grammars and name lists
in this package, five genres; good for trying the system without a download, and for tests.

What it is not: a benchmark of real-world quality. No person or organisation in it is meant to be a real one; first and
last names are combined at random.

Conventions: `the`, titles ("Dr", "minister") and a possessive 's stay outside a span; weekdays, months, nationality
adjectives and products are no entities; a city that stands for its football club is an ORG.

Splits: no entity text and no distinguishing part of a name (given name, surname, town, stem of an organisation) occurs in
more than one split, for any seed. Generic parts (Bank, University, van, New) and the language around the names are
shared, but every fifth sentence form is kept out of train, so part of dev and test has a form never trained on.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from agent.corpus.gazetteer import SPLITS, Groups, load_gazetteers, partition, read_text
from agent.corpus.grammar import Expander, Node, Rules, read_rules, undefined
from agent.corpus.realise import realise, take_spans

__all__ = ["GENRES", "SIZES", "Sentence", "generate"]

GENRES = ("news", "mail", "support", "minutes", "travel")
SIZES: Mapping[str, int] = MappingProxyType({"train": 2600, "dev": 500, "test": 700})

MAX_SPLIT_SENTENCES = 100_000
_MIN_WORDS, _MAX_WORDS = 4, 45
_NUM_DRAWS = 500
_PLAIN_SHARE = 0.17
_CURLY_SHARE = 0.2
_CASED_SHARE = {"headlines": ("upper", 0.35), "chatty": ("lower", 0.5)}
_HELD_OUT_EVERY = 5

Form = tuple[str, tuple[Node, ...]]


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence with its entities.

    Attributes:
        text: Natural spacing and punctuation.
        spans: (start, end, label) in characters, sorted, not overlapping; label is PER, ORG or LOC.
        genre: One of GENRES.
    """

    text: str
    spans: tuple[tuple[int, int, str], ...]
    genre: str


def generate(seed: int = 0, sizes: Mapping[str, int] = SIZES) -> dict[str, list[Sentence]]:
    """Draws the corpus: the same seed and sizes give the same sentences everywhere.

    Args:
        seed: Chooses the sentences; which split owns which name does not depend on it.
        sizes: Split ("train", "dev", "test") -> number of sentences. A split that is left out is not drawn.

    Returns:
        Split -> sentences, genres mixed. No text occurs twice within or across splits.

    Raises:
        ValueError: An unknown split, or a size below 0 or beyond what can be drawn without repetition.
    """
    _check_sizes(sizes)
    seen: set[str] = set()
    return {split: list(_draw_split(split, sizes[split], seed, seen)) for split in SPLITS if split in sizes}


def _check_sizes(sizes: Mapping[str, int]) -> None:
    for split, size in sizes.items():
        if split not in SPLITS:
            raise ValueError(f"corpus: unknown split {split!r}; allowed are {', '.join(SPLITS)}")
        if not 0 <= size <= MAX_SPLIT_SENTENCES:
            raise ValueError(f"corpus: size {size} for split {split!r}; allowed is 0 to {MAX_SPLIT_SENTENCES}")


def _draw_split(split: str, size: int, seed: int, seen: set[str]) -> Iterator[Sentence]:
    rng = random.Random(f"agent.corpus:{seed}:{split}")
    expanders = {genre: Expander(_rules(genre), _names()[split], rng) for genre in GENRES}
    for _ in range(size):
        genre = GENRES[int(rng.random() * len(GENRES))]
        sentence = _draw_new(expanders[genre], _forms(genre, split == "train"), genre, seen, rng)
        if sentence is None:
            raise ValueError(f"corpus: size {size} for split {split!r} is more than can be drawn without repetition")
        yield sentence


def _draw_new(
    expander: Expander, forms: tuple[list[Form], list[Form]], genre: str, seen: set[str], rng: random.Random
) -> Sentence | None:
    options = forms[rng.random() < _PLAIN_SHARE]
    for _ in range(_NUM_DRAWS):
        kind, nodes = options[int(rng.random() * len(options))]
        sentence = _draw(expander, nodes, _case(kind, rng), genre, curly=rng.random() < _CURLY_SHARE)
        key = sentence.text.casefold()
        if key not in seen and _MIN_WORDS <= len(sentence.text.split()) <= _MAX_WORDS:
            seen.add(key)
            return sentence
    return None


def _draw(expander: Expander, nodes: tuple[Node, ...], case: str, genre: str, *, curly: bool) -> Sentence:
    text, spans = take_spans(realise(expander.draw(nodes), case=case, curly=curly))
    return Sentence(text, spans, genre)


def _case(kind: str, rng: random.Random) -> str:
    case, share = _CASED_SHARE.get(kind, ("sentence", 1.0))
    return case if rng.random() < share else "sentence"


@cache
def _names() -> dict[str, Groups]:
    return partition(load_gazetteers())


@cache
def _rules(genre: str) -> Rules:
    shared = read_rules(read_text("names", "rules.txt")) | read_rules(read_text("genres", "shared.txt"))
    rules = shared | read_rules(read_text("genres", f"{genre}.txt"))
    if missing := undefined(rules):
        raise ValueError(f"corpus: genre {genre!r} refers to undefined rules {', '.join(missing)}")
    return rules


@cache
def _forms(genre: str, for_training: bool) -> tuple[list[Form], list[Form]]:
    """Returns the sentence forms with entities and those without; training sees four of five of each kind."""
    rules = _rules(genre)
    found: tuple[list[Form], list[Form]] = ([], [])
    for kind in ("forms", "headlines", "chatty", "plain"):
        options = rules[kind].options if kind in rules else ()
        kept = [nodes for i, nodes in enumerate(options) if not (for_training and i % _HELD_OUT_EVERY == 2)]
        found[kind == "plain"].extend((kind, nodes) for nodes in kept)
    return found
