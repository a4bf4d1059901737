"""Checks what was ordered, lets Ray Data's workers do what is not done yet, and says how it goes."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agent.bundle import Bundle
from agent.errors import AgentError, ClusterError, ConfigError
from agent.tasks import BaseTask, Parameters
from cluster import connect, node_resources
from cluster.progress import Progress
from cluster.ray_data_logging import quiet
from serving.annotation.annotation_config import AnnotateConfig, WorkersConfig
from serving.annotation.annotator import Annotator, Assignment, Outcome
from serving.annotation.formats import FORMATS
from serving.annotation.job_ledger import (
    REJECTED,
    Finish,
    JobLedger,
    JobOrder,
    Manifest,
    ShardCounts,
    check_same,
    files_of,
    total,
)
from serving.annotation.records import Fields
from serving.annotation.shards import Shard, choose_format, cut
from serving.annotation.storage import File, StorageLocation
from serving.settings import EngineConfig

_SHARDS_AHEAD = 2  # one that is annotated, one that waits beside it


@dataclass(frozen=True)
class Prepared:
    """An order that was checked against its input; nothing is written yet."""

    bundle: Bundle
    order: JobOrder
    fields: Fields
    parameters: Parameters
    ledger: JobLedger


def prepare(config: AnnotateConfig) -> Prepared:
    """Checks everything that can be checked before records are read.

    Raises:
        BundleError: The bundle is wrong.
        ConfigError: The output or the parameters are.
        DataError: The input is.
    """
    bundle = Bundle.load(config.bundle)
    place, output = StorageLocation(config.input), StorageLocation(config.output)
    files = place.files()
    if place.holds(output):
        raise ConfigError(f"output {config.output} lies in the input {config.input}", remedy="choose another output")
    parameters = _parameters(bundle.task, config.parameters)
    order = JobOrder(
        bundle=bundle.digest,
        precision=bundle.onnx_variant(config.precision, _hardware(config)).precision,
        input=place.url,
        format=choose_format(config, files).name,
        text_field=config.text_field,
        field=config.field or bundle.task.answer_field,
        parameters=parameters.model_dump(mode="json"),
        max_characters=config.max_characters,
        shard_mb=config.shard_mb,
        files=files_of(files),
    )
    if order.field == order.text_field:
        raise ConfigError(
            f"text_field={order.text_field!r} is where the answer goes", remedy="choose another field=..."
        )
    fields = Fields(order.text_field, order.field, bundle.task.answer_item, order.max_characters)
    return Prepared(bundle, order, fields, parameters, JobLedger(output))


def _hardware(config: AnnotateConfig) -> str:
    """Where workers will compute, as far as it is known here: one graph for all of them, whoever goes on with the work."""
    if config.engine.provider != "auto":
        return config.engine.provider
    return "cuda" if config.workers.num_gpus else "cpu"


def annotate(config: AnnotateConfig) -> None:
    """Annotates a corpus, or goes on with it.

    Raises:
        AgentError: What cannot be done, and the remedy; what was annotated before stands.
    """
    began = time.monotonic()
    prepared = prepare(config)
    manifest = _standing(config, prepared) or _begun(config, prepared)
    if manifest.finish:
        prepared.ledger.tidy()
        print(f"{config.output} is complete: {_described(manifest.finish.tally, config.output)}. {_ANEW}")
        return
    done = prepared.ledger.done(manifest, FORMATS[prepared.order.format].output_suffix)
    if done:
        print(f"going on: {len(done)} of {len(manifest.shards)} shards are done", flush=True)
    outcomes = list(_run(config, prepared, manifest, done))
    tallies = done | {outcome.name: outcome.tally for outcome in outcomes}
    span = max((o.ended for o in outcomes), default=0.0) - min((o.began for o in outcomes), default=0.0)
    finish = prepared.ledger.end(manifest, tallies, seconds=time.monotonic() - began, annotating_seconds=span)
    print(_summary(finish, outcomes, config.output))


def rehearse(config: AnnotateConfig) -> None:
    """Checks everything, cuts the input and annotates nothing.

    Raises:
        AgentError: As `annotate`.
    """
    prepared = prepare(config)
    manifest = _standing(config, prepared)
    if manifest is None:
        shards = _cut(config, prepared)
        print(
            f"{len(prepared.order.files)} {prepared.order.format} file(s) with {sum(s.num_lines for s in shards)} lines "
            f"would be annotated in {len(shards)} shards, the answers in the field {prepared.order.field!r}"
        )
        return
    done = prepared.ledger.done(manifest, FORMATS[prepared.order.format].output_suffix)
    left = 0 if manifest.finish else len(manifest.shards) - len(done)
    print(f"{config.output} is begun: {left} of {len(manifest.shards)} shards are left")


def _parameters(task: BaseTask[Any], given: Mapping[str, Any]) -> Parameters:
    try:
        return task.parameters.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(["parameters", *map(str, first["loc"])])
        raise ConfigError(
            f"{key}={first['input']!r}: {first['msg']}",
            allowed=f"parameters of {task.kind}: {', '.join(task.parameters.model_fields)}",
            remedy="mend the key; they are those of a request",
        ) from None


def _standing(config: AnnotateConfig, prepared: Prepared) -> Manifest | None:
    """The annotation to go on with."""
    if config.overwrite and prepared.ledger.is_annotation():
        return None
    manifest = prepared.ledger.find()
    if manifest:
        check_same(manifest.order, prepared.order, config.output)
    return manifest


def _begun(config: AnnotateConfig, prepared: Prepared) -> Manifest:
    manifest = prepared.ledger.begin(prepared.order, _cut(config, prepared))
    print(f"{len(prepared.order.files)} file(s), {len(manifest.shards)} shards", flush=True)
    return manifest


def _cut(config: AnnotateConfig, prepared: Prepared) -> list[Shard]:
    order = prepared.order
    files = [File(*file) for file in order.files]
    return cut(config, prepared.fields, StorageLocation(order.input), files, FORMATS[order.format])


def _run(
    config: AnnotateConfig, prepared: Prepared, manifest: Manifest, done: Mapping[str, ShardCounts]
) -> Iterator[Outcome]:
    """Lets workers annotate what is left."""
    left = [number for number, shard in enumerate(manifest.shards) if shard.name not in done]
    if not left:
        return
    connect(config.cluster)
    workers = _plan(config.workers, node_resources(), len(left))
    assignment = Assignment(
        manifest=manifest,
        bundle=str(prepared.bundle.path.absolute()),
        output=prepared.ledger.place.url,
        fields=prepared.fields,
        parameters=prepared.parameters,
        engine=EngineConfig(**config.engine.model_dump(), warmup=False),
        num_cpus=config.workers.num_cpus,
    )
    lines = {shard.name: shard.num_lines for shard in manifest.shards}
    with _progress(sum(lines.values()), sum(lines[name] for name in done)) as progress:
        for outcome in _outcomes(assignment, config.workers, workers, left):
            progress.advance(lines[outcome.name])
            yield outcome


def _progress(total: int, done: int) -> Progress:
    return Progress("annotating", total, done=done, unit="rec", rate=lambda per_s: f"{per_s:,.0f} records/s")


def _outcomes(
    assignment: Assignment, config: WorkersConfig, num_workers: int, numbers: Sequence[int]
) -> Iterator[Outcome]:
    """Shards as they are done."""
    import ray.data

    with quiet():
        waiting = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
        results = waiting.map_batches(
            Annotator,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=num_workers, max_tasks_in_flight_per_actor=_SHARDS_AHEAD),
            fn_constructor_args=(assignment,),
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus,
        )
        for row in results.iter_rows():
            outcome = pickle.loads(row["outcome"])  # noqa: S301  # written by a worker of this program
            if isinstance(outcome, AgentError):
                raise outcome
            yield outcome


def _plan(config: WorkersConfig, nodes: Sequence[Mapping[str, float]], num_shards: int) -> int:
    """How many workers: no more than nodes have room for, nor than there are shards."""
    room = 0
    for node in nodes:
        by_cpus = int(node.get("CPU", 0) // config.num_cpus)
        room += min(by_cpus, int(node.get("GPU", 0) / config.num_gpus)) if config.num_gpus else by_cpus
    wanted = room if config.num == "auto" else config.num
    if not 0 < wanted <= room:
        raise ClusterError(
            f"{max(1, wanted)} worker(s) of {config.num_cpus} core(s) and {config.num_gpus:g} GPU(s), but the cluster has room for {room}",
            remedy="lower workers.num, workers.num_cpus or workers.num_gpus, or add nodes",
        )
    return min(wanted, num_shards)


def _summary(finish: Finish, outcomes: Sequence[Outcome], output: str) -> str:
    now = total(outcome.tally for outcome in outcomes)
    rate = (now.records + now.rejected) / max(finish.annotating_seconds, 1e-9)
    speed = f"; {finish.seconds:.1f} s, of which {finish.annotating_seconds:.1f} s annotating: {rate:,.0f} records/s"
    return f"annotated {_described(finish.tally, output)}{speed if outcomes else ''}"


def _described(tally: ShardCounts, output: str) -> str:
    aside = f", {tally.rejected:,} set aside (why: {REJECTED}/ of {output})" if tally.rejected else ""
    answers = ", ".join(f"{label} {count:,}" for label, count in tally.answers.items())
    return f"{tally.records:,} records{aside}; {answers or 'no answers'}"


_ANEW = "Set overwrite=true to annotate it anew"
