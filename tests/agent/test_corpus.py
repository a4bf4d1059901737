"""The demonstration corpus: what its spans mean, that it never changes, and that no name crosses a split."""

import hashlib
import json
import re
from collections import Counter
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest

from agent import corpus
from agent.corpus import GENRES, SIZES, Sentence, generate
from agent.corpus.__main__ import main
from agent.corpus.gazetteer import generic_parts, load_gazetteers, name_parts, partition
from agent.corpus.grammar import parse, read_rules
from agent.corpus.realise import realise, take_spans

GOLDEN_SHA256 = "3865bd57c740909a88b303d13d4a38ab360e286dae8bece80da3f97f30240eca"


@cache
def golden() -> dict[str, list[Sentence]]:
    return generate()


def all_sentences() -> list[Sentence]:
    return [sentence for sentences in golden().values() for sentence in sentences]


def surfaces(sentences: list[Sentence], label: str = "") -> set[str]:
    return {
        s.text[a:b].casefold().replace("’", "'") for s in sentences for a, b, kind in s.spans if label in ("", kind)
    }


def skeleton(sentence: Sentence) -> str:
    text = sentence.text
    for start, end, label in reversed(sentence.spans):
        text = text[:start] + label + text[end:]
    return re.sub(r"\d+", "0", text)


def digest(sentences: dict[str, list[Sentence]]) -> str:
    lines = [f"{split}\t{s.text}\t{s.spans}\t{s.genre}" for split, found in sentences.items() for s in found]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_seed_zero_is_the_golden_corpus() -> None:
    assert digest(generate()) == GOLDEN_SHA256


def test_same_seed_gives_same_sentences_and_another_seed_others() -> None:
    sizes = {"train": 40, "test": 20}
    assert generate(3, sizes) == generate(3, sizes)
    assert generate(3, sizes) != generate(4, sizes)


def test_sizes_are_honoured() -> None:
    assert {split: len(sentences) for split, sentences in golden().items()} == dict(SIZES)
    assert {split: len(sentences) for split, sentences in generate(1, {"dev": 7, "train": 0}).items()} == {
        "train": 0,
        "dev": 7,
    }


def test_spans_are_sorted_tight_and_do_not_overlap() -> None:
    for sentence in all_sentences():
        end_of_last = 0
        for start, end, label in sentence.spans:
            surface = sentence.text[start:end]
            assert end_of_last <= start < end <= len(sentence.text)
            assert surface == surface.strip(" ,;:'\"“”")
            assert label in {"PER", "ORG", "LOC"}
            end_of_last = end


def test_spans_leave_out_article_and_possessive() -> None:
    text, spans = take_spans(realise("\ue000Reyes\ue003's plan for the \ue001Bank of Aldermoor\ue003 ."))
    assert text == "Reyes's plan for the Bank of Aldermoor."
    assert [(text[start:end], label) for start, end, label in spans] == [("Reyes", "PER"), ("Bank of Aldermoor", "ORG")]
    assert not any(surface.startswith("the ") or surface.endswith("'s") for surface in surfaces(all_sentences()))


def test_sentences_read_as_written_english() -> None:
    slips = re.compile(
        r"  | [,;.](?: |$)|[{}|^\ue000-\uf8ff]|a\(n\)|\ba (?!eu)[aeio]|\b(the|in|at|of|to|and) \1\b|[,;:]$",
        re.IGNORECASE,
    )
    assert [sentence.text for sentence in all_sentences() if slips.search(sentence.text)] == []


@pytest.mark.parametrize(
    ("drawn", "written"),
    [
        ("a(n) analyst", "An analyst"),
        ("a(n) university", "A university"),
        ("a(n) \ue001NWTA\ue003 engineer", "An \ue001NWTA\ue003 engineer"),
        ("see a(n) 80-year-old , ^come", "See an 80-year-old, Come"),
        ("from \ue001Abc Inc.\ue003.", "From \ue001Abc Inc.\ue003"),
    ],
)
def test_articles_capitals_and_stops_follow_their_context(drawn: str, written: str) -> None:
    assert realise(drawn) == written


def test_no_sentence_occurs_twice() -> None:
    texts = Counter(sentence.text.casefold() for sentence in all_sentences())
    assert max(texts.values()) == 1


def test_length_is_4_to_45_words() -> None:
    lengths = [len(sentence.text.split()) for sentence in all_sentences()]
    assert min(lengths) == 4
    assert 35 < max(lengths) <= 45


def test_no_entity_occurs_in_two_splits() -> None:
    found = {split: surfaces(sentences) for split, sentences in golden().items()}
    assert all(not one & other for one, other in combinations(found.values(), 2))


