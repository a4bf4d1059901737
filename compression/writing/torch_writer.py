"""The trained network of an agent that writes, as it is measured: PyTorch and the generation of transformers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.encoding import IGNORED, Encoder, Float32
from agent.tasks.writing.teacher_forcing import WrittenDocument, right_tokens
from agent.windows.tokenizer_setup import end_id
from compression.writing.measured_writer import MeasuredWriter, WritingLimit, prompt_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TorchWriter(MeasuredWriter):
    """A network of transformers, in inference mode on the CPU.

    Args:
        network: With the head of its task.
        encoder: Its tokenizer.
    """

    def __init__(self, network: PreTrainedModel, encoder: Encoder) -> None:
        self._network: Any = network
        self._pad, self._end = encoder.pad_id, end_id(encoder.tokenizer)

    def log_probabilities(self, documents: Sequence[WrittenDocument]) -> list[Float32]:
        """As in the contract; text by text, without padding."""
        return [self._of_one(document) for document in documents]

    def _of_one(self, document: WrittenDocument) -> Float32:
        import torch

        gold, window = torch.from_numpy(right_tokens(document)), document.windows[0]
        given = torch.from_numpy(document.given if window.decodes else window.input_ids)[None]
        with torch.inference_mode():
            if window.decodes:
                start = torch.tensor([self._network.config.decoder_start_token_id])
                logits = self._network(input_ids=given, decoder_input_ids=torch.cat([start, gold[:-1]])[None]).logits[0]
            else:
                logits = self._network(input_ids=given).logits[0][torch.from_numpy(document.targets(0) != IGNORED)]
            found = logits.float().log_softmax(-1).gather(1, gold[:, None])[:, 0]
        return np.asarray(found.numpy(), np.float32)

    def write(self, documents: Sequence[WrittenDocument], limit: WritingLimit) -> list[list[int]]:
        """As in the contract; prompts of a decoder are padded on the left."""
        import torch

        prompts = [torch.from_numpy(prompt_of(document)) for document in documents]
        side = "right" if documents[0].windows[0].decodes else "left"
        padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True, padding_value=self._pad, padding_side=side)
        ones = [torch.ones_like(prompt) for prompt in prompts]
        mask = torch.nn.utils.rnn.pad_sequence(ones, batch_first=True, padding_side=side)
        with torch.inference_mode():
            rows = self._network.generate(
                input_ids=padded, attention_mask=mask, num_beams=limit.num_beams, early_stopping=limit.num_beams > 1,
                do_sample=False, pad_token_id=self._pad, eos_token_id=self._end, max_new_tokens=limit.max_new_tokens,
                min_new_tokens=limit.max_new_tokens if limit.exact else None,
            )  # fmt: skip
        new = rows[:, 1 if side == "right" else padded.shape[1] :]
        return [list(itertools.takewhile(lambda token: token != self._end, row)) for row in new.tolist()]
