"""The contract of every step and every exporter: a bundle that loads, agrees with PyTorch, and says what it is."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
import yaml

from agent.bundle import Bundle
from agent.config.base import from_mapping
from agent.data import DataConfig, load_splits
from agent.evaluation import Cascade, Forward, evaluate, lowest_probability, run_documents
from compression.encoder.torch_model import load_directory, torch_forward
from compression.exporters import EXPORTERS
from compression.graphs.onnx_graph import graph_forward, largest_difference, open_session, probes
from compression.pipeline.pipeline import compress
from compression.pipeline.pipeline_inputs import CompressionConfig
from compression.reporting.compression_report import CompressionReport

AVAILABLE = [kind for kind, exporter in EXPORTERS.items() if not exporter.missing()]
QUICK: dict[str, Any] = {"kind": "verify", "rounds": 1, "max_sentences": 16}


def run(bundle: Path, output: Path, steps: list[Any], **keys: Any) -> CompressionReport:
    tree = {
        "bundle": str(bundle),
        "output": str(output),
        "threads": 1,
        "steps": [*steps, QUICK],
        "gate": {"min_score_kept": 0},
    }
    return compress(from_mapping(CompressionConfig, tree | keys))


def check(output: Path, report: CompressionReport, parent: Path) -> Bundle:
    """What holds of every compressed bundle, whatever steps made it."""
    bundle, before = Bundle.load(output), Bundle.load(parent)
    assert bundle.manifest.lineage.parent_digest == before.digest
    assert (bundle.task, bundle.manifest.max_tokens) == (before.task, before.manifest.max_tokens)
    model = getattr(transformers, bundle.task.architecture).from_pretrained(output)
    assert dict(model.config.id2label) == dict(enumerate(bundle.task.outputs))
    reference = torch_forward(load_directory(output, bundle.task.architecture))
    for variant in bundle.manifest.onnx:
        assert variant.pairs_fit == (variant.precision in ("int8", "int4"))
        # By machine what it learns differs a little; and random words are unlike those of calibration.
        forward = graph_forward(open_session(output / variant.file, 1, variant.precision))
        batches = probes(model.config.vocab_size, bundle.manifest.max_tokens, seed=3)
        gap, _ = largest_difference(reference, forward, batches)
        spread = max(float(np.ptp(reference(batch))) for batch in batches)
        assert gap < {"fp32": 1e-3}.get(variant.precision, spread / 2), (gap, spread)
    measured = {one.model: one.report for one in bundle.manifest.evaluations}
    assert {variant.file for variant in bundle.manifest.onnx} <= set(measured)
    assert json.loads((output / "report.json").read_text())["passed"] is True
    assert report.verdict.passed
    assert report.verdict.score == min(one.value for one in measured.values())
    assert "| ONNX" in (output / "report.md").read_text() or not bundle.manifest.onnx
    assert not [file.name for file in output.parent.iterdir() if file.name.startswith(".")]
    check_distributions(bundle, before)
    return bundle


def check_distributions(bundle: Bundle, parent: Bundle) -> None:
    """The lengths of the dev split by the bundle's own tokenizer, and the labels that its last graph answers."""
    reference = bundle.drift_reference
    assert (reference is None) == (not bundle.manifest.onnx)
    if reference is None:
        return
    dev = load_splits(DataConfig(**parent.manifest.lineage.config["data"]), bundle.task).dev
    texts = list(dict.fromkeys(bundle.task.text_of(example) for example in dev))
    documents, variant = bundle.encoder.encode_texts(texts), bundle.manifest.onnx[-1]
    lengths = [len(document.token_ids) for document in documents]
    edges = (-np.inf, *reference.length.edges, np.inf)
    expected = tuple(sum(low < one <= high for one in lengths) for low, high in itertools.pairwise(edges))
    assert (reference.length.counts, reference.num_texts, reference.split) == (expected, len(texts), "dev")
    forward: Forward | Cascade = graph_forward(open_session(bundle.path / variant.file, 1, variant.precision))
    if first := variant.first_pass:
        shallow = graph_forward(open_session(bundle.path / first.file, 1, variant.precision))
        forward = Cascade(shallow, forward, lambda *said: lowest_probability(bundle.task, *said) > first.threshold)
    outputs = run_documents(documents, forward, pad_id=bundle.encoder.pad_id)
    answers = [
        bundle.task.answer(*one, bundle.task.parameters()) for one in zip(texts, documents, outputs, strict=True)
    ]
    found = Counter(tuple(sorted({label for label, _ in bundle.task.counted(answer)})) for answer in answers)
    assert dict(zip(reference.labels.sets, reference.labels.counts, strict=False)) == found


@pytest.mark.parametrize(
    "steps", [[], ["prune"], ["export"], ["prune", "export"], ["export", "quantize"]], ids="+".join
)
def test_every_step_alone_and_together_gives_a_bundle(tagger: Path, tmp_path: Path, steps: list[str]) -> None:
    configured = [{"kind": step, "exporter": "torchscript"} if step == "export" else step for step in steps]
    report = run(tagger, tmp_path / "out", configured)
    bundle = check(tmp_path / "out", report, tagger)
    assert [variant.precision for variant in bundle.manifest.onnx] == ["fp32", "int8"][
        : sum(s != "prune" for s in steps)
    ]
    if not steps:
        assert report.model_rows[0].score == report.verdict.score


