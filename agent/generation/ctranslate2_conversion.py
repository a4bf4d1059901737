"""Brings models that write into the form of CTranslate2, which generates without torch and transformers.

Its converter (4.8) reads what transformers 4 kept in configurations. What transformers 5 keeps elsewhere or leaves out is set for it here, through the
one public method that it offers: without that, BART and its kin are not converted, and T5 1.1 and mT5 write other texts than transformers
(findings/ctranslate2_*.sh). tests/agent/generation compares every family with transformers' own generation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from agent.errors import ModelError

Quantization = Literal["float32", "float16", "int8", "int8_float16"]
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


def check_convertible(directory: Path) -> None:
    """Refuses models that CTranslate2 does not know or would compute otherwise.

    Args:
        directory: A model as transformers writes it; its configuration is read, and its tokenizer's size.

    Raises:
        ModelError: Names the family, and what may be converted.
    """
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    family = config.get("model_type")
    if family not in _MENDS:
        known = ENCODER_DECODERS if config.get("is_encoder_decoder") else DECODERS
        raise ModelError(
            f"{directory} is a {family} model, which CTranslate2 does not convert as transformers writes it",
            allowed=", ".join(known),
            remedy="choose a model of one of these families",
        )
    theta = (config.get("rope_parameters") or {}).get("rope_theta", _ROPE_THETA)
    if family == "gpt_neox" and theta != _ROPE_THETA:
        raise ModelError(
            f"{directory} has rope_theta={theta}, and CTranslate2 computes GPT-NeoX with {_ROPE_THETA:.0f} alone",
            allowed=f"rope_theta={_ROPE_THETA:.0f}",
            remedy="choose another model",
        )
    if family == "opt" and config["vocab_size"] % _WIDTH:
        raise ModelError(
            f"{directory} has a vocabulary of {config['vocab_size']}, and CTranslate2 pads OPT's to a multiple of {_WIDTH}",
            allowed=f"a multiple of {_WIDTH}",
            remedy=f"resize its embeddings: model.resize_token_embeddings(pad_to_multiple_of={_WIDTH})",
        )
    if family == "m2m_100" and config["pad_token_id"] != 1:
        raise ModelError(
            f"{directory} has <pad> as sub-word {config['pad_token_id']}, from which M2M100 counts positions, and CTranslate2 takes the first for it",
            allowed="pad_token_id=1, as the models of facebook have it",
            remedy="move <pad> in the vocabulary",
        )
    if family == "marian" and config["pad_token_id"] != config["vocab_size"] - 1:
        raise ModelError(
            f"{directory} has <pad> as sub-word {config['pad_token_id']}, and CTranslate2 takes Marian's last one for it",
            allowed=f"pad_token_id={config['vocab_size'] - 1}",
            remedy="put <pad> at the end of the vocabulary, as the models of Helsinki-NLP have it",
        )


def convert(source: Path, target: Path, *, quantization: Quantization = "float32") -> None:
    """Writes a model's directory for CTranslate2: model.bin, config.json and its vocabulary.

    Args:
        source: A model with its tokenizer, as transformers writes them.
        target: A directory that is not there yet.
        quantization: Of the weights.

    Raises:
        ModelError: The family or what is in the directory cannot be converted.
    """
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):  # type: ignore[misc] # not typed
        def load_model(self, *arguments: Any, **options: Any) -> Any:
            model = super().load_model(*arguments, **options)
            _MENDS[model.config.model_type](model)
            _check_start(model, source)
            return model

    check_convertible(source)
    try:
        Converter(str(source)).convert(str(target), quantization=quantization)
    except ValueError as error:
        raise ModelError(
            f"CTranslate2 cannot convert {source}: {error}", remedy="see whether tokenizer.json and config.json fit"
        ) from None
    _set_start(source, target)


def _set_start(source: Path, target: Path) -> None:
    """The converter gives some families a start of its own, mBART none: what the model's configuration says."""
    from tokenizers import Tokenizer

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    start = config.get("decoder_start_token_id")
    if config["model_type"] not in ENCODER_DECODERS or config["model_type"] == "marian" or start is None:
        return
    file = target / "config.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    told["decoder_start_token"] = Tokenizer.from_file(str(source / "tokenizer.json")).id_to_token(start)
    file.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


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
