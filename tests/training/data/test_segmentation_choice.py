"""How texts are cut is chosen by the training spans, and what cannot be said is said."""

import pytest

from agent.encoding import Encoder
from agent.segmentation import Segmentation
from agent.tasks import TextClassification, TokenClassification
from tests.agent.families import of_characters
from tests.agent.test_segmentation import marked
from training.data.segmentation_choice import AUTO, SegmentationConfig, choose_segmentation, reach

TASK = TokenClassification(labels=("LOC", "ORG", "PER"))


@pytest.fixture(scope="module")
def encoder():
    return Encoder(of_characters("wordpiece"), max_tokens=200, stride=8)


def examples(*texts):
    return [TASK.read_record(marked(text), f"train.jsonl:{line}") for line, text in enumerate(texts, start=1)]


def choose(encoder, *texts, **config):
    return choose_segmentation(SegmentationConfig(**config), TASK, encoder, examples(*texts))


ENGLISH = ["⟦PER Jean-Claude Juncker⟧ left the ⟦LOC U.S.⟧ on 1996-12-06.", "⟦PER J. Hoover⟧'s well-known ⟦ORG AT&T⟧"]
GERMAN = ["⟦PER Karla⟧s Haus in ⟦LOC Berlin⟧", "die ⟦ORG SPD⟧-Frau und ⟦PER Anna⟧s ⟦ORG BMW-Werk⟧"]


def test_words_are_chosen_where_they_say_every_span_with_the_signs_that_no_span_is_cut_at(encoder):
    chosen, (note,) = choose(encoder, *ENGLISH)
    assert chosen == Segmentation(pieces="words", joins="&-.", abbreviations=True)
    assert note == "segmentation: pieces=words, joins=&-., abbreviations=True, line_end=wrapped"


def test_sub_words_are_chosen_where_names_have_endings(encoder):
    chosen, (note,) = choose(encoder, *GERMAN)
    assert chosen == Segmentation(pieces="subwords")
    assert "of 5 training spans words lose 2, sub-words 0; words may lose 0.2%" in note


def test_a_sign_joins_unless_spans_are_cut_at_it(encoder):
    assert choose(encoder, *GERMAN, pieces="words")[0].joins == ""
    assert choose(encoder, GERMAN[1].replace("⟧-", "⟧ "), pieces="words")[0].joins == "-"
    assert choose(encoder, *["a-b"] * 99, "⟦ORG SPD⟧-Frau", pieces="words")[0].joins == "-", "one in a hundred may be"
    assert choose(encoder, *["a-b"] * 98, "⟦ORG SPD⟧-Frau", pieces="words")[0].joins == ""


def test_what_the_configuration_says_is_taken(encoder):
    assert choose(encoder, *GERMAN, pieces="words", joins="-", line_end="ends")[0] == Segmentation(
        joins="-", line_end="ends"
    )
    assert choose(encoder, *ENGLISH, pieces="subwords")[0] == Segmentation(pieces="subwords")


def test_spans_that_cannot_be_answered_are_counted_shown_and_bound_the_score(encoder):
    """Of five spans two are lost; the perfect model answers five entities, three of them right."""
    used = encoder.with_segmentation(Segmentation())
    found = reach(TASK, used, examples(*GERMAN))
    assert [text for text, _ in found.lost] == ["Karla", "Anna"]
    assert found.f1 == pytest.approx(3 / 5)
    assert "train: 2 of 5 spans cannot be answered exactly, F1 0.6000 can be reached at best" in found.told("train")
    assert "'Karla' (train.jsonl:1), 'Anna' (train.jsonl:2)" in found.told("train")
    assert reach(TASK, encoder.with_segmentation(Segmentation(pieces="subwords")), examples(*GERMAN)).told("dev") == (
        "dev: all 5 spans can be answered exactly"
    )


def test_spans_over_blank_lines_and_cells_cannot_be_answered(encoder):
    found = reach(TASK, encoder, examples("⟦PER Anna\n\nLee⟧ and ⟦PER Bo\tLee⟧ and then there was also ⟦PER Ann\nLee⟧"))
    assert [text for text, _ in found.lost] == ["Anna\n\nLee", "Bo\tLee"]


def test_a_task_without_spans_has_nothing_to_choose(encoder):
    task = TextClassification(labels=("a",))
    rows = [task.read_record({"text": "x", "label": "a"}, "f:1")]
    assert choose_segmentation(AUTO, task, encoder, rows) == (Segmentation(), ())
    assert reach(task, encoder, rows) is None
