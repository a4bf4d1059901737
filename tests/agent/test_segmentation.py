"""Pieces of texts in many scripts: a perfect model must answer every entity that the tokenizer can say, and nothing else."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.encoding import IGNORED, Encoder
from agent.segmentation import GivenWords, Segmentation, cut, ends_entity
from agent.tasks import TokenClassification
from agent.tasks.piece_labels import tags_of
from tests.agent.families import CHARACTER_FAMILIES, FAMILIES, SCRIPTS, make, of_characters, texts

TASK = TokenClassification(labels=("LOC", "ORG", "PER"))


def marked(text):
    """A record of a text in which entities stand as `[PER Anna]`."""
    plain, spans, rest = "", [], text
    while "⟦" in rest:
        before, _, rest = rest.partition("⟦")
        inside, _, rest = rest.partition("⟧")
        label, _, name = inside.partition(" ")
        plain += before
        spans.append({"start": len(plain), "end": len(plain) + len(name), "label": label})
        plain += name
    return {"text": plain + rest, "spans": spans}


def answers(encoder, example, task=TASK):
    """What a model answers whose logits are the targets; other sub-words than those with a target say anything."""
    (document,) = task.encode(encoder, [example])
    rng = np.random.default_rng(0)
    outputs = []
    for target in task.targets(example, document):
        logits = rng.normal(size=(len(target), len(task.outputs))).astype(np.float32)
        labelled = target != IGNORED
        logits[labelled] = np.eye(len(task.outputs), dtype=np.float32)[target[labelled]] * 9
        outputs.append(logits)
    served = task.answer(example.text, document, outputs, task.parameters())
    found = [(item["start"], item["end"], item["entity_group"]) for item in served]
    assert found == list(task.predict(document, outputs).spans), "report and caller are told the same"
    return found


def encoder_of(tokenizer, pieces, line_end="wrapped", max_tokens=24, stride=6):
    cut = Segmentation(pieces=pieces, line_end=line_end)
    return Encoder(tokenizer, max_tokens=max_tokens, stride=stride, segmentation=cut)


@pytest.mark.parametrize("family", CHARACTER_FAMILIES)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_perfect_model_answers_every_entity_of_every_script(family, script):
    """The tokenizer knows every character; of the scripts with endings glued on only sub-words can say the names."""
    text, glued = SCRIPTS[script]
    example = TASK.read_record(marked(text), script)
    assert example.spans
    tokenizer = of_characters(family)
    for pieces in ("subwords",) if glued else ("words", "subwords"):
        assert answers(encoder_of(tokenizer, pieces), example) == list(example.spans), pieces


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts, data=st.data())
def test_every_span_of_whole_sub_words_is_answered_exactly(family, text, data):
    encoder = TRAINED[family]
    (document,) = encoder.encode_texts([text])
    pieces = document.pieces
    edges = data.draw(st.lists(st.integers(0, len(pieces.firsts)), unique=True, max_size=6).map(sorted))
    spans = []
    for first, last in zip(edges[::2], edges[1::2], strict=False):
        start, end = pieces.starts[first], pieces.ends[last - 1]
        gaps = [(pieces.ends[at], pieces.starts[at + 1]) for at in range(first, last - 1)]
        if not any(ends_entity(text, *gap, line_end="wrapped") for gap in gaps):
            spans.append({"start": start, "end": end, "label": "PER"})
    example = TASK.read_record({"text": text, "spans": spans}, "f:1")
    assert answers(encoder, example) == list(example.spans)


TRAINED = {family: encoder_of(make(family), "subwords") for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("unit", ["words", "subwords"])
@given(text=texts)
def test_pieces_are_visible_apart_and_in_order(family, unit, text):
    (document,) = encoder_of(make(family), unit).encode_texts([text])
    before = 0
    for start, end in zip(*document.pieces[1:], strict=True):
        assert before <= start < end <= len(text)
        assert not text[start].isspace()
        before = end
    assert document.pieces.firsts == sorted(set(document.pieces.firsts))


def pieces_of(text, unit="words", family="wordpiece", **options):
    cut = Segmentation(pieces=unit, **options)
    (document,) = Encoder(of_characters(family), max_tokens=200, stride=6, segmentation=cut).encode_texts([text])
    return [text[start:end] for start, end in zip(*document.pieces[1:], strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("London, (Oslo)", ["London", ",", "(", "Oslo", ")"]),
        ("über €238 Bo™", ["über", "€", "238", "Bo", "™"]),
        ("福岡と秋山", ["福", "岡", "と", "秋", "山"]),
        ("ไทยที่", ["ไ", "ท", "ย", "ที่"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("mail a.b@c-d.org or www.x.org, https://y.org/a?b=1.", ["mail", "a.b@c-d.org", "or", "www.x.org", ",", "https://y.org/a?b=1", "."]),
        ("ana@x.orgを", ["ana@x.org", "を"]),
        ("@ana :// www.", ["@", "ana", ":", "/", "/", "www", "."]),
    ],
)  # fmt: skip
def test_words_and_signs_are_pieces(text, pieces, family):
    if family in ("wordpiece", "suffix_only") and "नी" in text:
        pytest.skip("BERT's normalizer drops marks")
    assert pieces_of(text, family=family) == pieces


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Jean-Claude 1996-12-06", ["Jean-Claude", "1996-12-06"]),
        ("-a b- c -- d--e", ["-", "a", "b", "-", "c", "-", "-", "d", "-", "-", "e"]),
        ("U.S. S.p.A., J. Edgar", ["U.S.", "S.p.A.", ",", "J.", "Edgar"]),
        ("end. 3. x.y. Ph.D.", ["end", ".", "3", ".", "x.y.", "Ph.D."]),
        ("O'Neil's", ["O", "'", "Neil", "'", "s"]),
        ("福-岡", ["福", "-", "岡"]),
    ],
)
def test_signs_join_words_where_the_bundle_says_so(text, pieces, family):
    assert pieces_of(text, family=family, joins="-.", abbreviations=True) == pieces
    assert "-" in pieces_of("Jean-Claude", family=family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("character", ["👩‍👩‍👧", "👍🏽", "🇩🇪", "❤️", "e\u0301", "ที่"])
def test_no_piece_begins_within_what_a_reader_takes_for_one_character(character, family):
    for unit in ("words", "subwords"):
        found = pieces_of(f"x {character} y", unit, family)
        assert found in (["x", character, "y"], ["x", "y"]), "a tokenizer may drop it, not cut it"


@pytest.mark.parametrize(
    ("gap", "joins", "ends"),
    [
        ("", False, False), (" ", False, False), ("\u00a0", False, False), ("\n", False, True), (" \r\n ", False, True), ("\u200b", False, False),
        ("\n\n", True, True), ("\n \n", True, True), ("\r\n\r\n", True, True), ("\t", True, True), ("  ", True, True), ("\n\t", True, True),
        ("\n  ", True, True), ("\u2029", True, True), ("\x0b", True, True), (" \u00a0", True, True),
    ],
)  # fmt: skip
def test_what_stands_between_two_pieces_may_end_an_entity(gap, joins, ends):
    text, behind = f"Anna{gap}Berg", 4 + len(gap)
    assert [ends_entity(text, 4, behind, line_end=told) for told in ("joins", "ends", "wrapped")] == [joins, ends, ends]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("lines", "ends"),
    [
        (["On Monday a visitor of the museum met Anna", "Berg and her sister", "Carla"], [False, True]),
        (
            ["On Monday the museum opened with Anna", "Berg, who had come all the way from Amsterdam."],
            [True],
        ),  # 'Berg,' fits
        (["Anna", "Berg"], [True]),  # short lines are no wrapped text, although the first could not be longer
        (["新しい博物館の館長は昨日の記者会見で福岡県", "と話した"], [False]),  # 42 columns
    ],
)
def test_a_full_line_goes_on_in_the_next(lines, ends, line_end):
    text = line_end.join(lines)
    places = itertools.accumulate(len(line) + len(line_end) for line in lines[:-1])
    found = [ends_entity(text, place - len(line_end), place, line_end="wrapped") for place in places]
    assert found == ends


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Anna\n\nLondon", ["Anna", "London"]),
        ("Anna\tLondon\tOslo", ["Anna", "London", "Oslo"]),
        ("Anna   London", ["Anna", "London"]),
        ("Anna London", ["Anna London"]),
        ("Anna\nLondon", ["Anna", "London"]),
    ],
)
def test_blank_lines_cells_and_runs_of_blanks_end_an_entity(text, found, family):
    """The model itself would say one entity over all of it."""
    encoder = encoder_of(of_characters(family), "words")
    (document,) = encoder.encode_texts([text])
    outputs = [np.full((len(window.input_ids), len(TASK.outputs)), -9, np.float32) for window in document.windows]
    for output in outputs:
        output[:, TASK.outputs.index("I-PER")] = 9
    assert [text[span.start : span.end] for span in TASK.predict(document, outputs).spans] == found
    (ending,) = encoder.with_segmentation(Segmentation(line_end="ends")).encode_texts([text])
    answered = TASK.answer(text, ending, outputs, TASK.parameters())
    assert [item["word"] for item in answered] == text.split() if "\n" in text else found


@pytest.mark.parametrize(
    ("span", "tags"),
    [
        ((0, 5), ["B-X", "O", "O"]),  # all but a letter of the first piece
        ((0, 2), ["B-X", "O", "O"]),  # a span has a piece
        ((4, 12), ["O", "B-X", "O"]),  # two letters of the first piece
        ((2, 9), ["B-X", "O", "O"]),
        ((7, 18), ["O", "B-X", "I-X"]),
    ],
)
def test_a_span_that_pieces_cannot_say_gets_the_nearest_they_can(span, tags):
    text = "Karlas Museum heute"
    pieces = cut(text, [(0, 6), (7, 13), (14, 19)], Segmentation())
    task = TokenClassification(labels=("X",))
    example = task.read_record({"text": text, "spans": [{"start": span[0], "end": span[1], "label": "X"}]}, "f:1")
    assert tags_of(pieces, example.spans) == tags


def test_two_spans_in_one_piece_are_one_label_and_a_lost_one():
    task = TokenClassification(labels=("X", "Y"))
    record = {"text": "ab c", "spans": [{"start": 0, "end": 1, "label": "X"}, {"start": 1, "end": 2, "label": "Y"}]}
    assert tags_of(cut("ab c", [(0, 2), (3, 4)], Segmentation()), task.read_record(record, "f:1").spans) == ["B-X", "O"]


@pytest.mark.parametrize("family", FAMILIES)
def test_words_of_a_caller_are_his_own_pieces(family):
    words = ["Jean-Claude", "Juncker", "of", "U.S.", "福岡"]
    text = GivenWords(words)
    assert text == " ".join(words)
    assert pickle.loads(pickle.dumps(text)).words == text.words
    (document,) = encoder_of(of_characters(family), "words", max_tokens=80).encode_texts([text])
    assert [text[start:end] for start, end in zip(*document.pieces[1:], strict=True)] == words
    outputs = np.full((len(document.windows[0].input_ids), len(TASK.outputs)), -9, np.float32)
    for word, tag in enumerate(["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]):
        outputs[document.windows[0].offset + document.pieces.firsts[word], TASK.outputs.index(tag)] = 9
    found = TASK.answer(text, document, [outputs], TASK.parameters())
    assert [item["word"] for item in found] == ["Jean-Claude Juncker", "U.S.", "福岡"]


def test_every_word_of_the_data_is_tagged_by_its_first_sub_word_on_natural_text():
    record = {"tokens": ["Karla", "'s", "Jean-Claude", "can", "not", "U.S."], "tags": ["B-PER", "O", "B-PER", "O", "B-ORG", "B-LOC"]}  # fmt: skip
    example = TASK.read_record(record, "f:1", join=lambda _: "Karla's Jean-Claude cannot U.S.")
    (document,) = TASK.encode(encoder_of(of_characters("wordpiece"), "subwords", max_tokens=80), [example])
    outputs = np.eye(len(TASK.outputs), dtype=np.float32)[np.maximum(TASK.targets(example, document)[0], 0)]
    assert TASK.predict(document, [outputs]).tags == example.tags == tuple(record["tags"])
