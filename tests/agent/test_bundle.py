"""The handover: written whole or not at all, verified when read."""

import json
import re
from pathlib import Path

import pytest

from agent.bundle import (
    MANIFEST,
    Bundle,
    Evaluation,
    Lineage,
    Manifest,
    OnnxVariant,
    check_output,
    lineage_now,
    write_bundle,
)  # fmt: skip
from agent.errors import BundleError
from agent.tasks import Report, TextClassification, TokenClassification
from tests.agent.families import make
from tests.tiny_writers import publish_converted

ONNX = (
    OnnxVariant(file="model.onnx", precision="fp32", inputs=("input_ids", "attention_mask"), exporter="torchscript"),
    OnnxVariant(
        file="onnx/int8.onnx", precision="int8", inputs=("input_ids", "attention_mask"), exporter="torchscript"
    ),
)
REPORT = Report(metrics={"f1": 0.5}, primary="f1", support=2, text="table", mode="strict")


def manifest(**changes):
    fields = {
        "task": TokenClassification(labels=("LOC", "Ünï")), "max_tokens": 128, "stride": 32,
        "lineage": Lineage(base_model="tiny", data_digest="d", config={"epochs": 3}),
        "evaluations": (Evaluation(split="test", data_digest="d", model="model.safetensors", report=REPORT),), "onnx": ONNX,
    }  # fmt: skip
    return Manifest(**fields | changes)


def write(place, *, overwrite=False, content="weights", **changes):
    with write_bundle(place, overwrite=overwrite) as draft:
        (draft.path / "model.safetensors").write_text(content)
        (draft.path / "tokenizer.json").write_text(make("wordpiece").to_str())
        (draft.path / "model.onnx").write_text("graph")
        (draft.path / "onnx").mkdir()
        (draft.path / "onnx" / "int8.onnx").write_text("small graph")
        draft.publish(manifest(**changes))
    return place


def edit(place, change):
    tree = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    change(tree)
    (place / MANIFEST).write_text(json.dumps(tree), encoding="utf-8")


def refused(place):
    with pytest.raises(BundleError) as caught:
        Bundle.load(place)
    return str(caught.value)


def test_what_was_written_is_read(tmp_path):
    bundle = Bundle.load(write(tmp_path / "a" / "bundle"))
    assert bundle.manifest.model_copy(update={"files": {}}) == manifest()
    assert set(bundle.manifest.files) == {"model.safetensors", "tokenizer.json", "model.onnx", "onnx/int8.onnx"}
    assert bundle.task == TokenClassification(labels=("LOC", "Ünï"))
    assert bundle.manifest.evaluations[0].report.value == 0.5
    assert (bundle.encoder.max_tokens, bundle.encoder.stride) == (128, 32)
    assert not list(tmp_path.glob("a/.*")), "nothing is left beside it"


def test_the_kind_of_task_is_kept(tmp_path):
    task = TextClassification(labels=("b", "a"))
    assert Bundle.load(write(tmp_path / "b", task=task)).task == task


def test_a_bundle_may_be_given_as_a_string_and_moved(tmp_path):
    digest = Bundle.load(str(write(tmp_path / "b"))).digest
    (tmp_path / "b").rename(tmp_path / "c")
    assert Bundle.load(tmp_path / "c").digest == digest


def test_a_half_written_bundle_has_no_name(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"), write_bundle(tmp_path / "b") as draft:  # noqa: PT012
        (draft.path / "model.safetensors").write_text("half")
        draft.publish(manifest())
        assert not (tmp_path / "b").exists()
        raise RuntimeError("power cut")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_replacement_leaves_the_old_bundle(tmp_path):
    old = Bundle.load(write(tmp_path / "b")).digest
    with pytest.raises(KeyboardInterrupt), write_bundle(tmp_path / "b", overwrite=True):
        raise KeyboardInterrupt
    assert Bundle.load(tmp_path / "b").digest == old
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_draft_that_was_never_published_is_refused(tmp_path):
    with pytest.raises(BundleError, match="nothing was published"), write_bundle(tmp_path / "b"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_only_when_asked(tmp_path):
    write(tmp_path / "b")
    with pytest.raises(BundleError, match=r"already holds a bundle.*overwrite=true"):
        write(tmp_path / "b")
    write(tmp_path / "b", overwrite=True, content="new")
    assert (tmp_path / "b" / "model.safetensors").read_text() == "new"
    assert Bundle.load(tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_bundle_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for name in ("thesis", "file"):
        with pytest.raises(BundleError, match="is no bundle"), write_bundle(tmp_path / name, overwrite=overwrite):
            pytest.fail("opened")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def test_an_empty_directory_and_a_link_to_one_may_be_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    write(tmp_path / "link")
    assert Bundle.load(tmp_path / "link").digest == Bundle.load(tmp_path / "empty").digest
    assert (tmp_path / "link").is_symlink()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match=r"file/b.*choose another output"), write_bundle(tmp_path / "file" / "b"):
        pytest.fail("opened")


def test_the_check_can_be_made_before_the_work(tmp_path):
    check_output(tmp_path / "new", overwrite=False)
    write(tmp_path / "b")
    check_output(tmp_path / "b", overwrite=True)
    with pytest.raises(BundleError):
        check_output(tmp_path / "b", overwrite=False)


def test_a_manifest_copied_from_a_parent_is_replaced_not_listed(tmp_path):
    write(tmp_path / "parent")
    with write_bundle(tmp_path / "child") as draft:
        for file in (tmp_path / "parent").glob("*.*"):
            (draft.path / file.name).write_bytes(file.read_bytes())
        draft.publish(manifest(onnx=ONNX[:1]))
        draft.publish(manifest(onnx=ONNX[:1], stride=8))
    assert Bundle.load(tmp_path / "child").manifest.stride == 8
    assert MANIFEST not in Bundle.load(tmp_path / "child").manifest.files


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "onnx/int8.onnx"])
def test_an_altered_or_missing_file_is_named(tmp_path, name):
    place = write(tmp_path / "b")
    content = (place / name).read_bytes()
    (place / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert re.search(rf"{name} was altered.*Remedy", refused(place))
    (place / name).unlink()
    assert f"{name} is missing" in refused(place)


def test_a_newer_format_is_named(tmp_path):
    place = write(tmp_path / "b")
    edit(place, lambda tree: tree.update(format_version=3))
    assert "format version 3. Allowed: format version 2. Remedy: use the release" in refused(place)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"3", b"[" * 100_000])
