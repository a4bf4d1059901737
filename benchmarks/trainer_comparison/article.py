"""The contestant article: the training loop of tutorials, with batches of 16 sentences padded to 128 tokens, fp32 and AdamW."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from agent.data import DataConfig
from benchmarks.trainer_comparison.base import SEED, Contestant, Material, Step, load_material

if TYPE_CHECKING:
    from torch.utils.data import TensorDataset

LENGTH, BATCH, LEARNING_RATE = 128, 16, 2e-5


class Article(Contestant):
    """Runs a few steps in a single process; all have the same size, and an epoch would take 20 minutes."""

    kind: Literal["article"] = "article"
    steps: int = 23

    @property
    def name(self) -> str:
        """Names how threads wait."""
        return f"article's loop, threads wait {self.waiting}"

    def measure(self, data: DataConfig) -> dict[str, Any]:
        """Trains for some steps."""
        import itertools

        import torch
        from torch.utils.data import DataLoader

        torch.set_num_threads(self.threads)
        material = load_material(data)
        model = material.model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        torch.manual_seed(SEED)
        steps: list[Step] = []
        started = time.perf_counter()
        for ids, mask, labels in itertools.islice(DataLoader(padded(material), BATCH, shuffle=True), self.steps):
            optimizer.zero_grad()
            model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
            optimizer.step()
            now = time.perf_counter()
            steps.append((now - started, len(ids), int(mask.sum()), mask.numel()))
            started = now
        return {"steps": steps, "precision": "fp32"}


def padded(material: Material) -> TensorDataset:
    """Tensors int64 [sentences, 128] of ids, mask and labels; longer sentences are cut, as articles do."""
    import torch
    from torch.utils.data import TensorDataset

    fill = {"input_ids": material.encoder.pad_id, "attention_mask": 0, "labels": -100}
    columns = [
        [row[name][:LENGTH] + [filler] * (LENGTH - len(row[name])) for row in material.rows]
        for name, filler in fill.items()
    ]
    return TensorDataset(*map(torch.tensor, columns))
