"""Shell scripts in the manifests, run by a real bash: what the head waits for, and that one run at a time retrains."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from agent.config.base import load
from agent.errors import ConfigError
from cluster.bundles import CopyConfig
from cluster.file_system import is_remote
from tests.manifests.world import Object, Template, World, label, templates

_LONG_S = 86_400  # a first training may take this long
_PATIENCE_S = 120.0  # far above what starting two shells takes on a busy host
_DYING_S = "60"  # a killed process keeps its lock until the kernel has ended it
_NODE_TYPE = "metadata.labels['ray.io/node-type']"  # KubeRay sets it: head, worker, redis-cleanup
_CLUSTER = "metadata.labels['ray.io/cluster']"
_WAITING = ["python", "-m", "cluster.bundles"]


# What the head waits for


def waiting(world: World) -> Iterator[str]:
    """The head waits for a bundle of any version that may be served, by a command of ours; KubeRay's cleanup pod does not."""
    for item in world.of("RayService"):
        applications = yaml.safe_load(item["spec"]["serveConfigV2"])["applications"]
        served = applications[0]["args"]["bundle"]
        for head in templates(world.only(item), "head"):
            found = [container for container in head.inits if waits_for(container)]
            if not found:
                yield f"{head.where}: does not wait for the bundle; Ray Serve does not retry an application that fails"
            for container in found:
                yield from (f"{head.where}: {container['name']}: {text}" for text in _wrong_wait(container, served))


def waits_for(container: Object) -> list[str]:
    """The arguments that an init container gives to `python -m cluster.bundles`; empty if it does not run it."""
    words = [word for text in container.get("args", []) for word in shlex.split(text)] or container["command"]
    starts = [index for index in range(len(words)) if words[index : index + 3] == _WAITING]
    return words[starts[0] + 3 :] if starts else []


def _wrong_wait(container: Object, served: str) -> Iterator[str]:
    try:
        config = load(CopyConfig, waits_for(container))
    except ConfigError as error:
        yield str(error)
        return
    if config.wait_s < _LONG_S:
        yield f"waits {config.wait_s:g} s; a first training may take longer"
    if is_remote(config.source) != is_remote(served):
        yield f"waits for {config.source}, served is {served}"
    elif "*" not in config.source:
        yield f"waits for {config.source} alone, for ever when it was deleted after another version took its place"
    elif not fnmatchcase(served, config.source):
        yield f"{config.source} does not take what is served, {served}"
    if not _lets_cleanup_pass(container):
        yield "KubeRay's redis-cleanup pod has this container too and would wait: a deleted cluster stays for minutes"


