"""docs/kubernetes.md and the files' own comments against what a real API server and operator showed (issue 19)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.manifests.documented.document import NAME, commands, option, section, step
from tests.manifests.world import World, templates

_OVERLAY = "k8s-overlays/incremental/Kustomization"
_SECCOMP = "gateways.seccompProfile.type=RuntimeDefault"
_CLAIMED_ROOM = re.compile(r"half as much again|half as much more", re.IGNORECASE)


def operator_install(world: World) -> Iterator[str]:
    """Without Helm: a kustomization that puts everything of the same release into kuberay-system, applied by the server."""
    text = step(world, 1)
    release = re.search(r"--version (\S+)", text)
    if not re.search(r"^\s*namespace: kuberay-system$", text, re.MULTILINE):
        yield f"{NAME}: without Helm: config/default says `namespace: default`; a kustomization of one's own must name kuberay-system"
    found = re.search(r"ray-operator/config/default\?ref=v(\S+?)[\s\"'\]]", text)
    if not release or not found or found[1] != release[1]:
        yield f"{NAME}: without Helm: not the release {release[1] if release else '?'} of Helm's chart"
    if any(words[:2] == ["kubectl", "apply"] and "--server-side" not in words for words in commands(text)):
        yield f"{NAME}: without Helm: not --server-side; KubeRay's definitions are too large for the annotation"


def loading(world: World) -> Iterator[str]:
    """Data is copied into a pod of a file of ours, which is ready, writes the claim as the jobs' user, and goes again."""
    pods = {item["metadata"]["name"]: template for template in templates(world, "pod") if (item := template.owner)["kind"] == "Pod"}  # fmt: skip
    given = list(commands(step(world, 7)))
    copied = [words[-1] for words in given if words[:1] == ["kubectl"] and "cp" in words]
    if not copied:
        yield f"{NAME}: command 7 copies nothing"
    for target in copied:
        name, _, path = target.partition(":")
        if name not in pods:
            yield f"{NAME}: command 7 copies into {name}, which is no pod of these files ({', '.join(pods) or 'none'})"
            continue
        mounts = [mount for mount in pods[name].ray["volumeMounts"] if path.startswith(mount["mountPath"] + "/")]
        if not mounts or mounts[0].get("readOnly"):
            yield f"{NAME}: command 7: {name} cannot write {path}"
        users = {(spec["runAsUser"], spec["fsGroup"]) for template in templates(world, "head", "worker") if (spec := template.spec["securityContext"])}  # fmt: skip
        own = pods[name].spec["securityContext"]
        if (own.get("runAsUser"), own.get("fsGroup")) not in users:
            yield f"{NAME}: command 7: {name} writes as another user than {sorted(users)}"
        does = [" ".join(words) for words in given]
        if not any("wait" in words.split() and "condition=Ready" in words for words in does):
            yield f"{NAME}: command 7 does not wait until {name} is ready"
        if not any("delete" in words.split() and name in words for words in does):
            yield f"{NAME}: command 7 leaves {name} behind, in the quota"


def deletion(world: World) -> Iterator[str]:
    """Jobs and the RayService go first, then no RayCluster is left, then the rest: in a namespace that ends, KubeRay can clear no Redis."""
    text = section(world, "Taking it away")
    given = [words for words in commands(text) if words[0] == "kubectl"]
    kinds = [_deleted(words) for words in given]
    waits = [index for index, words in enumerate(given) if "wait" in words and option(words, "--for") == "delete" and any("raycluster" in word for word in words)]  # fmt: skip
    if not waits:
        yield f"{NAME}: taking away: does not wait until no RayCluster is left"
        return
    for kind in ("rayservice", "rayjob", "raycronjob"):
        if not any(kind in found for found in kinds[: waits[0]]):
            yield f"{NAME}: taking away: {kind} is not deleted before the wait for the RayClusters"
    rest = [index for index, found in enumerate(kinds) if "k8s" in found]
    if not rest or min(rest) < waits[0]:
        yield f"{NAME}: taking away: k8s/ goes before the RayClusters have gone, and its namespace is the first file"
    for said in ("PriorityClass", "bundles"):
        if said not in text:
            yield f"{NAME}: taking away: says nothing of {said}"


def _deleted(words: list[str]) -> set[str]:
    """The kinds that a `kubectl delete` names, in the singular; k8s for the folder or an overlay."""
    if "delete" not in words:
        return set()
    if option(words, "-f", "-k").rstrip("/") in ("k8s", "k8s-overlays/cpu", "k8s-overlays/prod"):
        return {"k8s"}
    named = words[words.index("delete") + 1 :]
    return {part.partition("/")[0].removesuffix("s") for word in named for part in word.split(",")}


def gateway(world: World) -> Iterator[str]:
    """What Istio must be told before its gateway pod is let in, and what an incremental upgrade really takes."""
    for name in (NAME, _OVERLAY):
        text = world.texts[name]
        if _SECCOMP not in text:
            yield f"{name}: PodSecurity refuses Istio's gateway pod unless istiod has {_SECCOMP}"
        if found := _CLAIMED_ROOM.search(text):
            yield f"{name}: {found[0]!r}: the new cluster starts with all of its minReplicas"
        if "minReplicas" not in text:
            yield f"{name}: says nothing of the new cluster's minReplicas"


def scheduled(world: World) -> Iterator[str]:
    """When the scheduled job may be applied: missed runs are made up, and `suspend` does not help."""
    text = section(world, "Scheduled retraining")
    for said, why in (
        ("--feature-gates=RayCronJob=true", "without the gate nothing happens"),
        ("suspend", "it does not keep missed runs away"),
        ("missed", "KubeRay makes up what was missed since the object was made"),
        (".retrain.lock", "what keeps two runs apart"),
    ):
        if said not in text:
            yield f"{NAME}: scheduled retraining: says nothing of {said}: {why}"


def trials(world: World) -> Iterator[str]:
    """No test is called a trial on a real API server: they are none."""
    for sentence in re.split(r"(?<=[.:;])\s", world.texts[NAME]):
        if "_checks.py" in sentence and "API server" in sentence:
            yield f"{NAME}: a check is no trial: {' '.join(sentence.split())[:200]}"


CHECKS = (operator_install, loading, deletion, gateway, scheduled, trials)
