"""Writes texts for texts with a model that was converted for CTranslate2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from agent.encoding import Int64

BATCH_TOKENS = 2_048  # of sources, padding included; what is longer is computed in parts


class TextWriter:
    """An encoder with a decoder, on the CPU or CUDA, in the precision that it was converted to.

    Args:
        directory: What `ctranslate2_conversion.convert` wrote.
        tokenizer: The model's.
        end: The token that ends a text.
        device: cpu or cuda.
        threads: Parts that it computes at once on a CPU, each with one thread: two threads on one part took ten times as long in int8
            (4.8.5, a small model, docs/design/agents_that_write.md).

    Attributes:
        translator: The engine, of ctranslate2.
    """

    def __init__(
        self, directory: Path, tokenizer: Tokenizer, end: str, *, device: str = "cpu", threads: int = 1
    ) -> None:
        from ctranslate2 import Translator

        self._tokenizer, self._end, self._threads = tokenizer, end, threads
        self.translator = Translator(
            str(directory), device=device, compute_type="default", inter_threads=threads, intra_threads=1
        )

    def write(self, given: Sequence[Int64], *, num_beams: int, max_new_tokens: int) -> list[str]:
        """The likeliest text for each that is given; arguments as those of `write_tokens`."""
        rows = self.write_tokens(given, num_beams=num_beams, max_new_tokens=max_new_tokens)
        return [self._tokenizer.decode(row, skip_special_tokens=True) for row in rows]

    def write_tokens(self, given: Sequence[Int64], *, num_beams: int, max_new_tokens: int) -> list[list[int]]:
        """The sub-words of the likeliest text for each that is given, as transformers writes it with `early_stopping`, without its end.

        Args:
            given: Sub-words of each text, framed as the tokenizer frames one.
            num_beams: 1 takes the likeliest sub-word at each step.
            max_new_tokens: That a text has at most, its end included.
        """
        rows = [[str(self._tokenizer.id_to_token(number)) for number in ids.tolist()] for ids in given]
        results = self.translator.translate_batch(
            rows, beam_size=num_beams, max_decoding_length=max_new_tokens, min_decoding_length=0, end_token=self._end,
            max_input_length=0, max_batch_size=part_tokens(rows, self._threads), batch_type="tokens",
        )  # fmt: skip
        numbers = [map(self._tokenizer.token_to_id, result.hypotheses[0]) for result in results]
        return [[number for number in row if number is not None] for row in numbers]


def part_tokens(rows: Sequence[Sequence[str]], parts: int) -> int:
    """The most tokens, padding included, of a part of a batch, so that there is one for each thread and none is long.

    Args:
        rows: Sub-words of each text.
        parts: How many are computed at once.
    """
    even = -(-len(rows) // parts) * max(map(len, rows), default=1)
    return max(1, min(BATCH_TOKENS, even))
