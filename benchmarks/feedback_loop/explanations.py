"""How often an explanation names the word that decides, for a trained agent whose answer one word decides.

    python benchmarks/feedback_loop/explanations.py [texts=500] [output=FILE]

Writes texts of four topics, each told by one word among others that say nothing, and texts of no topic; trains a small random
encoder on them and compresses it, by the documented commands; explains texts with a topic that it has not seen. Texts of no topic
have to be there: an agent that knows none answers one of the topics to a text whose word is hidden, so for that topic no word
decides. Writes benchmarks/results/explanations.json.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from pydantic import Field  # noqa: E402

from agent.bundle import installed_versions  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402
from serving.explanation.explanation_files import Explainer  # noqa: E402

_TOPICS = {
    "weather": ("storm", "drizzle", "thunder", "frost"),
    "politics": ("ballot", "senate", "minister", "treaty"),
    "sport": ("penalty", "referee", "marathon", "goalkeeper"),
    "trade": ("dividend", "tariff", "invoice", "auction"),
}
_SENTENCE = (
    "the minutes of our meeting were sent to office and nothing else happened that day while everyone waited for a letter from "
    "river town about new boats old stones quiet gardens before they left with some bread then came back again late in june"
)
_FILLER = _SENTENCE.split()


class ExplanationsConfig(Config):
    """How much is measured."""

    texts: int = Field(500, ge=1, description="texts that are explained")
    train: int = Field(3_000, ge=100, description="texts that the agent is trained on")
    seed: int = Field(0, description="of the texts")
    aim: float = Field(0.98, ge=0, le=1, description="share of texts whose deciding word is to be named first")
    output: str = Field(str(ROOT / "benchmarks/results/explanations.json"), description="file for the result")


def main(config: ExplanationsConfig) -> None:
    """Trains, explains and writes the result."""
    with tempfile.TemporaryDirectory() as place:
        bundle = trained(Path(place), config)
        result = measured(bundle, config)
    about = {"machine": machine(), "versions": installed_versions(("torch", "transformers", "onnxruntime"))}
    text = json.dumps({**about, "config": config.model_dump(exclude={"output"}), **result}, indent=1)
    Path(config.output).write_text(text + "\n", encoding="utf-8")
    print(text)
    if result["named_first"] < config.aim:
        sys.exit(f"the deciding word is named first in {result['named_first']:.1%} of the texts, aim {config.aim:.0%}")


def _texts(number: int, draw: random.Random, *, other: float = 0.0) -> list[dict[str, str]]:
    """Records with the word that decides; a part of them has none."""
    found = []
    for _ in range(number):
        words, label, decisive = draw.choices(_FILLER, k=draw.randint(4, 24)), "other", ""
        if draw.random() >= other:
            label = draw.choice(sorted(_TOPICS))
            decisive = draw.choice(_TOPICS[label])
            words.insert(draw.randint(0, len(words)), decisive)
        found.append({"text": " ".join(words) + " .", "label": label, "decisive": decisive})
    return found


def trained(place: Path, config: ExplanationsConfig) -> Path:
    """A compressed bundle of an agent trained on such texts."""
    draw, data = random.Random(config.seed), place / "data"
    data.mkdir()
    for name, number in {"train": config.train, "dev": 300, "test": 300}.items():
        rows = [{key: row[key] for key in ("text", "label")} for row in _texts(number, draw, other=0.25)]
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _write_model(place / "model")
    _run(
        "training/run.py", "task.kind=text_classification", f"data.path={data}", f"model.name={place / 'model'}", f"output={place / 'agent'}",
        "epochs=8", "batch.tokens=512", "optimizer.learning_rate=0.002", "model.stride=8",
    )  # fmt: skip
    _run("compression/run.py", f"bundle={place / 'agent'}", f"output={place / 'small'}", "gate.min_score_kept=0.98")
    return place / "small"


def _write_model(directory: Path) -> None:
    """A random encoder of two layers that knows every word."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    words = sorted({*_FILLER, ".", *(word for several in _TOPICS.values() for word in several)})
    vocabulary = {word: place for place, word in enumerate([*special.values(), *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    frame = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=frame
    )
    names = {f"{name}_token": token for name, token in special.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(directory)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)).save_pretrained(directory)


def _run(program: str, *arguments: str) -> None:
    subprocess.run([sys.executable, program, *arguments], cwd=ROOT, check=True)


def measured(bundle: Path, config: ExplanationsConfig) -> dict[str, Any]:
    """Explains texts and compares with what decides."""
    explainer, draw = Explainer(str(bundle), {}), random.Random(config.seed + 1)
    records = _texts(config.texts, draw)
    right = first = flips = flipped = single = interventions = 0
    started = time.monotonic()
    for record in records:
        found = explainer.explain(record["text"])
        (decision,) = found.decisions
        interventions += found.interventions
        right += decision.label == record["label"]
        first += decision.causes[0].word == record["decisive"]
        if decision.flip is not None:
            flips += 1
            single += [place.word for place in decision.flip.words] == [record["decisive"]]
            (answer,) = explainer.engine.predict([decision.flip.inputs])
            flipped += answer[0]["label"] != decision.label
    return {
        "texts": len(records),
        "answered_right": right / len(records),
        "named_first": first / len(records),
        "flips_found": flips / len(records),
        "flips_that_are_the_deciding_word": single / len(records),
        "flips_that_flip": flipped / max(1, flips),
        "interventions_per_text": interventions / len(records),
        "seconds_per_text": (time.monotonic() - started) / len(records),
    }


if __name__ == "__main__":
    sys.exit(cli.run(ExplanationsConfig, main, usage=__doc__))
