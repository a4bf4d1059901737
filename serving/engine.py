"""Runs the ONNX graph of a bundle. Tokenised windows in, logits out; numpy only, no torch, no HTTP, no event loop."""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.bundle import Bundle, OnnxVariant
from agent.encoding import Batch, Document, Float32, Window, pad
from agent.errors import BundleError, ConfigError
from agent.evaluation import run_documents
from agent.tasks import Parameters
from cluster.connection import usable_cores
from serving.settings import EngineConfig

_log = logging.getLogger(__name__)
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Engine:
    """An agent that computes in this process.

    Args:
        bundle: The agent.
        config: How to compute.
        precision: Which of the bundle's graphs.
        num_cpus: Cores to use; default: those this process may use.

    Raises:
        BundleError: The bundle has no graph of that precision, or one that ONNX Runtime cannot read.
        ConfigError: CUDA was asked for and is absent.
    """

    def __init__(
        self,
        bundle: Bundle,
        config: EngineConfig | None = None,
        *,
        precision: str = "auto",
        num_cpus: int | None = None,
    ) -> None:
        self.bundle, self.config = bundle, config or EngineConfig()
        self.variant = bundle.onnx_variant(precision)
        self.provider = choose_provider(self.config.provider)
        try:
            self._open_sessions(num_cpus or usable_cores())
        except ConfigError as error:
            if self.config.provider == "cuda":
                raise
            _log.warning("computing on the CPU: %s", error.what)
            self.provider = "cpu"
            self._open_sessions(num_cpus or usable_cores())

    def encode(self, texts: Sequence[str]) -> list[Document]:
        """Tokenises texts.

        Raises:
            RequestError: A text is no Unicode text.
        """
        return self.bundle.encoder.encode_texts(texts)

    def forward(self, batch: Batch) -> Float32:
        """Computes one batch on a free session; safe to call from several threads.

        Returns:
            float32 [rows, tokens, outputs], or [rows, outputs] for tasks with one answer per text.
        """
        feeds = {name: getattr(batch, name) for name in self.variant.inputs}
        session = self._free.get()
        try:
            return np.asarray(session.run(["logits"], feeds)[0], dtype=np.float32)
        finally:
            self._free.put(session)

    def forward_windows(self, windows: Sequence[Window]) -> list[Float32]:
        """Pads windows and computes them as one batch: the logits of each, with padded rows at the end."""
        return list(self.forward(pad(windows, self.bundle.encoder.pad_id)))

    def predict(self, texts: Sequence[str], parameters: Parameters | None = None) -> list[list[dict[str, Any]]]:
        """Answers texts in this process, in the batches that an idle server cuts for one request with them.

        Raises:
            RequestError: A text is no Unicode text.
        """
        documents = self.encode(texts)
        return self.answer(texts, documents, self._run(documents), parameters)

    def labels(self, texts: Sequence[str]) -> list[Any]:
        """What the agent sees in each text, in the form that its task scores: without scores or positions."""
        documents = self.encode(texts)
        outputs = self._run(documents)
        return [self.bundle.task.predict(document, logits) for document, logits in zip(documents, outputs, strict=True)]

    def answer(
        self,
        texts: Sequence[str],
        documents: Sequence[Document],
        outputs: Sequence[Sequence[Float32]],
        parameters: Parameters | None = None,
    ) -> list[list[dict[str, Any]]]:
        """Decodes logits into answers, one list per text."""
        task = self.bundle.task
        wanted = parameters or task.parameters()
        return [
            task.answer(text, document, logits, wanted)
            for text, document, logits in zip(texts, documents, outputs, strict=True)
        ]

    def prepare(self) -> None:
        """Makes the first request as fast as all others: reads the tokenizer, and warms up if so configured."""
        if self.config.warmup:
            self.warm_up()
        self.predict(["warm"])

    def warm_up(self) -> None:
        """Runs every session over batches of short to longest windows, so that the first caller does not pay for it."""
        for batch in self._warmup_batches():
            for _ in range(self.num_sessions):  # sessions are taken in turn
                self.forward(batch)

    def _run(self, documents: Sequence[Document]) -> list[list[Float32]]:
        encoder, budget = self.bundle.encoder, self.config.max_batch_tokens
        return run_documents(documents, self.forward, pad_id=encoder.pad_id, max_tokens=budget)

    def _warmup_batches(self) -> Iterator[Batch]:
        longest, budget = self.bundle.manifest.max_tokens, self.config.max_batch_tokens
        lengths = {min(length, longest) for length in (8, 16, 32, 64, 128, 256, longest)}
        for length in sorted(lengths):
            rows = max(1, budget // length)
            ids = np.full((rows, length), self.bundle.encoder.pad_id, np.int64)
            yield Batch(ids, np.ones_like(ids), np.zeros_like(ids))

    def _open_sessions(self, num_cpus: int) -> None:
        self.num_sessions, self.threads = _plan(self.config, self.provider, num_cpus)
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.num_sessions):
            self._free.put(self._open())

    def _open(self) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        # Spinning threads would take the cores that tokenising and the other sessions need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        providers = [_PROVIDERS["cuda"]] * (self.provider == "cuda") + [_PROVIDERS["cpu"]]
        file = self.bundle.path / self.variant.file
        if self.provider == "cuda":
            ort.preload_dlls()  # those of NVIDIA's wheels, where the machine has no CUDA of its own (image serving-gpu)
        try:
            session = ort.InferenceSession(str(file), options, providers=providers)
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
            raise BundleError(f"ONNX Runtime cannot open {file} ({error})", remedy="compress the agent again") from None
        if self.provider == "cuda" and _PROVIDERS["cuda"] not in session.get_providers():
            raise _no_cuda("ONNX Runtime could not start its CUDA provider; CUDA or cuDNN libraries are missing")
        _check_graph(file, self.variant, session)
        return session


