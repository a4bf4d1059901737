"""Models that were converted for CTranslate2, as they are measured: an encoder with a decoder, or a decoder alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from agent.encoding import Encoder, Float32, Int64
from agent.generation.ctranslate2_conversion import convert
from agent.generation.right_probabilities import of_generator, of_translator
from agent.generation.text_writer import TextWriter, part_tokens
from agent.tasks.writing.teacher_forcing import WrittenDocument, places_said, right_tokens
from agent.windows.tokenizer_setup import end_token
from compression.encoder.torch_model import quiet
from compression.writing.measured_writer import MeasuredWriter, WritingLimit, prompt_of


def convert_model(source: Path, target: Path, encoder: Encoder, precision: str = "fp32") -> None:
    """Writes a model for CTranslate2, without a word of what its libraries say.

    Args:
        source: The model, as transformers writes it.
        target: A directory that is not there yet.
        encoder: The agent's tokenizer.
        precision: fp32 or int8.

    Raises:
        ModelError: CTranslate2 does not know the architecture, or the tokenizer does not fit it.
    """
    with quiet():
        convert(source, target, encoder.tokenizer, end_token(encoder.tokenizer), precision)


def open_converted(directory: Path, encoder: Encoder, *, decodes: bool, threads: int) -> MeasuredWriter:
    """Opens a converted model on the CPU, in the precision that it was converted to.

    Args:
        directory: What `ctranslate2_conversion.convert` wrote.
        encoder: The agent's tokenizer.
        decodes: Whether an encoder reads what a decoder writes of, as in sequence_to_sequence.
        threads: Parts of a batch that it computes at once, each with one thread.
    """
    kind = _EncoderDecoder if decodes else _Decoder
    return kind(directory, encoder.tokenizer, threads)


class _EncoderDecoder(MeasuredWriter):
    def __init__(self, directory: Path, tokenizer: Tokenizer, threads: int) -> None:
        self._tokenizer, self._writer = (
            tokenizer,
            TextWriter(directory, tokenizer, end_token(tokenizer), threads=threads),
        )

    def log_probabilities(self, documents: Sequence[WrittenDocument]) -> list[Float32]:
        given, said = [document.given for document in documents], list(map(right_tokens, documents))
        return of_translator(self._writer.translator, self._tokenizer, given, said)

    def write(self, documents: Sequence[WrittenDocument], limit: WritingLimit) -> list[list[int]]:
        assert not limit.exact
        given = [document.given for document in documents]
        return self._writer.write_tokens(given, num_beams=limit.num_beams, max_new_tokens=limit.max_new_tokens)


class _Decoder(MeasuredWriter):
    def __init__(self, directory: Path, tokenizer: Tokenizer, threads: int) -> None:
        from ctranslate2 import Generator

        self._tokenizer, self._threads = tokenizer, threads
        self._generator = Generator(
            str(directory), device="cpu", compute_type="default", inter_threads=threads, intra_threads=1
        )

    def log_probabilities(self, documents: Sequence[WrittenDocument]) -> list[Float32]:
        rows, said = [document.windows[0].input_ids for document in documents], list(map(places_said, documents))
        return of_generator(self._generator, self._tokenizer, rows, said)

    def write(self, documents: Sequence[WrittenDocument], limit: WritingLimit) -> list[list[int]]:
        prompts = [_pieces(self._tokenizer, prompt_of(document)) for document in documents]
        found: list[list[int]] = [[]] * len(prompts)
        # Where the shortest prompt has one token, those of the others come back as answers (findings/ctranslate2_prompt_of_one_token.sh).
        for single in (False, True):
            places = [place for place, prompt in enumerate(prompts) if (len(prompt) == 1) == single]
            if not places:
                continue
            some = [prompts[place] for place in places]
            results = self._generator.generate_batch(
                some, beam_size=limit.num_beams, sampling_topk=1, include_prompt_in_result=False, max_length=limit.max_new_tokens,
                min_length=limit.max_new_tokens if limit.exact else 0, max_batch_size=part_tokens(some, self._threads), batch_type="tokens",
            )  # fmt: skip
            for place, result in zip(places, results, strict=True):
                found[place] = list(result.sequences_ids[0])
        return found


def _pieces(tokenizer: Tokenizer, ids: Int64) -> list[str]:
    return [str(tokenizer.id_to_token(number)) for number in ids.tolist()]
