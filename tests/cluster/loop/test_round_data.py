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
from agent.decisions.held_out import is_held_out
from agent.errors import LoopError
from agent.tasks import KINDS
from cluster.loop.round_data import CorrectionRules, OriginalData, RoundData, build, correction_rows, pinned
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
    return correction_rows(KINDS[kind].model_validate({"kind": kind}), feedback, 1)


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
    built = build(tmp_path / "round", OriginalData(source), [], rows, CorrectionRules())
    after = load_splits(built.config, source.template, seed=99)
    assert [split_digest(split) for split in (after.dev, after.test)] == [
        split_digest(s) for s in (before.dev, before.test)
    ]
    num_new = 1 if kind == "text_pair_classification" else 2  # there both are on one pair of texts
    assert (built.num_new, len(after.train)) == (num_new, len(before.train) + num_new)
    assert after.train[: len(before.train)] == [
        example.model_copy(update={"where": new.where}) for example, new in zip(before.train, after.train, strict=False)
    ]
    assert after.task.labels == before.task.labels


def test_what_is_not_taught_is_counted_by_its_reason(original: OriginalData, tmp_path: Path) -> None:
    good, bad = {"label": "good"}, {"label": "bad"}
    rows = corrections(
        ("first", bad, ""), (IN_DEV, bad, ""), (f"  {IN_TEST.upper()} ", good, ""), (IN_TRAIN, bad, ""), ("First ", good, ""),
        ("second", {"spans": []}, ""), ("third", {"label": "fresh"}, ""),
    )  # fmt: skip
    built = build(tmp_path / "round", original, [], rows, CorrectionRules())
    assert taught(built) == {IN_TRAIN: "good", "another": "bad", "First ": "good", "third": "fresh"}
    assert built.num_new == 2
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
    built = build(tmp_path / "round", original, [], rows, CorrectionRules())
    assert [row["record"] for row in built.rows] == [
        {"text": "anna left oslo late", "spans": [{"start": 0, "end": 4, "label": "PER"}]}
    ]
    assert built.left_out == {"unreadable or with a label that task.labels lacks": 1}


def test_labels_that_the_task_lists_are_all_that_may_come(original: OriginalData, tmp_path: Path) -> None:
    listed = original.origin.model_copy(update={"task": {"kind": "text_classification", "labels": ["bad", "good"]}})
    rows = corrections(("third", {"label": "fresh"}, ""), ("fourth", {"label": "good"}, ""))
    built = build(tmp_path / "round", OriginalData(listed), [], rows, CorrectionRules())
    assert (built.num_new, dict(built.left_out)) == (1, {"unreadable or with a label that task.labels lacks": 1})


def test_what_was_learned_is_replayed_and_replaced_by_what_is_newer(original: OriginalData, tmp_path: Path) -> None:
    learned = corrections(("first", {"label": "bad"}, ""), ("second", {"label": "bad"}, ""))
    built = build(tmp_path / "one", original, learned, corrections(("FIRST", {"label": "good"}, "")), CorrectionRules())
    assert taught(built) == {IN_TRAIN: "good", "another": "bad", "FIRST": "good", "second": "bad"}
    assert (built.num_new, len(built.rows)) == (1, 2)


def test_one_caller_gives_no_more_than_its_share(original: OriginalData, tmp_path: Path) -> None:
    flood = [(f"flood {number}", {"label": "bad"}, "mallory") for number in range(50)]
    others = [(f"other {number}", {"label": "good"}, ("anna", "", "")[number % 3]) for number in range(9)]
    built = build(tmp_path / "round", original, [], corrections(*flood, *others), CorrectionRules(0, 0.5))
    labels = list(taught(built).values())
    assert (labels.count("bad") - 1, labels.count("good") - 1) == (9, 9)
    assert built.left_out["beyond its caller's share"] == 41


def test_texts_that_the_log_judges_by_are_not_taught(original: OriginalData, tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(200)]
    held = {text for text in texts if is_held_out(text, 0.3)}
    assert 30 < len(held) < 90
    rows = corrections(*((text, {"label": "good"}, "") for text in texts))
    built = build(tmp_path / "round", original, rows[:100], rows[100:], CorrectionRules(held_share=0.3))
    assert set(taught(built)) == set(texts) - held | {IN_TRAIN, "another"}
    assert built.left_out == {"kept for judging by the log": len(held & set(texts[100:]))}


def test_a_dev_or_test_that_changed_since_the_first_round_is_refused(original: OriginalData, tmp_path: Path) -> None:
    first = pinned(original.origin, original)
    assert pinned(first, original) == first
    file = tmp_path / "original" / "test.jsonl"
    file.write_text(file.read_text().replace("bad", "good"))
    with pytest.raises(LoopError, match=r"the test split of .* is not that of the first round"):
        pinned(first, OriginalData(first))


def test_a_round_writes_its_data_anew_after_it_was_killed(original: OriginalData, tmp_path: Path) -> None:
    rows = corrections(("first", {"label": "bad"}, ""))
    build(tmp_path / "round", original, [], rows, CorrectionRules())
    (tmp_path / "round" / "train.jsonl").write_text("")
    assert taught(build(tmp_path / "round", original, [], rows, CorrectionRules()))["first"] == "bad"
    assert stat.S_IMODE((tmp_path / "round").stat().st_mode) == 0o700
