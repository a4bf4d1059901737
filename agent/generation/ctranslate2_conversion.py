"""Brings models that write into the form of CTranslate2, which generates without torch and transformers.

Its converter (4.8) reads what transformers 4 kept in configurations. What transformers 5 keeps elsewhere or leaves out is set for it here, through the
one public method that it offers: without that, BART and its kin are not converted, and T5 1.1 and mT5 write other texts than transformers
(findings/ctranslate2_*.sh). tests/agent/generation compares every family with transformers' own generation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from agent.errors import ModelError
from agent.windows.tokenizer_setup import unknown_id

_ROPE_THETA = 10_000.0  # what the converter takes for GPT-NeoX, whatever the configuration says
_WIDTH = 8  # the rows that OPT's vocabulary is padded to a multiple of


def _nothing(_: Any) -> None:
    """What is there is enough."""


def _post_norm(model: Any) -> None:
    model.config.normalize_before, model.config.normalize_embedding = False, True


def _pre_norm(model: Any) -> None:
    model.config.normalize_before, model.config.normalize_embedding = True, False


def _pre_norm_and_first(model: Any) -> None:
    model.config.normalize_before, model.config.normalize_embedding = True, True


def _scale_where_t5_does(model: Any) -> None:
    """The converter divides logits where tables are tied; T5 does so where its configuration says, mT5 never."""
    model.config.tie_word_embeddings = getattr(model.config, "scale_decoder_outputs", False)


def _neox_names(model: Any) -> None:
    model.config.rotary_pct = model.config.rope_parameters.get("partial_rotary_factor", 1.0)
    model.embed_out = model.get_output_embeddings()


ENCODER_DECODERS: Mapping[str, Callable[[Any], None]] = {
    "t5": _scale_where_t5_does, "mt5": _scale_where_t5_does, "umt5": _scale_where_t5_does, "bart": _post_norm, "mbart": _pre_norm_and_first,
    "pegasus": _pre_norm, "marian": _nothing, "m2m_100": _nothing,
}  # fmt: skip
"""Families of encoders with a decoder, by `model_type`, and what the converter has to be told of a loaded model."""

DECODERS: Mapping[str, Callable[[Any], None]] = {
    "gpt2": _nothing, "llama": _nothing, "mistral": _nothing, "qwen2": _nothing, "qwen3": _nothing, "gemma": _nothing, "bloom": _nothing,
    "gptj": _nothing, "opt": _nothing, "gpt_neox": _neox_names,
}  # fmt: skip
"""The same of decoders."""

_MENDS = {**ENCODER_DECODERS, **DECODERS}


def check_convertible(config: Mapping[str, Any], name: str) -> None:
    """Refuses models that CTranslate2 does not know or would compute otherwise.

    Args:
        config: The content of config.json, as transformers writes it.
        name: Of the model, for messages.

    Raises:
        ModelError: Names the family, and what may be converted.
    """
    family = config.get("model_type")
    if family not in _MENDS:
        known = ENCODER_DECODERS if config.get("is_encoder_decoder") else DECODERS
        raise ModelError(
            f"{name} is a {family} model, which CTranslate2 does not convert as transformers writes it",
            allowed=", ".join(known),
            remedy="choose a model of one of these families",
        )
    theta = (config.get("rope_parameters") or {}).get("rope_theta", _ROPE_THETA)
    if family == "gpt_neox" and theta != _ROPE_THETA:
        raise ModelError(
            f"{name} has rope_theta={theta}, and CTranslate2 computes GPT-NeoX with {_ROPE_THETA:.0f} alone",
            allowed=f"rope_theta={_ROPE_THETA:.0f}",
            remedy="choose another model",
        )
    if family == "opt" and config["vocab_size"] % _WIDTH:
        raise ModelError(
            f"{name} has a vocabulary of {config['vocab_size']}, and CTranslate2 pads OPT's to a multiple of {_WIDTH}",
            allowed=f"a multiple of {_WIDTH}",
            remedy=f"resize its embeddings: model.resize_token_embeddings(pad_to_multiple_of={_WIDTH})",
        )
    if family == "m2m_100" and config["pad_token_id"] != 1:
        raise ModelError(
            f"{name} has <pad> as sub-word {config['pad_token_id']}, from which M2M100 counts positions, and CTranslate2 takes the first for it",
            allowed="pad_token_id=1, as the models of facebook have it",
            remedy="move <pad> in the vocabulary",
        )
    if family == "marian" and config["pad_token_id"] != config["vocab_size"] - 1:
        raise ModelError(
            f"{name} has <pad> as sub-word {config['pad_token_id']}, and CTranslate2 takes Marian's last one for it",
            allowed=f"pad_token_id={config['vocab_size'] - 1}",
            remedy="put <pad> at the end of the vocabulary, as the models of Helsinki-NLP have it",
        )


def convert(source: Path, target: Path, tokenizer: Tokenizer, end: str, precision: str = "fp32") -> None:
    """Writes a model for CTranslate2: a directory with model.bin, config.json and its vocabulary.

    Args:
        source: The model, as transformers writes it.
        target: A directory that is not there yet.
        tokenizer: The model's.
        end: The token that ends a text.
        precision: fp32, or int8: a byte for each number of a matrix.

    Raises:
        ModelError: The family or what is in the directory cannot be converted.
    """
    from ctranslate2.converters import TransformersConverter

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    check_convertible(config, str(source))

    class Converter(TransformersConverter):  # type: ignore[misc] # not typed
        def load_model(self, *arguments: Any, **options: Any) -> Any:
            model = super().load_model(*arguments, **options)
            _MENDS[model.config.model_type](model)
            _check_start(model, source)
            return model

        def load_tokenizer(self, *_: Any, **__: Any) -> Any:
            """Agents have tokenizer.json; the classes of transformers would build some of them anew."""
            return _NamedTokens(tokenizer, config, end)

    try:
        Converter(str(source)).convert(str(target), quantization=None if precision == "fp32" else precision)
    except (ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise ModelError(
            f"CTranslate2 cannot convert {source}: {' '.join(str(error).split())[:240]}",
            remedy="see whether its tokenizer and config.json fit",
        ) from None
    _set_start(config, target, tokenizer)


class _NamedTokens:
    """What the converter asks a tokenizer of transformers."""

    special_tokens_map: Mapping[str, Any] = {}

    def __init__(self, tokenizer: Tokenizer, config: Mapping[str, Any], end: str) -> None:
        self.get_vocab, self.convert_ids_to_tokens = tokenizer.get_vocab, tokenizer.id_to_token
        self.eos_token, self.pad_token = end, _token(config, "pad", tokenizer)
        # CTranslate2 reads no model without a name for each: many have no token that begins texts, and a vocabulary that spells everything
        # none for what is unknown.
        self.bos_token, self.unk_token_id = _token(config, "bos", tokenizer) or end, unknown_id(tokenizer)
        self.unk_token = "" if self.unk_token_id is None else tokenizer.id_to_token(self.unk_token_id)


def _token(config: Mapping[str, Any], name: str, tokenizer: Tokenizer) -> str | None:
    number = config.get(f"{name}_token_id")
    return None if number is None else tokenizer.id_to_token(number)


def _set_start(config: Mapping[str, Any], target: Path, tokenizer: Tokenizer) -> None:
    """The converter gives some families a start of its own, mBART none: what the model's configuration says."""
    start = _token(config, "decoder_start", tokenizer)
    if config["model_type"] not in ENCODER_DECODERS or config["model_type"] == "marian" or start is None:
        return
    file = target / "config.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(told | {"decoder_start_token": start}, indent=2) + "\n", encoding="utf-8")


def _check_start(model: Any, source: Path) -> None:
    """Marian's decoder starts with <pad>, whose embedding the converted one takes as zero."""
    if model.config.model_type != "marian":
        return
    row = model.get_input_embeddings().weight[model.config.pad_token_id]
    if bool(row.any()):
        raise ModelError(
            f"{source}: the embedding of <pad> is not zero, and CTranslate2 starts Marian's decoder from zeros",
            allowed="zeros, as the models of Helsinki-NLP have there",
            remedy="set that row to zero",
        )
