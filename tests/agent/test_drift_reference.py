"""What drift is measured against: texts and answers counted by hand, for every task, and read back as they were."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from agent.bundle import Bundle, Lineage, Manifest, write_bundle
from agent.drift.drift_reference import FILE, STATISTICS, DriftReference, OrderedBins, SetBins
from agent.drift.observer import NO_ITEM, Observation, Observer
from agent.encoding import Encoder
from agent.errors import BundleError
from agent.segmentation import GivenWords
from agent.tasks import MultiLabelClassification, TextClassification, TokenClassification
from agent.windows.tokenizer_setup import unknown_id
from tests.tiny import make_tokenizer

ENCODER = Encoder(make_tokenizer(), max_tokens=16, stride=2)
TEXTS = ["anna went to oslo .", "in lima 漢 字", "nothing"]


def logits_of(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities, np.float32))


def test_a_classified_text_is_observed_by_hand() -> None:
    observer = Observer(TextClassification(labels=("bad", "good")), ENCODER)
    document = ENCODER.encode_texts(TEXTS[1:2])[0]
    seen = observer.observe(TEXTS[1], document, [logits_of(0.25, 0.75) + 2])
    assert seen == Observation(length=4, unknown=0.5, labels=("good",), score=0.75, energy=2.0)
    low = observer.observe(TEXTS[1], document, [logits_of(0.9, 0.1) - 1])
    assert (low.labels, low.score, low.energy) == (("bad",), 0.9, -1.0)


def test_a_tagged_text_counts_each_label_once_and_its_least_sure_entity() -> None:
    task = TokenClassification(labels=("LOC", "PER"))
    observer, (document,) = Observer(task, ENCODER), ENCODER.encode_texts(TEXTS[:1])
    rows = np.full((len(document.windows[0].input_ids), len(task.outputs)), -20, np.float32)
    rows[:, task.outputs.index("O")] = 0
    words = {0: ("B-PER", 0.8), 2: ("B-LOC", 0.7), 3: ("B-LOC", 0.99)}
    first = document.windows[0].offset
    for word, (tag, probability) in words.items():
        row = rows[first + document.pieces.firsts[word]]
        row[:] = -20
        row[task.outputs.index(tag)], row[task.outputs.index("O")] = math.log(probability), math.log(1 - probability)
    seen = observer.observe(TEXTS[0], document, [rows])
    assert (seen.labels, seen.score, seen.length) == (("LOC", "PER"), 0.7, len(document.token_ids))
    assert seen.energy == pytest.approx(0, abs=0.01)
    nothing = rows.copy()
    nothing[:, task.outputs.index("O")] = 5
    nothing[:, [index for index, name in enumerate(task.outputs) if name != "O"]] = -20
    assert observer.observe(TEXTS[0], document, [nothing])[2:] == ((), NO_ITEM, 5.0)


def test_windows_count_by_their_sub_words() -> None:
    task = TokenClassification(labels=("PER",))
    (document,) = ENCODER.encode_texts(["nothing happened today . " * 5])
    assert len(document.windows) > 1
    outputs = [
        np.full((len(window.input_ids), len(task.outputs)), number - math.log(len(task.outputs)), np.float32)
        for number, window in enumerate(document.windows)
    ]
    sizes = [window.last - window.first for window in document.windows]
    expected = sum(number * size for number, size in enumerate(sizes)) / sum(sizes)
    assert Observer(task, ENCODER).observe(document.text, document, outputs).energy == pytest.approx(
        expected, abs=0.006
    )


def test_a_text_without_sub_words_is_observed() -> None:
    observer = Observer(MultiLabelClassification(labels=("a", "b"), thresholds=(0.5, 0.5)), ENCODER)
    (document,) = ENCODER.encode_texts([""])
    assert observer.observe("", document, [np.full(2, -3, np.float32)])[:4] == (0, 0.0, (), NO_ITEM)


def test_texts_with_words_of_their_request_are_not_compared() -> None:
    observer = Observer(TokenClassification(labels=("PER",)), ENCODER)
    plain, given = ENCODER.encode_texts([TEXTS[0], GivenWords(["anna", "went"])])
    (with_words,) = ENCODER.encode_texts([TEXTS[0]], words=[((0, 4),)])
    several = ENCODER.encode_beside(TEXTS[0], TEXTS[1:])
    assert [observer.fits(one) for one in (plain, given, with_words, several)] == [True, False, False, False]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"), 1),
        (models.Unigram([("a", -1.0), ("<unk>", 0.0)], unk_id=1), 1),
        (models.BPE({"a": 0}, []), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_sub_word_for_what_is_unknown_is_found_in_every_family(model: models.Model, expected: int | None) -> None:
    assert unknown_id(Tokenizer(model)) == expected


def test_bins_are_counted_by_hand() -> None:
    bins = OrderedBins.of([1, 1, 1, 1, 1, 2, 3, 4, 5, 6])
    assert (bins.edges, bins.counts) == ((1, 2, 3, 4, 5), (5, 1, 1, 1, 1, 1))
    assert [bins.place(value) for value in (0, 1, 1.5, 5, 99)] == [0, 0, 1, 4, 5]
    assert OrderedBins.of([0.0] * 4, edges=(0.0,)).counts == (4, 0)
    sets = SetBins.of([("a",), ("a", "b"), ("a",), ()])
    assert sets.sets[0] == ("a",)
    assert sets.counts == (2, 1, 1, 0)
    assert [sets.place(value) for value in (("a",), ("b",))] == [0, 3]


def test_a_reference_is_what_was_counted_and_is_read_back() -> None:
    observations = [
        Observation(3, 0.0, ("good",), 0.9, 1.0),
        Observation(5, 0.2, ("bad",), 0.6, 2.0),
        Observation(3, 0.0, ("good",), NO_ITEM, 2.0),
    ]
    reference = DriftReference.of(observations, "dev")
    assert reference.num_texts == 3
    assert reference.counts == ((2, 1, 0), (2, 1, 0), (2, 1, 0), (1, 1, 1, 0), (1, 2, 0))
    assert reference.count(observations) == [list(counts) for counts in reference.counts]
    assert reference.count([Observation(9, 1.0, ("fair",), 1.0, 9.0)]) == [
        [0, 0, 1],
        [0, 0, 1],
        [0, 0, 1],
        [0, 0, 0, 1],
        [0, 0, 1],
    ]
    again = DriftReference.model_validate_json(reference.model_dump_json())
    assert (again, again.places(observations[1])) == (reference, reference.places(observations[1]))
    assert len(reference.places(observations[0])) == len(STATISTICS)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A bundle with a reference and nothing else."""
    reference = DriftReference.of([Observation(3, 0.0, ("good",), 0.9, 1.0)] * 20, "dev")
    with write_bundle(tmp_path / "bundle") as draft:
        (draft.path / FILE).write_text(reference.model_dump_json())
        lineage = Lineage(base_model="none", data_digest="none")
        draft.publish(Manifest(task=TextClassification(labels=("good",)), max_tokens=16, stride=0, lineage=lineage))
    return tmp_path / "bundle"


