"""CoNLL columns as they come: comments, counting columns, tags in any column and scheme."""

import pytest

from agent.data.formats.base import Hints
from tests.agent.data.reading import notes, put, read, refusal, source_of

ANNA = [
    {"tokens": ["Anna", "Lund", "works"], "tags": ["B-PER", "I-PER", "O"]},
    {"tokens": ["in", "Oslo"], "tags": ["O", "B-LOC"]},
]
PLAIN = "Anna B-PER\nLund I-PER\nworks O\n\nin O\nOslo B-LOC\n"

UNIVERSAL_NER = (
    "# newdoc id = weblog-1\n# sent_id = 1\n# text = Anna Lund works O\n"
    "1\tAnna\tB-PER\t-\tmara\n2\tLund\tI-PER\t-\tmara\n3\tworks\tO\t-\t-\n\n"
    "# sent_id = 2\n# text = in Oslo\n1\tin\tO\t-\t-\n2\tOslo\tB-LOC\t-\tmara\n"
)
UNIVERSAL_NER_DRAFT = UNIVERSAL_NER.replace("\tO\t-\t-", "\tO")
GERMEVAL = (
    "#\thttp://example.org/wiki/Anna [2009-10-17]\n1\tAnna\tB-PER\tO\n2\tLund\tI-PER\tB-LOC\n3\tworks\tO\tO\n\n"
    "#\thttp://example.org/wiki/Oslo [2009-10-17]\n1\tin\tO\tO\n2\tOslo\tB-LOC\tO\n"
)
CONLL_2003 = "-DOCSTART- -X- -X- O\n\nAnna NNP B-NP B-PER\nLund NNP I-NP I-PER\nworks VBZ B-VP O\n\nin IN B-PP O\nOslo NNP B-NP B-LOC\n"
CONLLU = (
    "# sent_id = 1\n1\tAnna\tAnna\tPROPN\tB-PER\n2\tLund\tLund\tPROPN\tI-PER\n3-4\tworks\t_\t_\t_\n3\tworks\twork\tVERB\tO\n\n"
    "1\tin\tin\tADP\tO\n1.1\tnull\t_\t_\t_\n2\tOslo\tOslo\tPROPN\tB-LOC\n"
)


@pytest.mark.parametrize(
    "name", ["x.conll", "x.txt", "x.tsv", "x.bio", "x.iob2", "x.conllu", "x.conll.gz", "x.unknown"]
)
@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace(" ", "\t").replace("\n", "\r\n"),
        "# a comment\n" + PLAIN,
        "# id = 7 O of 8\n" + PLAIN.replace("\n\n", "\n\n# id = 8\n# more B-PER words\n"),
        UNIVERSAL_NER,
        UNIVERSAL_NER_DRAFT,
        GERMEVAL,
        CONLL_2003,
        CONLLU.replace("3-4\tworks\t_\t_\t_\n", "").replace("1.1\tnull\t_\t_\t_\n", ""),
        PLAIN.replace("B-", "b-").replace("I-", "i-").replace(" O", " o"),
        PLAIN.replace("-PER", "_PER").replace("-LOC", "_LOC"),
        PLAIN.replace("B-PER", "PER-B").replace("I-PER", "PER-I").replace("B-LOC", "LOC-B"),
    ],
)
def test_the_same_sentences_are_read_however_they_are_written(tmp_path, name, content):
    assert read(put(tmp_path, name, content)) == ANNA


@pytest.mark.parametrize(
    ("tags", "read_as"),
    [
        ("B-PER M-PER E-PER O S-LOC", "B-PER I-PER E-PER O S-LOC"),  # BMES
        ("B-PER M-PER E-PER O W-LOC", "B-PER I-PER E-PER O S-LOC"),  # BMEWO
        ("b-per i-per e-per o s-loc", "B-per I-per E-per O S-loc"),
        ("B-PER I-PER L-PER O U-LOC", "B-PER I-PER L-PER O U-LOC"),
        ("PER PER PER O LOC", "I-PER I-PER I-PER O I-LOC"),  # bare labels
        ("I-PER I-PER B-PER O I-LOC", "I-PER I-PER B-PER O I-LOC"),
    ],
)
def test_every_scheme_becomes_tags_that_tasks_read(tmp_path, tags, read_as):
    file = put(tmp_path, "x.conll", "".join(f"w{number} {tag}\n" for number, tag in enumerate(tags.split())))
    assert read(file) == [{"tokens": ["w0", "w1", "w2", "w3", "w4"], "tags": read_as.split()}]


