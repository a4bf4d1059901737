"""Tiny random bundles with an ONNX graph: real code on small parts, without network."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import BertConfig

from agent.batching import Batch
from agent.bundle import Bundle, FirstPass, Lineage, Manifest, OnnxVariant, write_bundle
from agent.encoder_layers import take_asked
from agent.tasks import (
    BaseTask,
    MaskedLanguageModelling,
    MultiLabelClassification,
    QuestionAnswering,
    RelationExtraction,
    TextClassification,
    TextPairClassification,
    TokenClassification,
)
from compression.encoder.torch_model import logits
from compression.graphs.asked_tokens import ask_tokens
from tests.tiny import make_tokenizer

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TAGGER = TokenClassification(labels=("LOC", "ORG", "PER"))
CLASSIFIER = TextClassification(labels=("bad", "fair", "good"))
LABELLER = MultiLabelClassification(labels=("calm", "long", "loud"), thresholds=(0.4, 0.5, 0.95))
JUDGE = TextPairClassification(labels=("contradiction", "entailment", "neutral"))
FILLER = MaskedLanguageModelling(labels=("word",))
RELATER = RelationExtraction(labels=("Flight(e1,e2)", "Flight(e2,e1)", "Other"))
READER = QuestionAnswering(labels=("answer",), null_threshold=0.5)
TEXTS = [
    "Anna flew from Oslo to Lima on Monday.",
    "Initech hired Bruno in Graz; nothing else happened that day.",
    "The minutes of the meeting were sent to Chidi, Dewi and the office in Pune.",
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 .,;:!?'-\"()",
]


def make_bundle(path: Path, task: BaseTask = TAGGER, *, max_tokens: int = 32, stride: int = 8, seed: int = 0) -> Path:
    """Writes a bundle of a random two-layer encoder whose windows hold `max_tokens`."""
    tokenizer = make_tokenizer(TEXTS * 3)
    model = make_model(task, tokenizer.get_vocab_size(), seed)
    with write_bundle(path) as draft:
        tokenizer.save(str(draft.path / "tokenizer.json"))
        model.save_pretrained(draft.path)
        _export(model, draft.path / "model.onnx")
        inputs = INPUTS
        if task.decision.of_vocabulary:
            ask_tokens(draft.path / "model.onnx", model)
            inputs = (*INPUTS, "asked")
        quantize_dynamic(draft.path / "model.onnx", draft.path / "model.int8.onnx", weight_type=QuantType.QInt8)
        draft.publish(
            Manifest(
                task=task,
                max_tokens=max_tokens,
                stride=stride,
                lineage=Lineage(base_model="random", data_digest="none"),
                onnx=(
                    OnnxVariant(file="model.onnx", precision="fp32", inputs=inputs, exporter="torchscript"),
                    OnnxVariant(file="model.int8.onnx", precision="int8", inputs=inputs, exporter="torchscript"),
                ),
            )
        )
    return path


def make_cascade(path: Path, source: Path, threshold: float, *, seed: int = 1) -> Path:
    """Writes a copy of a bundle whose float32 graph has a first pass: another random encoder."""
    bundle = Bundle.load(source)
    with write_bundle(path) as draft:
        shutil.copytree(source, draft.path, dirs_exist_ok=True)
        (draft.path / "bundle.json").unlink()
        _export(
            make_model(bundle.task, bundle.encoder.tokenizer.get_vocab_size(), seed), draft.path / "first_pass.onnx"
        )
        first = FirstPass(file="first_pass.onnx", layers=2, threshold=threshold)
        whole = bundle.manifest.onnx[0].model_copy(update={"first_pass": first})
        draft.publish(bundle.manifest.model_copy(update={"onnx": (whole,)}))
    return path


def make_model(task: BaseTask, vocabulary: int, seed: int) -> torch.nn.Module:
    """A random model, its head scaled so that several labels win somewhere."""
    torch.manual_seed(seed)
    labels = dict(enumerate(task.outputs))
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        id2label=labels,
        label2id={label: index for index, label in labels.items()},
        attn_implementation="eager",
    )
    model = getattr(transformers, task.architecture).from_config(config, attn_implementation="eager").eval()
    if task.decision.of_vocabulary:
        take_asked(model)
        with torch.no_grad():
            model.cls.predictions.transform.LayerNorm.weight.mul_(10)
        return model
    with torch.no_grad():
        (model.qa_outputs if hasattr(model, "qa_outputs") else model.classifier).weight.mul_(40)
    return model


def torch_forward(path: Path, task: BaseTask) -> object:
    """The bundle's torch weights as a forward pass over padded batches."""
    model = getattr(transformers, task.architecture).from_pretrained(path).eval()

    def forward(batch: Batch) -> np.ndarray:
        with torch.no_grad():
            return logits(model, {name: torch.from_numpy(getattr(batch, name)) for name in INPUTS}).numpy()

    return forward


class _Positional(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return logits(self.model, dict(zip(INPUTS, inputs, strict=True)))


def _export(model: torch.nn.Module, file: Path) -> None:
    example = tuple(torch.ones((2, 8), dtype=torch.int64) for _ in INPUTS)
    torch.onnx.export(
        _Positional(model),
        example,
        str(file),
        dynamo=False,
        input_names=list(INPUTS),
        output_names=["logits"],
        dynamic_axes={name: {0: "rows", 1: "tokens"} for name in INPUTS} | {"logits": {0: "rows"}},
    )
