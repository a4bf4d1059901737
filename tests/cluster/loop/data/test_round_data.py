"""The data of a round: the original replayed, corrections added, dev and test untouched, what is not taught counted."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.data import DataConfig, load_splits
from agent.data.digests import split_digest
from agent.data.splits import hold_out
from agent.decisions.held_out import is_held_out
from agent.errors import LoopError
from agent.tasks import KINDS
from cluster.loop.data.original_data import OriginalData, pinned
from cluster.loop.data.round_data import RoundData, TeachingRules, build, feedback_rows
from cluster.loop.workspace import Origin, Row
from tests.tiny import WRITERS

IN_DEV, IN_TEST, IN_TRAIN = "the text of dev", "the text of test", "the text of train"
NEW: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "token_classification": (
        {"spans": [{"start": 0, "end": 4, "label": "PER"}]},
        {"spans": [{"start": 0, "end": 4, "label": "LOC"}]},
    ),
    "text_classification": ({"label": "known"}, {"label": "unknown"}),
    "multi_label_classification": ({"labels": ["PER", "LOC"]}, {"labels": []}),
    "text_pair_classification": (
        {"text": "anna left", "text_pair": "went", "label": "entailment"},
        {"text": "anna left", "text_pair": "went", "label": "contradiction"},
    ),
    "question_answering": (
        {"question": "who left", "context": "anna left", "answers": {"text": ["anna"], "answer_start": [0]}},
        {"question": "who left", "context": "anna left", "answers": {"text": [], "answer_start": []}},
    ),
    "relation_extraction": (
        {"text": "<e1>anna</e1> left <e2>oslo</e2> late", "label": "Place(e1,e2)"},
        {"text": "<e1>dewi</e1> and <e2>acme</e2> again", "label": "Other"},
    ),
}


def origin(kind: str, path: Path, **changes: Any) -> Origin:
    data = DataConfig.model_validate({"path": str(path), **changes})
    return Origin(data=data, seed=3, task={"kind": kind}, base_model="base")


def classes(directory: Path, **files: list[tuple[str, str]]) -> OriginalData:
    directory.mkdir()
    for name, rows in files.items():
        lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
        (directory / f"{name}.jsonl").write_text("".join(lines))
    return OriginalData(origin("text_classification", directory))


@pytest.fixture
def original(tmp_path: Path) -> OriginalData:
    return classes(
        tmp_path / "original",
        train=[(IN_TRAIN, "good"), ("another", "bad")],
        dev=[(IN_DEV, "good")],
        test=[(IN_TEST, "bad")],
    )


def corrections(*given: tuple[str, dict[str, Any], str], kind: str = "text_classification") -> list[Row]:
    """Text, correction and caller of decisions, in the order in which their corrections came."""
    feedback = [
        {
            "agent": "a", "id": f"r{number}", "position": 0, "time": 1.0, "bundle": "d" * 64, "text": text,
            "correction": correction, "feedback_key_id": caller, "feedback_time": float(number),
        }
        for number, (text, correction, caller) in enumerate(given)
    ]  # fmt: skip
    return feedback_rows(KINDS[kind].model_validate({"kind": kind}), feedback, 1)


def rewards(*given: tuple[str, str, float, float], caller: str = "", first: int = 100) -> list[Row]:
    """Text, answered label, propensity and reward of decisions, in the order in which the rewards came."""
    feedback = [
        {
            "agent": "a", "id": f"r{number}", "position": 0, "time": 1.0, "bundle": "d" * 64, "key_id": caller, "text": text,
            "answer": [{"label": label, "score": 0.5}], "propensity": propensity, "chosen": "epsilon",
            "feedback_time": float(number), "feedback_key_id": caller, "reward": reward, "correction": None,
        }
        for number, (text, label, propensity, reward) in enumerate(given, start=first)
    ]  # fmt: skip
    return feedback_rows(KINDS["text_classification"](kind="text_classification"), feedback, 1)


def logged(data: RoundData) -> list[tuple[str, str, float, float]]:
    """Answers with rewards as training reads them."""
    splits = load_splits(data.config, KINDS["text_classification"](kind="text_classification"))
    found = [(one.text, one.label, *one.logged) for one in splits.train if one.logged]
    assert len(found) == data.num_logged
    return found


def taught(data: RoundData) -> dict[str, str]:
    splits = load_splits(data.config, KINDS["text_classification"].model_validate({"kind": "text_classification"}))
    assert data.digest == splits.digest
    return {example.text: example.label for example in splits.train}


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("has_dev", [True, False])
def test_dev_and_test_stay_and_train_grows_for_every_task(kind: str, has_dev: bool, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path / "data", train=30)
    if not has_dev:
        next((tmp_path / "data").glob("dev.*")).unlink()
    source = origin(kind, tmp_path / "data")
    before = load_splits(source.data, source.template, seed=3)
    first, second = NEW[kind]
    rows = corrections(("anna left oslo late", first, ""), ("dewi and acme again", second, ""), kind=kind)
    built = build(tmp_path / "round", OriginalData(source), [], rows, TeachingRules())
    after = load_splits(built.config, source.template, seed=99)
    assert [split_digest(split) for split in (after.dev, after.test)] == [
        split_digest(s) for s in (before.dev, before.test)
    ]
    num_new = 1 if len(source.template.input_fields) > 1 else 2  # there both are on one pair of texts
    assert (len(built.new), len(after.train)) == (num_new, len(before.train) + num_new)
    assert after.train[: len(before.train)] == [
        example.model_copy(update={"where": new.where}) for example, new in zip(before.train, after.train, strict=False)
    ]
    assert after.task.labels == before.task.labels


def test_a_label_that_only_dev_has_since_it_was_cut_from_train_stays_a_label(tmp_path: Path) -> None:
    held = hold_out(list(range(20)), 0.1, seed=3)["dev"]
    rows = [(f"text {number}", "rare" if number in held else "bad") for number in range(20)]
    original = classes(tmp_path / "original", train=rows, test=[(IN_TEST, "bad")])
    built = build(tmp_path / "round", original, [], corrections(("a", {"label": "new"}, "")), TeachingRules())
    assert built.labels == ["bad", "new", "rare"]
    task = original.task.model_copy(update={"labels": tuple(built.labels)})
    assert {one.label for one in load_splits(built.config, task).dev} == {"rare"}


def test_what_is_not_taught_is_counted_by_its_reason(original: OriginalData, tmp_path: Path) -> None:
    good, bad = {"label": "good"}, {"label": "bad"}
    rows = corrections(
        ("first", bad, ""), (IN_DEV, bad, ""), (f"  {IN_TEST.upper()} ", good, ""), (IN_TRAIN, bad, ""), ("First ", good, ""),
        ("second", {"spans": []}, ""), ("third", {"label": "fresh"}, ""),
    )  # fmt: skip
    built = build(tmp_path / "round", original, [], rows, TeachingRules())
    assert taught(built) == {IN_TRAIN: "good", "another": "bad", "First ": "good", "third": "fresh"}
    assert len(built.new) == 2
    assert built.left_out == {
        "text is in dev or test": 2,
        "text is labelled in train already": 1,
        "corrected again later": 1,
        "unreadable or with a label that task.labels lacks": 1,
    }
    assert [row["decision"]["id"] for row in built.rows] == ["r4", "r6"]


def test_a_correction_cannot_change_how_other_records_are_read(tmp_path: Path) -> None:
    WRITERS["token_classification"](tmp_path / "data", train=30)
    original = OriginalData(origin("token_classification", tmp_path / "data"))
    parts = {"start": 0, "end": 4, "label": "PER", "fragments": [[0, 1], [3, 4]], "text": "not what stands there"}
    rows = corrections(
        ("anna left oslo late", {"spans": [parts], "note": "x"}, ""), ("dewi", {"tokens": ["dewi"], "tags": ["PER-B"]}, ""),
        kind="token_classification",
    )  # fmt: skip
    built = build(tmp_path / "round", original, [], rows, TeachingRules())
    assert [row["record"] for row in built.rows] == [
        {"text": "anna left oslo late", "spans": [{"start": 0, "end": 4, "label": "PER"}]}
    ]
    assert built.left_out == {"unreadable or with a label that task.labels lacks": 1}


def test_labels_that_the_task_lists_are_all_that_may_come(original: OriginalData, tmp_path: Path) -> None:
    listed = original.origin.model_copy(update={"task": {"kind": "text_classification", "labels": ["bad", "good"]}})
    rows = corrections(("third", {"label": "fresh"}, ""), ("fourth", {"label": "good"}, ""))
    built = build(tmp_path / "round", OriginalData(listed), [], rows, TeachingRules())
    assert (len(built.new), dict(built.left_out)) == (1, {"unreadable or with a label that task.labels lacks": 1})


def test_what_was_learned_is_replayed_and_replaced_by_what_is_newer(original: OriginalData, tmp_path: Path) -> None:
    learned = corrections(("first", {"label": "bad"}, ""), ("second", {"label": "bad"}, ""))
    built = build(tmp_path / "one", original, learned, corrections(("FIRST", {"label": "good"}, "")), TeachingRules())
    assert taught(built) == {IN_TRAIN: "good", "another": "bad", "FIRST": "good", "second": "bad"}
    assert (len(built.new), len(built.rows)) == (1, 2)


def test_one_caller_gives_no_more_than_its_share(original: OriginalData, tmp_path: Path) -> None:
    flood = [(f"flood {number}", {"label": "bad"}, "mallory") for number in range(50)]
    others = [(f"other {number}", {"label": "good"}, ("anna", "", "")[number % 3]) for number in range(9)]
    built = build(tmp_path / "round", original, [], corrections(*flood, *others), TeachingRules(0, 0.5))
    labels = list(taught(built).values())
    assert (labels.count("bad") - 1, labels.count("good") - 1) == (9, 9)
    assert built.left_out["beyond its caller's share"] == 41


def test_texts_that_the_log_judges_by_are_not_taught(original: OriginalData, tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(200)]
    held = {text for text in texts if is_held_out(text, 0.3)}
    assert 30 < len(held) < 90
    rows = corrections(*((text, {"label": "good"}, "") for text in texts))
    built = build(tmp_path / "round", original, rows[:100], rows[100:], TeachingRules(held_share=0.3))
    assert set(taught(built)) == set(texts) - held | {IN_TRAIN, "another"}
    assert built.left_out == {"kept for judging by the log": len(held & set(texts[100:]))}


REWARDED = TeachingRules(rewards=True)


def test_rewards_are_taught_as_logged_answers_each_decision_of_a_text(original: OriginalData, tmp_path: Path) -> None:
    given = [("first", "good", 0.25, 1.0), ("second", "bad", 0.5, 0.0), ("first", "bad", 0.125, 0.5)]
    built = build(tmp_path / "round", original, [], rewards(*given), REWARDED)
    assert logged(built) == given
    assert (len(built.new), built.left_out) == (3, {})
    lines = [json.loads(line) for line in (tmp_path / "round" / "train.jsonl").read_text().splitlines()]
    assert lines[:2] == [{"text": IN_TRAIN, "label": "good"}, {"text": "another", "label": "bad"}]
    assert lines[2] == {"text": "first", "label": "good", "propensity": 0.25, "reward": 1.0}
    assert [row["decision"]["id"] for row in built.rows] == ["r100", "r101", "r102"]


def test_what_is_known_better_than_by_a_reward_is_not_taught_by_it(original: OriginalData, tmp_path: Path) -> None:
    rows = rewards(
        (IN_DEV, "good", 0.5, 1.0), (IN_TEST, "good", 0.5, 1.0), (IN_TRAIN.upper(), "bad", 0.5, 0.0), ("first", "good", 0.5, 0.0),
        ("second", "fresh", 0.5, 1.0), ("third", "stranger", 0.5, 1.0), ("fourth", "good", 0.5, 1.0),
    )  # fmt: skip
    rows[-1]["record"].clear()  # as of an answer of several labels
    fresh = [*corrections(("First", {"label": "bad"}, ""), ("fifth", {"label": "fresh"}, "")), *rows]
    built = build(tmp_path / "round", original, [], fresh, REWARDED)
    assert logged(built) == [("second", "fresh", 0.5, 1.0)]  # a label that a correction brought
    assert len(built.new) == 3
    assert built.left_out == {
        "text is in dev or test": 2,
        "text is labelled in train already": 1,
        "rewarded, and its text is corrected": 1,
        "rewarded, and its answer is no label of the agent": 1,
        "unreadable or with a label that task.labels lacks": 1,
    }


def test_an_answer_that_is_not_one_label_is_counted_and_not_taught(original: OriginalData, tmp_path: Path) -> None:
    feedback = {
        "agent": "a", "id": "r", "position": 0, "time": 1.0, "bundle": "d" * 64, "key_id": "", "text": "anna", "answer": [],
        "propensity": 1.0, "chosen": "greedy", "feedback_time": 2.0, "feedback_key_id": "", "reward": 1.0, "correction": None,
    }  # fmt: skip
    built = build(tmp_path / "round", original, [], feedback_rows(original.task, [feedback], 1), REWARDED)
    assert built.left_out == {"unreadable or with a label that task.labels lacks": 1}


def test_rewards_are_replayed_until_their_text_is_corrected_or_they_shall_not_teach(
    original: OriginalData, tmp_path: Path
) -> None:
    learned = rewards(("first", "good", 0.5, 0.0), ("second", "bad", 0.5, 1.0))
    fresh = corrections(("FIRST", {"label": "bad"}, ""))
    built = build(tmp_path / "one", original, learned, fresh, REWARDED)
    assert logged(built) == [("second", "bad", 0.5, 1.0)]
    assert (len(built.new), len(built.rows)) == (1, 2)
    later = build(tmp_path / "two", original, built.rows, rewards(("First", "good", 0.5, 1.0), first=200), REWARDED)
    assert later.left_out == {"rewarded, and its text is corrected": 1}
    judging = build(tmp_path / "three", original, built.rows, [], TeachingRules())
    assert logged(judging) == []
    assert taught(judging)["FIRST"] == "bad"


def test_rewards_count_to_the_share_of_a_caller_and_leave_texts_for_judging(
    original: OriginalData, tmp_path: Path
) -> None:
    flood = rewards(*((f"flood {number}", "bad", 0.5, 0.0) for number in range(50)), caller="mallory")
    other = rewards(*((f"other {number}", "good", 0.5, 1.0) for number in range(9)), first=200)
    built = build(tmp_path / "round", original, [], [*flood, *other], TeachingRules(0, 0.5, rewards=True))
    assert [label for _, label, _, _ in logged(built)] == ["bad"] * 9 + ["good"] * 9
    assert built.left_out == {"beyond its caller's share": 41}
    held = build(tmp_path / "held", original, [], flood, TeachingRules(0.3, rewards=True))
    kept = [f"flood {number}" for number in range(50) if is_held_out(f"flood {number}", 0.3)]
    assert held.left_out == {"kept for judging by the log": len(kept)}
    assert not {text for text, *_ in logged(held)} & set(kept)


def test_a_dev_or_test_that_changed_since_the_first_round_is_refused(original: OriginalData, tmp_path: Path) -> None:
    first = pinned(original.origin, original)
    assert pinned(first, original) == first
    file = tmp_path / "original" / "test.jsonl"
    file.write_text(file.read_text().replace("bad", "good"))
    with pytest.raises(LoopError, match=r"the test split of .* is not that of the first round"):
        pinned(first, OriginalData(first))


def test_a_round_writes_its_data_anew_after_it_was_killed(original: OriginalData, tmp_path: Path) -> None:
    rows = corrections(("first", {"label": "bad"}, ""))
    build(tmp_path / "round", original, [], rows, TeachingRules())
    (tmp_path / "round" / "train.jsonl").write_text("")
    assert taught(build(tmp_path / "round", original, [], rows, TeachingRules()))["first"] == "bad"
    assert stat.S_IMODE((tmp_path / "round").stat().st_mode) == 0o700
