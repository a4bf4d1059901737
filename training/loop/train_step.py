"""One optimizer step of a worker; its batches are collated while the step before it computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agent.batching import Batch
from agent.encoding import Float32, Int64
from agent.tasks.masked_language.word_masking import keys_of
from training.data.batch_plan import BatchConfig, EpochPlan, share
from training.model.attention import run_packed, unpack
from training.objectives.window_facts import WindowFacts, mean_reward

if TYPE_CHECKING:
    import torch

    from training.data.packing import Windows
    from training.distillation.distillation_loss import Teacher
    from training.engine.activation_hooks import ModelOutputs
    from training.engine.deepspeed_engine import TrainingEngine
    from training.objectives import Loss


class MicroBatch(NamedTuple):
    """One forward pass: the model's inputs and targets on the host, and what the loss may know beside them."""

    inputs: dict[str, torch.Tensor]
    targets: torch.Tensor
    facts: WindowFacts


@dataclass(frozen=True)
class PreparedStep:
    """A step's tensors on the host.

    Attributes:
        micro_batches: Of this worker; those computed at once follow each other.
        rows: int64 [windows], all windows of the step, over all workers; as are the counts below.
        touched_rows: int64, distinct tokens of the step, for the all-reduce of the embedding's gradient; None if not needed.
    """

    micro_batches: Sequence[MicroBatch]
    rows: Int64
    labelled: int
    tokens: int
    padded_tokens: int
    touched_rows: torch.Tensor | None

    @property
    def sentences(self) -> int:
        """Windows of the step, over all workers."""
        return len(self.rows)