def choose_provider(wanted: str) -> str:
    """`cpu` or `cuda`; `auto` takes CUDA where both the provider and a device are there.

    Raises:
        ConfigError: CUDA was asked for and is absent.
    """
    if wanted == "cpu":
        return "cpu"
    missing = _missing_for_cuda()
    if wanted == "cuda" and missing:
        raise _no_cuda(missing)
    return "cpu" if missing else "cuda"


def _missing_for_cuda() -> str:
    import onnxruntime as ort

    if _PROVIDERS["cuda"] not in ort.get_available_providers():
        return "this ONNX Runtime has no CUDA provider"
    if not Path("/dev/nvidiactl").exists():
        return "this machine shows no NVIDIA device"
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # what Ray sets for a replica without num_gpus
        return "this process was given no GPU (replicas.num_gpus)"
    return ""


def _no_cuda(why: str) -> ConfigError:
    return ConfigError(
        f"engine.provider=cuda, but {why}",
        allowed="auto, cpu",
        remedy="set engine.provider=cpu, or install onnxruntime-gpu with CUDA on a machine with a GPU",
    )


def _plan(config: EngineConfig, provider: str, num_cpus: int) -> tuple[int, int]:
    """(sessions, threads per session): one thread each on CPU, where batches compute side by side without barriers."""
    sessions = config.sessions if config.sessions != "auto" else (1 if provider == "cuda" else num_cpus)
    threads = config.threads_per_session
    return sessions, threads if threads != "auto" else max(1, num_cpus // sessions)


def _check_graph(file: Path, variant: OnnxVariant, session: Any) -> None:
    inputs, outputs = {node.name for node in session.get_inputs()}, {node.name for node in session.get_outputs()}
    if inputs != set(variant.inputs) or "logits" not in outputs or not inputs <= set(Batch.__slots__):
        raise BundleError(
            f"{file} has the inputs {sorted(inputs)} and outputs {sorted(outputs)}",
            allowed=f"inputs {sorted(variant.inputs)} as bundle.json says, and an output 'logits'",
            remedy="compress the agent again",
        )
