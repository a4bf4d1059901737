"""Reads the texts that may be labelled next, from files or from a log of decisions, and those that are labelled already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from agent.data import DataConfig
from agent.data.normalisation.normal_form import SpansConfig
from agent.data.splits import open_sources, open_split, read_examples
from agent.errors import ConfigError, DataError
from agent.tasks import BaseTask
from serving.active_learning.text_vectors import key_of
from serving.annotation.formats import FORMATS
from serving.annotation.records import Fields
from serving.annotation.shards import FormatName, choose_format, cut_files, shard_bytes
from serving.annotation.storage import StorageLocation
from serving.feedback.decision_log import open_store
from serving.inference.session_plan import Auto

_MOST_CHARACTERS = 1_000_000


class Texts(NamedTuple):
    """Inputs of an agent.

    Attributes:
        unlabelled: Those that may be labelled.
        labelled: Those that came with feedback.
        rejected: How many records hold no text.
        reason: Place of the first of them and what is wrong with it; empty if none.
    """

    unlabelled: list[str]
    labelled: list[str]
    rejected: int = 0
    reason: str = ""


class Candidates(NamedTuple):
    """Texts that are worth looking at.

    Attributes:
        texts: Each once.
        repeated: How many were left out since they stand there before.
        labelled: How many were left out since they are labelled.
    """

    texts: list[str]
    repeated: int
    labelled: int


def read_files(url: str, task: BaseTask[Any], text_field: str | None, form: FormatName | Auto) -> Texts:
    """The texts of a file, of all files of a directory, or of an s3:// prefix.

    Raises:
        ConfigError: The format has one text a record, and an input of the task is several.
        DataError: There is nothing, a file cannot be read, or it is of no known format.
    """
    place = StorageLocation(url)
    files = place.files()
    found = choose_format(form, files, url)
    first, *others = task.input_fields
    if others and found.name == "text":
        raise ConfigError(
            f"input {url} has one text a line, and an input of this agent is {' with '.join(task.input_fields)}",
            allowed="jsonl, parquet",
            remedy=f"give records with {' and '.join(task.input_fields)}",
        )
    fields = Fields(text_field or first, "", task.annotation_type, _MOST_CHARACTERS, tuple(others), task.refusal_of)
    texts, rejected, reason = list[str](), 0, ""
    size = shard_bytes("auto", sum(file.num_bytes for file in files), writes=False)
    for shard in cut_files(place, files, found, fields, size):
        span = (shard.start, shard.stop, shard.first_line, shard.num_lines)
        content = FORMATS[found.name].read(place, shard.file, span, fields)
        texts += content.texts
        rejected += len(content.rejected)
        if content.rejected and not reason:
            reason = f"{shard.file}:{content.rejected[0].line}: {content.rejected[0].reason}"
    return Texts(texts, [], rejected, reason)


def read_log(url: str, task: BaseTask[Any], agent: str, since: float) -> Texts:
    """The texts of a log of decisions: those without feedback may be labelled.

    Raises:
        ConfigError: The store's address is wrong, or the log is of several agents, or of one for another task.
        StoreError: The store cannot be read.
    """
    store, agents, found = open_store(url), set[str](), Texts([], [])
    try:
        for decision, feedback in store.read(agent, since=since):
            agents.add(decision.agent)
            fields = task.fields_of(decision.text)
            if len(fields) < len(task.input_fields):
                raise ConfigError(
                    f"the log's decisions of agent {decision.agent} are on single texts",
                    allowed=f"decisions on {' with '.join(task.input_fields)}, as the bundle takes them",
                    remedy="choose another agent with agent=",
                )
            (found.unlabelled if feedback is None else found.labelled).append(task.as_input(list(fields.values())))
    finally:
        store.close()
    if len(agents) > 1:
        raise ConfigError(
            f"the log holds decisions of {len(agents)} agents", allowed=", ".join(sorted(agents)), remedy="give agent="
        )
    return found


def read_labelled(place: str, task: BaseTask[Any]) -> Iterator[str]:
    """The texts of labelled data: a file, or all splits of what `data.path` may be. Words are joined by blanks.

    Raises:
        DataError: There is no such data, or it is for another task.
    """
    spans = SpansConfig(overlap="longest", discontinuous="cover")  # only texts count
    config = DataConfig(path=place, spans=spans, text="joined")
    path = Path(place).expanduser()
    sources = [open_split(config, [path])] if path.is_file() else open_sources(config, task.kind).values()
    for source in sources:
        yield from map(task.text_of, read_examples(config, task, source)[0])


def candidates(texts: Iterable[str], labelled: Iterable[str]) -> Candidates:
    """Leaves out what is labelled, and all but the first of equal texts, whatever their case and white space.

    Raises:
        DataError: No text is left.
    """
    known, seen, kept = set(map(key_of, labelled)), set[int](), list[str]()
    num_texts = num_labelled = 0
    for text in texts:
        key = key_of(text)
        num_texts += 1
        num_labelled += key in known
        if key not in known and key not in seen:
            seen.add(key)
            kept.append(text)
    if not kept:
        raise DataError(
            f"none of {num_texts} texts is left to be labelled ({num_labelled} are labelled already)",
            allowed="at least one text that is not labelled",
            remedy="give other texts with input= or log=",
        )
    return Candidates(kept, num_texts - num_labelled - len(kept), num_labelled)
