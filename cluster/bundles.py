"""Bundles on shared storage: finds one, waits for one, copies one, each time verified. Knows no training and no serving.

    python -m cluster.bundles source=runs/agent-small destination=s3://models/agent-small-7
    python -m cluster.bundles source=s3://models/agent-small-7 wait_s=3600
    python -m cluster.bundles 'source=/bundles/agent-small*' wait_s=3600    # any version

A place is a directory or a URI of pyarrow's file systems, `s3://bucket/prefix` with what pyarrow takes behind it
(`?endpoint_override=host:9000&scheme=http`), its credentials from AWS's usual environment variables.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from agent.bundle import MANIFEST, Bundle, write_bundle
from agent.config import cli
from agent.config.base import Config
from agent.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_LOOK_S = 5.0
_USAGE = """
Verifies a bundle, waits for it where wait_s says so, and copies it where a destination is given.

  python -m cluster.bundles source=PLACE [destination=PLACE] [wait_s=SECONDS] [overwrite=true]

A place is a directory or s3://bucket/prefix[?endpoint_override=host:9000&scheme=http]. Without a destination the last part
of source may hold * for any characters: the first whole bundle of a name like that is enough.
"""


class CopyConfig(Config):
    """Which bundle, and where it goes."""

    source: str = Field(description="directory or s3:// URI of the bundle; * in its last part: any one of those names")
    destination: str = Field("", description="directory or s3:// URI to copy it to; empty: only verify it")
    wait_s: float = Field(0, ge=0, description="seconds to wait for a bundle at source before giving up")
    overwrite: bool = Field(False, description="replace a bundle that stands at destination")


def is_remote(place: str) -> bool:
    """Whether a place is a URI rather than a directory."""
    return "://" in place


def fetch(place: str) -> Bundle:
    """The verified bundle of a place. One that lies elsewhere is copied to this machine first, once for each content.

    Raises:
        BundleError: There is none, it cannot be read, or it is damaged.
    """
    if not is_remote(place):
        return Bundle.load(Path(place).absolute())
    digest = hashlib.sha256(_read_manifest(place)).hexdigest()
    here = _cache() / digest
    if here.exists():
        with contextlib.suppress(BundleError):
            return Bundle.load(here)
        shutil.rmtree(here, ignore_errors=True)  # damaged: fetch it anew
    return _download(place, here)


def copy(source: str, destination: str, *, overwrite: bool = False) -> Bundle:
    """Copies a bundle; its manifest comes last, so that a half copied one is none. Returns it as it now stands there.

    Raises:
        BundleError: The source is damaged, the destination is taken or cannot be written.
    """
    bundle = fetch(source)
    if is_remote(destination):
        _upload(bundle, destination, overwrite=overwrite)
        return fetch(destination)
    return _install(bundle.path, Path(destination).absolute(), overwrite=overwrite)


def find(place: str) -> Bundle:
    """The verified bundle of a place; where its last part holds `*`, the last by name of those that are whole.

    Raises:
        BundleError: There is none, or none that is whole; says what was wrong with the first of them.
    """
    if "*" not in place:
        return fetch(place)
    problem = BundleError(f"there is nothing called {place}", remedy="check the place, or wait with wait_s")
    for index, name in enumerate(sorted(_names_like(place), reverse=True)):
        try:
            return fetch(name)
        except BundleError as error:
            problem = problem if index else error
    raise problem


def wait_for(place: str, seconds: float) -> Bundle:
    """The bundle of a place, as `find` takes it, as soon as it is there and whole.

    Raises:
        BundleError: It did not come in that time; says what was wrong last.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return find(place)
        except BundleError as error:
            if time.monotonic() >= deadline:
                raise
            print(f"waiting: {error}", flush=True)
            time.sleep(min(_LOOK_S, max(0.0, deadline - time.monotonic())))


