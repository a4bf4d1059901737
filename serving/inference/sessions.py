"""ONNX Runtime sessions over one graph of a bundle: their provider, number and options. Batches in, logits out."""

from __future__ import annotations

import os
import queue
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from agent.batching import Batch
from agent.bundle import Bundle, OnnxVariant
from agent.encoding import Float32
from agent.errors import BundleError, ConfigError
from serving.inference.session_plan import SessionPlan

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_SHORTEST_TOKENS = 4  # of a window: TensorRT wants to know the shapes that will come


class Sessions:
    """Sessions that compute side by side.

    Args:
        bundle: The agent.
        variant: Which of its graphs.
        provider: `cpu`, `cuda` or `tensorrt`, as `choose_provider` says.
        plan: How many, and how each computes.
        max_batch_tokens: Padded tokens of the largest batch, as far as one window does not exceed them.

    Raises:
        BundleError: ONNX Runtime cannot read the graph, or it is not the one that the manifest describes.
        ConfigError: The provider's libraries are missing.
    """

    def __init__(
        self, bundle: Bundle, variant: OnnxVariant, provider: str, plan: SessionPlan, max_batch_tokens: int
    ) -> None:
        self.plan = plan
        self._bundle, self._variant, self._provider = bundle, variant, provider
        self._max_batch_tokens = max_batch_tokens
        self._run = _run if provider == "cpu" else run_bound
        # What was used last is taken first: its weights and buffers are still in a core's caches.
        self._free: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(plan.sessions):
            self._free.put(self._open())
        self._only = self._free.queue[0] if plan.sessions == 1 else None

    def forward(self, batch: Batch) -> Float32:
        """Computes one batch on a free session; safe to call from several threads.

        Returns:
            float32 [rows, tokens, outputs], [rows, outputs] for tasks with one answer per text, or [asked, outputs] where tokens are asked about.
        """
        if self._only is not None:  # a session may be run by several threads at once
            return self._forward(self._only, batch)
        session = self._free.get()
        try:
            return self._forward(session, batch)
        finally:
            self._free.put(session)

    def warm(self, batch: Batch) -> None:
        """Computes one batch on every session; not while others are computed."""
        sessions = [self._free.get() for _ in range(self.plan.sessions)]
        for session in sessions:
            self._forward(session, batch)
            self._free.put(session)

    def _forward(self, session: Any, batch: Batch) -> Float32:
        names = self._variant.inputs
        return batch.shaped(np.asarray(self._run(session, batch.feeds(names)), dtype=np.float32), names)

    def _open(self) -> Any:
        import onnxruntime as ort

        file = self._bundle.path / self._variant.file
        if self._provider == "cpu" and self._variant.precision == "bf16":
            raise ConfigError(
                "precision=bf16, but ONNX Runtime has no bfloat16 kernels for the CPU",
                allowed="auto, fp32, int8, as the bundle has them; bf16 with engine.provider=cuda or tensorrt",
                remedy="leave precision at auto",
            )
        if self._provider != "cpu":
            ort.preload_dlls()  # those of NVIDIA's wheels, where the machine has no CUDA of its own (image serving-gpu)
        try:
            session = ort.InferenceSession(str(file), self._options(), providers=self._providers())
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
            raise BundleError(f"ONNX Runtime cannot open {file} ({error})", remedy="compress the agent again") from None
        if _PROVIDERS[self._provider] not in session.get_providers():
            raise _absent(
                self._provider, "ONNX Runtime could not start it; libraries of CUDA, cuDNN or TensorRT are missing"
            )
        _check_graph(file, self._variant, session)
        return session

    def _options(self) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.plan.threads, 1
        for name, value in self._variant.session_entries.items():
            options.add_session_config_entry(name, value)
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.plan.spinning)))
        options.enable_cpu_mem_arena = self.plan.arena
        options.log_severity_level = 3
        return options

    def _providers(self) -> list[Any]:
        names = {"cpu": ("cpu",), "cuda": ("cuda", "cpu"), "tensorrt": ("tensorrt", "cuda", "cpu")}[self._provider]
        options = {"tensorrt": self._tensorrt_options()} if "tensorrt" in names else {}
        return [(_PROVIDERS[name], options.get(name, {})) for name in names]

    def _tensorrt_options(self) -> dict[str, Any]:
        """Engines for every shape that can come, kept on disk: building them takes minutes.

        Source: onnxruntime's documentation of the TensorRT execution provider, "Explicit shape range".
        """
        longest = self._bundle.manifest.max_tokens
        rows = max(1, self._max_batch_tokens // _SHORTEST_TOKENS)
        shapes = {
            "min": (1, _SHORTEST_TOKENS),
            "opt": (max(1, self._max_batch_tokens // 32), min(32, longest)),
            "max": (rows, longest),
        }
        profiles = {
            f"trt_profile_{kind}_shapes": ",".join(f"{name}:{rows}x{tokens}" for name in self._variant.inputs)
            for kind, (rows, tokens) in shapes.items()
        }
        cache = Path(tempfile.gettempdir()) / "bert-agent-tensorrt" / self._bundle.digest[:16]
        cache.mkdir(parents=True, exist_ok=True)
        return {
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": True,
            **({f"trt_{self._variant.precision}_enable": True} if self._variant.precision in ("fp16", "bf16") else {}),
            **profiles,
        }


def choose_provider(wanted: str) -> str:
    """`cpu`, `cuda` or `tensorrt`; `auto` takes CUDA where both the provider and a device are there.

    Raises:
        ConfigError: What was asked for is absent.
    """
    if wanted == "cpu":
        return "cpu"
    provider = "cuda" if wanted == "auto" else wanted
    missing = _missing_for(provider)
    if wanted != "auto" and missing:
        raise _absent(provider, missing)
    return "cpu" if missing else provider


def run_bound(session: Any, feeds: dict[str, Any]) -> Any:
    """Runs a session with its output left on the device until it is complete, and copied once."""
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    binding.bind_output("logits", "cuda" if _PROVIDERS["cuda"] in session.get_providers() else "cpu")
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()[0]


def _run(session: Any, feeds: dict[str, Any]) -> Any:
    return session.run(["logits"], feeds)[0]


def _missing_for(provider: str) -> str:
    import onnxruntime as ort

    if _PROVIDERS[provider] not in ort.get_available_providers():
        return f"this ONNX Runtime has no {_PROVIDERS[provider]}"
    if not Path("/dev/nvidiactl").exists():
        return "this machine shows no NVIDIA device"
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # what Ray sets for a replica without num_gpus
        return "this process was given no GPU (replicas.num_gpus)"
    return ""


def _absent(provider: str, why: str) -> ConfigError:
    return ConfigError(
        f"engine.provider={provider}, but {why}",
        allowed="auto, cpu",
        remedy="set engine.provider=cpu, or install onnxruntime-gpu with the provider's libraries on a machine with a GPU",
    )


def _check_graph(file: Path, variant: OnnxVariant, session: Any) -> None:
    inputs, outputs = {node.name for node in session.get_inputs()}, {node.name for node in session.get_outputs()}
    if inputs != set(variant.inputs) or "logits" not in outputs or not inputs <= set(Batch.__slots__):
        raise BundleError(
            f"{file} has the inputs {sorted(inputs)} and outputs {sorted(outputs)}",
            allowed=f"inputs {sorted(variant.inputs)} as bundle.json says, and an output 'logits'",
            remedy="compress the agent again",
        )