def _lets_cleanup_pass(container: Object) -> bool:
    """Whether it ends at once in the pod that clears Redis. There is no python on this PATH: waiting fails here."""
    names = [
        entry["name"]
        for entry in container.get("env", [])
        if entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath") == _NODE_TYPE
    ]
    if container["command"][:2] != ["bash", "-c"]:
        return False
    done = subprocess.run(
        ["/bin/bash", "-c", *container.get("args", [])],
        env=dict.fromkeys(names, "redis-cleanup") | {"PATH": "/nowhere"},
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    return done.returncode == 0


# One run at a time retrains

# Stand-ins on PATH for what the script calls: they write down what they were asked, and training lasts until it is let go.
_STAND_INS = {
    "python": """#!/bin/bash
echo "$*" >>"$PLACE/calls"
[[ $1 != training/run.py ]] || until [[ -e $PLACE/go ]]; do sleep 0.02; done
""",
    "date": '#!/bin/bash\necho "$DAY"\n',
}


def retraining(world: World) -> Iterator[str]:
    """Of scheduled runs at one time one trains and the others end well; each writes to a directory of its own, a second try to the first's."""
    for item in world.of("RayCronJob"):
        for head in templates(world.only(item), "head"):
            script = _script(world, head, item["spec"]["jobTemplate"]["entrypoint"])
            if _CLUSTER not in str(head.ray.get("env", [])):
                yield f"{label(item)}: the script does not learn its cluster's name ({_CLUSTER})"
            yield from (f"{label(item)}: {text}" for text in _races(script))


def _script(world: World, head: Template, entrypoint: str) -> str:
    name = PurePosixPath(entrypoint.rsplit(maxsplit=1)[-1]).name
    maps = [volume["configMap"]["name"] for volume in head.spec["volumes"] if "configMap" in volume]
    return str(next(item["data"][name] for item in world.of("ConfigMap") if item["metadata"]["name"] in maps))


def _races(script: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as place:
        shop = _Workshop(Path(place), script)
        yield from _at_once(shop)
    with tempfile.TemporaryDirectory() as place:
        shop = _Workshop(Path(place), script)
        yield from _one_after_the_other(shop)


def _at_once(shop: _Workshop) -> Iterator[str]:
    """Two runs start together. Training lasts as long as it is not let go, so only who does not train can end."""
    with shop.run("retrain-aaaaa-11111") as first, shop.run("retrain-bbbbb-22222") as second:
        deadline = time.monotonic() + _PATIENCE_S
        while (
            first.poll() is None and second.poll() is None and len(shop.trained()) < 2 and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        if len(shop.trained()) == 2:
            yield "two runs train at the same time"
        elif first.poll() is None and second.poll() is None:
            yield "a run that finds another one waits for it and holds its GPUs meanwhile"
        else:
            loser = second if first.poll() is None else first
            says = loser.communicate()[1]
            if loser.returncode:
                yield f"a run that finds another one ends with {loser.returncode}, and backoffLimit starts it again: {says[-200:]}"
            elif "another run" not in says:
                yield f"a run that finds another one does not say so: {says[-200:]!r}"
        shop.let_go()


def _one_after_the_other(shop: _Workshop) -> Iterator[str]:
    """A run is killed while it trains; its second try comes a day later in another cluster; then comes another run."""
    with shop.run("retrain-aaaaa-11111") as first:
        while first.poll() is None and not shop.trained():
            time.sleep(0.02)
    shop.let_go()
    for cluster, day in (("retrain-aaaaa-33333", "2026-11-30"), ("retrain-bbbbb-22222", "2026-11-30")):
        with shop.run(cluster, day, patience=_DYING_S) as again:
            says = again.communicate()[1]
            if again.returncode:
                yield f"ends with {again.returncode} after a killed run: {says[-200:]}"
    outputs = shop.trained()
    if len(outputs) != 3:
        yield f"what a killed run held stays locked: of three runs {len(outputs)} trained"
        return
    if outputs[0] != outputs[1]:
        yield f"a second try writes to {outputs[1]}, the first one to {outputs[0]}: it starts from the beginning"
    if outputs[2] in outputs[:2]:
        yield f"two runs write to {outputs[2]}"


class _Workshop:
    """A directory in place of the volume, and stand-ins for the commands."""

    def __init__(self, place: Path, script: str) -> None:
        self.place = place
        (place / "bin").mkdir()
        (place / "bundles").mkdir()
        (place / "calls").touch()
        for name, text in _STAND_INS.items():
            (place / "bin" / name).write_text(text)
            (place / "bin" / name).chmod(0o755)
        (place / "retrain.sh").write_text(script.replace("/bundles/", f"{place}/bundles/"))

    @contextlib.contextmanager
    def run(self, cluster: str, day: str = "2026-11-29", patience: str = "0") -> Iterator[subprocess.Popen[str]]:
        """The script in a cluster; what still runs in the end is killed, as a lost pod is."""
        environment = {
            "PATH": f"{self.place}/bin:{os.environ['PATH']}", "PLACE": str(self.place), "CLUSTER": cluster, "DAY": day, "PATIENCE_S": patience,
        }  # fmt: skip
        command = ["bash", str(self.place / "retrain.sh")]
        options: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, start_new_session=True, **options) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def trained(self) -> list[str]:
        """The outputs that training was begun for, in order."""
        calls = [shlex.split(line) for line in (self.place / "calls").read_text().splitlines()]
        return [
            word.partition("=")[2]
            for call in calls if call[0] == "training/run.py"
            for word in call if word.startswith("output=")
        ]  # fmt: skip

    def let_go(self) -> None:
        """Ends every training."""
        (self.place / "go").touch()


CHECKS = (waiting, retraining)
