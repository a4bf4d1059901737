"""Sequence-level distillation (Kim and Rush, arXiv 1606.07947): a student with fewer decoder layers, and the texts that its teacher writes.

The student begins with layers of the teacher, evenly spaced, as Shleifer and Rush (arXiv 2010.13002) take them for summaries.
"""

from __future__ import annotations

import copy
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.encoding import Encoder
from agent.files import write_file
from agent.tasks.writing.written_text import WrittenText
from agent.windows.tokenizer_setup import end_id
from cluster.progress import timed_bar
from compression.state.pipeline_state import PipelineState
from compression.writing.converted_writers import convert_model, open_converted
from compression.writing.measured_writer import WritingLimit, encode_written
from compression.writing.written_quality import decoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LAYER = re.compile(r"^(.*\bdecoder\.(?:layers|block)\.)(\d+)(\..*)$")
_DEPTHS = ("num_decoder_layers", "decoder_layers")  # as T5 and BART and its kin name it in their configurations
_TEXTS_AT_ONCE = 64


def decoder_depth(model: PreTrainedModel) -> int:
    """Number of layers of the decoder beside an encoder."""
    found: int = getattr(model.config, _depth_key(model))
    return found


def with_fewer_layers(model: PreTrainedModel, stay: int) -> PreTrainedModel:
    """A copy of a network whose decoder has only some of its layers, evenly spaced, the first and the last among them.

    Args:
        model: An encoder with a decoder.
        stay: Layers of the decoder, from 1 to as many as there are.
    """
    depth = decoder_depth(model)
    kept = [round(number * (depth - 1) / max(stay - 1, 1)) for number in range(stay)]
    places = {str(old): str(new) for new, old in enumerate(kept)}
    config = copy.deepcopy(model.config)
    setattr(config, _depth_key(model), stay)
    student: Any = type(model)(config)
    weights = {}
    for name, tensor in model.state_dict().items():
        found = _LAYER.match(name)
        if found is None:
            weights[name] = tensor
        elif found[2] in places:
            weights[f"{found[1]}{places[found[2]]}{found[3]}"] = tensor
    student.load_state_dict(weights)
    student.generation_config = copy.deepcopy(model.generation_config)
    ready: PreTrainedModel = student.eval()
    return ready


def write_teachers_texts(state: PipelineState, directory: Path, num_beams: int) -> int:
    """Writes data for the student: what the teacher writes for the texts of train, dev and test as they are. Once: it is kept for the next call.

    Args:
        state: Holds teacher and data.
        directory: For train.jsonl, dev.jsonl and test.jsonl; train is the last to be there.
        num_beams: Texts that the teacher follows at once.

    Returns:
        How many texts keep their own target, since the teacher wrote nothing, or more than fits.
    """
    left = directory / "left.json"
    if not (directory / "train.jsonl").is_file():
        texts = _generated(state, num_beams)
        kept = [not _fits(text, state.encoder) for text in texts]
        targets = [
            example.target if own else text for example, text, own in zip(state.splits.train, texts, kept, strict=True)
        ]
        directory.mkdir(parents=True, exist_ok=True)
        for name, examples in {"dev": state.splits.dev, "test": state.splits.test}.items():
            write_file(directory / f"{name}.jsonl", _lines(examples, [example.target for example in examples]))
        write_file(left, json.dumps(sum(kept)))
        write_file(directory / "train.jsonl", _lines(state.splits.train, targets))
    found: int = json.loads(left.read_text(encoding="utf-8"))
    return found


def _generated(state: PipelineState, num_beams: int) -> list[str]:
    most = state.bundle.manifest.max_tokens
    limit = WritingLimit(num_beams, min(getattr(state.bundle.task, "max_new_tokens", None) or most, most))
    documents = encode_written(state.bundle.task, state.encoder, state.splits.train)
    texts: list[str] = []
    with tempfile.TemporaryDirectory() as place, timed_bar("distill_texts: the teacher writes") as progress:
        convert_model(state.bundle.path, Path(place) / "teacher", state.encoder)
        teacher = open_converted(Path(place) / "teacher", state.encoder, decodes=True, threads=state.threads)
        for first in range(0, len(documents), _TEXTS_AT_ONCE):
            some = documents[first : first + _TEXTS_AT_ONCE]
            texts += decoded(some, teacher.write(some, limit))
            progress(len(texts), len(documents))
    return texts


def _fits(text: str, encoder: Encoder) -> bool:
    (document,) = encoder.encode_texts([text])
    end = end_id(encoder.tokenizer)
    room = encoder.max_tokens - len(encoder.window([], 0, 0).input_ids) - 1
    return bool(text.strip()) and len(document.token_ids) <= room and end not in document.token_ids.tolist()


def _lines(examples: Sequence[WrittenText], targets: Sequence[str]) -> str:
    rows = [{"text": example.text, "target": target} for example, target in zip(examples, targets, strict=True)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _depth_key(model: PreTrainedModel) -> str:
    return next(name for name in _DEPTHS if hasattr(model.config, name))