@dataclass(frozen=True)
class ModelInputs:
    """Turns padded batches into a model's inputs on its device.

    Attributes:
        names: ModelInputs that the model has.
        device: Where it computes.
        packed: Whether it takes rows end to end.
        start_id: What a decoder beside an encoder starts with; None where there is none.
    """

    names: frozenset[str]
    device: torch.device
    packed: bool
    start_id: int | None = None

    def to_host(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Tensors in host memory, pinned for a GPU."""
        arrays = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "token_type_ids": batch.token_type_ids,
            "asked": batch.asked,
            "decoder_input_ids": self.decoder_input_ids(batch),
        }
        return {name: self.pin(array) for name, array in arrays.items() if name in self.names and array is not None}

    def decoder_input_ids(self, batch: Batch) -> Int64 | None:
        """What a decoder sees: the token that it starts with, then what was written but for the last; int64 [rows, written tokens]."""
        if batch.decoder_ids is None:
            return None
        assert self.start_id is not None
        start = np.full((len(batch.decoder_ids), 1), self.start_id, np.int64)
        return np.concatenate([start, batch.decoder_ids[:, :-1]], axis=1)

    def touched_rows(self, batch: Batch) -> torch.Tensor:
        """Rows of the input embedding that a batch reads: int64, ascending."""
        import torch

        seen = [batch.input_ids, self.decoder_input_ids(batch)]
        return torch.from_numpy(np.unique(np.concatenate([ids.ravel() for ids in seen if ids is not None])))

    def pin(self, array: Int64) -> torch.Tensor:
        """A host tensor over an array, pinned for a GPU."""
        import torch

        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def to_device(self, host: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same tensors on the model's device."""
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in host.items()}

    def run(self, forward: Callable[..., torch.Tensor], inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits of a batch: float [rows, tokens, outputs], [rows, outputs], or [asked, outputs] where tokens are asked about."""
        return run_packed(forward, inputs) if self.packed else forward(**inputs)


@dataclass(frozen=True)
class BatchPrefetcher:
    """Collates this worker's part of each step of a plan, one step ahead.

    Attributes:
        windows: Training windows.
        inputs: The model's.
        batch: Token budgets.
        pad_id: Of the tokenizer.
        rank, num_workers: Which part is this worker's.
        num_parallel: How many micro-batches it computes at once.
        finds_touched_rows: Whether steps carry `touched_rows`.
        seed: Of the run.
    """

    windows: Windows
    inputs: ModelInputs
    batch: BatchConfig
    pad_id: int
    rank: int
    num_workers: int
    num_parallel: int
    finds_touched_rows: bool
    seed: int = 0

    @cached_property
    def _lengths(self) -> Int64:
        return self.windows.lengths

    @cached_property
    def _logged(self) -> Float32:
        return self.windows.logged

    @cached_property
    def _mean_reward(self) -> float:
        return mean_reward(self._logged, self.windows.owners)

    def facts(self, rows: Int64, epoch: int) -> WindowFacts:
        """What a loss may know of windows; of no rows that of the one row of padding that stands for them."""
        if not len(rows):
            return WindowFacts(np.zeros(1, np.uint64), np.full((1, 2), np.nan, np.float32), self._mean_reward)
        keys = keys_of(rows, seed=self.seed, epoch=epoch)
        return WindowFacts(keys, np.asarray(self._logged[rows]), self._mean_reward)

    def steps(self, plan: EpochPlan, first: int, *, epoch: int = 0) -> Iterator[tuple[PreparedStep, float]]:
        """Yields the steps of an epoch's plan from `first` on, each with the seconds that the worker waited for it."""
        prepare = partial(self._prepare, windows=self.windows.at_epoch(epoch), epoch=epoch)
        with ThreadPoolExecutor(1, thread_name_prefix="collate") as pool:
            future = pool.submit(prepare, plan[first])
            for index in range(first, len(plan)):
                start = time.perf_counter()
                step = future.result()
                waited = time.perf_counter() - start
                if index + 1 < len(plan):
                    future = pool.submit(prepare, plan[index + 1])
                yield step, waited

    def _prepare(self, rows: Int64, windows: Windows | None = None, epoch: int = 0) -> PreparedStep:
        windows, lengths = windows or self.windows, self._lengths
        own = share(
            rows, lengths, config=self.batch, rank=self.rank, num_workers=self.num_workers, num_parallel=self.num_parallel
        )  # fmt: skip
        collated = [(part, *windows.collate(part, self.pad_id)) for part in own.micro_batches]
        touched_rows = None
        if self.finds_touched_rows:
            whole_step, _ = windows.collate(rows, self.pad_id)
            touched_rows = self.inputs.touched_rows(whole_step)
        return PreparedStep(
            [
                MicroBatch(self.inputs.to_host(batch), self.inputs.pin(targets), self.facts(part, epoch))
                for part, batch, targets in collated
            ],
            rows,
            labelled=windows.count_labelled(rows),
            tokens=int(lengths[rows].sum()),
            padded_tokens=own.padded_tokens,
            touched_rows=touched_rows,
        )


class TrainStep:
    """Runs prepared steps through the engine.

    Args:
        engine: The model.
        prefetcher: Where steps come from.
        loss_function: Of the labels, see `training.objectives.Loss`.
        teacher: Adds a distillation loss, if given.
        seed: Each step is seeded by it, its number and the rank, so that dropout repeats from any checkpoint on.
    """

    def __init__(
        self,
        engine: TrainingEngine,
        prefetcher: BatchPrefetcher,
        loss_function: Loss,
        *,
        seed: int,
        teacher: Teacher | None = None,
    ) -> None:
        self._engine, self._prefetcher, self._seed = engine, prefetcher, seed
        self._loss_function, self._teacher = loss_function, teacher

    def run(self, step: PreparedStep, number: int) -> torch.Tensor:
        """Does a step; returns its loss, summed over targets and workers: float64 [], on the device."""
        import torch
        import torch.distributed as dist

        self._engine.seed(_step_seed(self._seed, number, self._prefetcher.rank))
        total = torch.zeros((), dtype=torch.float64, device=self._prefetcher.inputs.device)
        num_parallel = self._prefetcher.num_parallel
        for first in range(0, len(step.micro_batches), num_parallel):
            loss = self._summed_loss(step.micro_batches[first : first + num_parallel])
            self._engine.backward(loss / max(1, step.labelled))
            total += loss.detach()
        self._engine.step(None if step.touched_rows is None else step.touched_rows.to(total.device))
        if self._prefetcher.num_workers > 1:
            dist.all_reduce(total)
        return total

    def probe_loss(self, rows: Int64) -> float:
        """Mean loss on given windows by their targets alone, without dropout: the same on every worker and on other hardware."""
        import torch

        windows, inputs = self._prefetcher.windows, self._prefetcher.inputs
        batch, targets = windows.collate(rows, self._prefetcher.pad_id)
        on_device = inputs.to_device(inputs.to_host(batch))
        self._engine.train(False)
        with torch.inference_mode():
            outputs = self._forward(on_device)
            loss = self._loss(on_device, outputs, torch.from_numpy(targets).to(inputs.device))
        self._engine.train(True)
        return float(loss) / max(1, windows.count_labelled(rows))

    def _summed_loss(self, micro_batches: Sequence[MicroBatch]) -> torch.Tensor:
        """The loss of micro-batches computed at once, summed over targets."""
        import torch

        inputs = self._prefetcher.inputs
        on_device = [inputs.to_device(part.inputs) for part in micro_batches]
        losses = [
            self._loss(batch, outputs, part.targets.to(inputs.device, non_blocking=True), part.facts)
            for batch, outputs, part in zip(on_device, self._forward_all(on_device), micro_batches, strict=True)
        ]
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def _forward_all(self, batches: Sequence[Mapping[str, torch.Tensor]]) -> list[ModelOutputs]:
        packed = self._prefetcher.inputs.packed
        return list(map(self._forward, batches)) if packed else self._engine.forward_all(batches)

    def _forward(self, batch: Mapping[str, torch.Tensor]) -> ModelOutputs:
        inputs = self._prefetcher.inputs
        outputs = self._engine.record(lambda: inputs.run(self._engine.forward, batch))
        if not inputs.packed:
            return outputs
        mask = batch["attention_mask"].bool()
        return outputs[0], *(unpack(flat, mask) for flat in outputs[1:])

    def _loss(
        self,
        batch: Mapping[str, torch.Tensor],
        outputs: ModelOutputs,
        targets: torch.Tensor,
        facts: WindowFacts | None = None,
    ) -> torch.Tensor:
        if not self._teacher:
            return self._loss_function(outputs[0], targets, facts)
        return self._teacher.loss(
            lambda logits, labels: self._loss_function(logits, labels, facts), outputs, targets, batch
        )


def _step_seed(seed: int, number: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, number, rank)).generate_state(1, np.uint64)[0] >> 1)
