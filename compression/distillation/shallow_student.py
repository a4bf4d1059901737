"""Makes a shallow network of an agent's own layers and teaches it, in this process, to answer as the agent does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.batching import cut_by_length, pad
from agent.encoding import IGNORED, Encoder, Float32, Int64, Window
from agent.tasks import BaseTask
from compression.encoder.encoder_structure import keep_layers, layers_of
from compression.encoder.torch_model import logits, to_tensors, torch_forward

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_TEACHER_TOKENS = 4096  # padded tokens of a batch that the teacher answers
_WARMUP = 0.06  # of the steps, as in training
_WEIGHT_DECAY, _MAX_GRAD_NORM = 0.01, 1.0  # as in training
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Lesson:
    """One window of the training split.

    Attributes:
        targets: int64, as the task's decision gives them.
        answer: The teacher's logits, float32 [tokens, outputs] or [outputs].
    """

    window: Window
    targets: Int64
    answer: Float32


@dataclass(frozen=True)
class Teaching:
    """How a student is taught.

    Attributes:
        epochs: Passes over the lessons.
        trained_layers: How many of the student's layers learn, beside its head: the last ones. All below stay the agent's.
        learning_rate: Peak of AdamW, after a warm-up; it falls to zero.
        batch_tokens: Padded tokens of an optimizer step.
        teacher_weight: Part of the loss that the teacher has; labels have the rest.
        seed: Of the order of batches.
        pad_id: Of the tokenizer.
        binary: Whether each output is decided by itself.
    """

    epochs: int
    trained_layers: int
    learning_rate: float
    batch_tokens: int
    teacher_weight: float
    seed: int
    pad_id: int
    binary: bool


def shallow_copy(model: PreTrainedModel, num_layers: int) -> PreTrainedModel:
    """A copy with the first layers only: what stands above them in the agent expects other inputs, and learns less (docs/compression.md)."""
    student = copy.deepcopy(model)
    keep_layers(student, layers_of(student)[:num_layers])
    return student


def lessons_of(
    teacher: PreTrainedModel,
    task: BaseTask[Any],
    encoder: Encoder,
    examples: Sequence[Any],
    progress: Progress,
) -> list[Lesson]:
    """The windows of examples with their targets and what the teacher says of them."""
    pairs = [
        pair
        for example, document in zip(examples, task.encode(encoder, examples), strict=True)
        for pair in zip(document.windows, task.targets(example, document), strict=True)
    ]
    forward, done = torch_forward(teacher), 0
    found: list[Lesson] = [None] * len(pairs)  # type: ignore[list-item]
    for batch in cut_by_length([len(window.input_ids) for window, _ in pairs], max_tokens=_TEACHER_TOKENS):
        said = forward(pad([pairs[number][0] for number in batch], encoder.pad_id))
        for number, row in zip(batch, said, strict=True):
            window, targets = pairs[number]
            answer = row[: len(window.input_ids)] if task.decision.per_token else row
            found[number] = Lesson(window, targets, answer.copy())
        done += len(batch)
        progress(done, len(pairs))
    return found


def teach(
    student: PreTrainedModel,
    lessons: Sequence[Lesson],
    teaching: Teaching,
    progress: Progress,
) -> float:
    """Trains the last layers and the head of a student.

    Args:
        student: Changed in place.
        lessons: What it learns.
        teaching: How.
        progress: Told after each step.

    Returns:
        The mean loss of the last epoch.
    """
    import torch

    learning = layers_of(student)[-teaching.trained_layers :]
    for name, weight in student.base_model.named_parameters():
        weight.requires_grad_(name.startswith("pooler."))
    for layer in learning:
        layer.requires_grad_(True).train()  # the others drop nothing: they are as the agent computes them
    weights = [weight for weight in student.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=teaching.learning_rate, weight_decay=_WEIGHT_DECAY)
    epochs = [list(_batches(lessons, teaching, epoch)) for epoch in range(teaching.epochs)]
    num_steps, step, losses = sum(map(len, epochs)), 0, list[float]()
    for batches in epochs:
        losses = []
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = teaching.learning_rate * _schedule(step, num_steps)
            inputs = to_tensors(student, pad([lesson.window for lesson in batch], teaching.pad_id))
            loss = _loss(logits(student, inputs), batch, teaching)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, _MAX_GRAD_NORM)
            optimizer.step()
            losses.append(float(loss.detach()))
            step += 1
            progress(step, num_steps)
    student.eval()
    student.requires_grad_(True)
    return float(np.mean(losses))


def _batches(lessons: Sequence[Lesson], teaching: Teaching, epoch: int) -> Iterator[list[Lesson]]:
    """The lessons in batches of like length, in another order in each epoch."""
    rng = np.random.default_rng([teaching.seed, epoch])
    mixed = [lessons[number] for number in rng.permutation(len(lessons))]
    cuts = list(cut_by_length([len(lesson.window.input_ids) for lesson in mixed], max_tokens=teaching.batch_tokens))
    for number in rng.permutation(len(cuts)):
        yield [mixed[index] for index in cuts[number]]


def _schedule(step: int, num_steps: int) -> float:
    """The part of the peak learning rate: a linear warm-up, then a linear fall to zero."""
    warmup = max(1, round(_WARMUP * num_steps))
    return min((step + 1) / warmup, (num_steps - step) / max(1, num_steps - warmup), 1.0)


def _loss(found: Tensor, batch: Sequence[Lesson], teaching: Teaching) -> Tensor:
    """Cross-entropy with the teacher's probabilities and with the labels, a mean over decisions: float32 []."""
    import torch
    from torch.nn import functional

    if found.ndim > 2:  # a row for each token
        known = [lesson.targets != IGNORED for lesson in batch]
        rows = zip(found, batch, known, strict=True)
        said = torch.cat([row[: len(mask)][torch.from_numpy(mask)] for row, _, mask in rows])
        wanted = np.concatenate([lesson.answer[mask] for lesson, mask in zip(batch, known, strict=True)])
        targets = np.concatenate([lesson.targets[mask] for lesson, mask in zip(batch, known, strict=True)])
    else:
        said = found
        wanted = np.stack([lesson.answer for lesson in batch])
        targets = np.stack([lesson.targets for lesson in batch])
    right, teacher = torch.from_numpy(targets), torch.from_numpy(wanted)
    if teaching.binary:
        by_teacher = functional.binary_cross_entropy_with_logits(said, teacher.sigmoid())
        by_label = functional.binary_cross_entropy_with_logits(said, right.to(said.dtype))
    else:
        by_teacher = functional.cross_entropy(said, teacher.softmax(dim=-1))
        by_label = functional.cross_entropy(said, right)
    return teaching.teacher_weight * by_teacher + (1 - teaching.teacher_weight) * by_label
