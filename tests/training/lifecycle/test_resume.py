from __future__ import annotations

import json

import pytest

from agent.bundle import Manifest, lineage_now, write_bundle
from agent.config.base import from_mapping
from agent.config.nested import differences
from agent.errors import BundleError, CheckpointError, ConfigError
from agent.tasks import TokenClassification
from training.config import TrainingConfig
from training.lifecycle.resume import CHANGEABLE, checkpoint_store, find_finished, start_or_resume
from training.state.directory_store import DirectoryStore

FREE = {
    "output": "elsewhere/agent", "overwrite": True, "resume": False, "num_workers": 4, "max_failures": 9,
    "resize_check_s": 5.0, "cluster.num_cpus": 3, "checkpoint.storage": "/nfs/runs", "checkpoint.every_steps": 7,
    "tracking.tensorboard": "logs", "ingest.cache": "cache", "engine.zero_stage": 2, "engine.activation_checkpointing": True,
    "batch.micro_tokens": 128, "batch.halve_on_oom": False,
}  # fmt: skip
BINDING = {
    "epochs": 9, "seed": 7, "data.path": "other", "model.name": "other", "model.max_tokens": 32, "model.dropout": 0.3,
    "batch.tokens": 2048, "optimizer.learning_rate": 0.1, "optimizer.kind": "sgd", "schedule.warmup_fraction": 0.5,
    "objective.kind": "focal", "early_stopping.patience": 2, "model.lora": {"rank": 4},
}  # fmt: skip


def config(tmp_path, **changes):
    """A configuration with some keys, given by their paths, set otherwise."""
    tree = {"output": str(tmp_path / "agent"), "data": {"path": str(tmp_path)}}
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return from_mapping(TrainingConfig, tree)


def dump(settings):
    return settings.model_dump(mode="json")


def write_agent(output, settings):
    with write_bundle(output) as draft:
        (draft.path / "model.safetensors").write_bytes(b"weights")
        lineage = lineage_now(base_model="tiny", data_digest="abc", config=dump(settings))
        draft.publish(Manifest(task=TokenClassification(labels=("PER",)), max_tokens=16, stride=4, lineage=lineage))
    return output


@pytest.fixture
def output(tmp_path):
    return tmp_path / "agent"


def test_the_same_settings_differ_in_nothing_also_after_json(tmp_path):
    settings = dump(config(tmp_path))
    assert differences(json.loads(json.dumps(settings)), settings, without=CHANGEABLE) == []


@pytest.mark.parametrize("key", sorted(set(FREE) - {"tracking.tensorboard", "ingest.cache"}))
def test_where_and_how_fast_a_run_computes_may_differ(tmp_path, key):
    changed = dump(config(tmp_path, **{key: FREE[key]}))
    assert changed != dump(config(tmp_path))
    assert differences(dump(config(tmp_path)), changed, without=CHANGEABLE) == []


@pytest.mark.parametrize("key", sorted(BINDING))
def test_what_changes_the_agent_is_named_with_both_values(tmp_path, key):
    before, after = dump(config(tmp_path)), dump(config(tmp_path, **{key: BINDING[key]}))
    found = differences(before, after, without=CHANGEABLE)
    assert any(line.startswith(key) for line in found)
    if not isinstance(BINDING[key], dict):
        was = before
        for part in key.split("."):
            was = was[part]
        assert f"{key}={BINDING[key]!r} (was {was!r})" in found


def test_keys_of_another_version_are_named_unless_they_say_nothing():
    assert differences({"new": None}, {}, without=CHANGEABLE) == []
    assert differences({}, {"new": 3}, without=CHANGEABLE) == ["new=3 (was None)"]
    assert differences({"old": {"a": 1}}, {}, without=CHANGEABLE) == ["old.a=None (was 1)"]


def test_a_new_run_begins_and_goes_on_once_it_has_a_checkpoint(tmp_path, output):
    settings = config(tmp_path)
    assert not start_or_resume(settings, output, "abc").resumes
    assert not start_or_resume(settings, output, "abc").resumes
    store = checkpoint_store(settings, output)
    with store.draft("last-00000005") as directory:
        (directory / "a").touch()
    begun = start_or_resume(config(tmp_path, num_workers=3), output, "abc")
    assert begun.resumes
    assert begun.store.url == store.url == str(tmp_path / ".agent.run")


@pytest.mark.parametrize(
    ("changes", "digest", "named"), [({"seed": 5}, "abc", "seed=5"), ({}, "xyz", "content of the data")]
)
def test_an_unfinished_run_of_other_settings_or_data_is_refused(tmp_path, output, changes, digest, named):
    start_or_resume(config(tmp_path), output, "abc")
    with pytest.raises(ConfigError, match=named) as caught:
        start_or_resume(config(tmp_path, **changes), output, digest)
    assert ".agent.run" in str(caught.value)
    assert "resume=false" in caught.value.remedy


def test_an_unfinished_run_of_another_teacher_under_the_same_path_is_refused(tmp_path, output):
    settings = config(tmp_path, **{"teacher.bundle": "agent"})
    start_or_resume(settings, output, "abc", {"teacher.bundle": "one"})
    start_or_resume(settings, output, "abc", {"teacher.bundle": "one"})
    with pytest.raises(ConfigError, match=r"the content of teacher\.bundle"):
        start_or_resume(settings, output, "abc", {"teacher.bundle": "another"})


