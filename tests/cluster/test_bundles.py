"""Bundles on shared storage: a local path, a file:// URI (the same way through pyarrow as S3) and S3's protocol itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from agent.bundle import MANIFEST, Bundle, Lineage, Manifest, write_bundle
from agent.errors import BundleError, ConfigError
from agent.tasks import TokenClassification
from cluster import bundles

ROOT = Path(__file__).resolve().parents[2]


def make_bundle(path: Path, content: str = "weights") -> Bundle:
    with write_bundle(path, overwrite=True) as draft:
        (draft.path / "model.onnx").write_text(content)
        (draft.path / "tokenizer.json").write_text("{}")
        draft.publish(
            Manifest(
                task=TokenClassification(labels=("LOC",)), max_tokens=16, stride=4,
                lineage=Lineage(base_model="none", data_digest="none"),
            )
        )  # fmt: skip
    return Bundle.load(path)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "_cache", lambda: tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture(params=["file", "s3"])
def remote(request, tmp_path):
    if request.param == "file":
        return (tmp_path / "store" / "agent").as_uri()
    return f"s3://bucket/{uuid.uuid4()}{request.getfixturevalue('s3')}"


def test_a_directory_is_used_where_it_lies(tmp_path):
    made = make_bundle(tmp_path / "agent")
    assert bundles.fetch(str(tmp_path / "agent")) == made


def test_a_bundle_comes_back_from_storage_whole(tmp_path, cache, remote):
    made = make_bundle(tmp_path / "agent")
    assert bundles.copy(str(tmp_path / "agent"), remote).digest == made.digest
    fetched = bundles.fetch(remote)
    assert fetched.digest == made.digest
    assert fetched.path.parent == cache
    assert (fetched.path / "model.onnx").read_text() == "weights"


def test_what_was_fetched_once_is_not_fetched_again(tmp_path, remote):
    make_bundle(tmp_path / "agent")
    bundles.copy(str(tmp_path / "agent"), remote)
    first = bundles.fetch(remote)
    before = (first.path / "model.onnx").stat().st_ino
    assert bundles.fetch(remote).path == first.path
    assert (first.path / "model.onnx").stat().st_ino == before


def test_a_copy_that_was_damaged_on_this_machine_is_replaced(tmp_path, remote):
    make_bundle(tmp_path / "agent")
    bundles.copy(str(tmp_path / "agent"), remote)
    (bundles.fetch(remote).path / "model.onnx").write_text("altered")
    assert (bundles.fetch(remote).path / "model.onnx").read_text() == "weights"


def test_another_content_at_the_same_place_is_another_copy(tmp_path, remote):
    make_bundle(tmp_path / "agent")
    old = bundles.copy(str(tmp_path / "agent"), remote)
    make_bundle(tmp_path / "next", "new weights")
    new = bundles.copy(str(tmp_path / "next"), remote, overwrite=True)
    assert new.digest != old.digest
    assert (bundles.fetch(remote).path / "model.onnx").read_text() == "new weights"
    assert Bundle.load(old.path) == old


def test_a_place_that_is_taken_stays_as_it_is(tmp_path, remote):
    make_bundle(tmp_path / "agent")
    make_bundle(tmp_path / "next", "new weights")
    for destination in (remote, str(tmp_path / "there")):
        bundles.copy(str(tmp_path / "agent"), destination)
        with pytest.raises(BundleError, match="overwrite=true"):
            bundles.copy(str(tmp_path / "next"), destination)
        assert (bundles.fetch(destination).path / "model.onnx").read_text() == "weights"


def test_a_damaged_bundle_on_storage_is_refused_and_leaves_no_copy(tmp_path, cache):
    made = make_bundle(tmp_path / "agent")
    (made.path / "model.onnx").write_text("altered")
    with pytest.raises(BundleError, match="altered"):
        bundles.fetch(made.path.as_uri())
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    "place", ["s3://", "s3:/bucket/x", "ftp://host/x", "file:///nowhere/at/all", "/nowhere/at/all"]
)
def test_a_place_without_a_bundle_is_named(place):
    with pytest.raises(BundleError) as refused:
        bundles.fetch(place)
    assert place.rpartition("/")[2] in str(refused.value)
    assert refused.value.remedy


def test_processes_that_fetch_at_once_share_one_copy(tmp_path, cache, remote):
    make_bundle(tmp_path / "agent")
    bundles.copy(str(tmp_path / "agent"), remote)
    for copy in cache.iterdir():
        shutil.rmtree(copy)
    found: list[Bundle] = []
    threads = [threading.Thread(target=lambda: found.append(bundles.fetch(remote))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert [copy.name for copy in cache.iterdir()] == [found[0].digest]


def test_waiting_ends_when_the_bundle_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundles, "_POLL_S", 0.05)
    place = tmp_path / "agent"
    threading.Timer(0.3, make_bundle, [place]).start()
    assert bundles.wait_for(str(place), 3_600).path == place  # the test's own limit is shorter
    assert "waiting: " in capsys.readouterr().out


def test_waiting_ends_with_the_reason_when_the_time_is_up(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "_POLL_S", 0.05)
    with pytest.raises(BundleError, match=MANIFEST):
        bundles.wait_for(str(tmp_path / "agent"), 0.2)


def test_the_command_copies_and_says_so(tmp_path):
    made = make_bundle(tmp_path / "agent")
    command = [sys.executable, "-m", "cluster.bundles", f"source={made.path}", f"destination={tmp_path / 'there'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert made.digest[:12] in done.stdout
    assert Bundle.load(tmp_path / "there").digest == made.digest
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert again.returncode == 2
    assert "overwrite=true" in again.stderr


def test_any_version_is_found_by_a_pattern(tmp_path, remote):
    make_bundle(tmp_path / "agent")
    bundles.copy(str(tmp_path / "agent"), remote)
    place, question, options = remote.partition("?")
    assert bundles.find(f"{place[:-2]}*{question}{options}").digest == bundles.fetch(remote).digest
    with pytest.raises(BundleError, match="there is nothing called"):
        bundles.find(f"{place}-*{question}{options}")


def test_a_damaged_version_does_not_hide_a_whole_one(tmp_path):
    made = make_bundle(tmp_path / "agent-1")
    (make_bundle(tmp_path / "agent-2").path / "model.onnx").write_text("altered")
    (tmp_path / "agent-3").mkdir()
    assert bundles.find(str(tmp_path / "agent-*")) == made
    shutil.rmtree(made.path)
    with pytest.raises(BundleError, match="agent-3"):
        bundles.find(str(tmp_path / "agent-*"))


def test_a_pattern_names_nothing_to_copy(tmp_path):
    made = make_bundle(tmp_path / "agent")
    with pytest.raises(ConfigError, match="no single bundle"):
        bundles.main(bundles.CopyConfig(source=f"{made.path}*", destination=str(tmp_path / "there")))
    assert not (tmp_path / "there").exists()
