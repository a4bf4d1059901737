"""What runs on every worker: set-up, step, evaluate, save. Ray Train starts it; all state comes in one payload."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.encoding import Batch, Document, Encoder, Float32, Int64
from agent.evaluation import run_documents
from agent.tasks import BaseTask, Report
from training.engine import Engine, choose_precision
from training.models import build_model
from training.packing import PackedWindows
from training.progress import Progress
from training.schedule import Step, plan_epoch, share

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from training.job import TrainingConfig

_EVALUATION_TOKENS = 4096  # padded tokens of an evaluation batch


@dataclass(frozen=True)
class EvaluationSet:
    """Examples of a split with their encoded documents."""

    examples: list[Any]
    documents: list[Document]


@dataclass(frozen=True)
class Payload:
    """All that a worker needs; lies once in the object store."""

    config: TrainingConfig
    task: BaseTask[Any]
    train: PackedWindows
    dev: EvaluationSet
    test: EvaluationSet
    pad_id: int
    interactive: bool


@dataclass
class Outcome:
    """What worker 0 hands back.

    Attributes:
        before, after: Reports on the test split, before training and of the best epoch.
        dev: The best epoch's report on the dev split.
        best_epoch: Counted from 1.
        history: One row per epoch.
        description: Where it ran, in one line.
    """

    before: Report
    after: Report
    dev: Report
    best_epoch: int
    history: list[dict[str, float]] = field(default_factory=list)
    description: str = ""


def train_worker(loop_config: Mapping[str, Any]) -> Outcome:
    """Entry point for Ray Train."""
    import ray

    return Worker(ray.get(loop_config["payload"])).run()


class Worker:
    """One data-parallel worker."""

    def __init__(self, payload: Payload) -> None:
        import ray.train
        import ray.train.torch
        import torch

        _be_quiet()
        context = ray.train.get_context()
        self.rank, self.num_workers = context.get_world_rank(), context.get_world_size()
        self.payload, self.config = payload, payload.config
        self.device: torch.device = ray.train.torch.get_device()
        if self.device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
        torch.manual_seed(self.config.seed)  # the same on all workers: the new head must not differ
        np.random.seed(self.config.seed)
        model = build_model(self.config.model, payload.task).to(self.device)
        torch.manual_seed(self.config.seed + self.rank)
        self.input_names = _accepted_inputs(model)
        self.precision = choose_precision(self.config.engine.precision, self.device)
        self.plans = [self._plan(epoch) for epoch in range(self.config.epochs)]
        self.num_steps = sum(map(len, self.plans))
        self.engine = Engine(
            model, self.config.optimizer, self.config.engine, precision=self.precision, num_steps=self.num_steps
        )
        self.model = model

    def run(self) -> Outcome:
        """Trains all epochs; returns the outcome (meaningful on worker 0)."""
        test, dev = self.payload.test, self.payload.dev
        before = self.evaluate(test, self._engine_forward)
        outcome = Outcome(before=before, after=before, dev=before, best_epoch=0, description=self._description())
        with Progress(self.num_steps, show=self.rank == 0, interactive=self.payload.interactive) as progress:
            for epoch in range(self.config.epochs):
                row = self._train_epoch(epoch, progress)
                report = self.evaluate(dev, self._engine_forward)
                improved = not outcome.best_epoch or report.value > outcome.dev.value
                if improved:
                    outcome.dev, outcome.best_epoch = report, epoch + 1
                row |= {"dev_f1": report.value}
                outcome.history.append(row)
                self._report(row, save=improved)
                progress.note(_line(row, self.config.epochs, improved))
        outcome.after = self.evaluate(test, self._best_forward())
        return outcome

    def evaluate(self, split: EvaluationSet, forward: Any) -> Report:
        """Predicts every document once, over all workers, and scores all of them on each worker."""
        import torch.distributed as dist

        mine = list(range(self.rank, len(split.documents), self.num_workers))
        outputs = run_documents(
            [split.documents[index] for index in mine],
            forward,
            pad_id=self.payload.pad_id,
            max_tokens=_EVALUATION_TOKENS,
        )
        task = self.payload.task
        predicted = [
            (index, task.predict(split.documents[index], logits)) for index, logits in zip(mine, outputs, strict=True)
        ]
        parts: list[list[tuple[int, Any]]] = [[] for _ in range(self.num_workers)]
        dist.all_gather_object(parts, predicted)
        predictions = dict(item for part in parts for item in part)
        return task.score(split.examples, [predictions[index] for index in range(len(split.examples))])

    def _train_epoch(self, epoch: int, progress: Progress) -> dict[str, float]:
        meter = Meter()
        self.engine.train(True)
        for step in self._steps(epoch):
            self._train_step(step, meter)
            progress.advance(meter.loss_now, meter.tokens_per_second)
        return {
            "epoch": epoch + 1,
            "loss": self._mean_loss(meter),
            "learning_rate": self.engine.learning_rate,
            **meter.summary(self.num_workers),
        }

    def _steps(self, epoch: int) -> Iterator[Step]:
        lengths = self.payload.train.lengths
        for rows in self.plans[epoch]:
            yield share(rows, lengths, config=self.config.batch, rank=self.rank, num_workers=self.num_workers)

    def _train_step(self, step: Step, meter: Meter) -> None:
        labelled = int(self.payload.train.labelled[step.rows].sum())
        for rows in step.micro_batches:
            begun = time.perf_counter()
            batch, targets = self.payload.train.collate(rows, self.payload.pad_id)
            inputs, device_targets = self._to_device(batch), self._tensor(targets)
            meter.host_s += time.perf_counter() - begun
            logits = self.engine.forward(**inputs)
            loss = self.config.objective.loss(logits, device_targets)
            self.engine.backward(loss / max(1, labelled))
            meter.add(float(loss.detach()), labelled, batch, num_rows=len(rows))
        self.engine.step()
        meter.end_step()

    def _mean_loss(self, meter: Meter) -> float:
        import torch
        import torch.distributed as dist

        totals = torch.tensor([meter.loss_sum], dtype=torch.float64, device=self.device)
        dist.all_reduce(totals)
        return float(totals[0]) / max(1, meter.labelled)

    def _engine_forward(self, batch: Batch) -> Float32:
        import torch

        self.engine.train(False)
        with torch.inference_mode():
            logits = self.engine.forward(**self._to_device(batch))
        return np.asarray(logits.float().cpu().numpy())

    def _best_forward(self) -> Any:
        """The best checkpoint as a plain model, so that what is scored is what is handed over."""
        import ray.train
        import torch

        checkpoint = ray.train.get_all_reported_checkpoints()[-1].checkpoint
        with checkpoint.as_directory() as directory:
            model = type(self.model).from_pretrained(directory, dtype="float32").to(self.device).eval()

        def forward(batch: Batch) -> Float32:
            with torch.inference_mode():
                return np.asarray(model(**self._to_device(batch)).logits.cpu().numpy())

        return forward

    def _report(self, metrics: dict[str, float], *, save: bool) -> None:
        import ray.train

        weights = self.engine.gather_weights() if save else None
        with tempfile.TemporaryDirectory() as directory:
            checkpoint = None
            if weights is not None:
                self.model.save_pretrained(directory, state_dict=weights)
                checkpoint = ray.train.Checkpoint.from_directory(directory)
            ray.train.report(metrics, checkpoint=checkpoint)

    def _plan(self, epoch: int) -> list[Int64]:
        return plan_epoch(self.payload.train.lengths, config=self.config.batch, seed=self.config.seed, epoch=epoch)

    def _to_device(self, batch: Batch) -> dict[str, torch.Tensor]:
        arrays = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "token_type_ids": batch.token_type_ids,
        }
        return {name: self._tensor(array) for name, array in arrays.items() if name in self.input_names}

    def _tensor(self, array: Int64) -> torch.Tensor:
        import torch

        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def _description(self) -> str:
        import torch

        name = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else f"CPU, {torch.get_num_threads()} thread(s)"
        )
        return f"{self.num_workers} worker(s) on {name}; {self.precision}, ZeRO {self.config.engine.zero_stage}, {self.num_steps} steps"


@dataclass
class Meter:
    """Adds up what an epoch cost on this worker."""

    loss_sum: float = 0.0
    labelled: int = 0
    tokens: int = 0
    padded: int = 0
    rows: int = 0
    host_s: float = 0.0
    loss_now: float = 0.0
    _step_loss: float = 0.0
    _step_labelled: int = 0
    _begun: float = field(default_factory=time.perf_counter)

    def add(self, loss: float, labelled: int, batch: Batch, *, num_rows: int) -> None:
        """Counts one micro-batch; `labelled` is that of the whole step, over all workers."""
        self._step_loss += loss
        self._step_labelled = labelled
        self.rows += num_rows
        self.tokens += batch.num_tokens if num_rows else 0
        self.padded += batch.input_ids.size

    def end_step(self) -> None:
        """Closes a step."""
        self.loss_sum += self._step_loss
        self.labelled += self._step_labelled
        self.loss_now = self._step_loss / max(1, self._step_labelled)
        self._step_loss, self._step_labelled = 0.0, 0

    @property
    def tokens_per_second(self) -> float:
        """Real tokens of this worker a second, since the epoch began."""
        return self.tokens / (time.perf_counter() - self._begun)

    def summary(self, num_workers: int) -> dict[str, float]:
        """Rates of the epoch; those of this worker stand for all."""
        seconds = time.perf_counter() - self._begun
        return {
            "seconds": seconds,
            "tokens_per_s": self.tokens * num_workers / seconds,
            "sentences_per_s": self.rows * num_workers / seconds,
            "padding_share": 1 - self.tokens / max(1, self.padded),
            "host_share": self.host_s / seconds,
        }


def _be_quiet() -> None:
    """The new head is expected to be missing from the weights, bars of a second are no progress, reports are ours."""
    import logging

    import transformers

    logging.getLogger().setLevel(logging.WARNING)

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _accepted_inputs(model: PreTrainedModel) -> frozenset[str]:
    import inspect

    return frozenset(inspect.signature(model.forward).parameters)


def _line(row: Mapping[str, float], epochs: int, improved: bool) -> str:
    return (
        f"epoch {row['epoch']:.0f}/{epochs}  loss {row['loss']:.4f}  dev F1 {row['dev_f1']:.4f}{' (best)' if improved else ''}  "
        f"{row['sentences_per_s']:,.0f} sentences/s  {row['tokens_per_s']:,.0f} tokens/s  padding {row['padding_share']:.1%}  "
        f"host {row['host_share']:.1%}  {row['seconds']:.1f} s"
    )


def evaluation_set(task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any]) -> EvaluationSet:
    """Encodes a split for evaluation."""
    return EvaluationSet(list(examples), task.encode(encoder, examples))