def test_no_part_of_a_person_or_place_name_occurs_in_two_splits() -> None:
    shared = generic_parts() | {
        "street",
        "road",
        "lane",
        "avenue",
        "square",
        "hill",
        "close",
        "way",
        "airport",
        "international",
    }
    shared |= {"central", "station", "parkway"}
    for label in ("PER", "LOC"):
        parts = [
            {part for name in surfaces(sentences, label) for part in name_parts(name, shared)}
            for sentences in golden().values()
        ]
        assert all(not one & other for one, other in combinations(parts, 2))


def test_every_gazetteer_name_belongs_to_exactly_one_split() -> None:
    gazetteers = load_gazetteers()
    dealt = partition(gazetteers)
    for group, names in gazetteers.items():
        owned = [name for split in dealt.values() for name in split[group]]
        assert sorted(owned) == sorted(names)


def test_a_name_follows_the_split_of_its_parts() -> None:
    dealt = partition({"surname": ["Lincoln", "Marlow", "Finch"], "city": ["New Lincoln", "Marlow-Finch", "York"]})
    [owner] = [split for split, groups in dealt.items() if "Lincoln" in groups.get("surname", [])]
    assert "New Lincoln" in dealt[owner]["city"]


def test_gazetteers_are_large() -> None:
    sizes: Counter[str] = Counter()
    for group, names in load_gazetteers().items():
        sizes[group.split(".")[0]] += len(names)
    assert sizes["given"] >= 350
    assert sizes["surname"] >= 450
    assert sum(sizes[kind] for kind in ("city", "village", "country", "region", "river", "water", "mountain")) >= 450


@pytest.mark.parametrize("genre", GENRES)
def test_every_genre_has_sixty_forms_and_a_fifth_of_them_is_kept_out_of_train(genre: str) -> None:
    every, seen = sum(map(len, corpus._forms(genre, False))), sum(map(len, corpus._forms(genre, True)))
    assert every >= 60
    assert 0.75 <= seen / every <= 0.85


def test_genres_and_labels_are_balanced() -> None:
    for split, sentences in golden().items():
        genres = Counter(sentence.genre for sentence in sentences)
        labels = Counter(label for sentence in sentences for *_, label in sentence.spans)
        assert all(genres[genre] > 0.15 * SIZES[split] for genre in GENRES)
        assert all(labels[label] > 0.2 * labels.total() for label in ("PER", "ORG", "LOC"))


def test_some_sentences_have_no_entity_and_some_have_several() -> None:
    numbers = Counter(min(len(sentence.spans), 2) for sentence in all_sentences())
    assert 0.15 <= numbers[0] / numbers.total() <= 0.2
    assert numbers[2] > 0.3 * numbers.total()


def test_most_sentences_have_a_skeleton_of_their_own() -> None:
    sentences = all_sentences()
    assert len({skeleton(sentence) for sentence in sentences}) >= 0.6 * len(sentences)


def test_some_text_is_upper_or_lower_case_throughout() -> None:
    cases = Counter((sentence.genre, sentence.text.isupper(), sentence.text.islower()) for sentence in all_sentences())
    assert cases["news", True, False] >= 5
    assert cases["support", False, True] >= 10


def test_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown split 'valid'; allowed are train, dev, test"):
        generate(sizes={"valid": 10})


@pytest.mark.parametrize("size", [-1, 10**9])
def test_impossible_size_is_named(size: int) -> None:
    with pytest.raises(ValueError, match=rf"size {size} for split 'dev'"):
        generate(sizes={"dev": size})


def test_running_out_of_new_sentences_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    only_form = ("forms", parse("This is the only sentence."))
    monkeypatch.setattr(corpus, "_forms", lambda genre, for_training: ([only_form], [only_form]))
    with pytest.raises(ValueError, match=r"size 2 for split 'test' is more than can be drawn"):
        generate(sizes={"test": 2})


@pytest.mark.parametrize("line", ["{a|b", "a]", "[a}", "a < b"])
def test_malformed_grammar_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="grammar"):
        parse(line)


def test_weights_and_continuation_lines_are_read() -> None:
    rules = read_rules("# note\n== greeting\n3* hello\n  there\ngoodbye\n")
    assert rules["greeting"].options == (("hello there",),) * 3 + (("goodbye",),)


def test_command_writes_spans(tmp_path: Path) -> None:
    main([str(tmp_path / "corpus")])
    for split, sentences in golden().items():
        lines = (tmp_path / "corpus" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        assert [record["text"] for record in records] == [sentence.text for sentence in sentences]
        assert [len(record["spans"]) for record in records] == [len(sentence.spans) for sentence in sentences]


def test_command_writes_classification(tmp_path: Path) -> None:
    main([str(tmp_path), "--seed", "5", "--task", "text_classification"])
    first = json.loads((tmp_path / "dev.jsonl").read_text(encoding="utf-8").splitlines()[0])
    sentence = generate(5)["dev"][0]
    assert first == {"text": sentence.text, "label": sentence.genre}
