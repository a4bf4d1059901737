"""The shape of a model that writes, with a tokenizer of its own: what `model.init=random` starts from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from agent.config.base import Config
from agent.data import DataConfig, load_splits
from agent.errors import ConfigError
from agent.files import draft_directory, replace_directory
from agent.tasks import SequenceToSequence, Task
from agent.tasks.writing.conversation import MARKERS
from agent.tasks.writing.text_generation import Dialogue
from agent.tasks.writing.written_text import WrittenText
from training.model.trained_tokenizer import END_ID, PAD_ID, save_tokenizer, train_tokenizer

Family = Literal["pegasus", "bart", "t5", "gpt2", "llama"]
_ENCODER_DECODERS = ("pegasus", "bart", "t5")
_SMALLEST = 256 + 8  # bytes, and tokens that stand for no text


class NewModelConfig(Config):
    """A model to train from nothing."""

    output: str = Field("models/new", description="directory to write, which must not exist yet")
    task: Task = Field(SequenceToSequence(), description="sequence_to_sequence or text_generation")
    data: DataConfig = DataConfig()
    family: Family = Field(
        "pegasus",
        description="of sequence_to_sequence pegasus (norms before layers, sinusoidal positions), bart or t5; of text_generation gpt2 or llama",
    )
    width: int = Field(192, ge=8, description="of hidden states; feed-forward layers are twice as wide")
    layers: int = Field(3, ge=1, description="of the decoder, and as many of the encoder where there is one")
    heads: int = Field(4, ge=1, description="attention heads; they divide the width")
    vocabulary: int = Field(4000, ge=_SMALLEST, description="sub-words at most, of texts and targets together")
    max_tokens: int = Field(512, ge=8, description="length of the model, of source and target each")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the model")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        kind = "sequence_to_sequence" if self.family in _ENCODER_DECODERS else "text_generation"
        if self.task.kind != kind:
            raise ValueError(f"family={self.family} is for task.kind={kind}, and the task is {self.task.kind}")
        if self.width % (2 * self.heads):
            raise ValueError(f"width={self.width} is no multiple of twice heads={self.heads}")
        return self


def make_model(config: NewModelConfig) -> str:
    """Writes config.json and the tokenizer; returns what to tell people.

    Raises:
        ConfigError: The output exists, or cannot be written.
        DataError: The data is not in order.
    """
    output = Path(config.output).expanduser().absolute()
    if output.exists():
        raise ConfigError(f"output={output} exists", allowed="a new directory", remedy="choose another output")
    splits = load_splits(config.data, config.task)
    decodes = config.family in _ENCODER_DECODERS
    markers = () if decodes else tuple(marker.strip() for marker in MARKERS.values())
    tokenizer = train_tokenizer(_texts(splits.train), config.vocabulary, decodes=decodes, markers=markers)
    try:
        with draft_directory(output) as draft:
            save_tokenizer(tokenizer, draft, max_tokens=config.max_tokens)
            _shape(config, tokenizer.get_vocab_size()).save_pretrained(draft)
            draft.chmod(0o755)
            replace_directory(draft, output)
    except OSError as error:
        raise ConfigError(f"output={output} cannot be written ({error.strerror})", remedy="choose another") from None
    return (
        f"{output}: {config.family} of width {config.width}, {config.layers} layers, {tokenizer.get_vocab_size():,} sub-words from "
        f"{len(splits.train):,} examples\ntrain it: python training/run.py task.kind={config.task.kind} model.name={output} model.init=random "
        f"data.path={config.data.path} ..."
    )


def _texts(examples: Sequence[WrittenText]) -> Iterator[str]:
    for example in examples:
        if isinstance(example, Dialogue):
            yield from (turn.content for turn in example.turns)
        else:
            yield from (example.text, example.target)


def _shape(config: NewModelConfig, size: int) -> Any:
    """The configuration of transformers."""
    import transformers

    width, heads, layers = config.width, config.heads, config.layers
    tokens = {"vocab_size": size, "pad_token_id": PAD_ID, "eos_token_id": END_ID, "bos_token_id": END_ID}
    bart = {
        "d_model": width, "encoder_layers": layers, "decoder_layers": layers, "encoder_attention_heads": heads, "decoder_attention_heads": heads,
        "encoder_ffn_dim": 2 * width, "decoder_ffn_dim": 2 * width, "max_position_embeddings": config.max_tokens, "dropout": config.dropout,
        "scale_embedding": True, "forced_eos_token_id": None, "forced_bos_token_id": None, "decoder_start_token_id": PAD_ID,
    }  # fmt: skip
    t5 = {
        "d_model": width, "d_kv": width // heads, "d_ff": 2 * width, "num_layers": layers, "num_heads": heads,
        "dropout_rate": config.dropout, "decoder_start_token_id": PAD_ID,
    }  # fmt: skip
    gpt2 = {
        "n_embd": width, "n_layer": layers, "n_head": heads, "n_inner": 2 * width, "n_positions": config.max_tokens,
        "resid_pdrop": config.dropout, "embd_pdrop": config.dropout, "attn_pdrop": config.dropout,
    }  # fmt: skip
    llama = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": 2 * width,
        "max_position_embeddings": config.max_tokens, "attention_dropout": config.dropout, "tie_word_embeddings": True,
    }  # fmt: skip
    kinds: dict[Family, tuple[Any, dict[str, Any]]] = {
        "pegasus": (transformers.PegasusConfig, bart), "bart": (transformers.BartConfig, bart), "t5": (transformers.T5Config, t5),
        "gpt2": (transformers.GPT2Config, gpt2), "llama": (transformers.LlamaConfig, llama),
    }  # fmt: skip
    kind, shape = kinds[config.family]
    return kind(**tokens, **shape)
