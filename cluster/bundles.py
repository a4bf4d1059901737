"""Finds, waits for and copies bundles on shared storage, each time verified.

    python -m cluster.bundles source=runs/agent-small destination=s3://models/agent-small-7
    python -m cluster.bundles source=s3://models/agent-small-7 wait_s=3600
    python -m cluster.bundles 'source=/bundles/agent-small*' wait_s=3600    # any version

Locations are directories or URIs, see `cluster.file_system.Location`; credentials come from AWS's environment variables.
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

from pydantic import Field

from agent.bundle import MANIFEST, Bundle, write_bundle
from agent.config import cli
from agent.config.base import Config
from agent.errors import BundleError, ConfigError
from cluster.file_system import Location, is_remote, storage_errors

_POLL_S = 5.0
_USAGE = """
Verifies a bundle, waits for it where wait_s says so, and copies it where a destination is given.

  python -m cluster.bundles source=LOCATION [destination=LOCATION] [wait_s=SECONDS] [overwrite=true]

A location is a directory or s3://bucket/prefix[?endpoint_override=host:9000&scheme=http]. Without a destination the last part
of source may hold * for any characters: the first whole bundle of a name like that is enough.
"""


class CopyConfig(Config):
    """Which bundle, and where it goes."""

    source: str = Field(description="directory or s3:// URI of the bundle; * in its last part: any one of those names")
    destination: str = Field("", description="directory or s3:// URI to copy it to; empty: only verify it")
    wait_s: float = Field(0, ge=0, description="seconds to wait for a bundle at source before giving up")
    overwrite: bool = Field(False, description="replace a bundle that stands at destination")


def fetch(url: str) -> Bundle:
    """The verified bundle of a location. A remote one is copied to this machine first, once for each content.

    Raises:
        BundleError: There is none, it cannot be read, or it is damaged.
    """
    if not is_remote(url):
        return Bundle.load(Path(url).absolute())
    with _errors("read", url):
        digest = hashlib.sha256(Location(url).read(MANIFEST)).hexdigest()
    cached = _cache() / digest
    if cached.exists():
        with contextlib.suppress(BundleError):
            return Bundle.load(cached)
        shutil.rmtree(cached, ignore_errors=True)  # damaged: fetch it anew
    return _download(url)


def fetch_served(url: str, entities: str = "") -> Bundle:
    """The verified bundle of a location as it is served: beside the tagger that finds its entities, where one is named.

    Raises:
        BundleError: There is none, one is damaged, or the two do not fit.
    """
    bundle = fetch(url)
    return bundle.beside(fetch(entities)) if entities else bundle


def copy(source: str, destination: str, *, overwrite: bool = False) -> Bundle:
    """Copies a bundle, its manifest last, so that a half copied one is none. Returns the copy, verified.

    Raises:
        BundleError: The source is damaged, the destination is taken or cannot be written.
    """
    bundle = fetch(source)
    if is_remote(destination):
        _upload(bundle, destination, overwrite=overwrite)
        return fetch(destination)
    with write_bundle(Path(destination).absolute(), overwrite=overwrite) as draft:
        shutil.copytree(bundle.path, draft.path, dirs_exist_ok=True)
    return Bundle.load(Path(destination).absolute())


def find(url: str) -> Bundle:
    """The verified bundle of a location; where its last part holds `*`, the last by name of those that are whole.

    Raises:
        BundleError: There is none, or none that is whole; says what was wrong with the first of them.
    """
    if "*" not in url:
        return fetch(url)
    problem = BundleError(f"there is nothing called {url}", remedy="check the location, or wait with wait_s")
    for index, candidate in enumerate(sorted(_matching(url), reverse=True)):
        try:
            return fetch(candidate)
        except BundleError as error:
            problem = problem if index else error
    raise problem


def wait_for(url: str, seconds: float) -> Bundle:
    """The bundle of a location, as `find` takes it, as soon as it is there and whole.

    Raises:
        BundleError: It did not come in that time; says what was wrong last.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return find(url)
        except BundleError as error:
            if time.monotonic() >= deadline:
                raise
            print(f"waiting: {error}", flush=True)
            time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))


def main(config: CopyConfig) -> None:
    """Waits, copies, and prints which bundle lies where."""
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
    """A directory of this user; its content is verified each time it is used."""
    directory = Path(tempfile.gettempdir()) / f"bert-agent-bundles-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def _download(url: str) -> Bundle:
    cache = _cache()
    draft = Path(tempfile.mkdtemp(prefix="partial.", dir=cache))
    try:
        with _errors("read", url):
            Location(url).download(draft)
        bundle = Bundle.load(draft)
        target = cache / bundle.digest  # may differ from the digest read before, if the content changed meanwhile
        with contextlib.suppress(OSError):  # another process was faster: take its copy
            draft.rename(target)
        return Bundle.load(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _upload(bundle: Bundle, url: str, *, overwrite: bool) -> None:
    with _errors("written", url):
        location = Location(url)
        if location.is_file(MANIFEST):
            if not overwrite:
                raise BundleError(f"{url} already holds a bundle", remedy="choose another place or set overwrite=true")
            location.delete_file(MANIFEST)
        for name in [*bundle.manifest.files, MANIFEST]:
            location.upload(bundle.path / name, name)


def _matching(url: str) -> list[str]:
    """Locations whose last part matches a pattern; the query of a URI stays at its end."""
    if not is_remote(url):
        return glob.glob(url)
    prefix, mark, query = url.partition("?")
    parent, _, pattern = prefix.rpartition("/")
    with _errors("read", url):
        names = [info.base_name for info in Location(parent + mark + query).list()]
    return [f"{parent}/{name}{mark}{query}" for name in names if fnmatch.fnmatchcase(name, pattern)]


@contextlib.contextmanager
def _errors(verb: str, url: str) -> Iterator[None]:
    def make(reason: str) -> BundleError:
        return BundleError(
            f"{url} cannot be {verb} ({reason})",
            allowed="a directory, or s3://bucket/prefix that holds a bundle",
            remedy="check the place, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and endpoint_override",
        )

    try:
        with storage_errors(make):
            yield
    except ImportError:
        raise BundleError(f"{url} cannot be {verb}: pyarrow is not installed", remedy="pip install pyarrow") from None


if __name__ == "__main__":
    sys.exit(cli.run(CopyConfig, main, usage=_USAGE))
