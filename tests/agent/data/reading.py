"""Files of every format, written for a test and read as training reads them."""

import gzip
import json

import pytest

from agent.data.formats.base import Hints
from agent.data.normalisation.normal_form import SpansConfig
from agent.data.sources import open_files
from agent.errors import DataError

NO_HINTS = Hints()


def put(directory, name, content):
    """Writes a file: text, bytes, or objects as JSON lines."""
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = json_lines(*content)
    raw = content if isinstance(content, bytes) else content.encode()
    file.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return file


def json_lines(*objects):
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)


def source_of(*files, hints=NO_HINTS, **spans):
    return open_files(files, SpansConfig(**spans), hints)


def read(*files, hints=NO_HINTS, **spans):
    """The records of files, without their places."""
    records, _ = source_of(*files, hints=hints, **spans).read_all()
    return [record for record, _ in records]


def notes(*files, hints=NO_HINTS, **spans):
    """What reading them says."""
    return source_of(*files, hints=hints, **spans).read_all()[1]


def refusal(*files, hints=NO_HINTS, **spans):
    """The message with which files are refused."""
    with pytest.raises(DataError) as caught:
        read(*files, hints=hints, **spans)
    return str(caught.value)


def spanned(text, *spans):
    return {"text": text, "spans": [{"start": start, "end": end, "label": label} for start, end, label in spans]}