@pytest.mark.parametrize(
    ("agent", "exporter"),
    [
        pytest.param(agent, kind, marks=pytest.mark.long if (agent, kind) == ("classifier", "transformers") else ())
        for agent in ("tagger", "classifier")
        for kind in AVAILABLE
    ],
)  # torch.export takes 8 s each time: of one agent daily
def test_every_exporter_exports_prunes_and_quantizes(
    agent: str, exporter: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    parent = request.getfixturevalue(agent)
    steps = [
        {"kind": "prune", "head_ratio": 0.3, "ffn_ratio": 0.5},
        {"kind": "export", "exporter": exporter},
        "quantize",
    ]
    report = run(parent, tmp_path / "out", steps)
    bundle = check(tmp_path / "out", report, parent)
    assert [variant.exporter for variant in bundle.manifest.onnx] == [exporter] * 2
    assert bundle.onnx_variant("auto").precision == "int8"
    original, _, fp32, int8 = report.model_rows
    assert int8.size_bytes < fp32.size_bytes < original.size_bytes * 1.5
    assert fp32.parameters == int8.parameters < original.parameters
    assert not _wide_floats(tmp_path / "out/model.int8.onnx")


def _wide_floats(path: Path) -> list[str]:
    """Matrices that stayed in float32."""
    import onnx

    weights = onnx.load(path).graph.initializer
    return [
        one.name
        for one in weights
        if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) == 2 and min(one.dims) > 8
    ]


def test_auto_takes_the_fastest_exporter_and_says_so(tagger: Path, tmp_path: Path) -> None:
    report = run(tagger, tmp_path / "out", ["export"])
    (said,) = [note for note in report.notes if note.startswith("export:")]
    assert "auto: " in said
    assert Bundle.load(tmp_path / "out").manifest.onnx[0].exporter in said


def test_a_graph_evaluates_to_the_f1_that_the_manifest_states(tagger: Path, tmp_path: Path) -> None:
    run(tagger, tmp_path / "out", ["prune", {"kind": "export", "exporter": "torchscript"}, "quantize"])
    bundle = Bundle.load(tmp_path / "out")
    from agent.data import DataConfig, load_splits

    splits = load_splits(DataConfig(path=str(tagger.parent / "data")), bundle.task)
    for variant in bundle.manifest.onnx:
        forward = graph_forward(open_session(bundle.path / variant.file, threads=1))
        (stated,) = [one.report for one in bundle.manifest.evaluations if one.model == variant.file]
        assert evaluate(bundle.task, bundle.encoder, splits.test, forward).metrics == dict(stated.metrics)


def test_the_fp32_graph_can_be_left_out(tagger: Path, tmp_path: Path) -> None:
    steps = [{"kind": "export", "exporter": "torchscript"}, {"kind": "quantize", "keep_fp32": False}]
    report = run(tagger, tmp_path / "out", steps)
    assert [variant.precision for variant in Bundle.load(tmp_path / "out").manifest.onnx] == ["int8"]
    assert not (tmp_path / "out" / "model.onnx").exists()
    assert [row.name for row in report.model_rows if not row.published] == ["ONNX fp32"]


def test_nodes_can_be_kept_out_of_int8(tagger: Path, tmp_path: Path) -> None:
    import onnx

    steps: list[Any] = [{"kind": "export", "exporter": "torchscript", "fuse": False}]
    run(tagger, tmp_path / "all", [*steps, "quantize"])
    run(tagger, tmp_path / "some", [*steps, {"kind": "quantize", "embeddings": False, "exclude": ["*layer.0*"]}])
    counts = [
        sum(
            node.op_type == "MatMulIntegerToFloat" for node in onnx.load(tmp_path / name / "model.int8.onnx").graph.node
        )
        for name in ("all", "some")
    ]
    assert counts[1] == counts[0] - 6
    assert (tmp_path / "some/model.int8.onnx").stat().st_size > (tmp_path / "all/model.int8.onnx").stat().st_size


def test_other_data_than_it_was_trained_on_is_said(tagger: Path, tmp_path: Path) -> None:
    from tests.tiny import write_conll

    data = write_conll(tmp_path / "other", test=30)
    report = run(tagger, tmp_path / "out", [], data={"path": str(data)})
    assert any("is not the data that the agent was trained on" in note for note in report.notes)


def test_the_configuration_is_loadable_again(tagger: Path, tmp_path: Path) -> None:
    report = run(tagger, tmp_path / "out", [])
    assert from_mapping(CompressionConfig, yaml.safe_load(yaml.safe_dump(report.config))).steps[0].kind == "verify"


def test_pruning_lets_pruned_weights_be_zero_and_only_those(tagger: Path, tmp_path: Path) -> None:
    from compression.encoder.encoder_structure import find_blocks
    from compression.encoder.structural_pruning import live_heads, live_units

    run(tagger, tmp_path / "out", [{"kind": "prune", "head_ratio": 0.25, "ffn_ratio": 0.5}])
    blocks = find_blocks(load_directory(tmp_path / "out", "AutoModelForTokenClassification"))
    assert sum(int(live_heads(block).sum()) for block in blocks) == 6
    assert sum(int(live_units(block).sum()) for block in blocks) == 96
    for block in blocks:
        dead = ~live_units(block).numpy()
        assert np.all(block.ffn_input.linear.weight.detach().numpy()[dead] == 0)
