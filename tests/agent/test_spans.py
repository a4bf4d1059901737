"""Tags and spans, held against a port of the CoNLL-2000 shared task's conlleval.pl."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from agent.spans import Span, decode_tags, encode_spans, split_tag, tag_set, to_iob2
from agent.tasks import TokenClassification
from tests.tiny import said

LABELS = ("PER", "ORG", "X-Y")


# --- conlleval.pl, ported line by line ---------------------------------------------------------------------------


def chunk_tag(tag):
    """`($guessed, $guessedType)`: what stands before and behind the first hyphen."""
    head, _, kind = tag.partition("-")
    return head, kind


def start_of_chunk(prev_tag, tag, prev_type, kind):
    start = prev_tag == "B" and tag == "B"
    start = start or (prev_tag == "I" and tag == "B")
    start = start or (prev_tag == "O" and tag == "B")
    start = start or (prev_tag == "O" and tag == "I")
    start = start or (prev_tag == "E" and tag == "E")
    start = start or (prev_tag == "E" and tag == "I")
    start = start or (prev_tag == "O" and tag == "E")
    start = start or (tag not in ("O", ".") and prev_type != kind)
    return start or tag in ("[", "]")


def end_of_chunk(prev_tag, tag, prev_type, kind):
    end = prev_tag == "B" and tag == "B"
    end = end or (prev_tag == "B" and tag == "O")
    end = end or (prev_tag == "I" and tag == "B")
    end = end or (prev_tag == "I" and tag == "O")
    end = end or (prev_tag == "E" and tag in ("E", "I", "O"))
    end = end or (prev_tag not in ("O", ".") and prev_type != kind)
    return end or prev_tag in ("[", "]")


def conlleval_chunks(tags):
    """The chunks whose borders conlleval counts; a sentence boundary is the tag `O`."""
    chunks, begin, prev_tag, prev_type = [], None, "O", ""
    for position, tag in enumerate([*tags, "O"]):
        head, kind = chunk_tag(tag)
        if begin is not None and end_of_chunk(prev_tag, head, prev_type, kind):
            chunks.append(Span(begin, position, prev_type))
            begin = None
        if start_of_chunk(prev_tag, head, prev_type, kind):
            begin = position
        prev_tag, prev_type = head, kind
    return chunks


def conlleval_f1(gold, guessed):
    """The main loop of conlleval.pl: correct, found and guessed chunks over all sentences."""
    correct_chunk = found_correct = found_guessed = 0
    in_correct = False
    last_correct = last_guessed = "O"
    last_correct_type = last_guessed_type = ""
    rows = [
        pair for one, other in zip(gold, guessed, strict=True) for pair in [*zip(one, other, strict=True), ("O", "O")]
    ]
    for correct_tag, guessed_tag in rows:
        correct, correct_type = chunk_tag(correct_tag)
        guess, guess_type = chunk_tag(guessed_tag)
        if in_correct:
            ends_correct = end_of_chunk(last_correct, correct, last_correct_type, correct_type)
            ends_guessed = end_of_chunk(last_guessed, guess, last_guessed_type, guess_type)
            if ends_correct and ends_guessed and last_guessed_type == last_correct_type:
                in_correct = False
                correct_chunk += 1
            elif ends_correct != ends_guessed or guess_type != correct_type:
                in_correct = False
        starts_correct = start_of_chunk(last_correct, correct, last_correct_type, correct_type)
        starts_guessed = start_of_chunk(last_guessed, guess, last_guessed_type, guess_type)
        if starts_correct and starts_guessed and guess_type == correct_type:
            in_correct = True
        found_correct += starts_correct
        found_guessed += starts_guessed
        last_guessed, last_correct, last_guessed_type, last_correct_type = guess, correct, guess_type, correct_type
    precision = correct_chunk / found_guessed if found_guessed else 0.0
    recall = correct_chunk / found_correct if found_correct else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


# --- end of the port ---------------------------------------------------------------------------------------------


def tags_of(prefixes):
    return st.lists(
        st.one_of(st.just("O"), st.builds("{}-{}".format, st.sampled_from(prefixes), st.sampled_from(LABELS))),
        max_size=14,
    )


@st.composite
def spans_and_length(draw):
    cuts = sorted(draw(st.sets(st.integers(0, 20), max_size=8)))
    pairs = [(a, b) for a, b in pairwise(cuts) if draw(st.booleans())]
    return [Span(a, b, draw(st.sampled_from(LABELS))) for a, b in pairs], max(cuts, default=0) + draw(st.integers(0, 3))


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("IOB1", "I-PER I-PER O I-ORG B-ORG I-PER O O I-PER"),
        ("IOB2", "B-PER I-PER O B-ORG B-ORG B-PER O O B-PER"),
        ("IOBES", "B-PER E-PER O S-ORG S-ORG S-PER O O S-PER"),
        ("BILOU", "B-PER L-PER O U-ORG U-ORG U-PER O O U-PER"),
        ("IOE2", "I-PER E-PER O E-ORG E-ORG E-PER O O E-PER"),
    ],
)
def test_every_scheme_names_the_same_spans(scheme, tags):
    found = decode_tags(tags.split())
    assert found == [Span(0, 2, "PER"), Span(3, 4, "ORG"), Span(4, 5, "ORG"), Span(5, 6, "PER"), Span(8, 9, "PER")]
    assert to_iob2(tags.split()) == ["B-PER", "I-PER", "O", "B-ORG", "B-ORG", "B-PER", "O", "O", "B-PER"]


def test_an_entity_at_the_end_of_a_sentence_is_kept():
    assert decode_tags(["O", "B-PER"]) == [Span(1, 2, "PER")]
    assert decode_tags(["O", "B-PER", "I-PER"]) == [Span(1, 3, "PER")]


def test_an_inside_tag_without_a_beginning_begins_an_entity():
    assert decode_tags(["I-PER", "I-ORG", "O", "I-ORG"]) == [Span(0, 1, "PER"), Span(1, 2, "ORG"), Span(3, 4, "ORG")]


def test_a_label_may_contain_hyphens():
    assert decode_tags(["B-X-Y", "I-X-Y"]) == [Span(0, 2, "X-Y")]


@given(spans_and_length())
def test_spans_survive_writing_and_reading(case):
    spans, length = case
    tags = encode_spans(spans, length)
    assert len(tags) == length
    assert decode_tags(tags) == spans
    assert to_iob2(tags) == tags


@given(tags_of("BIE"))
@example(["E-PER", "E-PER"])
@example(["B-PER", "E-PER", "I-PER"])
def test_spans_are_those_of_conlleval_on_valid_and_invalid_tags(tags):
    """Prefixes that conlleval.pl knows; S, L and U are later inventions."""
    assert decode_tags(tags) == conlleval_chunks(tags)


@given(tags_of("BIESLU"))
def test_later_prefixes_read_as_conlleval_would_their_older_kin(tags):
    """S and U are an entity of one word: a B that the next word cannot continue; L is E."""
    older = []
    for position, tag in enumerate(tags):
        prefix, label = split_tag(tag)
        before = split_tag(tags[position - 1])[0] if position else "O"
        renewed = before in "SU" and prefix in "IEL" and position > 0
        name = {"S": "B", "U": "B", "L": "E"}.get(prefix, prefix)
        older.append("O" if not label else f"{'B' if renewed else name}-{label}")
    expected = conlleval_chunks(older) if not any(split_tag(tag)[0] in "EL" for tag in tags) else None
    if expected is not None:
        assert decode_tags(tags) == expected
    assert encode_spans(decode_tags(tags), len(tags)) == to_iob2(tags)


@given(st.lists(tags_of("BI").flatmap(lambda gold: st.tuples(st.just(gold), st.lists(
    st.sampled_from(["O", *[f"{p}-{label}" for p in "BI" for label in LABELS]]), min_size=len(gold), max_size=len(gold)
))), max_size=4))  # fmt: skip
def test_the_f1_of_seqeval_is_that_of_conlleval(pairs):
    """On predictions as `predict` emits them, valid IOB2, with gold tags as `read_record` makes them."""
    task = TokenClassification(labels=LABELS)
    examples = [
        task.read_record({"tokens": ["w"] * len(gold), "tags": gold}, f"f:{number}")
        for number, (gold, _) in enumerate(pairs)
    ]
    predictions = [to_iob2(guessed) for _, guessed in pairs]
    report = task.score(examples, [said(*pair) for pair in zip(examples, predictions, strict=True)])
    gold = [list(example.tags) for example in examples]
    ours = report.metrics.get("seqeval_f1", 0.0)
    assert ours == pytest.approx(conlleval_f1(gold, predictions))
    if any(tag != "O" for tags in (*gold, *predictions) for tag in tags):
        assert ours == f1_score(gold, predictions, mode="strict", scheme=IOB2, zero_division=0)  # to the last digit
    assert report.metrics["f1"] == pytest.approx(conlleval_f1(gold, predictions))  # spans of whole words
    assert report.support == sum(len(decode_tags(tags)) for tags in gold)


@pytest.mark.parametrize(
    "tag", ["", "B", "B-", "-PER", "PER", "X-PER", "b-PER", "BI-PER", "o", " O", "B_PER", "B-PER".replace("-", "–")]
)
def test_bad_tags_are_refused(tag):
    with pytest.raises(ValueError, match="neither 'O' nor PREFIX-LABEL"):
        decode_tags(["O", tag])


@pytest.mark.parametrize("span", [Span(-1, 1, "A"), Span(1, 1, "A"), Span(2, 1, "A"), Span(3, 5, "A")])
def test_spans_outside_of_the_words_are_refused(span):
    with pytest.raises(ValueError, match="empty or lies outside of 4 words"):
        encode_spans([span], 4)


def test_overlapping_spans_are_refused():
    with pytest.raises(ValueError, match="overlaps another span"):
        encode_spans([Span(0, 2, "A"), Span(1, 3, "B")], 4)


def test_the_tag_set_has_the_outside_tag_first_and_is_sorted():
    assert tag_set(["ORG", "LOC", "ORG"]) == ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG")
    assert tag_set([]) == ("O",)
