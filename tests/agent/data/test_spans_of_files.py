"""Offsets are checked against the text that spans bring, converted where all agree; overlaps are told at once."""

import pytest

from agent.data.normalisation.offsets import from_characters, to_characters
from tests.agent.data.reading import notes, put, read, refusal, spanned

TEXTS = ["Zoë met Anna 🙂 and Bo", "🙂🙂 Bo saw Zoë", "plain Anna", "日本の Anna"]
NAMES = ("Zoë", "Anna", "Bo")


def records(unit, bring=True):
    """Every name in every text, its offsets counted in a unit."""
    found = []
    for text in TEXTS:
        edges = from_characters(text, unit)
        spans = []
        for name in NAMES:
            if name in text:
                start = text.index(name)
                span = {"start": edges[start], "end": edges[start + len(name)], "label": "PER"}
                spans.append(span | ({"text": name} if bring else {}))
        found.append({"text": text, "spans": spans})
    return found


EXPECTED = [
    {**record, "spans": [{**span} for span in record["spans"]]} for record in records("characters", bring=False)
]


def test_units_are_what_other_languages_count():
    text = "a🙂é日"
    assert list(from_characters(text, "utf16")) == [len(text[:n].encode("utf-16-le")) // 2 for n in range(5)]
    assert list(from_characters(text, "bytes")) == [len(text[:n].encode()) for n in range(5)]
    assert to_characters(text, "utf16") == {0: 0, 1: 1, 3: 2, 4: 3, 5: 4}
    assert to_characters("ascii", "bytes") is None


@pytest.mark.parametrize(("unit", "said"), [("utf16", "UTF-16 units"), ("bytes", "bytes of UTF-8")])
def test_a_unit_on_which_all_spans_agree_is_converted_and_said(tmp_path, unit, said):
    file = put(tmp_path, "x.jsonl", records(unit))
    assert read(file) == EXPECTED
    assert notes(file) == [
        f"offsets count {said}, by the text of all 7 spans that bring theirs: converted to characters"
    ]


def test_characters_need_no_word(tmp_path):
    file = put(tmp_path, "x.jsonl", records("characters"))
    assert (read(file), notes(file)) == (EXPECTED, [])


def test_a_unit_may_be_told_where_spans_bring_no_text(tmp_path):
    file = put(tmp_path, "x.jsonl", records("bytes", bring=False))
    assert read(file, offsets="bytes") == EXPECTED


def test_an_edge_within_a_character_is_refused(tmp_path):
    file = put(tmp_path, "x.jsonl", [spanned("🙂 Bo", (1, 5, "PER"))])
    message = refusal(file, offsets="utf16")
    assert "x.jsonl:1: spans[0] 1:5 ends within a character or beyond the text" in message
    assert "data.spans.offsets" in message


def test_spans_that_do_not_hold_their_text_are_counted_and_three_shown(tmp_path):
    right, wrong = (
        records("characters"),
        [{"text": "Bo 🙂 is Anna", "spans": [{"start": 0, "end": 2, "label": "PER", "text": "Anna"}]}] * 5,
    )
    message = refusal(put(tmp_path, "x.jsonl", right + wrong))
    assert message.startswith("5 of 12 spans do not hold the text that they bring: ")
    assert message.count("spans[0] 0:2 is 'Bo' and should be 'Anna'") == 3
    assert "x.jsonl:5: " in message
    assert "x.jsonl:7: " in message
    assert "; 2 more. Allowed: " in message


def test_a_mixture_of_units_is_refused(tmp_path):
    message = refusal(put(tmp_path, "x.jsonl", [records("utf16")[1], records("bytes")[0]]))
    assert "do not hold the text that they bring" in message


def test_white_space_in_the_text_of_spans_may_differ(tmp_path):
    span = {"start": 0, "end": 9, "label": "PER", "text": "Anna Lund"}
    assert read(put(tmp_path, "x.jsonl", [{"text": "Anna\nLund", "spans": [span]}])) == [
        spanned("Anna\nLund", (0, 9, "PER"))
    ]


OVERLAPPING = [
    spanned("University of Oslo, Norway", (0, 18, "ORG"), (14, 18, "LOC"), (20, 26, "LOC")),
    spanned("Anna Lund", (0, 4, "PER"), (0, 9, "PER")),
    spanned("Anna Lund", (0, 4, "PER"), (5, 9, "PER")),
    spanned("a b c d", (0, 7, "X"), (0, 3, "Y"), (4, 7, "Z")),
]


def test_all_overlapping_spans_are_told_at_once(tmp_path):
    message = refusal(put(tmp_path, "x.jsonl", OVERLAPPING))
    assert message.startswith("4 overlapping span(s): ")
    assert "x.jsonl:1: span 14:18 LOC overlaps span 0:18 ORG; " in message
    assert "x.jsonl:2: span 0:9 PER overlaps span 0:4 PER; " in message
    assert "; 1 more. Allowed: spans that do not overlap. Remedy: " in message
    assert "data.spans.overlap=longest" in message


def test_the_longest_may_be_kept(tmp_path):
    file = put(tmp_path, "x.jsonl", OVERLAPPING)
    assert read(file, overlap="longest") == [
        spanned("University of Oslo, Norway", (0, 18, "ORG"), (20, 26, "LOC")),
        spanned("Anna Lund", (0, 9, "PER")),
        OVERLAPPING[2],
        spanned("a b c d", (0, 7, "X")),
    ]
    assert notes(file, overlap="longest") == ["4 overlapping spans, of which the longest are kept"]
