"""Writes k8s/monitoring/: `python -m cluster.monitoring [DIRECTORY]`."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.monitoring.manifests import manifests


def main(directory: Path) -> None:
    """Writes every file and prints its path."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in manifests().items():
        (directory / name).write_text(text, encoding="utf-8")
        print(directory / name)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "k8s/monitoring"))
