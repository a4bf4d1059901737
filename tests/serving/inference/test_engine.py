"""The engine: the graph answers as the torch weights do, long texts are whole, offsets are exact."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.batching import pad
from agent.bundle import Bundle, write_bundle
from agent.errors import BundleError, ConfigError, RequestError
from agent.tasks.token_classification import TaggingParameters
from serving.inference.engine import Engine, EngineConfig
from serving.inference.session_plan import SessionPlan, candidates
from serving.inference.sessions import run_bound
from serving.scheduling.predictor import Predictor
from tests.serving.tiny import TAGGER, TEXTS, torch_forward

LONG = " ".join(TEXTS * 4)


def test_logits_equal_those_of_torch(tagger_path: Path) -> None:
    engine = Engine(Bundle.load(tagger_path), precision="fp32")
    forward = torch_forward(tagger_path, TAGGER)
    windows = [window for document in engine.encode([*TEXTS, LONG]) for window in document.windows]
    batch = pad(windows, engine.bundle.encoder.pad_id)
    ours, theirs = engine.forward(batch), forward(batch)
    assert ours.shape == (len(windows), batch.input_ids.shape[1], 7)
    inside = batch.attention_mask.astype(bool)
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-4)


def test_a_long_text_is_cut_into_windows_and_merged_again(engine: Engine) -> None:
    engine = Engine(engine.bundle, precision="fp32")  # its answers do not depend on the batch
    (document,) = engine.encode([LONG])
    assert len(document.windows) > 3
    logits = [engine.forward_windows([window])[0] for window in document.windows]
    (expected,) = engine.answer([LONG], [document], [logits])
    (found,) = engine.predict([LONG])
    assert len(found) > 10
    assert [(item["start"], item["end"], item["entity_group"]) for item in found] == [
        (item["start"], item["end"], item["entity_group"]) for item in expected
    ]
    assert max(item["end"] for item in found) > len(LONG) * 0.9


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120))
def test_offsets_are_exact_for_any_unicode_text(engine: Engine, text: str) -> None:
    for strategy in ("first", "simple", "none"):
        for item in engine.predict([text], TAGGER.parameters(aggregation_strategy=strategy))[0]:
            assert text[item["start"] : item["end"]] == item["word"]


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.sampled_from([*TEXTS, LONG, "a", "Oslo"]), min_size=1, max_size=12))
def test_an_idle_predictor_answers_exactly_as_the_engine_does(engine: Engine, texts: list[str]) -> None:
    predictor = Predictor(engine)
    try:
        served = asyncio.run(predictor.predict(texts, TAGGER.parameters()))
    finally:
        predictor.close()
    assert served == engine.predict(texts)


def test_sessions_and_threads_follow_the_cores_unless_they_are_given(tagger_path: Path) -> None:
    bundle = Bundle.load(tagger_path)
    plain = Engine(bundle, num_cpus=2)
    assert plain.plan == SessionPlan(sessions=2, threads=1)
    given_ = Engine(bundle, EngineConfig(sessions=1), num_cpus=2)
    assert given_.plan == SessionPlan(sessions=1, threads=2)


def test_the_answer_does_not_depend_on_the_number_of_sessions(tagger_path: Path) -> None:
    bundle = Bundle.load(tagger_path)
    answers = [Engine(bundle, EngineConfig(sessions=n, threads_per_session=1)).predict(TEXTS) for n in (1, 3)]
    assert answers[0] == answers[1]


def test_every_session_is_warmed_though_the_last_one_used_is_taken_first(
    tagger_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []

    def run(session: Any, feeds: dict[str, Any]) -> Any:
        used.append(id(session))
        return session.run(["logits"], feeds)[0]

    monkeypatch.setattr("serving.inference.sessions._run", run)
    engine = Engine(Bundle.load(tagger_path), EngineConfig(sessions=3, threads_per_session=1))
    engine.warm_up()
    assert len(set(used)) == 3
    used.clear()
    for _ in range(4):
        engine.predict(TEXTS[:1])
    assert len(set(used)) == 1


def test_the_answer_does_not_depend_on_the_plan(tagger_path: Path) -> None:
    bundle = Bundle.load(tagger_path)
    for precision in ("fp32", "int8"):
        engine = Engine(bundle, precision=precision, num_cpus=2)
        before = engine.predict(TEXTS)
        for plan in candidates(EngineConfig(), num_cpus=2):
            engine.use(plan)
            assert engine.predict(TEXTS) == before, plan


def test_the_best_plan_is_one_that_the_config_leaves_open(tagger_path: Path) -> None:
    bundle = Bundle.load(tagger_path)
    assert Engine(bundle, num_cpus=2).best_plan() in candidates(EngineConfig(), num_cpus=2)
    given_ = EngineConfig(sessions=3, threads_per_session=1, spinning=True, arena=False)
    assert Engine(bundle, given_, num_cpus=2).best_plan() == SessionPlan(
        sessions=3, threads=1, spinning=True, arena=False
    )


def test_a_session_with_bound_buffers_computes_the_same(engine: Engine) -> None:
    """What CUDA and TensorRT use; here on the CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for name, value in engine.variant.session_entries.items():
        options.add_session_config_entry(name, value)
    file = engine.bundle.path / engine.variant.file
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    windows = [window for document in engine.encode(TEXTS) for window in document.windows]
    batch = pad(windows, engine.bundle.encoder.pad_id)
    feeds = {name: getattr(batch, name) for name in engine.variant.inputs}
    assert (run_bound(session, feeds) == engine.forward(batch)).all()


