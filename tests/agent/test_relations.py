"""Two marked entities: markers, windows around both, directed labels and their official score, and what is refused by its place."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from agent.encoding import Encoder
from agent.errors import DataError, RequestError
from agent.tasks import RelationExtraction
from agent.tasks.relations.entity_windows import encode_marked, is_cut, place_of_window
from agent.tasks.relations.marked_text import MarkerError, mark, model_text, read_markers
from agent.tasks.relations.relation_scores import relation_of, score_relations
from tests.agent.families import make

TASK = RelationExtraction(labels=("Employment(e1,e2)", "Employment(e2,e1)", "Other"))
MARKED = "<e1>Anna</e1> works for <e2>Acme</e2>."


def encoder(max_tokens: int = 24) -> Encoder:
    return Encoder(make("wordpiece"), max_tokens=max_tokens, stride=0)


def seen(text: str) -> str:
    return model_text(read_markers(text)).text


@pytest.mark.parametrize(
    ("marked", "told"),
    [
        (MARKED, "@ Anna @ works for # Acme # ."),
        ("At <e2>Acme</e2> works <e1>Anna</e1>", "At # Acme # works @ Anna @"),
        ("<e1>A</e1><e2>B</e2>", "@ A @ # B #"),
        ("(<e1> Anna </e1>)(<e2>Acme</e2>)", "( @ Anna @ )( # Acme # )"),
        ("x@y #1 <e1>@Anna</e1> <e2>C#</e2> #", "x*y *1 @ *Anna @ # C* # *"),
    ],
)
def test_the_model_sees_signs_around_the_entities_and_nowhere_else(marked: str, told: str) -> None:
    text = model_text(read_markers(marked))
    assert text.text == told
    assert {text.text[text.start], text.text[text.end - 1]} <= {"@", "#"}
    assert (text.text.count("@"), text.text.count("#")) == (2, 2)


def test_markers_are_read_and_written_back() -> None:
    found = read_markers(MARKED)
    assert found.text == "Anna works for Acme."
    assert [(one.number, found.text[one.start : one.end]) for one in found.entities] == [("1", "Anna"), ("2", "Acme")]
    assert mark(found.text, (0, 4), (15, 19)) == MARKED
    assert mark(found.text, (15, 19), (0, 4)) == "<e2>Anna</e2> works for <e1>Acme</e1>."


WRONG = {
    "no entity is marked": "Anna works for Acme.",
    "<e2> is missing": "<e1>Anna</e1> works for Acme.",
    "</e2> is missing": "<e1>Anna</e1> works for <e2>Acme.",
    "<e1> stands 2 times (characters 0, 14)": "<e1>Anna</e1> <e1>Bo</e1> works for <e2>Acme</e2>.",
    "its markers stand in the order <e1> <e2> </e2> </e1>": "<e1>Anna of <e2>Acme</e2></e1>",
    "its markers stand in the order <e1> <e2> </e1> </e2>": "<e1>Anna <e2>of</e1> Acme</e2>",
    "its markers stand in the order </e1> <e1> <e2> </e2>": "</e1>Anna<e1> of <e2>Acme</e2>",
    "the entity between <e2> and </e2> is empty": "<e1>Anna</e1> works for <e2> </e2>.",
}


@pytest.mark.parametrize("problem", WRONG)
def test_wrong_markers_are_refused_by_file_and_line_and_by_field(problem: str) -> None:
    text = WRONG[problem]
    with pytest.raises(DataError) as refused:
        TASK.read_record({"text": text, "label": "Other"}, "f:3")
    assert refused.value.what == f"f:3: {problem}"
    assert TASK.refusal_of(text) == problem
    with pytest.raises(RequestError) as asked:
        TASK.encode_request(encoder(), [MARKED, text], TASK.parameters())
    assert (asked.value.what, asked.value.field, asked.value.status) == (f"inputs[1]: {problem}", "inputs[1]", 422)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ((0, 4), (15, 40), "entity e2 15:40 is no part of the text, which has 20 characters"),
        ((-4, 2), (15, 19), "entity e1 -4:2 is no part of the text"),
        ((3, 3), (15, 19), "entity e1 3:3 is no part of the text"),
        ((4, 5), (15, 19), "entity e1 4:5 holds only blanks"),
        ((0, 16), (15, 19), "entities e1 0:16 and e2 15:19 overlap"),
        ((0, 4), (0, 4), "overlap"),
    ],
)
def test_spans_that_mark_nothing_are_refused(first: tuple[int, int], second: tuple[int, int], told: str) -> None:
    with pytest.raises(MarkerError, match=told.replace("(", r"\(")):
        mark("Anna works for Acme.", first, second)


def test_a_text_that_holds_a_marker_cannot_be_marked_by_spans() -> None:
    with pytest.raises(MarkerError, match=r"the text itself holds </e1> \(character 5\)"):
        mark("Anna </e1> works for Acme.", (0, 4), (21, 25))


@pytest.mark.parametrize(
    ("first", "last", "length", "place"),
    [
        (3, 5, 8, (0, 8)),  # everything fits
        (40, 44, 100, (37, 47)),  # in the middle
        (1, 5, 100, (0, 10)),  # near the beginning: what is not needed there goes behind
        (95, 99, 100, (90, 100)),
        (20, 30, 100, (20, 30)),  # nothing beside the entities
    ],
)
def test_what_is_left_of_a_window_lies_on_both_sides(
    first: int, last: int, length: int, place: tuple[int, int]
) -> None:
    assert place_of_window(first, last, length, 10) == place


def test_a_long_text_is_seen_around_its_entities() -> None:
    used = encoder()
    long = "the lazy dog " * 40 + "<e2>fox</e2> in <e1>fox</e1>" + " the quick brown fox" * 40
    (alone,) = used.encode_texts([seen("<e2>fox</e2> in <e1>fox</e1>")])
    document, short = encode_marked(used, [long, MARKED])
    (window,) = document.windows
    assert len(window.input_ids) == 24
    inner = alone.token_ids.tolist()
    ids = window.input_ids.tolist()
    place = next(place for place in range(len(ids)) if ids[place : place + len(inner)] == inner)
    assert abs((place - 1) - (len(ids) - 1 - place - len(inner))) <= 1  # as much before as behind
    assert ids[1:-1] == document.token_ids[window.first : window.last].tolist()
    assert [is_cut(one) for one in (document, short)] == [True, False]


def test_entities_further_apart_than_a_window_are_refused_by_their_place() -> None:
    text = "<e1>fox</e1> " + "the " * 30 + "<e2>dog</e2>"
    told = r"from the first entity to the end of the second are \d\d sub-words, and a window holds both"
    with pytest.raises(RequestError, match=rf"^inputs\[1\]: {told}\. Allowed: at most 22 ") as asked:
        TASK.encode_request(encoder(), [MARKED, text], TASK.parameters())
    assert (asked.value.field, asked.value.status) == ("inputs[1]", 422)
    examples = [TASK.read_record({"text": one, "label": "Other"}, f"f:{n}") for n, one in enumerate([MARKED, text], 1)]
    with pytest.raises(DataError, match=rf"^f:2: {told}\. Allowed: at most 22 sub-words. Remedy: "):
        TASK.encode(encoder(), examples)


def test_how_many_texts_are_seen_in_part_is_said() -> None:
    long = "the " * 40 + MARKED
    examples = [TASK.read_record({"text": text, "label": "Other"}, "f:1") for text in (MARKED, long, MARKED, long)]
    assert TASK.remarks(encoder(), examples) == ["2 of 4 texts are seen in part, around their entities"]
    assert TASK.remarks(encoder(), examples[:1]) == []


def test_every_agent_takes_the_trial_input() -> None:
    assert TASK.refusal_of(TASK.trial_input(encoder())) == ""
    assert len(TASK.encode_request(encoder(), [TASK.trial_input(encoder())], TASK.parameters())) == 1


def test_a_stride_is_refused() -> None:
    with pytest.raises(ValidationError, match="stride"):
        TASK.parameters(stride=4)


# --- the score


def test_labels_name_a_relation_and_its_direction() -> None:
    assert [relation_of(label) for label in ("Cause-Effect(e2,e1)", "Sibling", "f(x)", "Other")] == [
        "Cause-Effect", "Sibling", "f(x)", "Other",
    ]  # fmt: skip


def test_the_score_is_that_of_the_official_rules_counted_by_hand() -> None:
    """A: right 2, given 4 (one in the wrong direction, one for Other), wanted 4. B: right 1, given 2, wanted 2. C: never right. D: not gold."""
    rows = [
        ("A(e1,e2)", "A(e1,e2)"), ("A(e2,e1)", "A(e2,e1)"), ("A(e1,e2)", "A(e2,e1)"), ("A(e1,e2)", "B(e1,e2)"),
        ("B(e2,e1)", "B(e2,e1)"), ("B(e1,e2)", "Other"), ("C", "D(e1,e2)"), ("Other", "A(e1,e2)"), ("Other", "Other"),
        ("Other", "D(e2,e1)"),
    ]  # fmt: skip
    gold, said = (list(column) for column in zip(*rows, strict=True))
    report = score_relations(gold, said, "Other")
    f1 = {"A": 2 * 2 / (4 + 4), "B": 2 * 1 / (2 + 2), "C": 0.0}
    assert {name: report.metrics[f"f1.{name}"] for name in f1} == pytest.approx(f1)
    assert set(report.metrics) == {"macro_f1", "micro_f1", "accuracy", "f1.A", "f1.B", "f1.C"}
    assert report.metrics["macro_f1"] == pytest.approx((0.5 + 0.5 + 0.0) / 3)
    assert report.metrics["micro_f1"] == pytest.approx(2 * 3 / (6 + 7))
    assert report.metrics["accuracy"] == pytest.approx(4 / 10)
    assert (report.primary, report.support) == ("macro_f1", 10)


def test_without_relations_there_is_nothing_to_score_and_another_label_can_mean_none() -> None:
    assert score_relations(["Other"], ["A(e1,e2)"], "Other").value == 0.0
    task = RelationExtraction(labels=("A(e1,e2)", "no"), no_relation="no")
    examples = [task.read_record({"text": MARKED, "label": label}, "f:1") for label in task.labels]
    assert task.score(examples, ["A(e1,e2)", "A(e1,e2)"]).metrics["macro_f1"] == pytest.approx(2 / 3)


def test_an_answer_ranks_all_labels() -> None:
    (document,) = encode_marked(encoder(), [MARKED])
    answer = TASK.answer(MARKED, document, [np.array([0.0, 2.0, 1.0], np.float32)], TASK.parameters())
    assert [item["label"] for item in answer] == ["Employment(e2,e1)", "Other", "Employment(e1,e2)"]
    assert sum(item["score"] for item in answer) == pytest.approx(1)
    assert TASK.record_of(MARKED, answer) == {"text": MARKED, "label": "Employment(e2,e1)"}
