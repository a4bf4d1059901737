"""Texts that our server writes beside transformers' own generation: target tokens a second, and BLEU or ROUGE of what is written.

    python benchmarks/generation/served_texts.py bundle=DIR data.path=DIR [texts=64] [rounds=3] [beams=[1,4]] [threads=2]

`bundle` is a compressed agent of sequence_to_sequence (`python compression/run.py`), asked over HTTP behind HAProxy for the texts of a test split: one request
in flight, and 16. The rival is `generate` of transformers on torch in float32, in a process without a server, with as many
threads as the server has cores: one text at a time, as Hugging Face's pipelines answer requests (transformers 5 has none for translation
or summaries), and 16 in a batch. They take turns; medians over rounds count. Writes benchmarks/results/served_texts.json.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from pydantic import Field  # noqa: E402

from agent.bundle import Bundle  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.data import DataConfig, load_splits  # noqa: E402
from agent.errors import ConfigError  # noqa: E402
from agent.tasks import Report, SequenceToSequence  # noqa: E402
from agent.tasks.writing.generated_scores import add_generated  # noqa: E402
from benchmarks.common.aim import Aim  # noqa: E402
from benchmarks.common.load_generator import LoadGenerator  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402
from benchmarks.common.server_process import Server, running  # noqa: E402
from benchmarks.rivals.roster import OURS  # noqa: E402

IN_FLIGHT = 16
_START_S = 240.0
Figures = dict[str, Any]
Written = tuple[list[str], float]


class ServedTextsConfig(Config):
    """What is measured."""

    bundle: str = Field(description="compressed agent of sequence_to_sequence")
    data: DataConfig = Field(DataConfig(), description="whose test split is asked for")
    texts: int = Field(64, ge=IN_FLIGHT, description="of the test split, asked for in each measurement")
    rounds: int = Field(3, ge=1, description="measurements of each; medians count")
    beams: tuple[int, ...] = Field((1, 4), description="texts followed at once, as num_beams")
    max_new_tokens: int = Field(64, ge=1, description="of a text at most, for both")
    threads: int = Field(2, ge=1, description="of torch; the server computes on as many cores")
    result: str = Field(str(ROOT / "benchmarks/results/served_texts.json"), description="JSON file to write")


def main(config: ServedTextsConfig) -> None:
    """Measures both in turns, and writes and prints what came of it."""
    bundle = Bundle.load(config.bundle)
    task = bundle.task
    if not isinstance(task, SequenceToSequence):
        raise ConfigError(f"bundle={config.bundle} is an agent of {task.kind}", allowed="sequence_to_sequence")
    examples = load_splits(config.data, task).test[: config.texts]
    texts, targets = [example.text for example in examples], [example.target for example in examples]
    rival = Rival(bundle, config)

    def score(written: Sequence[str]) -> float:
        nothing = Report(metrics={}, primary=task.metric, support=len(written), text="", mode="")
        report = add_generated(nothing, targets, list(written), task.metric)
        return report.metrics[report.primary]

    rows: list[Figures] = []
    with running(OURS, sys.executable, bundle.path) as server:
        wait_until_ready(server, texts[0])
        for beams in config.beams:
            ways: dict[str, Callable[[], Written]] = {
                "ours, 1 in flight": lambda beams=beams: ask(server, texts, 1, beams, config),  # type: ignore[misc]
                "generate, 1 at a time": lambda beams=beams: rival.write(texts, 1, beams),  # type: ignore[misc]
                f"ours, {IN_FLIGHT} in flight": lambda beams=beams: ask(server, texts, IN_FLIGHT, beams, config),  # type: ignore[misc]
                f"generate, batches of {IN_FLIGHT}": lambda beams=beams: rival.write(texts, IN_FLIGHT, beams),  # type: ignore[misc]
            }
            rates: dict[str, list[float]] = {name: [] for name in ways}
            scores: dict[str, float] = {}
            for _ in range(config.rounds):
                for name, write in ways.items():
                    written, seconds = write()
                    rates[name].append(sum(map(rival.count, written)) / seconds)
                    scores[name] = score(written)
            rows += [
                {"beams": beams, "way": name, "tokens_per_s": statistics.median(found), "lowest": min(found), "highest": max(found), "score": scores[name]}
                for name, found in rates.items()
            ]  # fmt: skip
    result = {
        "machine": machine(), "config": config.model_dump(mode="json", exclude={"bundle", "data", "result"}), "metric": task.metric,
        "parameters": rival.num_parameters, "precision": bundle.converted_variant().precision, "rows": rows,
    }  # fmt: skip
    Path(config.result).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    show(rows, task.metric)


def show(rows: Sequence[Figures], metric: str) -> None:
    """Prints a table, and whether the aims were met."""
    for beams in dict.fromkeys(row["beams"] for row in rows):
        found = {row["way"]: row for row in rows if row["beams"] == beams}
        for name, row in found.items():
            spread = f"{row['lowest']:,.0f} to {row['highest']:,.0f}"
            print(
                f"beams {beams}  {name:26} {row['tokens_per_s']:8,.0f} target tokens/s ({spread})  {metric} {100 * row['score']:.2f}"
            )
        rate = {name: row["tokens_per_s"] for name, row in found.items()}
        alone = rate["generate, 1 at a time"]
        worst = min(row["score"] for name, row in found.items() if name.startswith("ours"))
        for aim in (
            Aim(f"beams {beams}, 1 in flight beside generate", rate["ours, 1 in flight"] / alone, 3.0),
            Aim(f"beams {beams}, {IN_FLIGHT} in flight beside generate", rate[f"ours, {IN_FLIGHT} in flight"] / alone, 5.0),
            Aim(f"beams {beams}, points of {metric} lost", 100 * (found["generate, 1 at a time"]["score"] - worst), 0.3, at_least=False),
        ):  # fmt: skip
            print(aim)


class Rival:
    """The agent's model as transformers generates with it.

    Args:
        bundle: Whose model it is.
        config: Threads, and how long texts may be.
    """

    def __init__(self, bundle: Bundle, config: ServedTextsConfig) -> None:
        import torch
        from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

        torch.set_num_threads(config.threads)
        self._model = AutoModelForSeq2SeqLM.from_pretrained(bundle.path, dtype=torch.float32).eval()
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(bundle.path)
        self._most = config.max_new_tokens
        self.num_parameters = sum(each.numel() for each in self._model.parameters())

    def count(self, text: str) -> int:
        """Target tokens of a text, its end included."""
        return len(self._tokenizer(text).input_ids)

    def write(self, texts: Sequence[str], size: int, beams: int) -> Written:
        """Texts for texts, `size` in a batch, and the seconds that it took."""
        import torch

        written: list[str] = []
        started = time.perf_counter()
        with torch.inference_mode():
            for first in range(0, len(texts), size):
                given = self._tokenizer(list(texts[first : first + size]), return_tensors="pt", padding=True)
                numbers = self._model.generate(
                    given.input_ids, attention_mask=given.attention_mask, num_beams=beams, do_sample=False,
                    max_new_tokens=self._most, early_stopping=beams > 1,
                )  # fmt: skip
                written += self._tokenizer.batch_decode(numbers, skip_special_tokens=True)
        return written, time.perf_counter() - started


def ask(server: Server, texts: Sequence[str], in_flight: int, beams: int, config: ServedTextsConfig) -> Written:
    """Texts for texts by the server, so many requests of one text in flight, and the seconds that it took."""
    parameters = {"num_beams": beams, "max_new_tokens": config.max_new_tokens}

    async def run() -> Written:
        callers = LoadGenerator(
            server.port, texts, body=lambda text: json.dumps({"inputs": text, "parameters": parameters}).encode()
        )
        room, written = asyncio.Semaphore(in_flight), [""] * len(texts)

        async def one(place: int) -> None:
            async with room:
                (answer,) = await callers.answer(texts[place])
            written[place] = next(iter(answer.values()))

        started = time.perf_counter()
        await asyncio.gather(*map(one, range(len(texts))))
        return written, time.perf_counter() - started

    return asyncio.run(run())


def wait_until_ready(server: Server, text: str) -> None:
    """Returns when every replica has had time to answer."""

    async def run() -> None:
        callers = LoadGenerator(server.port, [text])
        deadline = time.monotonic() + _START_S
        while True:
            server.check_alive()
            try:
                for _ in range(8):
                    await callers.answer(text)
                return
            except (OSError, EOFError):
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.5)

    asyncio.run(run())


if __name__ == "__main__":
    sys.exit(cli.run(ServedTextsConfig, main, usage=__doc__))
