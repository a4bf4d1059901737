"""Do the defaults learn from few labels? Our training at its defaults beside plain Hugging Face settings, on the first sentences of a data set.

    python benchmarks/training_quality/few_labels.py [datasets=[ner_wnut17]] [sizes=[100,300]] [seeds=[0]] [test_sentences=500]

The rivals are a plain PyTorch loop over transformers' model (AdamW, linear decay, batches of whole sentences, first sub-word labelled) at five
usual settings; all score with seqeval on the data's words. Adds to benchmarks/results/few_labels.json what is not in it yet, and prints a table.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from pydantic import Field  # noqa: E402

from agent import markdown  # noqa: E402
from agent.bundle import Bundle  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402

RESULT = ROOT / "benchmarks/results/few_labels.json"
# Learning rate, sentences of a batch, epochs.
SETTINGS = ((5e-5, 16, 3), (5e-5, 8, 20), (1e-4, 16, 10), (2e-4, 8, 20), (2e-4, 16, 40))


HEAD = ("training sentences", "ours", "s", "best plain setting", "which", "s", "median of five")


class FewLabelsConfig(Config):
    """What to compare."""

    data: str = Field(str(ROOT / "../shared/data"), description="directory of the data sets")
    datasets: tuple[str, ...] = Field(("ner_conll2003", "ner_wnut17", "ner_bc5cdr"), description="their names")
    sizes: tuple[int, ...] = Field((50, 100, 300, 1_000), description="training sentences")
    seeds: tuple[int, ...] = (0, 1, 2)
    test_sentences: int = Field(500, description="of the test split")
    rivals: bool = Field(True, description="measure the rivals too")
    workdir: str = Field("runs/few_labels", description="where slices and bundles go")


def main(config: FewLabelsConfig) -> None:
    """Measures what is missing in the result and prints all of it."""
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for dataset in config.datasets:
        for size in config.sizes:
            target = Path(config.workdir).absolute() / f"{dataset}-{size}"
            data = cut(Path(config.data) / dataset, target, size, config.test_sentences)
            for seed in config.seeds:
                row = result.setdefault(f"{dataset} {size} seed {seed}", {"test_sentences": config.test_sentences})
                if "ours" not in row:
                    row["ours"] = ours(data, seed)
                    save(result)
                for setting in SETTINGS if config.rivals else ():
                    name = "lr {:g}, batch {}, epochs {}".format(*setting)
                    if name not in row:
                        row[name] = plain(data, setting, seed)
                        save(result)
    print("\n".join(markdown.table([HEAD, *(line(name, row) for name, row in result.items())])))


def line(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table: F1 of seqeval on the data's words for both, and the seconds of a whole training."""
    mine, plain = row["ours"], {key: value for key, value in row.items() if key.startswith("lr ")}
    cells = [name, f"{mine['metric_seqeval_f1']:.3f}", f"{mine['seconds']:.0f}"]
    if plain:
        best = max(plain, key=lambda key: float(plain[key]["f1"]))
        others = sorted(value["f1"] for value in plain.values())
        cells += [f"{others[-1]:.3f}", best, f"{plain[best]['seconds']:.0f}", f"{others[len(others) // 2]:.3f}"]
    return (*cells, *["-"] * (len(HEAD) - len(cells)))


def save(result: dict[str, Any]) -> None:
    """What is measured stays, whatever comes after."""
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def cut(source: Path, target: Path, size: int, test_sentences: int) -> Path:
    """Writes the first sentences of train, as many of dev, and those of test to be scored."""
    target.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", size), ("dev", size), ("test", test_sentences)):
        sentences = (source / f"{name}.conll").read_text(encoding="utf-8").strip().split("\n\n")
        (target / f"{name}.conll").write_text("\n\n".join(sentences[:count]) + "\n", encoding="utf-8")
    return target


def sentences_of(file: Path) -> list[tuple[list[str], list[str]]]:
    """Words and tags of each sentence."""
    blocks = [block.splitlines() for block in file.read_text(encoding="utf-8").strip().split("\n\n")]
    return [([line.split()[0] for line in lines], [line.split()[-1] for line in lines]) for lines in blocks]


def ours(data: Path, seed: int) -> dict[str, float]:
    """The documented command at its defaults."""
    return fine_tune(data, data.with_name(f"{data.name}-agent-{seed}"), f"seed={seed}")


def fine_tune(data: Path, output: Path, *settings: str) -> dict[str, float]:
    """Runs the documented command.

    Args:
        data: Directory of the splits.
        output: The bundle; what is there is replaced.
        settings: Further keys.

    Returns:
        `f1` and further metrics of the test split, and `seconds` of the whole command.
    """
    shutil.rmtree(output, ignore_errors=True)
    begin = time.monotonic()
    subprocess.run(
        [sys.executable, "training/run.py", f"data.path={data}", f"output={output}", "cluster.dashboard=false", *settings],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    seconds = time.monotonic() - begin
    report = next(e.report for e in Bundle.load(output).manifest.evaluations if e.split == "test")
    return {
        "f1": report.value,
        "seconds": seconds,
        **{f"metric_{name}": value for name, value in report.metrics.items()},
    }


def plain(data: Path, setting: tuple[float, int, int], seed: int) -> dict[str, float]:
    """A loop as tutorials have it."""
    import torch
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2
    from transformers import AutoModelForTokenClassification, AutoTokenizer, get_linear_schedule_with_warmup

    from training.model.models import resolve

    rate, batch_size, epochs = setting
    begin = time.monotonic()
    torch.manual_seed(seed)
    splits = {name: sentences_of(data / f"{name}.conll") for name in ("train", "test")}
    labels = sorted({tag for words in splits.values() for _, tags in words for tag in tags})
    directory = resolve("minilm")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForTokenClassification.from_pretrained(directory, num_labels=len(labels))

    def batch_of(items: list[tuple[list[str], list[str]]]) -> tuple[Any, Any]:
        encoded = tokenizer(
            [words for words, _ in items], is_split_into_words=True, padding=True, truncation=True, return_tensors="pt"
        )
        targets = torch.full(encoded["input_ids"].shape, -100)
        for row, (_, tags) in enumerate(items):
            last = None
            for column, word in enumerate(encoded.word_ids(row)):
                if word is not None and word != last:
                    targets[row, column] = labels.index(tags[word])
                last = word
        return encoded, targets

    train = splits["train"]
    steps = epochs * -(-len(train) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(train)).tolist()
        for first in range(0, len(train), batch_size):
            encoded, targets = batch_of([train[index] for index in order[first : first + batch_size]])
            model(**encoded, labels=targets).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    seconds = time.monotonic() - begin
    model.eval()
    gold, found = [], []
    with torch.no_grad():
        for first in range(0, len(splits["test"]), 32):
            items = splits["test"][first : first + 32]
            encoded, targets = batch_of(items)
            best = model(**encoded).logits.argmax(-1)
            for row, (_, tags) in enumerate(items):
                spoken = [labels[index] for index in best[row][targets[row] != -100].tolist()]
                gold.append(tags)
                found.append(spoken + ["O"] * (len(tags) - len(spoken)))
    return {"f1": float(f1_score(gold, found, mode="strict", scheme=IOB2)), "seconds": seconds}


if __name__ == "__main__":
    sys.exit(cli.run(FewLabelsConfig, main, usage=__doc__ or ""))
