"""Writes bundles: complete or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.bundle.manifest import MANIFEST, Manifest, measure
from agent.errors import BundleError
from agent.files import draft_directory, replace_directory


@contextmanager
def write_bundle(output: str | Path, *, overwrite: bool = False) -> Iterator[Draft]:
    """Opens a draft beside `output` and renames it to `output` when the block ends without an error; otherwise removes it.

    Raises:
        BundleError: `output` exists and may not be replaced, or nothing was published.
    """
    place = Path(output).resolve()
    check_output(place, overwrite=overwrite)
    with ExitStack() as stack:
        try:
            draft = stack.enter_context(draft_directory(place))
        except OSError as error:
            raise BundleError(
                f"nothing can be written at output {place} ({error.strerror})", remedy="choose another output"
            ) from None
        yield Draft(draft)
        if not (draft / MANIFEST).is_file():
            raise BundleError(f"nothing was published to {place}")
        draft.chmod(0o755)
        replace_directory(draft, place)


def check_output(place: Path, *, overwrite: bool) -> None:
    """Checks that an output may be written.

    Raises:
        BundleError: There is a bundle and `overwrite` is false, or anything else.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not (place / MANIFEST).is_file():
        raise BundleError(
            f"output {place} exists and is no bundle",
            allowed="a new or an empty directory",
            remedy="choose another output",
        )
    if not overwrite:
        raise BundleError(
            f"output {place} already holds a bundle", remedy="choose another output or set overwrite=true"
        )


@dataclass(frozen=True)
class Draft:
    """A bundle being written: fill `path`, then publish once."""

    path: Path

    def publish(self, manifest: Manifest) -> None:
        """Writes the manifest with sizes and digests of all files, and makes them readable for all (safetensors writes 0600)."""
        names = sorted(file.relative_to(self.path).as_posix() for file in self.path.rglob("*") if file.is_file())
        files = {name: measure(self.path / name) for name in names if name != MANIFEST}
        complete = manifest.model_copy(update={"files": files}).model_dump(mode="json")
        for name in names:
            (self.path / name).chmod(0o644)
        content = json.dumps(complete, indent=1, ensure_ascii=False) + "\n"
        (self.path / MANIFEST).write_text(content, encoding="utf-8")