def main(config: CopyConfig) -> None:
    """Waits, copies, and says what stands where."""
    if config.destination and "*" in config.source:
        raise ConfigError(
            f"source={config.source}: * names no single bundle to copy", remedy="name one, or leave destination away"
        )
    bundle = wait_for(config.source, config.wait_s)
    if config.destination:
        copy(config.source, config.destination, overwrite=config.overwrite)
    found = bundle.path if "*" in config.source and not is_remote(config.source) else config.source
    print(f"{config.destination or found}: sha256 {bundle.digest[:12]}, {bundle.task.kind}, verified")


def _cache() -> Path:
    """Of this user: what lies there is verified again each time it is used."""
    place = Path(tempfile.gettempdir()) / f"bert-agent-bundles-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    return place


def _download(place: str, here: Path) -> Bundle:
    draft = Path(tempfile.mkdtemp(prefix="partial.", dir=here.parent))
    try:
        with _speaking("read", place):
            filesystem, root = _open(place)
            from pyarrow.fs import LocalFileSystem, copy_files

            copy_files(root, str(draft), filesystem, LocalFileSystem())
        bundle = Bundle.load(draft)
        target = here.with_name(bundle.digest)  # another one than before, where the place changed meanwhile
        with contextlib.suppress(OSError):  # another process was faster: take its copy
            draft.rename(target)
        return Bundle.load(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _upload(bundle: Bundle, place: str, *, overwrite: bool) -> None:
    with _speaking("written", place):
        filesystem, root = _open(place)
        if _exists(filesystem, f"{root}/{MANIFEST}"):
            if not overwrite:
                raise BundleError(
                    f"{place} already holds a bundle", remedy="choose another place or set overwrite=true"
                )
            filesystem.delete_file(f"{root}/{MANIFEST}")
        filesystem.create_dir(root)
        for name in [*bundle.manifest.files, MANIFEST]:
            # Not by pyarrow's copy_files: it says nothing when S3 refuses an upload at its end, and the file is missing (26.0).
            with (bundle.path / name).open("rb") as source, filesystem.open_output_stream(f"{root}/{name}") as stream:
                stream.upload(source)


def _install(source: Path, place: Path, *, overwrite: bool) -> Bundle:
    with write_bundle(place, overwrite=overwrite) as draft:
        shutil.copytree(source, draft.path, dirs_exist_ok=True)
    return Bundle.load(place)


def _read_manifest(place: str) -> bytes:
    with _speaking("read", place):
        filesystem, root = _open(place)
        with filesystem.open_input_stream(f"{root}/{MANIFEST}") as stream:
            raw: bytes = stream.read()
            return raw


def _exists(filesystem: FileSystem, path: str) -> bool:
    from pyarrow.fs import FileType

    return bool(filesystem.get_file_info(path).type == FileType.File)


def _names_like(place: str) -> list[str]:
    """The places whose last part fits a pattern; what comes behind a `?` of a URI stays."""
    if not is_remote(place):
        return glob.glob(place)
    prefix, question, options = place.partition("?")
    parent, _, pattern = prefix.rpartition("/")
    with _speaking("read", place):
        from pyarrow.fs import FileSelector

        filesystem, root = _open(parent + question + options)
        found = filesystem.get_file_info(FileSelector(root, allow_not_found=True))
    return [
        f"{parent}/{item.base_name}{question}{options}"
        for item in found
        if fnmatch.fnmatchcase(item.base_name, pattern)
    ]


def _open(place: str) -> tuple[FileSystem, str]:
    from pyarrow.fs import FileSystem

    filesystem, root = FileSystem.from_uri(place)
    return filesystem, root.rstrip("/")


@contextlib.contextmanager
def _speaking(verb: str, place: str) -> Iterator[None]:
    try:
        yield
    except BundleError:
        raise
    except ImportError:
        raise BundleError(f"{place} cannot be {verb}: pyarrow is not installed", remedy="pip install pyarrow") from None
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{place} cannot be {verb} ({' '.join(str(error).split())[:300]})",
            allowed="a directory, or s3://bucket/prefix that holds a bundle",
            remedy="check the place, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and endpoint_override",
        ) from None


if __name__ == "__main__":
    sys.exit(cli.run(CopyConfig, main, usage=_USAGE))
