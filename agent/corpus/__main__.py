"""`python -m agent.corpus OUTPUT_DIR`: writes the demonstration corpus as train.jsonl, dev.jsonl and test.jsonl."""

import argparse
import json
from pathlib import Path

from agent.corpus import generate
from agent.corpus.task_records import RECORDS


def write(output_dir: Path, *, seed: int = 0, task: str = "token_classification") -> None:
    """Writes one JSON Lines file (UTF-8) per split."""
    output_dir.mkdir(parents=True, exist_ok=True)
    for split, sentences in generate(seed).items():
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS[task](sentences)]
        path = output_dir / f"{split}.jsonl"
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
        print(f"{path}: {len(lines)} records")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m agent.corpus",
        description="Write the synthetic demonstration corpus (persons, organisations, places; five genres) as JSON Lines.",
    )
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="made if missing; files in it are replaced")
    parser.add_argument("--seed", type=int, default=0, help="which sentences are drawn (default: %(default)s)")
    parser.add_argument(
        "--task",
        choices=list(RECORDS),
        default="token_classification",
        help="the task that it is data for (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    write(options.output_dir, seed=options.seed, task=options.task)


if __name__ == "__main__":
    main()
