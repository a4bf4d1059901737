"""What models that write need in training: a family that can, the token that a decoder starts with, no cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import ModelError
from agent.tasks import BaseTask, SequenceToSequence
from agent.windows.tokenizer_setup import end_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_MARK_LANGUAGES = ("mbart", "m2m_100", "nllb-moe", "plbart")


def check_writer(config: Any, task: BaseTask[Any], name: str) -> None:
    """Refuses models that cannot write for a task: most encoders have a head that does, and would see what they are to say.

    Args:
        config: The model's, of transformers.
        task: A task that writes.
        name: Of the model, as the user gave it.

    Raises:
        ModelError: It is another kind of model, or does not say what its decoder starts with.
    """
    from transformers.models.auto import modeling_auto

    decodes, encoders = isinstance(task, SequenceToSequence), modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    known = (
        config.model_type in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        if decodes
        else config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and config.model_type not in encoders
    )
    if not known or bool(config.is_encoder_decoder) != decodes:
        wanted = (
            "an encoder with a decoder, such as T5, BART, Pegasus"
            if decodes
            else "a decoder, such as GPT-2, Llama, Qwen"
        )
        raise ModelError(
            f"model.name={name!r} is a {config.model_type} model, and the task is {task.kind}",
            allowed=wanted,
            remedy="choose another model.name",
        )
    if config.model_type in _MARK_LANGUAGES:
        raise ModelError(
            f"model.name={name!r} is a {config.model_type} model, whose tokenizer marks the language of a text, one for source and target alike",
            allowed="models without marks of languages, such as T5, BART, Pegasus",
            remedy="choose another model.name",
        )
    if decodes and start_id(config) is None:
        raise ModelError(
            f"model.name={name!r}: its config.json does not say what the decoder starts with",
            allowed="decoder_start_token_id, the number of a token",
            remedy="add it; for a T5 that of <pad>",
        )


def check_end(config: Any, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Refuses a model that would not stop at the token by which it learns that texts end.

    Args:
        config: The model's, of transformers.
        tokenizer: Its tokenizer.
        name: Of the model, as the user gave it.

    Raises:
        ModelError: Its config.json or its tokenizer names another token, or the tokenizer has none.
    """
    end = end_id(tokenizer.backend_tokenizer)
    named = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if end not in named or tokenizer.eos_token_id != end:
        raise ModelError(
            f"model.name={name!r}: its tokenizer ends texts with {tokenizer.convert_ids_to_tokens(end)} ({end}), and generation would end at "
            f"eos_token_id={config.eos_token_id} of config.json and eos_token={tokenizer.eos_token} of the tokenizer",
            allowed="the same token in all three",
            remedy="mend eos_token_id in config.json, or eos_token in tokenizer_config.json",
        )


def start_id(config: Any) -> int | None:
    """What a decoder starts with; None where there is no encoder, or nothing is said."""
    found: int | None = getattr(config, "decoder_start_token_id", None) if config.is_encoder_decoder else None
    return found


def save_generation(directory: Path, task: SequenceToSequence, max_tokens: int) -> None:
    """Has a saved model generate, where transformers is told nothing else, as its texts were generated to be scored.

    Args:
        directory: Of the model.
        task: Says by how many beams, and how long texts may be.
        max_tokens: The model's length.
    """
    from transformers import AutoConfig, GenerationConfig

    config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(directory))
    config.update(
        num_beams=task.num_beams, early_stopping=task.num_beams > 1, do_sample=False, forced_eos_token_id=None,
        max_new_tokens=min(task.max_new_tokens or max_tokens, max_tokens), max_length=None,
    )  # fmt: skip
    config.save_pretrained(directory)


def without_cache(model: PreTrainedModel) -> None:
    """Has a model keep no keys and values of earlier tokens, which only generation needs. Its configuration stays as it is."""
    model.register_forward_pre_hook(_no_cache, with_kwargs=True)


def _no_cache(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "use_cache": False}
