"""`python -m agent.data`: what it shows, what it writes, what it refuses."""

import json
import sys

import pytest

from agent.data import DataConfig, load_splits
from agent.data import __main__ as command
from agent.data.splits import open_sources
from agent.tasks import TokenClassification
from tests.agent.data.reading import json_lines, put, spanned


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command; returns its status, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["agent.data", *map(str, arguments)])
        status = command.main()
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_data_set_is_shown(tmp_path, run):
    put(tmp_path, "train.bio", "# id 1\nAnna b-PER\nLund i-PER\nleft o\n\nOslo b-LOC\nis o\ncold o\n")
    put(tmp_path, "valid.bio", "Oslo b-LOC\nis o\ncold o\n\nBo b-PER\n")
    status, out, _ = run(tmp_path)
    assert status == 0
    assert "train         2 examples  CoNLL columns  (train.bio)" in out
    assert "dev           2 examples  CoNLL columns  (valid.bio)" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["labels", "train", "dev"] in rows
    assert ["LOC", "1", "1"] in rows
    assert ["PER", "1", "1"] in rows
    assert ["train", "3", "3", "3", "words"] in rows
    assert "spans that cannot be taught as they are: none" in out
    assert "dev: 1 of its 2 texts stand in train too" in out
    assert "no test split: training needs one; test_fraction=0.1 makes one of train" in out


def test_an_export_becomes_splits_in_the_normal_form(tmp_path, run):
    tasks = [
        {
            "text": f"🙂 Anna{n}",
            "spans": [{"start": 3, "end": 8, "label": "PER", "text": f"Anna{n}"}],
            "answer": "accept",
        }
        for n in range(10)
    ]
    file = put(tmp_path, "export.jsonl", [*tasks, tasks[0], tasks[1] | {"answer": "reject"}])
    output = tmp_path / "written"
    status, out, _ = run(file, f"output={output}", "test_fraction=0.2", "data.dev_fraction=0.1")
    assert status == 0
    assert "Prodigy in JSON lines" in out
    assert "train: left out: 1 rejected" in out
    assert "offsets count UTF-16 units, by the text of all 11 spans" in out
    found = {name: records(output / f"{name}.jsonl") for name in ("train", "dev", "test")}
    texts = {name: {record["text"] for record in split} for name, split in found.items()}
    assert (len(texts["train"]), len(texts["dev"]), len(texts["test"])) == (7, 1, 2)
    assert not texts["train"] & texts["dev"] | texts["train"] & texts["test"] | texts["dev"] & texts["test"]
    assert sum(map(len, found.values())) == 11
    assert all(record == spanned(record["text"], (2, 7, "PER")) for split in found.values() for record in split)
    splits = load_splits(DataConfig(path=str(output)), TokenClassification())
    assert (len(splits.dev), len(splits.test), splits.task.labels) == (1, len(found["test"]), ("PER",))


def test_the_normal_form_of_words_is_iob2(tmp_path, run):
    put(tmp_path, "train.conll", "Anna b-PER\nM m-PER\nLund e-PER\nBo s-PER\nis o\n")
    put(tmp_path, "test.conll", "Bo s-PER\n")
    assert run(tmp_path, f"output={tmp_path / 'written'}")[0] == 0
    (sentence,) = records(tmp_path / "written" / "train.jsonl")
    assert sentence == {"tokens": ["Anna", "M", "Lund", "Bo", "is"], "tags": ["B-PER", "I-PER", "I-PER", "B-PER", "O"]}
    status, _, err = run(tmp_path, f"output={tmp_path / 'written'}")
    assert status == 2
    assert "train.jsonl exists. Remedy: give another output" in err


def test_spans_that_cannot_be_taught_are_shown_and_then_refused(tmp_path, run):
    file = put(tmp_path, "x.jsonl", [spanned("Anna Lund", (0, 4, "PER"), (0, 9, "PER"))])
    status, out, err = run(file, f"output={tmp_path / 'written'}")
    assert status == 2
    assert "train: 1 overlap another: " in out
    assert "error: 1 overlapping span(s): " in err
    assert not (tmp_path / "written").exists()
    assert run(file, "data.spans.overlap=longest", f"output={tmp_path / 'written'}")[0] == 0
    assert records(tmp_path / "written" / "train.jsonl") == [spanned("Anna Lund", (0, 9, "PER"))]


def test_records_that_training_would_refuse_are_refused(tmp_path, run):
    status, _, err = run(put(tmp_path, "x.jsonl", [spanned("Anna", (0, 9, "PER"))]))
    assert status == 2
    assert "x.jsonl:1: spans[0]: 0:9 is no part of a text of 4 characters" in err


def test_records_of_no_known_kind_are_refused(tmp_path, run):
    status, _, err = run(put(tmp_path, "x.jsonl", [{"sentence": "Anna"}]))
    assert status == 2
    assert "x.jsonl:1: field 'text' is absent" in err


