"""One optimizer step of one worker, its batches collated while the step before it computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from agent.encoding import Batch, Int64
from training.data.batch_plan import BatchConfig, EpochPlan, share
from training.model.attention import run_packed, unpack

if TYPE_CHECKING:
    import torch

    from training.data.packing import Windows
    from training.distillation.distillation_loss import Teacher
    from training.engine.activation_hooks import Said
    from training.engine.deepspeed_engine import Engine

LossFunction = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True)
class PreparedStep:
    """A step's tensors on the host.

    Attributes:
        micro_batches: Inputs and targets of each forward pass of this worker; those computed at once follow each other.
        rows: int64 [windows], all windows of the step, over all workers; as are the counts below.
        touched: int64, distinct tokens of the step, for the exchange of the embedding's gradient; None if it is not needed.
    """

    micro_batches: Sequence[tuple[dict[str, torch.Tensor], torch.Tensor]]
    rows: Int64
    labelled: int
    tokens: int
    padded_tokens: int
    touched: torch.Tensor | None

    @property
    def sentences(self) -> int:
        """Windows of the step, over all workers."""
        return len(self.rows)


@dataclass(frozen=True)
class Inputs:
    """Turns padded batches into what a model takes on its device.

    Attributes:
        names: Inputs that the model has.
        device: Where it computes.
        packed: Whether it takes rows end to end.
    """

    names: frozenset[str]
    device: torch.device
    packed: bool

    def host(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Tensors in host memory, pinned if a GPU is to fetch them."""
        arrays = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "token_type_ids": batch.token_type_ids,
        }
        return {name: self.pin(array) for name, array in arrays.items() if name in self.names}

    def pin(self, array: Int64) -> torch.Tensor:
        """A host tensor over an array."""
        import torch

        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def place(self, host: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same tensors where the model computes."""
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in host.items()}

    def run(self, forward: Callable[..., torch.Tensor], placed: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits of a batch: float [rows, tokens, outputs] or [rows, outputs]."""
        return run_packed(forward, placed) if self.packed else forward(**placed)


@dataclass(frozen=True)
class BatchPrefetcher:
    """Turns plans into steps: this worker's part of each, collated.

    Attributes:
        windows: Training windows.
        inputs: What the model takes.
        batch: Budgets.
        pad_id: Of the tokenizer.
        rank, num_workers: Which part is this worker's.
        lanes: How many micro-batches it computes at once.
        finds_touched: Whether steps say which tokens they have.
    """

    windows: Windows
    inputs: Inputs
    batch: BatchConfig
    pad_id: int
    rank: int
    num_workers: int
    lanes: int
    finds_touched: bool

    @cached_property
    def _lengths(self) -> Int64:
        return self.windows.lengths

    def steps(self, plan: EpochPlan, first: int) -> Iterator[tuple[PreparedStep, float]]:
        """Yields the steps of a plan from `first` on, each with the seconds that it kept the worker waiting."""
        with ThreadPoolExecutor(1, thread_name_prefix="collate") as pool:
            coming = pool.submit(self._prepare, plan[first])
            for index in range(first, len(plan)):
                begun = time.perf_counter()
                step = coming.result()
                waited = time.perf_counter() - begun
                if index + 1 < len(plan):
                    coming = pool.submit(self._prepare, plan[index + 1])
                yield step, waited

    def _prepare(self, rows: Int64) -> PreparedStep:
        import torch

        windows, lengths = self.windows, self._lengths
        part = share(rows, lengths, config=self.batch, rank=self.rank, num_workers=self.num_workers, lanes=self.lanes)
        collated = [windows.collate(mine, self.pad_id) for mine in part.micro_batches]
        touched = None
        if self.finds_touched:
            everything, _ = windows.collate(rows, self.pad_id)
            touched = torch.from_numpy(np.unique(everything.input_ids))
        return PreparedStep(
            [(self.inputs.host(batch), self.inputs.pin(targets)) for batch, targets in collated],
            rows,
            labelled=int(windows.labelled[rows].sum()),
            tokens=int(lengths[rows].sum()),
            padded_tokens=part.padded_tokens,
            touched=touched,
        )


class TrainStep:
    """Takes prepared steps through the engine.

    Args:
        engine: The model.
        feed: Where steps come from.
        loss_function: Logits and targets to a summed loss.
        teacher: Whose probabilities count beside the targets, if any do.
        seed: Steps are seeded by it, their number and the rank, so that dropout repeats from any checkpoint on.
    """

    def __init__(
        self,
        engine: Engine,
        feed: BatchPrefetcher,
        loss_function: LossFunction,
        *,
        seed: int,
        teacher: Teacher | None = None,
    ) -> None:
        self._engine, self._feed, self._seed = engine, feed, seed
        self._loss_function, self._teacher = loss_function, teacher

    def run(self, step: PreparedStep, number: int) -> torch.Tensor:
        """Does a step; returns its loss, summed over targets and workers: float64 [], on the device."""
        import torch
        import torch.distributed as dist

        self._engine.seed(_mixed(self._seed, number, self._feed.rank))
        total = torch.zeros((), dtype=torch.float64, device=self._feed.inputs.device)
        lanes = self._feed.lanes
        for first in range(0, len(step.micro_batches), lanes):
            loss = self._loss(step.micro_batches[first : first + lanes])
            self._engine.backward(loss / max(1, step.labelled))
            total += loss.detach()
        self._engine.step(None if step.touched is None else step.touched.to(total.device))
        if self._feed.num_workers > 1:
            dist.all_reduce(total)
        return total

    def probe(self, rows: Int64) -> float:
        """Mean loss on given windows without dropout, the same on every worker."""
        import torch

        windows, inputs = self._feed.windows, self._feed.inputs
        batch, targets = windows.collate(rows, self._feed.pad_id)
        placed = inputs.place(inputs.host(batch))
        self._engine.train(False)
        with torch.inference_mode():
            said = self._run(placed)
            loss = self._compare(placed, said, torch.from_numpy(targets).to(inputs.device))
        self._engine.train(True)
        return float(loss) / max(1, int(windows.labelled[rows].sum()))

    def _loss(self, micro_batches: Sequence[tuple[dict[str, torch.Tensor], torch.Tensor]]) -> torch.Tensor:
        """Of micro-batches computed at once, summed over targets."""
        import torch

        inputs = self._feed.inputs
        placed = [inputs.place(host) for host, _ in micro_batches]
        losses = [
            self._compare(batch, said, targets.to(inputs.device, non_blocking=True))
            for batch, said, (_, targets) in zip(placed, self._run_all(placed), micro_batches, strict=True)
        ]
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def _run_all(self, placed: Sequence[Mapping[str, torch.Tensor]]) -> list[Said]:
        return list(map(self._run, placed)) if self._feed.inputs.packed else self._engine.forward_all(placed)

    def _run(self, placed: Mapping[str, torch.Tensor]) -> Said:
        inputs = self._feed.inputs
        said = self._engine.listen(lambda: inputs.run(self._engine.forward, placed))
        if not inputs.packed:
            return said
        mask = placed["attention_mask"].bool()
        return said[0], *(unpack(flat, mask) for flat in said[1:])

    def _compare(self, placed: Mapping[str, torch.Tensor], said: Said, targets: torch.Tensor) -> torch.Tensor:
        if not self._teacher:
            return self._loss_function(said[0], targets)
        return self._teacher.blend(self._loss_function, said, targets, placed)


def _mixed(seed: int, number: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, number, rank)).generate_state(1, np.uint64)[0] >> 1)
