"""Labelled data: every shape read, every mistake named with its file, line and remedy."""

import hashlib
import importlib.util
import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.data import DataConfig, load_splits
from agent.data.formats.base import Findings
from agent.data.formats.columns import Layout, ends_sentence, read_columns
from agent.data.formats.json_records import ends_object, read_jsonl
from agent.data.hub import _records
from agent.data.lines import Part, cut_file
from agent.errors import DataError
from agent.spans import Span
from agent.tasks import TextClassification, TokenClassification

TAGGING, CLASSES = TokenClassification(), TextClassification()
NAMED = TokenClassification(labels=("LOC", "ORG", "PER"))
GOOD = "Anna B-PER\nworks O\nin O\nOslo B-LOC\n\nAcme B-ORG\ngrows O\n"
REAL = Path(__file__).parents[2].parent / "shared" / "data"


def put(directory, **files):
    """Writes files: `train__conll="..."` becomes train.conll."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        (directory / name.replace("__", ".")).write_bytes(raw)
    return str(directory)


def load(path, task=TAGGING, **options):
    return load_splits(DataConfig(path=path, **options), task)


def read_train(tmp_path, content, suffix="conll", task=NAMED):
    dev = {"conll": GOOD, "txt": GOOD, "iob2": GOOD}.get(suffix)
    path = put(
        tmp_path / "data",
        **{f"train__{suffix}": content, f"dev__{suffix}": dev or content, f"test__{suffix}": dev or content},
    )
    return load(path, task).train


def refusal(tmp_path, content, suffix="conll", task=TAGGING):
    """The message for a bad training file beside good dev and test files."""
    good = {"conll": GOOD, "jsonl": '{"text": "a", "spans": [], "label": "x"}\n'}[suffix]
    path = put(tmp_path / "data", **{f"train__{suffix}": content, f"dev__{suffix}": good, f"test__{suffix}": good})
    with pytest.raises(DataError) as caught:
        load(path, task)
    message = str(caught.value)
    assert "Remedy: " in message
    return message


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


# --- CoNLL columns


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.rstrip("\n"),
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        ("\ufeff" + GOOD).replace("\n", "\r\n"),
        GOOD.replace(" ", "\t"),
        GOOD.replace(" ", "   "),
        GOOD.replace(" ", "\t\t").replace("\t\t", "\t"),
        re.sub(" (?=[BIO])", " NNP I-NP _ ", GOOD),
        re.sub(" (?=[BIO])", "\tNNP\tI-NP\t\t", GOOD),
        "-DOCSTART- -X- O O\n\n" + GOOD,
        "-DOCSTART- O\n" + GOOD.replace("\n\n", "\n-DOCSTART-\n"),
        "\n\n  \n" + GOOD.replace("\n\n", "\n\n\t\n \n") + "\n\n\n",
        GOOD.replace("\n", " \n"),
        GOOD.replace(" ", "\t").replace("\n", "\t\n").replace("\n\t\n", "\n\n"),
    ],
)
@pytest.mark.parametrize("suffix", ["conll", "txt", "iob2"])
def test_columns_are_read_however_they_are_written(tmp_path, content, suffix):
    found = read_train(tmp_path, content, suffix)
    assert [example.word_texts for example in found] == [("Anna", "works", "in", "Oslo"), ("Acme", "grows")]
    assert [example.tags for example in found] == [("B-PER", "O", "O", "B-LOC"), ("B-ORG", "O")]


@pytest.mark.parametrize(
    "tags",
    [
        "I-PER I-PER B-PER O I-LOC",
        "B-PER I-PER B-PER O B-LOC",
        "B-PER E-PER S-PER O S-LOC",
        "B-PER L-PER U-PER O U-LOC",
    ],
)
def test_every_scheme_is_read_as_iob2(tmp_path, tags):
    rows = zip(["Anna", "Smith", "Bo", "in", "Oslo"], tags.split(), strict=True)
    (found,) = read_train(tmp_path, "".join(f"{word} {tag}\n" for word, tag in rows))[:1]
    assert found.tags == ("B-PER", "I-PER", "B-PER", "O", "B-LOC")


def test_a_sentence_knows_its_first_line(tmp_path):
    found = read_train(tmp_path, "-DOCSTART- O\n\n" + GOOD)
    assert [example.where.rpartition(":")[2] for example in found] == ["3", "8"]
    assert found[0].where.startswith(str(tmp_path / "data" / "train.conll"))


def test_words_keep_every_character(tmp_path):
    odd = ["\u00a0", "a\u200db", "\x0b", "\u2028", "e\u0301", "👩‍👩‍👧", "#", "\x1c", "\x85"]
    found = read_train(tmp_path, "".join(f"{word} O\n" for word in odd) + "x B-PER\n")
    assert found[0].word_texts == (*odd, "x")


def test_a_word_may_hold_a_space_when_tabs_separate(tmp_path):
    assert read_train(tmp_path, "New York\tB-LOC\n")[0].word_texts == ("New York",)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("Anna B-PER\nworks\n", ["train.conll:2", "a word without a tag ('works')", "WORD ... TAG"]),
        ("Anna\tB-PER\nworks\t\n", ["train.conll:2", "a word without a tag"]),
        ("Anna\tB-PER\n\tO\n", ["train.conll:2", "a tag without a word"]),
        ("Anna NNP B-PER\nworks O\n", ["train.conll:2", "2 columns where the sentence began with 3"]),
        (GOOD + "\nBo X-PER\n", ["train.conll:9", "word 'Bo'", "tag 'X-PER'", "IOB1, IOB2, IOBES or BILOU"]),
        ("Anna B-PER\nBo PERSON\n", ["train.conll:1", "word 'Bo'", "tag 'PERSON'"]),
        ("Anna B-PER\nBo B-\n", ["word 'Bo'", "tag 'B-'"]),
        ("Anna B-O\n", ["word 'Anna'", "label 'O'"]),
        (b"Anna B-PER\nM\xfcller I-PER\n", ["train.conll:2", "byte 2", "0xfc", "no UTF-8", "iconv"]),
        ("Anna B-PER\n".encode("utf-16"), ["train.conll is UTF-16 text", "iconv -f utf-16"]),
        ("", ["train split is empty"]),
        ("\n\n-DOCSTART- O\n\n", ["train split is empty"]),
        ("Anna O\n", ["training split holds no label", "task.labels"]),
    ],
)
def test_mistakes_in_columns_are_named(tmp_path, content, parts):
    message = refusal(tmp_path, content)
    assert all(part in message for part in parts), message


# --- JSON lines


def test_tokens_and_tags_are_read(tmp_path):
    content = (
        lines({"tokens": ["Anna", "", "Oslo"], "tags": ["I-PER", "O", "I-LOC"], "id": 7})
        + "\n  \n"
        + lines({"tokens": ["x"], "tags": ["O"]})
    )
    found = read_train(tmp_path, content, "jsonl")
    assert [(example.word_texts, example.tags) for example in found] == [
        (("Anna", "", "Oslo"), ("B-PER", "O", "B-LOC")),
        (("x",), ("O",)),
    ]
    assert [example.where.rpartition(":")[2] for example in found] == ["1", "4"]


def spanned(text, *spans):
    return {"text": text, "spans": [{"start": start, "end": end, "label": label} for start, end, label in spans]}


@pytest.mark.parametrize(
    ("record", "spans"),
    [
        (spanned("Anna is in Oslo.", (11, 15, "LOC"), (0, 4, "PER")), [(0, 4, "PER"), (11, 15, "LOC")]),
        (spanned("anti-Trumpism", (5, 10, "PER")), [(5, 10, "PER")]),
        (spanned("in Oslo  now", (2, 9, "LOC")), [(3, 7, "LOC")]),
        (spanned("AnnaBo", (0, 4, "PER"), (4, 6, "PER")), [(0, 4, "PER"), (4, 6, "PER")]),
        (spanned("福岡と秋山を見た。", (0, 2, "LOC"), (3, 5, "PER")), [(0, 2, "LOC"), (3, 5, "PER")]),
        (spanned("a\u200bb", (1, 2, "X")), [(1, 2, "X")]),
        (spanned(""), []),
        (spanned(" \n\t"), []),
    ],
)
def test_spans_are_kept_in_order_without_the_blanks_around_them(record, spans):
    example = TAGGING.read_record(record, "f:1")
    assert [tuple(span) for span in example.spans] == spans
    assert example.text == record["text"]
    assert (example.words, example.tags, example.word_texts) == (None, (), ())


def test_words_become_natural_text_and_keep_their_characters(tmp_path):
    rows = [("Karla", "B-PER"), ("'s", "O"), ("house", "O"), ("(", "O"), ("New", "B-LOC"), ("York", "I-LOC"), (")", "O"), (",", "O"), ("U.S.", "B-LOC")]  # fmt: skip
    content = "".join(f"{word} {tag}\n" for word, tag in rows)
    put(tmp_path, train__conll=content, dev__conll=content, test__conll=content)
    (natural,), (joined,) = (load(str(tmp_path), text=form).train for form in ("natural", "joined"))
    assert natural.text == "Karla's house (New York), U.S."
    assert joined.text == "Karla 's house ( New York ) , U.S."
    for example in (natural, joined):
        assert example.word_texts == tuple(word for word, _ in rows)
        assert example.tags == tuple(tag for _, tag in rows)
        assert [example.text[span.start : span.end] for span in example.spans] == ["Karla", "New York", "U.S."]


@pytest.mark.parametrize("words", [["1", "@-@", "2"], ["AT&amp;T", "fell"], ["a\u00a0b", "\u00a0", "c"], ["", "x"]])
def test_words_that_a_detokenizer_would_change_are_kept(tmp_path, words):
    content = lines({"tokens": words, "tags": ["B-X"] * len(words)})
    put(tmp_path, train__jsonl=content, dev__jsonl=content, test__jsonl=content)
    (example,) = load(str(tmp_path)).train
    assert example.word_texts == tuple(words)


def test_the_language_decides_where_signs_are_glued(tmp_path):
    content = "l' O\nItalie B-LOC\n! O\n"
    put(tmp_path, train__conll=content, dev__conll=content, test__conll=content)
    assert load(str(tmp_path), language="fr").train[0].text == "l'Italie !"
    assert load(str(tmp_path), language="en").train[0].text == "l' Italie!"


def test_a_text_without_entities_needs_an_empty_list():
    assert TAGGING.read_record(spanned("nothing here"), "f:1").spans == ()


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, ["train.jsonl:1", "2 tokens but 1 tags", "one tag for each token"]),
        ({"tokens": ["a"]}, ["'tags' is absent"]),
        ({"tokens": "a", "tags": "O"}, ["'tokens' is no list of strings"]),
        ({"tokens": ["a"], "tags": [3]}, ["tags are numbers (3)", "data.label_names"]),
        ({"tokens": [None], "tags": ["O"]}, ["'tokens' is no list of strings"]),
        ({"tokens": ["a"], "tags": ["Q-PER"]}, ["word 'a'", "'Q-PER'"]),
        ({"tokens": ["a\ud800"], "tags": ["O"]}, ["lone surrogate at character 1"]),
        ({"tokens": ["a"], "tags": ["B-\udfff"]}, ["lone surrogate"]),
        ({}, ["'text' is absent", '"tokens"', '"spans"']),
        ({"text": 3, "spans": []}, ["'text' is 3"]),
        ({"text": "a"}, ["'spans' is absent", "[]"]),
        ({"text": "a", "spans": {}}, ["'spans' is no list"]),
        ({"text": "a\udc00b", "spans": []}, ["lone surrogate at character 1"]),
        ({"text": "a", "spans": [[0, 1]]}, ["spans[0]", "is no span"]),
        ({"text": "a", "spans": [{"start": 0, "end": 1}]}, ["is no span", '"label"']),
        (spanned("abc", (0, 4, "A")), ["spans[0]", "0:4 is no part of a text of 3 characters"]),
        (spanned("abc", (-1, 2, "A")), ["-1:2 is no part"]),
        (spanned("abc", (2, 2, "A")), ["2:2 is no part"]),
        (spanned("abc", (0.0, 2, "A")), ["0.0:2 is no part"]),
        (spanned("abc", (False, True, "A")), ["False:True is no part"]),
        (spanned("abc", (0, 1, "A"), (0, 3, "")), ["spans[1]", "label ''"]),
        (spanned("abc", (0, 3, "O")), ["label 'O'"]),
        (spanned("abc", (0, 3, 7)), ["label 7"]),
        (spanned("abc", (0, 3, "\ud800")), ["lone surrogate"]),
        (spanned("a  b", (1, 3, "A")), ["white space only"]),
        (spanned("abcdef", (0, 3, "A"), (2, 5, "B")), ["span 2:5 B overlaps span 0:3 A"]),
        (spanned("abcdef", (0, 6, "A"), (2, 3, "B")), ["overlaps"]),
        (spanned("abc", (0, 3, "A"), (0, 3, "A")), ["overlaps"]),
    ],
)
def test_mistakes_in_records_are_named(tmp_path, record, parts):
    message = refusal(tmp_path, lines(record), "jsonl")
    assert all(part in message for part in ["train.jsonl:1", *parts]), message


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "no JSON"),
        ("{'a': 1}", "no JSON"),
        ("[1]", "a JSON list"),
        ("null", "a JSON NoneType"),
        ('"x"', "a JSON str"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_lines_that_are_no_objects_are_named(tmp_path, line, part):
    message = refusal(tmp_path, lines(spanned("a", (0, 1, "A"))) + line, "jsonl")
    assert f"train.jsonl:2: {part}" in message
    assert "Allowed: one JSON object a line" in message


def test_undecodable_bytes_in_json_lines_are_named(tmp_path):
    assert "train.jsonl:2: byte 11" in refusal(tmp_path, b'{"text": "a", "spans": []}\n{"text": "\xff"}', "jsonl")


def test_texts_and_labels_are_read(tmp_path):
    found = read_train(
        tmp_path, lines({"text": "good", "label": "pos"}, {"text": "", "label": "neg"}), "jsonl", CLASSES
    )
    assert [(example.text, example.label) for example in found] == [("good", "pos"), ("", "neg")]


@pytest.mark.parametrize(
    ("record", "part"),
    [
        ({"text": "a"}, "'label' is absent"), ({"label": "a"}, "'text' is absent"), ({"text": "a", "label": 1}, "'label' is 1"),
        ({"text": None, "label": "a"}, "'text' is None"), ({"text": "\ud83d", "label": "a"}, "lone surrogate"), ({"text": "a", "label": ""}, "'label' is empty"),
    ],
)  # fmt: skip
def test_mistakes_in_labelled_texts_are_named(tmp_path, record, part):
    message = refusal(tmp_path, lines(record), "jsonl", CLASSES)
    assert "train.jsonl:1" in message
    assert part in message


def test_columns_do_not_serve_a_task_that_wants_texts(tmp_path):
    message = refusal(tmp_path, GOOD, task=CLASSES)
    assert (
        "train.conll:1: CoNLL columns, which is data for token_classification, and the task is text_classification"
        in message
    )


# --- splits


def test_three_files_are_three_splits_and_their_kinds_may_differ(tmp_path):
    path = put(
        tmp_path, train__conll=GOOD, dev__jsonl=lines({"tokens": ["Bo"], "tags": ["B-PER"]}), test__iob2="Oslo B-LOC\n"
    )
    splits = load(path)
    assert [len(split) for split in (splits.train, splits.dev, splits.test)] == [2, 1, 1]
    assert splits.task.labels == ("LOC", "ORG", "PER")
    assert splits.notes == ()


def test_other_files_are_ignored(tmp_path):
    path = put(
        tmp_path,
        train__conll=GOOD,
        dev__conll=GOOD,
        test__conll=GOOD,
        **{"train__docstarts__txt": "0\n3\n", "README__txt": "x", "test_b__conll": "x", "train__csv": "x"},
    )
    assert len(load(path).train) == 2


def test_a_split_may_be_several_files_of_one_kind_in_order_of_name(tmp_path):
    one = put(tmp_path / "one", train__conll=GOOD + "\nBo B-PER\n", dev__conll=GOOD, test__conll=GOOD)
    several = {"train-1.conll": GOOD, "train-10.conll": "Bo B-PER\n", "train-x.csv": "?", "trainer-1.conll": "?"}
    for name, content in several.items() | {"dev.conll": GOOD, "test.conll": GOOD}.items():
        (tmp_path / name).write_text(content)
    splits = load(str(tmp_path))
    assert [example.word_texts[0] for example in splits.train] == ["Anna", "Acme", "Bo"]
    assert splits.train[2].where == f"{tmp_path / 'train-10.conll'}:1"
    assert splits.digest == load(one).digest


@pytest.mark.parametrize("other", ["train.conll", "train-2.jsonl", "train.jsonl"])
def test_files_of_which_it_is_not_clear_which_are_meant_are_refused(tmp_path, other):
    put(tmp_path, dev__conll=GOOD, test__conll=GOOD)
    for name in ("train-1.conll", other):
        (tmp_path / name).write_text(GOOD)
    with pytest.raises(DataError, match=re.escape(other)):
        load(str(tmp_path))


# --- parts of files


LINES = st.sampled_from(["Anna B-PER", "Oslo\tI-LOC", "x O", "-DOCSTART- O", "", " ", "\t", "é B-ORG", "a b c O"])


PARTS = {
    ".conll": (lambda part: read_columns(part, Findings(), layout=Layout()), ends_sentence),
    ".jsonl": (read_jsonl, ends_object),
}


@given(
    lines=st.lists(LINES, max_size=40),
    form=st.tuples(st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans()),
    part_bytes=st.integers(1, 200),
)
@pytest.mark.parametrize("suffix", [".conll", ".jsonl"])
def test_parts_hold_the_records_of_the_whole_with_their_places(tmp_path_factory, suffix, lines, form, part_bytes):
    end, ends_with_one, begins_with_mark = form
    if suffix == ".jsonl":
        lines = [json.dumps({"text": line}) if line.strip() else line for line in lines]
    else:
        lines = [line if len(line.split()) != 4 else f"\n{line}\n" for line in lines]
    file = tmp_path_factory.mktemp("parts") / f"train{suffix}"
    text = "\ufeff" * begins_with_mark + end.join(lines) + end * ends_with_one
    file.write_bytes(text.encode())
    read, ends_record = PARTS[suffix]
    parts, digest = cut_file(file, part_bytes, ends_record)
    assert digest == hashlib.sha256(text.encode()).hexdigest()
    bounds = [0, *(part.stop for part in parts)]
    assert [part.start for part in parts] == bounds[:-1]
    assert bounds[-1] == len(text.encode())

    def outcome(records):
        found = []
        try:
            found.extend(records)
        except DataError as error:
            found.append(str(error))
        return found

    whole = outcome(read(Part(file)))
    assert outcome(record for part in parts for record in read(part)) == whole


def test_parts_are_about_as_long_as_wanted(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text('{"a": 1}\n' * 10_000)
    parts, _ = cut_file(file, 1000, ends_object)
    assert len(parts) == 10_000 * 9 // 1008 + 1
    assert parts[1].first_line == 113


@pytest.mark.parametrize("absent", ["train", "test"])
def test_a_missing_split_is_named(tmp_path, absent):
    path = put(tmp_path, **{f"{name}__conll": GOOD for name in ("train", "dev", "test") if name != absent})
    with pytest.raises(DataError, match=rf"the {absent} split is missing.*add {absent}\.conll or {absent}\.jsonl"):
        load(path)


@pytest.mark.parametrize("empty", ["train", "dev", "test"])
def test_an_empty_split_is_named(tmp_path, empty):
    path = put(tmp_path, **{f"{name}__conll": "" if name == empty else GOOD for name in ("train", "dev", "test")})
    with pytest.raises(DataError, match=f"the {empty} split is empty"):
        load(path)


def numbered(count):
    return "".join(f"w{number} B-L{number}\n\n" for number in range(count))


def test_a_missing_dev_split_is_held_out_and_noted(tmp_path):
    path = put(tmp_path, train__conll=numbered(40), test__conll="w1 B-L1\n")
    splits = load(path, dev_fraction=0.25)
    assert (len(splits.train), len(splits.dev)) == (30, 10)
    words = [example.text for example in splits.train + splits.dev]
    assert len(set(words)) == 40
    assert len(splits.task.labels) == 40, "a label may stand in the held-out part only"
    assert re.fullmatch(
        r"no dev split in .*: held out 10 of its training examples \(data\.dev_fraction=0\.25\)", splits.notes[0]
    )
    again, other = load(path, dev_fraction=0.25), load_splits(DataConfig(path=path, dev_fraction=0.25), TAGGING, seed=1)
    assert again.dev == splits.dev
    assert again.digest == splits.digest
    assert other.dev != splits.dev


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_label_that_train_lacks_is_named(tmp_path, split):
    files = {f"{name}__conll": GOOD for name in ("train", "dev", "test")} | {
        f"{split}__conll": GOOD + "\nx O\nBo B-GOD\n"
    }
    with pytest.raises(
        DataError, match=rf"{split}\.conll:9: unknown label 'GOD'\. Allowed: LOC, ORG, PER\. Remedy: .*task\.labels"
    ):
        load(put(tmp_path, **files))


def test_a_label_that_the_configuration_lacks_is_named_in_train_too(tmp_path):
    path = put(tmp_path, train__conll=GOOD, dev__conll=GOOD, test__conll=GOOD)
    with pytest.raises(DataError, match=r"train\.conll:6: unknown label 'ORG'"):
        load(path, TokenClassification(labels=("PER", "LOC")))


def test_configured_labels_keep_their_order_and_need_not_occur(tmp_path):
    path = put(
        tmp_path,
        train__jsonl=lines({"text": "a", "label": "x"}),
        dev__jsonl=lines({"text": "a", "label": "y"}),
        test__jsonl=lines({"text": "a", "label": "x"}),
    )
    assert load(path, TextClassification(labels=("y", "x", "z"))).task.labels == ("y", "x", "z")


def test_two_files_for_one_split_are_refused(tmp_path):
    path = put(tmp_path, train__conll=GOOD, train__jsonl="", test__conll=GOOD)
    with pytest.raises(DataError, match=r"holds train\.conll and train\.jsonl\. Allowed: one file for each split"):
        load(path)


def test_a_directory_without_data_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no data files\. Allowed: files train, dev and test"):
        load(put(tmp_path, readme__md="x"))


def test_a_path_that_is_a_file_or_absent_is_refused(tmp_path):
    path = put(tmp_path, train__conll=GOOD)
    with pytest.raises(DataError, match=r"is a file\. Allowed: a directory"):
        load(f"{path}/train.conll")
    for absent in (f"{path}/nowhere", "./nowhere", "~/no/such/place"):
        with pytest.raises(DataError, match=r"does not exist\. Allowed: a directory"):
            load(absent)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path = put(tmp_path, dev__conll=GOOD, test__conll=GOOD)
    (tmp_path / "train.conll").symlink_to("/proc/self/mem")
    with pytest.raises(DataError, match=r"train\.conll cannot be read|missing"):
        load(path)


def test_the_number_of_examples_can_be_limited(tmp_path):
    path = put(tmp_path, train__conll=GOOD, dev__conll=GOOD, test__conll=GOOD)
    splits = load(path, max_examples=1)
    assert len(splits.train) == len(splits.dev) == len(splits.test) == 1
    assert splits.digest != load(path).digest


def test_the_digest_follows_the_content_and_not_the_place(tmp_path):
    one = put(tmp_path / "a", train__conll=GOOD, dev__conll=GOOD, test__conll=GOOD)
    same = put(tmp_path / "b", train__txt="-DOCSTART- O\n\n" + GOOD, dev__conll=GOOD, test__conll=GOOD)
    other = put(tmp_path / "c", train__conll=GOOD.replace("Oslo", "Lima"), dev__conll=GOOD, test__conll=GOOD)
    assert load(one).digest == load(same).digest != load(other).digest


def test_the_demo_serves_both_tasks():
    tagging, classes = load("demo", max_examples=200), load("demo", CLASSES, max_examples=200)
    assert tagging.task.labels == ("LOC", "ORG", "PER")
    assert len(classes.task.labels) > 1
    assert all(example.text is not None for example in tagging.test)


# --- the hub


def test_a_hub_data_set_without_network_is_refused_at_once(monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    begin = time.monotonic()
    with pytest.raises(
        DataError, match=r"data\.path='nobody/nothing' is no directory, and the hub did not give it .*Remedy: .*network"
    ):
        load("nobody/nothing")
    assert time.monotonic() - begin < 60  # a hub that is asked again and again takes minutes


def test_hub_classes_become_names():
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["O", "B-PER", "I-PER"])
    tagged = datasets.Dataset.from_dict(
        {"id": ["0"], "tokens": [["Anna", "Smith", "ran"]], "ner_tags": [[1, 2, 0]]},
        features=datasets.Features(
            id=datasets.Value("string"), tokens=datasets.List(datasets.Value("string")), ner_tags=datasets.List(names)
        ),
    )
    ((record, where),) = _records("conll", "train", tagged)
    assert TAGGING.read_record(record, where).tags == ("B-PER", "I-PER", "O")
    assert where == "conll/train[0]"
    labelled = datasets.Dataset.from_dict(
        {"text": ["fine"], "label": [1]},
        features=datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["bad", "good"])),
    )
    ((record, where),) = _records("sst", "test", labelled)
    assert CLASSES.read_record(record, where).label == "good"


def test_hub_tags_may_be_strings_and_spans_are_read():
    datasets = pytest.importorskip("datasets")
    plain = datasets.Dataset.from_dict({"tokens": [["Bo"]], "tags": [["B-PER"]]})
    assert TAGGING.read_record(*next(_records("x", "train", plain))).tags == ("B-PER",)
    spans = datasets.Dataset.from_dict({"text": ["in Oslo"], "spans": [[{"start": 3, "end": 7, "label": "LOC"}]]})
    assert TAGGING.read_record(*next(_records("x", "train", spans))).spans == (Span(3, 7, "LOC"),)


def test_hub_numbers_without_names_are_refused():
    datasets = pytest.importorskip("datasets")
    bare = datasets.Dataset.from_dict({"tokens": [["Bo"]], "tags": [[1]]})
    with pytest.raises(DataError, match=r"x/train\[0\]: field 'tags' is no list of strings"):
        TAGGING.read_record(*next(_records("x", "train", bare)))


@pytest.mark.parametrize("value", [-1, None])
def test_hub_examples_without_a_label_are_refused(value):
    """Test splits of public competitions carry -1."""
    datasets = pytest.importorskip("datasets")
    hidden = datasets.Dataset.from_dict(
        {"text": ["a"], "label": [value]},
        features=datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["bad", "good"])),
    )
    with pytest.raises(DataError, match=r"glue/test\[0\]"):
        CLASSES.read_record(*next(_records("glue", "test", hidden)))


# --- real data


def counts(name):
    """Split -> (sentences, tokens, entities), read from the data set's README."""
    text = (REAL / name / "README.txt").read_text(encoding="utf-8")
    found = re.findall(r"^  (\w+): ([\d,]+) sentences, ([\d,]+) tokens, ([\d,]+) entities", text, re.MULTILINE)
    return {split: tuple(int(number.replace(",", "")) for number in numbers) for split, *numbers in found}


