"""Speed of training and inference when waiting CPU threads spin, spin briefly or sleep, with and without a busy process.

    python benchmarks/waiting_threads.py

Writes benchmarks/results/waiting_threads.json and prints a table: median milliseconds of a training step (50 x 20 tokens, bf16) and
of a forward pass (1 x 16 tokens) of minilm on all cores, with the 10th and 90th percentile.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/waiting_threads.json"
SETTINGS = {
    "spin (default)": {},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
STEPS, PASSES = 12, 40


def measure() -> None:
    """Runs in a process of its own, whose environment says how threads wait; prints JSON."""
    sys.path[0] = str(ROOT)
    import torch

    from agent.tasks import TokenClassification
    from training.model.models import ModelConfig, build_model

    model = build_model(ModelConfig(), TokenClassification(labels=("LOC", "MISC", "ORG", "PER"))).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        ids, labels = torch.randint(0, 30_000, (50, 20)), torch.randint(0, 9, (50, 20))
        with torch.autocast("cpu", torch.bfloat16):
            model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    times = {"step": clock(step, STEPS)}
    model.eval()
    ids = torch.randint(0, 30_000, (1, 16))
    with torch.inference_mode():
        times["forward"] = clock(lambda: model(input_ids=ids), PASSES)
    print(json.dumps(times))


def clock(call, count: int) -> list[float]:  # type: ignore[no-untyped-def]
    """10th, 50th and 90th percentile of milliseconds, after three calls for warm-up."""
    found = []
    for _ in range(count + 3):
        started = time.perf_counter()
        call()
        found.append((time.perf_counter() - started) * 1e3)
    return [round(found_at, 1) for found_at in statistics.quantiles(found[3:], n=10)[::4]]


def main() -> None:
    """Measures every setting alone and beside a process that never rests."""
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    for neighbour in ("quiet", "busy"):
        for name, extra in SETTINGS.items():
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if neighbour == "busy" else None
            try:
                done = subprocess.run(
                    [sys.executable, __file__, "measure"],
                    env=os.environ | extra,
                    capture_output=True,
                    text=True,
                    check=True,
                )
            finally:
                if busy:
                    busy.kill()
            times = json.loads(done.stdout.strip().splitlines()[-1])
            results.setdefault(name, {})[neighbour] = times
            print(f"{neighbour:6} {name:26} step {times['step']}  forward {times['forward']}", flush=True)
    RESULT.write_text(json.dumps({"cores": os.cpu_count(), "ms_p10_p50_p90": results}, indent=1) + "\n")


if __name__ == "__main__":
    measure() if sys.argv[1:] == ["measure"] else main()
