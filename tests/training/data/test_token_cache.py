"""Windows on disk: the same as in memory, and never used when they are not whole."""

from __future__ import annotations

import os
import pickle
import shutil

import numpy as np
import pytest

from agent.encoding import IGNORED
from agent.errors import DataError
from training.data.packing import PackedWindows
from training.data.token_cache import StoreContent, draft_store, find_store, store_key

KEY = store_key(data="x")
CONTENT = StoreContent(("LOC",), "d" * 64)


def windows(examples=5, seed=0, per_token=True):
    """Two windows for every example."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, 2 * examples)
    ids = rng.integers(0, 99, lengths.sum()).astype(np.int32)
    targets = rng.integers(-1, 3, lengths.sum() if per_token else len(lengths)).astype(np.int32)
    targets[targets < 0] = IGNORED
    return PackedWindows(
        ids,
        targets,
        bounds=np.concatenate([[0], lengths.cumsum()]),
        labelled=lengths.astype(np.int32),
        owners=np.repeat(np.arange(examples, dtype=np.int32), 2),
        seconds=rng.integers(0, lengths + 1).astype(np.int32),
        logged=np.where(per_token, np.nan, rng.random((len(lengths), 2))).astype(np.float32),
    )


def store(cache, *parts, key=KEY):
    with draft_store(cache, key) as draft:
        for part in parts:
            draft.append(part)
        return draft.publish(CONTENT)


@pytest.mark.parametrize("per_token", [True, False])
def test_stored_parts_are_the_windows_in_a_row(tmp_path, per_token):
    parts = [windows(count, seed, per_token) for seed, count in enumerate((5, 1, 8))]
    found = store(tmp_path, *parts)
    assert found.owners.tolist() == np.repeat(np.arange(14), 2).tolist()
    np.testing.assert_array_equal(found.lengths, np.concatenate([part.lengths for part in parts]))
    for number, row in ((0, 3), (1, 1), (2, 15)):
        before = sum(len(part.labelled) for part in parts[:number])
        for ours, theirs in zip(
            found.collate(np.array([before + row]), 0), parts[number].collate(np.array([row]), 0), strict=True
        ):
            for name in ("input_ids", "token_type_ids"):
                np.testing.assert_array_equal(getattr(ours, name, ours), getattr(theirs, name, theirs))
    np.testing.assert_array_equal(found.target_counts(3), sum(part.target_counts(3) for part in parts))
    assert found.manifest.num_examples == 14
    assert found.manifest.labels == ("LOC",)


def test_a_store_is_found_by_its_key_only(tmp_path):
    made = store(tmp_path, windows())
    assert find_store(tmp_path, KEY).directory == made.directory
    assert find_store(tmp_path, store_key(data="y")) is None
    made.directory.rename(tmp_path / store_key(data="y"))
    assert find_store(tmp_path, store_key(data="y")) is None, "the name alone does not tell"


def test_a_key_follows_every_ingredient():
    assert store_key(data="x", stride=1) == store_key(stride=1, data="x")
    assert len({store_key(data="x", stride=1), store_key(data="x", stride=2), store_key(data="x")}) == 3


def flip(file):
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


@pytest.mark.parametrize("name", ["input_ids", "targets", "bounds", "labelled", "owners", "store.json"])
@pytest.mark.parametrize("damage", [lambda file: file.unlink(), flip, lambda file: os.truncate(file, 4)])
def test_a_damaged_store_is_not_used_and_is_replaced(tmp_path, name, damage, capsys):
    made = store(tmp_path, windows())
    damage(made.directory / name)
    assert find_store(tmp_path, KEY) is None
    assert "note: tokenised data is made again" in capsys.readouterr().out
    again = store(tmp_path, windows())
    assert find_store(tmp_path, KEY).directory == again.directory
    assert [entry.name for entry in tmp_path.iterdir()] == [KEY]


def test_nothing_remains_of_a_store_that_was_not_finished(tmp_path):
    def fail():
        with draft_store(tmp_path, KEY) as draft:
            draft.append(windows())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_of_two_runs_that_make_the_same_store_the_second_takes_that_of_the_first(tmp_path):
    with draft_store(tmp_path, KEY) as slow:
        slow.append(windows())
        first = store(tmp_path, windows())
        inode = first.directory.stat().st_ino
        assert slow.publish(CONTENT).directory.stat().st_ino == inode
    assert [entry.name for entry in tmp_path.iterdir()] == [KEY]


def test_a_store_travels_as_a_path_and_is_refused_where_it_cannot_be_seen(tmp_path):
    big = store(tmp_path, windows(20_000))
    sent = pickle.dumps(big)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).input_ids, big.input_ids)
    shutil.rmtree(tmp_path / KEY)
    with pytest.raises(DataError, match=r"cannot be read from .*Remedy: give one on storage that all nodes share"):
        pickle.loads(sent)


def test_a_cache_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written to .*Remedy: .*ingest\.cache"):
        store(tmp_path / "file", windows())