@pytest.mark.skipif(not REAL.is_dir(), reason="the data sets are not at hand")
@pytest.mark.parametrize("name", ["ner_conll2003", "ner_wnut17"])
def test_real_data_has_the_published_counts(name):
    splits, expected = load(str(REAL / name)), counts(name)
    for split in ("train", "dev", "test"):
        examples = getattr(splits, split)
        entities = sum(len(example.spans) for example in examples)
        assert (len(examples), sum(len(example.words or ()) for example in examples), entities) == expected[split]
    assert splits.notes == ()


@pytest.mark.skipif(not REAL.is_dir(), reason="the data sets are not at hand")
def test_real_intents_are_read_and_dev_is_held_out():
    splits = load(str(REAL / "cls_banking77"), CLASSES)
    assert len(splits.train) + len(splits.dev) == 10_003
    assert len(splits.test) == 3_080
    assert len(splits.task.labels) == 77


@pytest.mark.skipif(not (REAL / "ner_uner_ewt").is_dir(), reason="the data sets are not at hand")
def test_a_file_with_another_name_is_no_split():
    with pytest.raises(DataError, match="the train split is missing"):
        load(str(REAL / "ner_uner_ewt"))


def test_the_module_for_the_hub_is_not_needed_for_files(tmp_path):
    assert importlib.util.find_spec("agent.data.hub")
    put(tmp_path, train__conll=GOOD, dev__conll=GOOD, test__conll=GOOD)
    assert load(str(tmp_path)).train
