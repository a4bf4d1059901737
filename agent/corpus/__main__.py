"""`python -m agent.corpus OUTPUT_DIR`: writes the demonstration corpus as train.jsonl, dev.jsonl and test.jsonl."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.corpus import Sentence, generate

Record = dict[str, object]


def spans_record(sentence: Sentence) -> Record:
    """Returns the record of a sentence for entity tagging."""
    spans = [{"start": start, "end": end, "label": label} for start, end, label in sentence.spans]
    return {"text": sentence.text, "spans": spans}


def classification_record(sentence: Sentence) -> Record:
    """Returns the record of a sentence for classification by genre."""
    return {"text": sentence.text, "label": sentence.genre}


KINDS: Mapping[str, Callable[[Sentence], Record]] = {"spans": spans_record, "classification": classification_record}


def write(output_dir: Path, *, seed: int = 0, kind: str = "spans") -> None:
    """Writes one JSON Lines file (UTF-8) per split."""
    output_dir.mkdir(parents=True, exist_ok=True)
    for split, sentences in generate(seed).items():
        lines = [json.dumps(KINDS[kind](sentence), ensure_ascii=False) + "\n" for sentence in sentences]
        path = output_dir / f"{split}.jsonl"
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
        print(f"{path}: {len(lines)} sentences")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m agent.corpus",
        description="Write the synthetic demonstration corpus (persons, organisations, places; five genres) as JSON Lines.",
    )
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="made if missing; files in it are replaced")
    parser.add_argument("--seed", type=int, default=0, help="which sentences are drawn (default: %(default)s)")
    parser.add_argument(
        "--kind",
        choices=list(KINDS),
        default="spans",
        help="what is labelled: entity spans, or the genre (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    write(options.output_dir, seed=options.seed, kind=options.kind)


if __name__ == "__main__":
    main()
