"""Runs Hugging Face's Trainer and times its steps; imported only in the measured process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    TrainerCallback,
    TrainingArguments,
)

from agent.batching import Batch
from agent.data import DataConfig
from agent.encoding import Float32
from agent.evaluation import evaluate
from agent.tasks import MaskedLanguageModelling, Report
from benchmarks.trainer_comparison.base import WARMUP, WEIGHT_DECAY, Material, Step, load_material
from benchmarks.trainer_comparison.trainer import Trainer
from training.engine.engine_config import choose_precision
from training.model.models import logits_of

Look = Callable[[], float]


def fine_tune(settings: Trainer, data: DataConfig) -> dict[str, Any]:
    """Trains by `settings`; returns steps, points of the learning curve and the test score of the best point."""
    torch.set_num_threads(settings.threads)
    material = load_material(data, settings.seed, settings.task)
    material.model.set_attn_implementation(settings.attention)
    clock = Clock(settings, len(material.rows), Curve(material))
    precision = choose_precision("auto", torch.device("cpu"))
    with tempfile.TemporaryDirectory(prefix="training_throughput.") as directory:
        trainer = Counting(
            model=material.model,
            args=arguments(settings, directory, bf16=precision == "bf16"),
            train_dataset=material.rows,
            data_collator=collator(material),
            processing_class=material.tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    steps: list[Step] = [(seconds, *counts) for seconds, counts in zip(clock.seconds, trainer.counts, strict=True)]
    return {"steps": steps, "precision": precision} | clock.curve.outcome()


def collator(material: Material) -> Any:
    """What pads a batch, and hides words of it where these are learned."""
    task = material.splits.task
    if isinstance(task, MaskedLanguageModelling):
        return DataCollatorForLanguageModeling(
            material.tokenizer,
            whole_word_mask=True,
            mlm_probability=task.mask_fraction,
            mask_replace_prob=1.0,
            random_replace_prob=0.0,
        )
    kind = DataCollatorForTokenClassification if task.decision.per_token else DataCollatorWithPadding
    return kind(material.tokenizer)


def arguments(settings: Trainer, directory: str, *, bf16: bool) -> TrainingArguments:
    """Training arguments without saving, logging and progress bar, which would cost time."""
    return TrainingArguments(
        output_dir=directory,
        use_cpu=True,
        bf16=bf16,
        per_device_train_batch_size=settings.batch,
        train_sampling_strategy="group_by_length",
        num_train_epochs=settings.epochs,
        max_steps=settings.sentences // settings.batch if settings.sentences else -1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=WARMUP,
        weight_decay=WEIGHT_DECAY,
        optim="adamw_torch_fused",
        dataloader_num_workers=settings.loaders,
        dataloader_persistent_workers=settings.loaders > 0,
        dataloader_pin_memory=False,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
    )


class Counting(transformers.Trainer):
    """Counts the sentences and tokens that go through the model."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.counts: list[tuple[int, int, int]] = []

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], *rest: Any, **options: Any
    ) -> torch.Tensor:
        """A training step, counted."""
        mask = inputs["attention_mask"]
        self.counts.append((len(mask), int(mask.sum()), mask.numel()))
        loss: torch.Tensor = super().training_step(model, inputs, *rest, **options)
        return loss


class Curve:
    """Scores on dev over training time, by the code that scores ours, and the weights of the best."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._best: dict[str, torch.Tensor] = {}
        self.points: list[tuple[float, float]] = []

    def look(self, seconds: float) -> None:
        """Adds a point."""
        score = self._report("dev").value
        if score > max((value for _, value in self.points), default=-1.0):
            self._best = {name: tensor.clone() for name, tensor in self._material.model.state_dict().items()}
        self.points.append((seconds, score))

    def outcome(self) -> dict[str, Any]:
        """All points, and the score of the best one on test."""
        if not self.points:
            return {}
        self._material.model.load_state_dict(self._best)
        test = self._report("test")
        return {"points": self.points, "test_f1": test.value, "test_metrics": dict(test.metrics)}

    def _report(self, split: str) -> Report:
        material = self._material
        material.model.eval()
        report = evaluate(material.splits.task, material.encoder, getattr(material.splits, split), self._forward)
        material.model.train()
        return report

    def _forward(self, batch: Batch) -> Float32:
        names = ("input_ids", "attention_mask", "token_type_ids")
        names += ("asked",) if batch.asked is not None else ()
        inputs = {name: torch.from_numpy(getattr(batch, name)) for name in names}
        with torch.inference_mode():
            logits = logits_of(self._material.model(**inputs), inputs).float()
        found: Float32 = logits.numpy()
        return found


class Clock(TrainerCallback):
    """Times each step, the first with what comes before it; stops while the dev split is scored."""

    def __init__(self, settings: Trainer, num_rows: int, curve: Curve) -> None:
        looks, per_epoch = settings.looks_per_epoch, -(-num_rows // settings.batch)
        self._looks = (
            {round(number * per_epoch / looks) for number in range(1, looks * settings.epochs + 1)} if looks else set()
        )
        self.curve, self.seconds = curve, list[float]()
        self._started = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """Records a step, and scores the dev split when it is due."""
        self.seconds.append(time.perf_counter() - self._started)
        if state.global_step in self._looks:
            self.curve.look(sum(self.seconds))
        self._started = time.perf_counter()