def test_a_damaged_manifest_is_named(tmp_path, raw):
    place = write(tmp_path / "b")
    (place / MANIFEST).write_bytes(raw)
    assert re.search(r"bundle\.json is damaged .*Remedy: copy the bundle again", refused(place))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda tree: tree.pop("task"), "task"), (lambda tree: tree.update(max_tokens="many"), "max_tokens"),
        (lambda tree: tree["task"].update(kind="telepathy"), "task"), (lambda tree: tree.update(surplus=1), "surplus"),
        (lambda tree: tree["onnx"][0].update(precision="fp7"), "precision"),
    ],
)  # fmt: skip
def test_a_wrong_manifest_names_file_and_key(tmp_path, change, key):
    place = write(tmp_path / "b")
    edit(place, change)
    message = refused(place)
    assert f"{place / MANIFEST}" in message
    assert key in message


def test_a_graph_that_is_listed_without_its_file_is_named(tmp_path):
    place = write(tmp_path / "b")
    edit(place, lambda tree: tree["files"].pop("model.onnx"))
    assert "model.onnx" in refused(place)


@pytest.mark.parametrize("place", ["absent", "empty", "file"])
def test_what_is_no_bundle_is_said_to_be_none(tmp_path, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    message = refused(tmp_path / place)
    assert f"{tmp_path / place} is no bundle" in message
    assert "output directory of training/run.py" in message


def test_a_graph_is_found_by_precision(tmp_path):
    bundle = Bundle.load(write(tmp_path / "b"))
    assert bundle.onnx_variant("fp32") == ONNX[0]
    assert bundle.onnx_variant("int8") == bundle.onnx_variant() == ONNX[1]
    with pytest.raises(BundleError, match=r"no ONNX graph of precision 'bf16'. Allowed: auto, fp32, int8"):
        bundle.onnx_variant("bf16")


def test_a_bundle_without_graphs_says_how_to_make_them(tmp_path):
    bundle = Bundle.load(write(tmp_path / "b", onnx=()))
    with pytest.raises(BundleError, match=r"compression/run\.py bundle="):
        bundle.onnx_variant()


def test_the_digest_changes_when_anything_changes(tmp_path):
    variants = [
        {},
        {"content": "other weights"},
        {"stride": 8},
        {"task": TokenClassification(labels=("A",))},
        {"onnx": ONNX[:1]},
        {"evaluations": ()},
    ]
    digests = [Bundle.load(write(tmp_path / str(number), **changes)).digest for number, changes in enumerate(variants)]
    assert len(set(digests)) == len(variants)
    assert Bundle.load(write(tmp_path / "again")).digest == digests[0]


def test_the_lineage_of_now_names_versions_and_commit():
    lineage = lineage_now(base_model="tiny", data_digest="d")
    assert lineage.versions["bert-agent"]
    assert "tokenizers" in lineage.versions
    if (Path(__file__).parents[2] / ".git").exists():
        assert re.fullmatch("[0-9a-f]{40}", lineage.git_commit)


def test_all_may_read_what_was_written_by_one(tmp_path):
    with write_bundle(tmp_path / "agent") as draft:
        (draft.path / "model.safetensors").write_text("weights")
        (draft.path / "model.safetensors").chmod(0o600)
        draft.publish(manifest(onnx=()))
    assert (tmp_path / "agent").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "agent/model.safetensors").stat().st_mode & 0o777 == 0o644


def test_an_agent_that_writes_has_a_converted_model_of_each_precision(tmp_path):
    bundle = Bundle.load(publish_converted(tmp_path / "bundle", "sequence_to_sequence"))
    assert bundle.variant() == bundle.converted_variant("int8")
    assert bundle.converted_variant("fp32").directory == "ctranslate2-fp32"
    with pytest.raises(BundleError, match=r"no converted model of precision 'fp16'. Allowed: auto, fp32, int8"):
        bundle.variant("fp16")
    (bundle.path / "ctranslate2-int8/model.bin").unlink()
    with pytest.raises(BundleError, match=r"ctranslate2-int8/model.bin is missing"):
        Bundle.load(bundle.path)
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    del manifest["files"]["ctranslate2-int8/model.bin"]
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="lists the model ctranslate2-int8 but not its files"):
        Bundle.load(bundle.path)