def test_a_bundle_gives_what_it_recorded_and_refuses_it_where_it_was_altered(recorded: Path) -> None:
    bundle = Bundle.load(recorded)
    assert bundle.drift_reference is not None
    assert bundle.drift_reference.num_texts == 20
    late, file = Bundle.load(recorded), recorded / FILE
    file.write_text(file.read_text().replace("20", "21"))
    with pytest.raises(BundleError, match=f"{FILE} was altered"):
        Bundle.load(recorded)
    with pytest.raises(BundleError, match=f"{FILE} was altered"):
        _ = late.drift_reference


@pytest.mark.parametrize(
    "content", ["{}", "no JSON", '{"split": "dev", "num_texts": 1, "length": {"edges": [2, 1], "counts": [1, 0, 0]}}']
)
def test_a_file_that_holds_no_distributions_is_named(recorded: Path, content: str) -> None:
    (recorded / FILE).write_text(content)
    with pytest.raises(BundleError, match=f"{FILE} holds no distributions"):
        DriftReference.load(recorded / FILE)


def test_counts_that_do_not_sum_up_are_refused(recorded: Path) -> None:
    file = recorded / FILE
    file.write_text(file.read_text().replace('"num_texts":20', '"num_texts":21'))
    with pytest.raises(BundleError, match="sum to num_texts"):
        DriftReference.load(file)
