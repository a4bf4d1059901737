"""Which sentences a student is taught with beside those with labels."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from agent.errors import DataError
from benchmarks.news import whole_sentences, write_sentences

PARAGRAPHS = [
    'Anna Berg flew from Oslo to Lima on Monday. She said: "It was a long flight." Nobody else came with her that day.',
    "The president of , , met the of Norway in the capital. A second sentence has all of its words.",
    "",
    "Too short. " + "word " * 60 + "too long.",
]


def test_whole_sentences_of_a_usual_length_are_found() -> None:
    assert list(whole_sentences(PARAGRAPHS)) == [
        "Anna Berg flew from Oslo to Lima on Monday.",
        'She said: "It was a long flight."',
        "Nobody else came with her that day.",
        "A second sentence has all of its words.",
    ]


def test_a_draw_is_the_same_for_the_same_seed_and_no_sentence_comes_twice(tmp_path: Path) -> None:
    with lzma.open(tmp_path / "corpus.txt.xz", "wt", encoding="utf-8") as file:
        file.write("\n".join(PARAGRAPHS * 2))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_sentences(tmp_path / "corpus.txt.xz", tmp_path / name, count=4, seed=seed)
    first, again, other = ((tmp_path / name).read_text() for name in "abc")
    assert first == again != other
    assert len(set(first.splitlines())) == len(first.splitlines()) == 4
    with pytest.raises(DataError, match=r"has 4 whole sentences.*fewer than 5"):
        write_sentences(tmp_path / "corpus.txt.xz", tmp_path / "d", count=5)
