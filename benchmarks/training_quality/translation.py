"""Translation from nothing beside Hugging Face's Seq2SeqTrainer: the same model, data, schedule and time of training.

    python benchmarks/training_quality/translation.py [data=../shared/data/mt_multi30k] [epochs=20] [tokens=1200]

Ours trains for `epochs` passes by `python training/run.py`. Seq2SeqTrainer gets as many texts in a batch as our steps hold on average, and as many steps
as fit into the time that ours trained for, evaluation left out: a trial of some steps says how long one takes, and the schedule ends with
the last. Both are scored by what four beams write for all of test (sacrebleu), by the same code. What stands in the working directory is not
trained again; remove it to measure anew. Two hours at the defaults on two cores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from pydantic import Field  # noqa: E402

from agent.bundle import Bundle  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.data import DataConfig, load_splits  # noqa: E402
from agent.generation.ctranslate2_conversion import convert  # noqa: E402
from agent.generation.text_writer import TextWriter  # noqa: E402
from agent.tasks import SequenceToSequence  # noqa: E402
from agent.tasks.writing.generated_scores import add_generated  # noqa: E402
from agent.windows.tokenizer_setup import end_token  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402

WARMUP, SMOOTHING, SEED = 0.1, 0.1, 0


class TranslationConfig(Config):
    """What to train, and for how long."""

    data: str = Field(str(ROOT / "../shared/data/mt_multi30k"), description="directory of parallel files")
    languages: tuple[str, str] = Field(("en", "de"), description="of texts and of what is written")
    test_name: str | None = Field("test2016", description="name of the test files")
    family: str = Field("pegasus", description="as training/new_model.py takes it")
    width: int = 192
    layers: int = 3
    vocabulary: int = 4_000
    epochs: int = Field(20, ge=1, description="of ours")
    tokens: int = Field(1_200, description="our batch.tokens, source and target together")
    learning_rate: float = 2e-3
    threads: int = Field(2, ge=1, description="CPU threads of both")
    trial_steps: int = Field(40, ge=5, description="of Seq2SeqTrainer, to learn what one takes")
    workdir: str = Field("runs/translation", description="where the model and what is trained go")
    result: str = Field(str(ROOT / "benchmarks/results/translation.json"), description="JSON file to write")


def main(config: TranslationConfig) -> None:
    """Trains both, and writes and prints what came of them."""
    workdir = Path(config.workdir).absolute()
    model = workdir / "model"
    data = DataConfig(path=config.data, languages=config.languages, test_name=config.test_name)
    keys = [f"data.path={config.data}", f"data.languages=[{','.join(config.languages)}]"]
    keys += [f"data.test_name={config.test_name}"] if config.test_name else []
    if not model.is_dir():
        shape = [
            f"family={config.family}",
            f"width={config.width}",
            f"layers={config.layers}",
            f"vocabulary={config.vocabulary}",
        ]
        run("training/new_model.py", *keys, *shape, f"output={model}")
    ours = train_ours(config, model, workdir / "ours", keys)
    rival = train_rival(config, model, workdir / "trainer", data, ours)
    result = {
        "machine": machine(),
        "config": config.model_dump(mode="json", exclude={"data", "workdir", "result"}),
        "ours": ours,
        "trainer": rival,
    }
    Path(config.result).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, found in (("ours", ours), ("Seq2SeqTrainer", rival)):
        print(
            f"{name:16} BLEU {100 * found['bleu']:.2f}  chrF {100 * found['chrf']:.2f}  {found['seconds']:,.0f} s  {found['steps']:,} steps  "
            f"{found['epochs']:.1f} epochs"
        )


def run(*command: str) -> None:
    """A command of ours, whose output is shown."""
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)


def train_ours(config: TranslationConfig, model: Path, output: Path, keys: list[str]) -> dict[str, Any]:
    """Trains by the command; goes on where an earlier run ended."""
    if not (output / "bundle.json").is_file():
        run(
            "training/run.py", "task.kind=sequence_to_sequence", *keys, f"model.name={model}", "model.init=random", f"output={output}",
            f"epochs={config.epochs}", f"batch.tokens={config.tokens}", f"optimizer.learning_rate={config.learning_rate}",
            f"schedule.warmup_fraction={WARMUP}", f"objective.label_smoothing={SMOOTHING}", "early_stopping.patience=null", f"seed={SEED}",
            f"cluster.num_cpus={config.threads}",
        )  # fmt: skip
    bundle = Bundle.load(output)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    (test,) = (one.report for one in bundle.manifest.evaluations if one.split == "test")
    return {
        "bleu": test.metrics["bleu"], "chrf": test.metrics["chrf"], "mode": test.mode, "steps": len(steps), "epochs": float(config.epochs),
        "seconds": sum(row["seconds"] for row in steps), "texts_per_step": sum(row["sentences"] for row in steps) / len(steps),
    }  # fmt: skip


def train_rival(
    config: TranslationConfig, model: Path, output: Path, data: DataConfig, ours: dict[str, Any]
) -> dict[str, Any]:
    """Trains by Seq2SeqTrainer for the seconds of ours."""
    kept = output / "result.json"
    if not kept.is_file():
        output.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(seq2seq_trainer(config, model, output, data, ours)), encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def seq2seq_trainer(
    config: TranslationConfig, model: Path, output: Path, data: DataConfig, ours: dict[str, Any]
) -> dict[str, Any]:
    """A trial, then the run; both from the same weights."""
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
    )

    torch.set_num_threads(config.threads)
    splits, tokenizer = load_splits(data, SequenceToSequence()), AutoTokenizer.from_pretrained(model)
    rows = [
        {"input_ids": tokenizer(one.text).input_ids, "labels": tokenizer(text_target=one.target).input_ids}
        for one in splits.train
    ]
    batch = max(1, round(ours["texts_per_step"]))

    def train(steps: int) -> tuple[Any, float]:
        torch.manual_seed(SEED)
        network = AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(model))
        with tempfile.TemporaryDirectory() as place:
            arguments = Seq2SeqTrainingArguments(
                output_dir=place, use_cpu=True, per_device_train_batch_size=batch, train_sampling_strategy="group_by_length", max_steps=steps,
                learning_rate=config.learning_rate, lr_scheduler_type="linear", warmup_steps=round(WARMUP * steps),
                label_smoothing_factor=SMOOTHING, optim="adamw_torch_fused", weight_decay=0.01, dataloader_pin_memory=False,
                save_strategy="no", eval_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, seed=SEED,
            )  # fmt: skip
            trainer = Seq2SeqTrainer(
                model=network, args=arguments, train_dataset=rows, data_collator=DataCollatorForSeq2Seq(tokenizer, network),
                processing_class=tokenizer,
            )  # fmt: skip
            started = time.perf_counter()
            trainer.train()
        return network, time.perf_counter() - started

    _, trial_s = train(config.trial_steps)
    steps = max(1, round(ours["seconds"] * config.trial_steps / trial_s))
    network, seconds = train(steps)
    network.save_pretrained(output)
    metrics, mode = score(output, tokenizer.backend_tokenizer, splits, config.threads)
    return {
        "bleu": metrics["bleu"], "chrf": metrics["chrf"], "mode": mode, "steps": steps, "epochs": steps * batch / len(rows),
        "seconds": seconds, "texts_per_step": float(batch),
    }  # fmt: skip


def score(model: Path, tokenizer: Any, splits: Any, threads: int) -> tuple[Any, str]:
    """What a saved model's texts for test score, by the code that scores ours."""
    from agent.encoding import Encoder
    from agent.tasks import Report

    end, task, length = end_token(tokenizer), SequenceToSequence(), 512
    documents: list[Any] = task.encode(Encoder(tokenizer, max_tokens=length, stride=0), splits.test)
    with tempfile.TemporaryDirectory() as place:
        convert(model, Path(place) / "converted", tokenizer, end)
        writer = TextWriter(Path(place) / "converted", tokenizer, end, threads=threads)
        texts = writer.write(
            [document.given for document in documents], num_beams=task.num_beams, max_new_tokens=length
        )
    nothing = Report(metrics={}, primary="bleu", support=len(texts), text="", mode="")
    report = add_generated(nothing, [one.target for one in splits.test], texts, "bleu")
    return report.metrics, report.mode


if __name__ == "__main__":
    sys.exit(cli.run(TranslationConfig, main, usage=__doc__))
