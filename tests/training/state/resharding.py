"""One process of a group that trains a tiny model for a few steps from one checkpoint to the next, once per ZeRO stage.

No Ray: what is shown is that a checkpoint does not care who wrote it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from training.data.batch_plan import BatchConfig, plan_epoch
from training.data.packing import PackedWindows
from training.engine.deepspeed_engine import OptimizerPlan, TrainingEngine
from training.engine.engine_config import TrainingEngineConfig
from training.engine.lr_schedule import Schedule
from training.loop.train_step import BatchPrefetcher, ModelInputs, TrainStep
from training.model.adapters import LoraConfig, adapt
from training.model.attention import choose_attention
from training.model.sparsity_mask import keep_zeros
from training.objectives import CrossEntropy
from training.optimizers import SGD, Adafactor, AdamW
from training.state.checkpoint import Checkpoint
from training.state.run_state import RunState

LABELS, VOCABULARY, NUM_STEPS = 7, 61, 20
OPTIMIZERS = {
    "adamw": AdamW(learning_rate=0.01),
    "lora": AdamW(learning_rate=0.01),
    "sgd": SGD(learning_rate=0.1, momentum=0.9),
    "adafactor": Adafactor(learning_rate=0.01),
    "pruned": AdamW(learning_rate=0.01, weight_decay=0.1),
}


def windows() -> PackedWindows:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 17, 200)
    ids = rng.integers(1, VOCABULARY, lengths.sum()).astype(np.int32)
    return PackedWindows(
        ids, ids % LABELS, np.cumsum([0, *lengths]).astype(np.int64), lengths.astype(np.int32),
        np.arange(200, dtype=np.int32), lengths.astype(np.int32), np.full((200, 2), np.nan, np.float32),
    )  # fmt: skip


def model(recipe: str) -> torch.nn.Module:
    """Sizes that neither 2 nor 4 divides: what is cut into equal parts must be padded."""
    from transformers import BertConfig, BertForTokenClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=15, num_attention_heads=3, num_hidden_layers=2, intermediate_size=37,
        max_position_embeddings=33, num_labels=LABELS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    bare = BertForTokenClassification(config)
    choose_attention(bare, "sdpa", device=torch.device("cpu"), half=False, per_token=True)
    if recipe == "pruned":
        prune({name: parameter.data for name, parameter in bare.named_parameters()})
        keep_zeros(bare)
    return adapt(bare, trainable="all", lora=LoraConfig(rank=2) if recipe == "lora" else None)


def prune(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Zeroes every third unit and the first head of all layers, in place; returns where zeros are, by name."""
    for name, tensor in weights.items():
        if ".intermediate.dense" in name:
            tensor[::3] = 0
        elif ".attention.self." in name:
            tensor[: len(tensor) // 4] = 0
        elif name.endswith("attention.output.dense.weight"):
            tensor[:, : tensor.shape[1] // 4] = 0
        elif name.endswith("output.dense.weight"):
            tensor[:, ::3] = 0
    return {name: tensor == 0 for name, tensor in weights.items() if ".layer." in name and "LayerNorm" not in name}


def train_rank(
    directory: Path, source: str, target: str, steps: int, *, rotation: int, recipe: str, stages: str = "0123"
) -> None:
    """For each stage: reads directory/source-<stage> if there is a source, trains at stage (stage + rotation) % 4, writes directory/target-<stage>
    and adds the losses to directory/losses-<stage>.jsonl."""  # fmt: skip
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for stage in map(int, stages):
        before = Checkpoint.read(directory / f"{source}-{stage}") if source != "none" else None
        state = before.state if before else RunState()
        train_step, prefetcher, engine = make((stage + rotation) % 4, before, state.step, recipe)
        plan = plan_epoch(windows().lengths, config=BatchConfig(tokens=96), seed=0, epoch=0)
        losses = []
        for prepared, _ in prefetcher.steps(plan, state.step):
            losses.append(float(train_step.run(prepared, state.step)) / prepared.labelled)
            state.step += 1
            if len(losses) == steps:
                break
        weights, optimizer = engine.gather_weights(), engine.gather_optimizer()
        if weights is not None:
            place = directory / f"{target}-{stage}"
            place.mkdir()
            Checkpoint(weights, optimizer, state, []).write(place)
            with (directory / f"losses-{stage}.jsonl").open("a") as stream:
                stream.write(json.dumps(losses) + "\n")
    dist.barrier()  # whoever leaves while another still talks to it ends by a signal, now and then
    dist.destroy_process_group()


def make(
    stage: int, before: Checkpoint | None, done: int, recipe: str
) -> tuple[TrainStep, BatchPrefetcher, TrainingEngine]:
    network = model(recipe)
    if before:
        network.load_state_dict(before.weights)
    course = OptimizerPlan(OPTIMIZERS[recipe], Schedule(), NUM_STEPS, first_step=done)
    engine = TrainingEngine(network, course, TrainingEngineConfig(zero_stage=stage), precision="fp32")
    if before:
        engine.load_optimizer(before.optimizer)
    inputs = ModelInputs(frozenset({"input_ids", "attention_mask"}), torch.device("cpu"), packed=False)
    loss = CrossEntropy().bind([1] * LABELS, torch.device("cpu"))
    batch = BatchConfig(tokens=96, micro_tokens=32)
    prefetcher = BatchPrefetcher(
        windows(),
        inputs,
        batch,
        0,
        dist.get_rank(),
        dist.get_world_size(),
        engine.num_parallel,
        engine.uses_touched_rows,
    )
    engine.train(True)
    return TrainStep(engine, prefetcher, loss, seed=0), prefetcher, engine
