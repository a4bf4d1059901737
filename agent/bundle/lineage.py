"""The origin of a bundle: what it was made of, by which versions."""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field

from agent.config.base import Config

_RECORDED = (
    "bert-agent", "torch", "transformers", "deepspeed", "ray", "onnx", "onnxruntime-gpu", "onnxruntime", "optimum", "tokenizers",
    "ctranslate2",
)  # fmt: skip


class Lineage(Config):
    """The origin of a bundle: base model, data, parent bundle, configuration and versions."""

    base_model: str
    data_digest: str
    parent_digest: str | None = None
    config: Mapping[str, Any] = Field(default_factory=dict)
    versions: Mapping[str, str] = Field(default_factory=dict)
    git_commit: str | None = None
    git_dirty: bool | None = None


def lineage_now(**fields: Any) -> Lineage:
    """A lineage with the installed versions of libraries and the state of this program's git tree."""
    commit, dirty = _git_state(Path(__file__).resolve().parent)
    return Lineage(versions=installed_versions(_RECORDED), git_commit=commit, git_dirty=dirty, **fields)


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of the installed ones of these packages."""
    found = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _git_state(directory: Path) -> tuple[str | None, bool | None]:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=directory, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None, None
