"""Every block of docs/data.md that shows a format is read as it stands there."""

import re
from pathlib import Path

import pytest

from agent.data.natural_text import joiner
from agent.tasks import TokenClassification
from tests.agent.data.reading import put, source_of

PAGE = (Path(__file__).parents[3] / "docs/data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(
    r"^```(\w+)\n(.*?)^```$",
    PAGE.partition("## Each format in three lines")[2].partition("\n## ")[0],
    re.MULTILINE | re.DOTALL,
)
SHOWN = {
    "CoNLL columns",
    "words with tags in JSON lines",
    "texts with spans in JSON lines",
    "texts with spans in a JSON array",
    "Prodigy in JSON lines",
}
SHOWN |= {"CoNLL columns (word 2, tag 3)", "doccano in JSON lines", "Label Studio in a JSON array", "brat"}


def entities(directory, suffix, content):
    file = put(directory, f"train.{suffix}", content)
    put(directory, "train.txt", "Anna left for Oslo")  # of brat's pair
    source, task = source_of(file), TokenClassification()
    examples = [task.read_record(record, where, join=joiner("natural", "en")) for record, where in source.read_all()[0]]
    return source.name, [
        (example.text[span.start : span.end], span.label) for example in examples for span in example.spans
    ]


@pytest.mark.parametrize(("suffix", "content"), BLOCKS)
def test_a_documented_format_is_read(tmp_path, suffix, content):
    assert len(content.splitlines()) == 3
    name, found = entities(tmp_path, suffix, content)
    assert name in SHOWN
    assert [(text.replace(" ", ""), label) for text, label in found] == [("Anna", "PER"), ("Oslo", "LOC")]


def test_every_format_is_shown(tmp_path):
    found = {entities(tmp_path / str(number), *block)[0] for number, block in enumerate(BLOCKS)}
    assert found == SHOWN