def test_bare_labels_are_said(tmp_path):
    assert notes(put(tmp_path, "x.conll", "Anna PER\nLund PER\nis O\n")) == [
        "tags are bare labels: neighbours with the same label count as one entity"
    ]


def test_a_hash_that_is_a_word_is_no_comment(tmp_path):
    file = put(tmp_path, "x.conll", "# O\n1 O\nAnna B-PER\n\n#oslo B-LOC\n# O\n\n# a comment\nx O\n")
    assert [record["tokens"] for record in read(file)] == [["#", "1", "Anna"], ["#oslo", "#"], ["x"]]


def test_columns_are_told_and_nested_entities_counted(tmp_path):
    file = put(tmp_path, "x.tsv", GERMEVAL)
    assert source_of(file).name == "CoNLL columns (word 2, tag 3)"
    assert notes(file) == ["1 entities of another column of tags are not read (data.tag_column chooses it)"]
    inner = read(file, hints=Hints(tag_column=4))
    assert inner[0]["tags"] == ["O", "B-LOC", "O"]


def test_the_last_of_two_columns_of_tags_is_read_without_a_counting_one(tmp_path):
    file = put(tmp_path, "x.conll", "Anna B-PER O\nOslo B-LOC B-CITY\n")
    assert read(file)[0]["tags"] == ["O", "B-CITY"]
    assert notes(file) == ["2 entities of another column of tags are not read (data.tag_column chooses it)"]
    assert notes(put(tmp_path, "y.conll", CONLL_2003)) == []


def test_lines_of_conllu_that_are_no_words_are_left_out_and_counted(tmp_path):
    file = put(tmp_path, "x.conllu", CONLLU)
    assert read(file, hints=Hints(tag_column=5)) == ANNA
    assert notes(file, hints=Hints(tag_column=5)) == [
        "2 lines of CoNLL-U left out that are no words of their own (numbered 3-4 or 3.1)"
    ]


def test_a_column_may_be_chosen(tmp_path):
    file = put(tmp_path, "x.conll", CONLL_2003)
    assert read(file, hints=Hints(tag_column=3))[0]["tags"] == ["B-NP", "I-NP", "B-VP"]
    assert "data.tag_column=5" in refusal(file, hints=Hints(tag_column=5))
    assert "Allowed: 2 to 4" in refusal(file, hints=Hints(tag_column=5))


def test_a_file_without_blank_lines_is_said_plainly(tmp_path):
    (said,) = notes(put(tmp_path, "x.conll", "word O\nAnna B-PER\n" * 150))
    assert said == "300 words are one sentence, for the file has no blank line: put one after each sentence"
    assert notes(put(tmp_path, "y.conll", "word O\nAnna B-PER\n\n" * 150)) == []


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("the DT\ncat NN\n\nsat VBD\n", ["no column holds entity tags", "DT, NN, VBD", "data.tag_column"]),
        ("Anna went to Oslo.\nThere she met Bo, who lives there.\n", ["looks like plain text", "no tags"]),
        (
            "1\tAnna\tAnna\tPROPN\tNNP\t_\t2\tnsubj\t_\tSpaceAfter=No\n2\tx\tx\tX\tX\t_\t0\troot\t_\t_\n",
            ["CoNLL-U treebank"],
        ),
        (
            "bc/x 0 0 Anna NNP (TOP(S(NP* - - - x (PERSON) -\nbc/x 0 1 left VBD (VP*)) - - - x * -\n",
            ["CoNLL-2012 (OntoNotes)"],
        ),
        ("1\tAnna\tB-PER\n2\tLund\n", ["x.conll:2", "a word without a tag ('Lund')", "column 3"]),
        ("O show\nO me\nB-TITLE Avatar\n", ["tags in the first column (O before show)", "the word first"]),
        ("text,label\nI want,refund\n", ["separated by commas", "JSON lines"]),
    ],
)
def test_what_is_no_file_of_tags_is_named(tmp_path, content, parts):
    message = refusal(put(tmp_path, "x.conll", content))
    assert all(part in message for part in ["x.conll", "Remedy: ", *parts]), message