def test_windows_overlap_by_the_stride_that_is_asked_for(engine: Engine) -> None:
    none, own, most = (
        len(engine.encode([LONG], TaggingParameters(stride=stride))[0].windows) for stride in (0, None, 15)
    )
    assert none < own < most
    narrow = engine.predict([LONG], TaggingParameters(stride=0, aggregation_strategy="none"))
    assert narrow != engine.predict([LONG], TaggingParameters(aggregation_strategy="none"))
    with pytest.raises(RequestError, match="stride is 31"):
        engine.predict([LONG], TaggingParameters(stride=31))


def test_lone_surrogates_are_refused(engine: Engine) -> None:
    with pytest.raises(RequestError, match=r"inputs\[1\] holds a lone surrogate"):
        engine.predict(["fine", "a\ud800b"])


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_is_refused_where_there_is_none(tagger_path: Path, provider: str) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=rf"engine\.provider={provider}, but this"):
        Engine(Bundle.load(tagger_path), EngineConfig(provider=provider))


def test_a_precision_that_the_bundle_lacks_is_refused(tagger_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no ONNX graph of precision 'fp16'.*fp32, int8"):
        Engine(Bundle.load(tagger_path), precision="fp16")


def test_a_bundle_without_a_graph_says_how_to_make_one(tagger_path: Path, tmp_path: Path) -> None:
    path = _copy(tagger_path, tmp_path / "plain", onnx=())
    with pytest.raises(BundleError, match=r"no ONNX graph.*compression/run.py"):
        Engine(Bundle.load(path))


def test_a_graph_that_is_none_is_refused(tagger_path: Path, tmp_path: Path) -> None:
    path = _copy(tagger_path, tmp_path / "broken", graph=b"no graph")
    with pytest.raises(BundleError, match=r"cannot open .*model\.onnx"):
        Engine(Bundle.load(path), precision="fp32")


def test_a_graph_with_other_inputs_than_the_manifest_says_is_refused(tagger_path: Path, tmp_path: Path) -> None:
    variants = Bundle.load(tagger_path).manifest.onnx
    path = _copy(tagger_path, tmp_path / "lying", onnx=(variants[0].model_copy(update={"inputs": ("input_ids",)}),))
    with pytest.raises(BundleError, match=r"has the inputs.*bundle\.json says"):
        Engine(Bundle.load(path))


def test_a_graph_whose_pairs_may_not_fit_is_run_by_kernels_that_cannot_overflow(
    tagger_path: Path, tmp_path: Path
) -> None:
    """That graphs of the compression need none: tests/compression/graphs/test_pair_sums.py."""
    for fit in (False, True):
        variants = (one.model_copy(update={"pairs_fit": fit}) for one in Bundle.load(tagger_path).manifest.onnx)
        engine = Engine(Bundle.load(_copy(tagger_path, tmp_path / str(fit), onnx=tuple(variants))))
        options = engine._sessions._free.queue[0].get_session_options()
        if fit:
            with pytest.raises(RuntimeError, match="does not have configuration"):
                options.get_session_config_entry("session.x64quantprecision")
        else:
            assert options.get_session_config_entry("session.x64quantprecision") == "1"


def test_serving_imports_no_torch_transformers_deepspeed_or_optimum() -> None:
    modules = "serving.app, serving.inference.engine, serving.api.http_app, serving.run, serving.scheduling.predictor"
    heavy = {"torch", "transformers", "deepspeed", "optimum"}
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def _copy(source: Path, target: Path, *, graph: bytes | None = None, **changes: object) -> Path:
    with write_bundle(target) as draft:
        shutil.copytree(source, draft.path, dirs_exist_ok=True)
        (draft.path / "bundle.json").unlink()
        if graph is not None:
            (draft.path / "model.onnx").write_bytes(graph)
        draft.publish(Bundle.load(source).manifest.model_copy(update=changes))
    return target


def test_a_text_of_a_corpus_that_cannot_be_encoded_is_refused_with_the_reason(
    tagger_path: Path, filler_path: Path, relater_path: Path
) -> None:
    filler, relater, tagger = (Engine(Bundle.load(path)) for path in (filler_path, relater_path, tagger_path))
    mask = filler.bundle.encoder.vocabulary.mask_token
    wanted = filler.bundle.task.parameters()
    assert filler.refusal_of(f"anna went to {mask} .", wanted) == ""
    reason = filler.refusal_of("anna went home .", wanted)
    assert reason.startswith("holds no masks; allowed: 1 to ")
    far = f"<e1>anna</e1> {'went ' * 600} <e2>oslo</e2>"
    wanted = relater.bundle.task.parameters()
    assert relater.refusal_of("<e1>anna</e1> went to <e2>oslo</e2> .", wanted) == ""
    reason = relater.refusal_of(far, wanted)
    assert reason.startswith("from the first entity to the end of the second are 1806 sub-words")
    assert "; allowed: at most " in reason
    assert tagger.refusal_of(far, tagger.bundle.task.parameters()) == ""
