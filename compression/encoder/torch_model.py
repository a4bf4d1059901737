"""Loads, runs and saves an agent's PyTorch network."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.batching import Batch
from agent.bundle import Bundle
from agent.encoder_layers import MASKED_LM, asked_rows, take_asked, takes_asked
from agent.encoding import Float32
from agent.errors import ModelError, one_line
from agent.evaluation import Forward
from agent.tasks import KINDS
from agent.tasks.output_decision import OUT_OF_REACH

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

WEIGHTS = "model.safetensors"  # name of the file that `save_model` writes
_WRITERS = {task.architecture for task in KINDS.values() if task.writes}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def load_model(bundle: Bundle) -> PreTrainedModel:
    """The bundle's network in float32 and inference mode; with eager attention, which graph fusion expects, unless it writes.

    Raises:
        ModelError: transformers cannot load it.
    """
    return load_directory(bundle.path, bundle.task.architecture)


def load_directory(path: Path, architecture: str) -> PreTrainedModel:
    """Loads a Hugging Face model directory as the given Auto class.

    Raises:
        ModelError: transformers cannot load it.
    """
    import torch
    import transformers

    if (
        not torch.cuda.is_available()
    ):  # transformers imports DeepSpeed to save a network, and that prints what it looked for
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    attention = {} if architecture in _WRITERS else {"attn_implementation": "eager"}
    try:
        model = getattr(transformers, architecture).from_pretrained(path, **attention)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the model in {path} cannot be loaded ({one_line(error)})",
            remedy="check that this version of transformers knows it",
        ) from None
    loaded: PreTrainedModel = model.float().eval()
    if architecture == MASKED_LM:
        take_asked(loaded)
    return loaded


def input_names(model: PreTrainedModel) -> tuple[str, ...]:
    """The inputs that the network takes: token types only where it has more than one."""
    has_types = int(getattr(model.config, "type_vocab_size", 0) or 0) > 1  # RoBERTa has a single one
    accepted = inspect.signature(model.forward).parameters
    return tuple(name for name in INPUTS if name in accepted and (has_types or name != "token_type_ids"))


def to_tensors(model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
    """A batch as keyword arguments of the network: int64 [rows, tokens] each."""
    import torch

    asked = ("asked",) if batch.asked is not None and takes_asked(model) else ()
    return {name: torch.from_numpy(getattr(batch, name)) for name in (*input_names(model), *asked)}


def logits(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """The network's logits in the shape that `agent.tasks.output_decision.Decision` gives them.

    Args:
        model: Heads that answer questions have logits of starts and of ends.
        inputs: int64 [rows, tokens] each, `attention_mask` among them.
    """
    import torch

    output: Any = model(**inputs, return_dict=True)
    if not hasattr(output, "start_logits"):
        found: Tensor = asked_rows(output.logits, inputs.get("asked"))
        return found
    stacked = torch.stack([output.start_logits, output.end_logits], dim=1)  # [rows, outputs, tokens]
    return stacked.masked_fill(inputs["attention_mask"][:, None] == 0, OUT_OF_REACH)


def torch_forward(model: PreTrainedModel) -> Forward:
    """The network as a function from batches to logits, in float32."""
    import torch

    def forward(batch: Batch) -> Float32:
        with torch.inference_mode():
            return np.asarray(logits(model, to_tensors(model, batch)).numpy(), dtype=np.float32)

    return forward


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences warnings and log lines of exporters, of which a correct graph causes dozens."""
    with (
        quiet_logs(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):  # torch.onnx prints its stages
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """Silences the log lines alone."""
    names = ("torch.onnx", "transformers", "onnxruntime", "optimum", "root", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(None if name == "root" else name) for name in names]
    levels = {logger: logger.level for logger in loggers if logger.level != logging.ERROR}
    for logger in levels:
        logger.setLevel(logging.ERROR)  # visits every logger there is: 5 ms in a large program
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Sets PyTorch's number of threads within the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def save_model(model: Any, directory: Path) -> None:
    """Writes config.json and model.safetensors."""
    model.save_pretrained(directory)
