"""Reads a tokenizer as its SentencePiece model is written, where that is all that a model has: transformers makes another normalizer of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FILES = ("spm.model", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
"""What such files are called."""


def require_sentencepiece(name: str) -> None:
    """Says what is missing before transformers asks for another library (findings/transformers_spm_needs.sh).

    Raises:
        ModelError: The package is not installed.
    """
    try:
        import sentencepiece  # noqa: F401
    except ImportError:
        raise ModelError(
            f"model.name={name!r} has a SentencePiece model and no tokenizer.json, which needs the package 'sentencepiece'",
            remedy="pip install sentencepiece, or add the model's tokenizer.json",
        ) from None


def as_written(
    tokenizer: PreTrainedTokenizerFast, file: Path, *, name: str, probes: Sequence[str]
) -> PreTrainedTokenizerFast:
    """Gives a tokenizer the file's own map of characters, if without it texts are cut otherwise than by SentencePiece itself.

    Args:
        tokenizer: As transformers made it of the file.
        file: The SentencePiece model.
        name: Of the model, for messages.
        probes: Texts that tell normalizers apart.

    Raises:
        ModelError: The tokenizer cuts a probe otherwise whatever its normalizer.
    """
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(file))
    differing = _differing(tokenizer, processor, probes)
    if not differing:
        return tokenizer
    tokenizer.backend_tokenizer.normalizer = _normalizer(processor)
    if still := _differing(tokenizer, processor, probes):
        raise ModelError(
            f"model.name={name!r}: transformers cuts {still[0]!r} into {tokenizer.tokenize(still[0])}, its {file.name} into "
            f"{processor.encode(still[0], out_type=str)}",
            remedy="add the tokenizer.json of the tokenizer that the model was trained with",
        )
    print(
        f"note: tokenizer: transformers reads {name} otherwise than its {file.name} is written (for example {differing[0]!r}); the file's own "
        "map of characters is taken",
        flush=True,
    )
    return tokenizer


def _differing(tokenizer: PreTrainedTokenizerFast, processor: Any, probes: Sequence[str]) -> list[str]:
    """Pieces are compared, since some models number them anew; one that the model lacks is as good as another."""

    def known(pieces: Sequence[str]) -> list[str | None]:
        return [piece if processor.piece_to_id(piece) != processor.unk_id() else None for piece in pieces]

    return [
        probe
        for probe in probes
        if known(tokenizer.tokenize(probe)) != known(processor.encode(probe, out_type=str))
    ]  # fmt: skip


def _normalizer(processor: Any) -> Any:
    """Source: normalizer.cc of SentencePiece: the map of characters first, then superfluous blanks."""
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Regex, normalizers

    model = sentencepiece_model_pb2.ModelProto.FromString(processor.serialized_model_proto())
    steps: list[Any] = []
    if model.normalizer_spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap))
    if model.normalizer_spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    return normalizers.Sequence(steps)
