"""The README's table and picture from a result: `python -m benchmarks.load.show [result.json] [picture.svg]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULT, PICTURE = ROOT / "benchmarks/results/serving.json", ROOT / "docs/serving_benchmark.svg"
_HEAD = (
    "| server | requests/s, 32 in flight | p50 / p99, ms | lone request p50, ms | texts/s, 32 a request |",
    "|---|---|---|---|---|",
)
Result = Mapping[str, Any]


def table(result: Result) -> list[str]:
    """Markdown, the fastest first; who was not measured stands at the end with the reason."""
    entrants = result["entrants"].values()
    measured = sorted((entrant for entrant in entrants if entrant["rounds"]), key=_speed, reverse=True)
    absent = [entrant for entrant in entrants if not entrant["rounds"]]
    rows = [
        *map(_row, measured),
        *(f"| {entrant['label']} | {entrant['status'].replace('|', '/')[:120]} | | | |" for entrant in absent),
    ]
    return [*_HEAD, *rows, *_ceiling_row(result)]


def draw(result: Result, file: Path) -> None:
    """Latency over throughput, a line for each server, a point for each number of requests in flight."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "bert-agent"
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), sharex=True, layout="constrained")
    for panel, name in zip(panels, ("p50_s", "p99_s"), strict=True):
        _draw_panel(panel, result, name)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    figure.suptitle(_title(result), fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)


def _draw_panel(panel: Any, result: Result, name: str) -> None:
    measured = [entrant for entrant in result["entrants"].values() if entrant["rounds"]]
    for entrant in sorted(measured, key=_speed, reverse=True):
        points = entrant["median"]["curve"]
        style = (
            {"linewidth": 2.4, "color": "black" if entrant["name"] == "ours" else "dimgray"}
            if entrant["ours"]
            else {"linewidth": 1.2}
        )
        panel.plot(
            [point["per_s"] for point in points],
            [point[name] * 1e3 for point in points],
            marker="o", markersize=3, label=entrant["label"], **style,
        )  # fmt: skip
    if ceiling := result["ceilings"].get("median", {}).get("single_texts_per_s"):
        panel.axvline(ceiling, color="gray", linestyle=":", label="in process, no HTTP")
    panel.set(xlabel="requests/s, one text each", ylabel=f"{name[:3]} latency, ms", yscale="log", xlim=(0, None))
    panel.grid(visible=True, which="both", alpha=0.25)


def _title(result: Result) -> str:
    return f"1 to 128 requests in flight; {result['machine']}; {result['data']}"


def _speed(entrant: Result) -> float:
    return float(entrant["median"]["single_requests_per_s"]["median"])


def _row(entrant: Result) -> str:
    median = entrant["median"]
    name = f"**{entrant['label']}**" if entrant["ours"] else entrant["label"]
    missed = sum(median["errors"].values())
    failed = f" ({missed} errors)" if missed else ""
    return (
        f"| {name} | {_number(median, 'single_requests_per_s')}{failed} | "
        f"{_ms(median, 'single_p50_s')} / {_ms(median, 'single_p99_s')} | {_ms(median, 'lone_p50_s')} | "
        f"{_number(median, 'batch_texts_per_s')} |"
    )


def _ceiling_row(result: Result) -> Iterator[str]:
    if found := result["ceilings"].get("median"):
        yield (
            f"| the same sessions in process, no HTTP, no tokenising | {found['single_texts_per_s']:.0f} | | "
            f"{found['bare_p50_s'] * 1e3:.1f} | {found['sorted_texts_per_s']:.0f} |"
        )


def _number(median: Result, name: str) -> str:
    return f"{median[name]['median']:.0f}" if name in median else "-"


def _ms(median: Result, name: str) -> str:
    return f"{median[name]['median'] * 1e3:.1f}" if name in median else "-"


def main(result: Path = RESULT, picture: Path = PICTURE) -> None:
    """Prints the table, draws the picture."""
    found = json.loads(result.read_text(encoding="utf-8"))
    print(*table(found), sep="\n")
    draw(found, picture)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
