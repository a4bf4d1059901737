"""The report says what the run came to, for every task, and shows any text as it is."""

import html
import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.markdown import escape
from agent.tasks import Report, TextClassification, TokenClassification
from tests.tiny import said, sentences
from tests.training.rows import epoch_row, step_row
from training.report import write_report
from training.report.curve import smooth, thin
from training.tracking.metrics_log import MetricsLog

TAGGER = TokenClassification(labels=("LOC", "ORG", "PER"))
CLASSIFIER = TextClassification(labels=("known", "unknown"))
NASTY = "<b>|*x*_y_\\ `c` [a](b) $z$ &amp; ~~w~~"


@dataclass
class Run:
    """What a run came to."""

    before: Report
    after: Report
    dev: Report
    predictions: list[Any]
    best_epoch: int = 2
    history: list[dict[str, float]] = field(default_factory=lambda: [epoch_row(1), epoch_row(2)])
    metrics_log: list[str] = field(default_factory=list)
    description: str = "2 worker(s) on CPU"


def run(task, examples, predictions, before):
    after = task.score(examples, predictions)
    metrics_log = MetricsLog()
    for step in range(1, 21):
        metrics_log.add(step_row(step))
    return Run(task.score(examples, before), after, after, predictions, metrics_log=metrics_log.lines)


def written(directory, task, examples, outcome):
    write_report(
        directory, task=task, outcome=outcome, test=examples, model="tiny", data="data/toy", seed=7, settings={"epochs": "2"}
    )  # fmt: skip
    return (directory / "report.md").read_text(encoding="utf-8")


def tagged(*rows):
    return [
        TAGGER.read_record({"tokens": words, "tags": tags}, f"test.conll:{line}")
        for line, (words, tags) in enumerate(rows, start=1)
    ]