def test_classes_are_shown_and_written(tmp_path, run):
    file = put(
        tmp_path,
        "x.jsonl",
        json_lines({"id": 1, "text": "back!", "label": ["refund"]}, {"id": 2, "text": "great", "label": ["praise"]}),
    )
    status, out, _ = run(file, f"output={tmp_path / 'written'}")
    assert status == 0
    assert "doccano in JSON lines" in out
    assert records(tmp_path / "written" / "train.jsonl") == [
        {"text": "back!", "label": "refund", "labels": ["refund"]},
        {"text": "great", "label": "praise", "labels": ["praise"]},
    ]


WRITTEN = [spanned("🙂 Zoë-Ann left Oslo.", (2, 9, "PER"), (15, 19, "LOC")), spanned("nothing here")]


@pytest.mark.parametrize(
    ("form", "files"),
    [
        ("doccano", ["train.jsonl"]),
        ("prodigy", ["train.jsonl"]),
        ("label_studio", ["train.json"]),
        ("brat", ["train/000000.ann", "train/000000.txt", "train/000001.ann", "train/000001.txt"]),
    ],
)
def test_answers_of_an_agent_are_written_for_a_tool(tmp_path, run, form, files):
    answers = [
        {
            "text": one["text"],
            "entities": [
                {"entity_group": span["label"], "score": 0.9, "word": "x", "start": span["start"], "end": span["end"]}
                for span in one["spans"]
            ],
        }
        for one in WRITTEN
    ]
    output = tmp_path / "written"
    status, _, _ = run(put(tmp_path, "answers.jsonl", answers), f"output={output}", f"format={form}")
    assert status == 0
    assert sorted(str(file.relative_to(output)) for file in output.rglob("*") if file.is_file()) == files
    if form == "prodigy":
        put(output, "train.jsonl", [one | {"answer": "accept"} for one in records(output / "train.jsonl")])
    if form == "label_studio":  # where suggestions become annotations once a person has accepted them
        tasks = json.loads((output / "train.json").read_text())
        put(
            output,
            "train.json",
            json.dumps([{"data": task["data"], "annotations": task["predictions"]} for task in tasks]),
        )
    corrected = open_sources(DataConfig(path=str(output)))["train"].read_all()[0]
    assert [{key: record[key] for key in ("text", "spans")} for record, _ in corrected] == WRITTEN


def test_columns_are_written_of_texts_and_of_words(tmp_path, run):
    file = put(tmp_path, "x.jsonl", [WRITTEN[0], {"tokens": ["U.S.", "left"], "tags": ["b-LOC", "o"]}])
    assert run(file, f"output={tmp_path / 'written'}", "format=conll")[0] == 0
    assert (tmp_path / "written" / "train.conll").read_text(encoding="utf-8") == (
        "🙂\tO\nZoë\tB-PER\n-\tI-PER\nAnn\tI-PER\nleft\tO\nOslo\tB-LOC\n.\tO\n\nU.S.\tB-LOC\nleft\tO\n\n"
    )


def test_classes_are_not_written_as_entities(tmp_path, run):
    status, _, err = run(
        put(tmp_path, "x.jsonl", [{"text": "a", "label": "b"}]), f"output={tmp_path / 'w'}", "format=brat"
    )
    assert status == 2
    assert "x.jsonl:1: format=brat is for entities, and this record has none. Allowed: format=jsonl" in err


def test_spans_within_words_are_counted(tmp_path, run):
    file = put(tmp_path, "x.jsonl", [spanned("Karlas Haus in Oslo", (0, 5, "PER"), (15, 19, "LOC"))])
    assert "train: 1 of 2 begin or end within a word" in run(file)[1]


def test_spans_over_what_ends_an_entity_are_counted(tmp_path, run):
    file = put(
        tmp_path,
        "x.jsonl",
        [spanned("Anna\n\nLund met Bo Lee", (0, 10, "PER"), (15, 21, "PER")), spanned("Bo\tLee", (0, 6, "PER"))],
    )
    out = run(file)[1]
    assert "train: 2 of 3 hold a blank line, a tab" in out
    assert "within a word" not in out


def test_every_pair_of_splits_and_every_split_are_searched_for_duplicates(tmp_path, run):
    for name, texts in {"train": ["a", "b", "a"], "dev": ["c", "d"], "test": ["c", "b", "e"]}.items():
        put(tmp_path, f"{name}.jsonl", [spanned(text) for text in texts])
    out = run(tmp_path)[1]
    for said in (
        "train: 1 texts stand in it before",
        "test: 1 of its 3 texts stand in train too",
        "test: 1 of its 3 texts stand in dev too",
    ):
        assert said in out
    assert "dev: " not in out.partition("duplicates")[2]


def test_a_file_as_data_for_training_names_the_command(tmp_path):
    file = put(tmp_path, "x.jsonl", [spanned("Anna", (0, 4, "PER"))])
    with pytest.raises(
        ValueError, match=r"is a file\..*python -m agent\.data .*x\.jsonl output=DIR test_fraction=0\.1"
    ):
        load_splits(DataConfig(path=str(file)), TokenClassification())


def test_help_names_the_keys(run):
    status, out, _ = run("--help")
    assert status == 0
    assert "data.spans.overlap" in out
    assert "test_fraction" in out
