"""Annotates a corpus: checks the configuration, has Ray Data's workers annotate the unfinished shards, and reports progress."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import Field, model_validator

from agent.bundle import Bundle
from agent.config.base import Config, check_parameters
from agent.errors import AgentError, ClusterError, ConfigError, DataError, RequestError
from agent.tasks import Parameters
from cluster import ClusterConfig, connect, node_resources
from cluster.progress import Progress
from cluster.ray_data_logging import quiet
from serving.annotation.annotator import Annotator, AnnotatorTask, ShardResult
from serving.annotation.formats import FORMATS
from serving.annotation.job_ledger import (
    REJECTED,
    AnnotationManifest,
    JobLedger,
    JobResult,
    JobSpec,
    ShardCounts,
    check_same,
    files_of,
    sum_counts,
)
from serving.annotation.records import Fields
from serving.annotation.shards import FormatName, Shard, choose_format, cut_files, shard_bytes
from serving.annotation.storage import File, StorageLocation
from serving.inference.engine import EngineConfig
from serving.inference.session_plan import Auto, ComputeConfig
from serving.inference.writer import WritingBatchConfig

_SHARDS_AHEAD = 2  # of a worker: one in work and one waiting


class WorkersConfig(Config):
    """The number of worker processes and the resources of each."""

    num: int | Auto = Field("auto", description="workers: a number, or auto for as many as the cluster has room for")
    num_cpus: int = Field(1, ge=1, description="cores of a worker; each has its own copy of the agent")
    num_gpus: float = Field(0, ge=0, description="GPUs of a worker; a fraction shares one")

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if self.num != "auto" and self.num < 1:
            raise ValueError(f"num is {self.num}; allowed is 'auto' or a number from 1")
        return self


class CorpusComputeConfig(ComputeConfig):
    """How a worker computes."""

    writing: WritingBatchConfig = Field(default_factory=WritingBatchConfig)


class AnnotateConfig(Config):
    """What to annotate, with which agent, and where the answers go."""

    bundle: str = Field(description="directory of the bundle; every node must see it")
    entities: str = Field(
        "",
        description="directory of a tagger's bundle, which finds the entities of texts for an agent of relation_extraction",
    )
    input: str = Field(
        description="a file, a directory or an s3:// URL with .jsonl, .txt (a text a line) or .parquet files"
    )
    output: str = Field(description="directory or s3:// URL that takes the annotated records; every node must see it")
    format: FormatName | Auto = Field("auto", description="format of the input; auto goes by the files' suffix")
    text_field: str | None = Field(
        None,
        min_length=1,
        description="field of a record that holds its text; default: text, or question for questions",
    )
    field: str | None = Field(
        None,
        min_length=1,
        description="field that takes the answer; default: entities, labels, answers, triples, translation_text ..., by the task",
    )
    parameters: Mapping[str, Any] = Field(
        default_factory=dict,
        description="how to answer, as in a request (aggregation_strategy, top_k, num_beams, max_new_tokens, ...)",
    )
    overwrite: bool = Field(False, description="begin anew, whatever annotation stands at output")
    precision: str = Field(
        "auto",
        description="precision of the model: fp32, fp16, bf16, int8, int4; auto takes the one for the hardware",
    )
    max_characters: int = Field(1_000_000, ge=1, description="characters of a text; longer ones are set aside")
    shard_mb: float | Auto = Field(
        "auto",
        description="input of one output file in MB: a number, or auto for 1/256 of it within 0.1 and 2, a tenth of that of agents that write",
    )
    workers: WorkersConfig = Field(default_factory=WorkersConfig)
    engine: CorpusComputeConfig = Field(default_factory=CorpusComputeConfig)
    cluster: ClusterConfig = Field(default_factory=lambda: ClusterConfig(dashboard=False))

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.shard_mb != "auto" and self.shard_mb <= 0:
            raise ValueError(f"shard_mb is {self.shard_mb}; allowed is 'auto' or a number above 0")
        if self.field is not None and self.field == self.text_field:
            raise ValueError(f"field and text_field are both {self.field!r}; the answer needs a field of its own")
        return self


@dataclass(frozen=True)
class PreparedJob:
    """A checked job; nothing is written yet."""

    bundle: Bundle
    spec: JobSpec
    fields: Fields
    parameters: Parameters
    ledger: JobLedger


def prepare(config: AnnotateConfig) -> PreparedJob:
    """Checks everything that can be checked before records are read.

    Raises:
        BundleError: The bundle is wrong.
        ConfigError: The output or the parameters are.
        DataError: The input is.
    """
    bundle = Bundle.load(config.bundle)
    if config.entities:
        bundle = bundle.beside(Bundle.load(config.entities))
    place, output = StorageLocation(config.input), StorageLocation(config.output)
    files = place.files()
    if place.holds(output):
        raise ConfigError(f"output {config.output} lies in the input {config.input}", remedy="choose another output")
    parameters = _parameters(config, bundle)
    spec = JobSpec(
        bundle=bundle.digest, entities=bundle.tagger.digest if bundle.tagger else "",
        precision=bundle.variant(config.precision, _hardware(config)).precision,
        input=place.url, format=choose_format(config.format, files, place.url).name, files=files_of(files),
        text_field=config.text_field or bundle.task.input_fields[0], field=config.field or bundle.task.annotation_field,
        parameters=parameters.model_dump(mode="json"), max_characters=config.max_characters, shard_mb=config.shard_mb,
    )  # fmt: skip
    if bundle.tagger:
        bundle.tagger.onnx_variant(spec.precision)  # both compute with the same
    if spec.field == spec.text_field:
        raise ConfigError(f"text_field={spec.text_field!r} is where the answer goes", remedy="choose another field=...")
    others = () if bundle.task.asks_single(parameters) else bundle.task.input_fields[1:]
    if others and spec.format == "text":
        raise ConfigError(
            f"format=text has one text a line, and an input of this agent is {' with '.join(bundle.task.input_fields)}",
            allowed="jsonl, parquet",
            remedy=f"give records with {' and '.join(bundle.task.input_fields)}",
        )
    fields = Fields(spec.text_field, spec.field, bundle.task.annotation_type, spec.max_characters, others)
    return PreparedJob(bundle, spec, fields, parameters, JobLedger(output))


def _parameters(config: AnnotateConfig, bundle: Bundle) -> Parameters:
    parameters = check_parameters(bundle.task.parameters, config.parameters, of=bundle.task.kind)
    try:
        bundle.task.check_annotation(bundle.encoder, parameters)
    except RequestError as error:
        raise ConfigError(error.what, allowed=error.allowed, remedy=error.remedy) from None
    return parameters


def _hardware(config: AnnotateConfig) -> str:
    """The hardware that the model is chosen for; the same for all workers, also when the job is resumed."""
    if config.engine.provider != "auto":
        return config.engine.provider
    return "cuda" if config.workers.num_gpus else "cpu"


def annotate(config: AnnotateConfig) -> None:
    """Annotates a corpus, or resumes an interrupted annotation.

    Raises:
        AgentError: It cannot be done; finished shards are kept. Or nothing could be annotated, which is said when all is written.
    """
    started = time.monotonic()
    prepared = prepare(config)
    manifest = _existing_manifest(config, prepared) or _start(config, prepared)
    if manifest.result:
        prepared.ledger.clean_up()
        print(f"{config.output} is complete: {_describe(manifest.result.counts, config.output)}. {_ANEW}")
        _refuse_nothing(manifest.result.counts, config)
        return
    done = prepared.ledger.finished_shards(manifest, FORMATS[prepared.spec.format].output_suffix)
    if done:
        print(f"resuming: {len(done)} of {len(manifest.shards)} shards are done", flush=True)
    results = list(_run(config, prepared, manifest, done))
    counts_by_shard = done | {result.name: result.counts for result in results}
    span = max((o.ended for o in results), default=0.0) - min((o.started for o in results), default=0.0)
    seconds = time.monotonic() - started
    result = prepared.ledger.finish(manifest, counts_by_shard, seconds=seconds, annotating_seconds=span)
    print(_summary(result, results, config.output), flush=True)
    _refuse_nothing(result.counts, config)


def _refuse_nothing(counts: ShardCounts, config: AnnotateConfig) -> None:
    """A pipeline should not go on with an annotation of nothing.

    Raises:
        DataError: There were no records, or all were set aside.
    """
    if counts.records:
        return
    raise DataError(
        f"nothing was annotated: all {counts.rejected:,} records of {config.input} were set aside"
        if counts.rejected
        else f"nothing was annotated: {config.input} holds no records",
        allowed="an input with at least one text that can be annotated",
        remedy=f"read the reasons in {REJECTED}/ of {config.output}; text_field=... names the field that holds the text; {_ANEW[0].lower()}{_ANEW[1:]}",
    )


def dry_run(config: AnnotateConfig) -> None:
    """Checks everything and cuts the input into shards, but annotates nothing.

    Raises:
        AgentError: As `annotate`.
    """
    prepared = prepare(config)
    manifest = _existing_manifest(config, prepared)
    if manifest is None:
        shards = _cut(config, prepared)
        print(
            f"{len(prepared.spec.files)} {prepared.spec.format} file(s) with {sum(s.num_lines for s in shards)} lines "
            f"would be annotated in {len(shards)} shards, the answers in the field {prepared.spec.field!r}"
        )
        return
    done = prepared.ledger.finished_shards(manifest, FORMATS[prepared.spec.format].output_suffix)
    left = 0 if manifest.result else len(manifest.shards) - len(done)
    print(f"{config.output} was started: {left} of {len(manifest.shards)} shards are left")


def _existing_manifest(config: AnnotateConfig, prepared: PreparedJob) -> AnnotationManifest | None:
    """The manifest of the annotation to resume, if there is one."""
    if config.overwrite and prepared.ledger.exists():
        return None
    manifest = prepared.ledger.find()
    if manifest:
        check_same(manifest.spec, prepared.spec, config.output)
    return manifest


def _start(config: AnnotateConfig, prepared: PreparedJob) -> AnnotationManifest:
    manifest = prepared.ledger.start(prepared.spec, _cut(config, prepared))
    print(f"{len(prepared.spec.files)} file(s), {len(manifest.shards)} shards", flush=True)
    return manifest


def _cut(config: AnnotateConfig, prepared: PreparedJob) -> list[Shard]:
    spec = prepared.spec
    files = [File(*file) for file in spec.files]
    size = shard_bytes(config.shard_mb, sum(file.num_bytes for file in files), writes=prepared.bundle.task.writes)
    return cut_files(StorageLocation(spec.input), files, FORMATS[spec.format], prepared.fields, size)


def _run(
    config: AnnotateConfig, prepared: PreparedJob, manifest: AnnotationManifest, done: Mapping[str, ShardCounts]
) -> Iterator[ShardResult]:
    """Yields the unfinished shards as workers finish them."""
    left = [number for number, shard in enumerate(manifest.shards) if shard.name not in done]
    if not left:
        return
    connect(config.cluster)
    num_workers = _num_workers(config.workers, node_resources(), len(left))
    task = AnnotatorTask(
        manifest=manifest, bundle=str(prepared.bundle.path.absolute()),
        entities=str(prepared.bundle.tagger.path.absolute()) if prepared.bundle.tagger else "", output=prepared.ledger.place.url,
        fields=prepared.fields, parameters=prepared.parameters, num_cpus=config.workers.num_cpus,
        engine=EngineConfig(**config.engine.model_dump(), warmup=False),
    )  # fmt: skip
    lines = {shard.name: shard.num_lines for shard in manifest.shards}
    total, before, written, began = sum(lines.values()), sum(lines[name] for name in done), 0, time.monotonic()

    def rate(per_s: float) -> str:
        return _rate(per_s, written / (time.monotonic() - began))

    with Progress("annotating", total, done=before, unit="rec", rate=rate) as progress:
        for result in _shard_results(task, config.workers, num_workers, left):
            written += result.counts.written
            progress.advance(lines[result.name])
            yield result


def _rate(records_per_s: float, written_per_s: float) -> str:
    told = f", {written_per_s:,.0f} written tokens/s" if written_per_s else ""
    return f"{records_per_s:,.0f} records/s{told}"


def _shard_results(
    task: AnnotatorTask, config: WorkersConfig, num_workers: int, numbers: Sequence[int]
) -> Iterator[ShardResult]:
    """Runs the workers; yields their results."""
    import ray.data

    with quiet():
        waiting = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
        results = waiting.map_batches(
            Annotator,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=num_workers, max_tasks_in_flight_per_actor=_SHARDS_AHEAD),
            fn_constructor_args=(task,),
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus,
        )
        for row in results.iter_rows():
            result = pickle.loads(row["result"])  # noqa: S301  # written by a worker of this program
            if isinstance(result, AgentError):
                raise result
            yield result


def _num_workers(config: WorkersConfig, nodes: Sequence[Mapping[str, float]], num_shards: int) -> int:
    """The number of workers: at most as many as the nodes have room for, and as there are shards."""
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


def _summary(result: JobResult, results: Sequence[ShardResult], output: str) -> str:
    now = sum_counts(one.counts for one in results)
    seconds = max(result.annotating_seconds, 1e-9)
    rate = _rate((now.records + now.rejected) / seconds, now.written / seconds)
    speed = f"; {result.seconds:.1f} s, of which {result.annotating_seconds:.1f} s annotating: {rate}"
    return f"annotated {_describe(result.counts, output)}{speed if results else ''}"


def _describe(counts: ShardCounts, output: str) -> str:
    aside = f", {counts.rejected:,} set aside (why: {REJECTED}/ of {output})" if counts.rejected else ""
    answers = ", ".join(f"{label} {count:,}" for label, count in counts.answers.items())
    told = f"{counts.written:,} tokens written" if counts.written else answers or "no answers"
    return f"{counts.records:,} records{aside}; {told}"


_ANEW = "Set overwrite=true to annotate it anew"