def section(page, title):
    return page.split(f"## {title}\n\n")[1].split("\n## ")[0].strip()


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A tagger that errs in known ways: page, tree and directory of its report."""
    examples = tagged(
        (["Anna", "Smith", "in", "Oslo"], ["B-PER", "I-PER", "O", "B-LOC"]),
        (["Acme", "and", "Lima", NASTY], ["B-ORG", "O", "B-LOC", "O"]),
        (["fine", "Oslo"], ["O", "B-LOC"]),
    )
    tags = [["B-PER", "O", "O", "B-ORG"], ["O", "O", "B-LOC", "B-PER"], ["O", "B-LOC"]]
    predictions = [said(*pair) for pair in zip(examples, tags, strict=True)]
    nothing = [said(example, ["O"] * len(example.words)) for example in examples]
    directory = tmp_path_factory.mktemp("report")
    page = written(directory, TAGGER, examples, run(TAGGER, examples, predictions, nothing))
    return page, json.loads((directory / "report.json").read_text(encoding="utf-8")), directory


def test_the_summary_says_what_was_measured_on_what_and_how(toy):
    page, tree, _ = toy
    summary = page.split("\n\n")[1]
    for part in ("F1 0.4000 on the test split", "3 examples, 5 gold items", "exact characters and label", "before fine-tuning it was 0.0000",
                 "epoch 2 of 2", "Seed 7", "tiny", "data/toy", "2 worker(s) on CPU", "2 s of training"):  # fmt: skip
        assert part in summary, part
    assert tree["after"]["metrics"]["f1"] == pytest.approx(0.4)


def test_labels_are_scored_before_and_after(toy):
    scores = section(toy[0], "Scores on the test split")
    assert "| **f1** | 0.0000 | 0.4000 | +0.4000 |" in scores
    assert re.search(r"^\| LOC \| 0\.0000 \| 0\.8000 \| \+0\.8000 \|$", scores, re.MULTILINE)
    assert "| ORG | 0.0000 | 0.0000 | +0.0000 |" in scores
    assert scores.count("precision    recall") == 2


def test_the_confusion_is_a_table_of_gold_by_predicted_with_nothing_too(toy):
    lines = section(toy[0], "What was taken for what").splitlines()
    assert lines[0] == (
        "Of 5 gold items 2 are right, 1 have another label, 1 the label with other boundaries, 1 are missed; 1 are invented."
    )
    assert [line for line in lines if line.startswith("|") and "---" not in line] == [
        "| gold \\ predicted | LOC | ORG | PER | (nothing) |",
        "| LOC | 2 | 1 |  |  |",
        "| ORG |  |  |  | 1 |",
        "| PER |  |  | 1 (1) |  |",
        "| (nothing) |  |  | 1 |  |",
    ]


def test_the_worst_examples_come_first_and_equals_in_their_order(toy):
    page, tree, _ = toy
    assert [(case["where"], case["num_errors"]) for case in tree["findings"]["worst"]] == [
        ("test.conll:1", 2), ("test.conll:2", 2),
    ]  # fmt: skip
    lines = section(page, "Examples with most errors").splitlines()
    assert lines[0] == "2 of 3 examples have an error."
    assert lines[2:6] == [
        "**1.** Anna Smith in Oslo  ",
        "gold: **Anna Smith (PER)**, **Oslo (LOC)**  ",
        "predicted: **Anna (PER)**, **Oslo (ORG)**  ",
        "1 with another label, 1 with other boundaries; test.conll:1",
    ]


def test_the_page_renders_as_the_text_that_was_tested(toy):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})
    page = html.unescape(re.sub(r"</?(?!b>)\w[^>]*>", "", markdown.render(toy[0])))
    assert f"2. Acme and Lima {html.unescape(NASTY).replace('&', '&amp;')}" in page


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_text_survives_markdown(text):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})
    rendered = markdown.render(f"**1.** {escape(text)} end")
    assert html.unescape(rendered).rstrip("\n") == f"<p><strong>1.</strong> {' '.join(text.split())} end</p>".replace(
        "  ", " "
    )


def test_at_most_twenty_examples_are_shown_and_long_ones_are_cut(tmp_path):
    examples = tagged(*[([f"Anna{number}", *["word"] * 400], ["B-PER", *["O"] * 400]) for number in range(30)])
    nothing = [said(example, ["O"] * 401) for example in examples]
    page = written(tmp_path, TAGGER, examples, run(TAGGER, examples, nothing, nothing))
    worst = section(page, "Examples with most errors")
    assert re.findall(r"^\*\*(\d+)\.\*\* Anna(\d+) ", worst, re.MULTILINE) == [(str(n + 1), str(n)) for n in range(20)]
    assert max(map(len, worst.splitlines())) < 600


def test_a_classifier_is_reported_in_the_same_way(tmp_path):
    examples = [
        CLASSIFIER.read_record({"text": text, "label": label}, f"test.jsonl:{line}")
        for line, (text, label) in enumerate([("# a\n- b", "known"), ("", "unknown"), ("c", "known")], start=1)
    ]
    page = written(
        tmp_path, CLASSIFIER, examples, run(CLASSIFIER, examples, ["unknown", "known", "known"], ["known"] * 3)
    )
    confusion = section(page, "What was taken for what")
    assert "| known | 1 | 1 |" in confusion
    assert "| unknown | 1 |  |" in confusion
    assert "(nothing)" not in confusion
    worst = section(page, "Examples with most errors")
    assert "**1.** # a - b  \ngold: **known**  \npredicted: **unknown**  \n1 with another label; test.jsonl:1" in worst
    assert "**2.** (empty)" in worst


def test_many_labels_become_a_list_of_the_most_frequent_mistakes(tmp_path):
    labels = tuple(f"class{number:02}" for number in range(40))
    task = TextClassification(labels=labels)
    examples = [task.read_record({"text": "x", "label": label}, "t:1") for label in labels]
    predictions = [*labels[:37], *["class00"] * 3]
    confusion = section(
        written(tmp_path, task, examples, run(task, examples, predictions, predictions)), "What was taken for what"
    )
    assert confusion.splitlines()[-3:] == [f"| class{number} | class00 | 1 |" for number in (37, 38, 39)]


def test_no_error_is_said_to_be_none(tmp_path):
    examples = tagged((["Oslo"], ["B-LOC"]))
    page = written(
        tmp_path, TAGGER, examples, run(TAGGER, examples, [said(examples[0], ["B-LOC"])], [said(examples[0], ["O"])])
    )
    assert section(page, "Examples with most errors") == "None: every prediction is right."


def test_a_loss_that_was_no_number_leaves_valid_files(tmp_path):
    examples = tagged((["Oslo"], ["B-LOC"]))
    outcome = run(TAGGER, examples, *([said(examples[0], ["O"])],) * 2)
    metrics_log = MetricsLog()
    metrics_log.add(step_row(1, loss=math.nan))
    outcome.metrics_log, outcome.history, outcome.best_epoch = metrics_log.lines, [epoch_row(1, loss=math.nan)], 1
    page = written(tmp_path, TAGGER, examples, outcome)
    assert "nan" in section(page, "Epochs")
    tree = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert tree["epochs"][0]["loss"] is None
    ET.parse(tmp_path / "learning_curve.svg")


def test_the_curve_is_a_small_picture_that_says_itself_in_words(toy):
    page, _, directory = toy
    file = directory / "learning_curve.svg"
    root = ET.parse(file).getroot()
    assert root.get("role") == "img"
    assert "0.5000, 0.7500" in root.get("aria-label")
    assert "loss (line)" in {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert file.stat().st_size < 60_000
    assert f"![{root.get('aria-label')}](learning_curve.svg)" in page


def test_the_journal_is_kept_as_it_is(toy):
    lines = (toy[2] / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 21))


def test_a_long_run_is_drawn_with_few_points_that_keep_its_mean():
    rows = [step_row(step, loss=float(step % 7)) for step in range(1, 10_001)]
    steps, losses = thin(rows)
    assert len(steps) == len(losses) == 200
    assert steps[-1] == 10_000
    assert losses.mean() == pytest.approx(np.mean([row["loss"] for row in rows]))


@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_a_flat_curve_stays_flat(count):
    np.testing.assert_allclose(smooth(np.full(count, 0.5)), np.full(count, 0.5))


def test_every_sentence_of_a_real_size_split_is_reported_within_seconds(tmp_path):
    rows = sentences(2000, 1)
    examples = tagged(*[(list(words), list(tags)) for words, tags in rows])
    predictions = [said(example, example.tags) for example in examples]
    page = written(tmp_path, TAGGER, examples, run(TAGGER, examples, predictions, predictions))
    assert "F1 1.0000" in page