def test_resume_false_removes_the_unfinished_run_and_says_so(tmp_path, output, capsys):
    start_or_resume(config(tmp_path), output, "abc")
    store = checkpoint_store(config(tmp_path), output)
    with store.draft("last-00000005") as directory:
        (directory / "a").touch()
    assert not start_or_resume(config(tmp_path, resume=False, seed=5), output, "abc").resumes
    assert "resume=false" in capsys.readouterr().out
    assert store.names() == ["run"]
    assert not start_or_resume(config(tmp_path, seed=5), output, "abc").resumes


def test_checkpoints_of_nobody_knows_what_are_neither_taken_up_nor_removed(tmp_path, output):
    store = checkpoint_store(config(tmp_path), output)
    with store.draft("last-00000005") as directory:
        (directory / "a").touch()
    with pytest.raises(CheckpointError, match="checkpoint run at") as caught:
        start_or_resume(config(tmp_path), output, "abc")
    assert "resume=false" in caught.value.remedy
    assert store.names() == ["last-00000005"]


def test_a_run_entry_that_is_no_json_is_refused(tmp_path, output):
    with checkpoint_store(config(tmp_path), output).draft("run") as directory:
        (directory / "run.json").write_text('{"config": ')
    with pytest.raises(CheckpointError, match=r"damaged run\.json"):
        start_or_resume(config(tmp_path), output, "abc")


def test_a_finished_run_is_recognised(tmp_path, output):
    assert find_finished(config(tmp_path), output) is None
    write_agent(output, config(tmp_path))
    assert find_finished(config(tmp_path), output).path == output
    assert find_finished(config(tmp_path, num_workers=2, max_failures=0), output).path == output


def test_a_bundle_of_other_settings_is_not_replaced(tmp_path, output):
    write_agent(output, config(tmp_path))
    with pytest.raises(BundleError, match="already holds a bundle") as caught:
        find_finished(config(tmp_path, seed=5), output)
    assert "overwrite=true" in caught.value.remedy


def test_overwrite_repeats_a_finished_run(tmp_path, output):
    write_agent(output, config(tmp_path))
    assert find_finished(config(tmp_path, overwrite=True), output) is None
    assert find_finished(config(tmp_path, overwrite=True, seed=5), output) is None


def test_resume_false_does_not_take_a_finished_run_for_its_own(tmp_path, output):
    write_agent(output, config(tmp_path))
    with pytest.raises(BundleError, match="already holds a bundle"):
        find_finished(config(tmp_path, resume=False), output)


def test_a_directory_that_is_no_bundle_is_never_replaced(tmp_path, output):
    output.mkdir()
    assert find_finished(config(tmp_path), output) is None  # empty
    (output / "thesis.txt").touch()
    for changes in ({}, {"overwrite": True}, {"resume": False}):
        with pytest.raises(BundleError, match="is no bundle"):
            find_finished(config(tmp_path, **changes), output)


def test_a_damaged_bundle_is_not_taken_for_a_finished_run(tmp_path, output):
    write_agent(output, config(tmp_path))
    (output / "model.safetensors").write_bytes(b"w")
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        find_finished(config(tmp_path), output)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_storage_that_is_the_outputs_own_directory_leaves_the_bundle_alone(tmp_path, output, overwrite):
    settings = config(tmp_path, overwrite=overwrite, **{"checkpoint.storage": str(tmp_path)})
    if overwrite:
        write_agent(output, config(tmp_path))
    run = start_or_resume(settings, output, "abc")
    assert find_finished(settings, output) is None  # the place of the checkpoints is not in the way of the bundle's
    if not overwrite:
        write_agent(output, settings)
    run.store.clear()
    assert (output / "bundle.json").is_file()


@pytest.mark.parametrize(
    ("storage", "name", "place"),
    [
        ("/nfs/runs/", "agent", "/nfs/runs/agent.run"),
        ("/nfs/what?", "agent", "/nfs/what?/agent.run"),
        ("s3://bucket", "agent", "s3://bucket/agent.run"),
        ("s3://bucket/p/?scheme=http", "my agent", "s3://bucket/p/my%20agent.run?scheme=http"),
    ],
)
def test_checkpoints_lie_in_the_storage_under_the_outputs_name(tmp_path, storage, name, place):
    settings = config(tmp_path, **{"checkpoint.storage": storage})
    assert checkpoint_store(settings, tmp_path / name).url == place


def test_a_storage_that_cannot_be_used_is_named_before_training(tmp_path, output):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file/below"):
        start_or_resume(config(tmp_path, **{"checkpoint.storage": str(tmp_path / "file" / "below")}), output, "abc")


def test_two_places_are_two_runs(tmp_path):
    start_or_resume(config(tmp_path), tmp_path / "one", "abc")
    assert DirectoryStore(str(tmp_path / ".one.run")).names() == ["run"]
    assert DirectoryStore(str(tmp_path / ".two.run")).names() == []
