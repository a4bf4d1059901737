"""Files through one interface: a local directory, a file:// URI and S3's protocol."""

from __future__ import annotations

import pickle
import uuid
from pathlib import Path

import pytest

from agent.errors import BundleError, CheckpointError
from cluster.file_system import Location, join, storage_errors


@pytest.fixture(params=["path", "uri", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "s3":
        return Location(f"s3://bucket/{uuid.uuid4()}{request.getfixturevalue('s3')}")
    place = tmp_path / "a b"
    return Location(str(place) if request.param == "path" else place.as_uri())


def test_what_is_uploaded_is_listed_read_downloaded_and_deleted(location: Location, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    location.upload(tmp_path / "file", "below/name")
    assert location.is_file("below/name")
    assert not location.is_file("below")
    assert [info.base_name for info in location.list()] == ["below"]
    assert [info.base_name for info in location.list(recursive=True) if info.size] == ["name"]
    assert location.read("below/name") == b"content"
    location.download(tmp_path / "copy", "below")
    assert (tmp_path / "copy" / "name").read_bytes() == b"content"
    location.delete_file("below/name")
    assert not location.is_file("below/name")
    location.delete_directory()
    location.delete_directory()  # once more, where nothing is
    assert location.list() == []


def test_a_location_is_pickled_as_its_url_and_a_path_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    location = Location("runs")
    assert location.local_path == tmp_path / "runs"  # opens the file system, which cannot be pickled
    assert pickle.loads(pickle.dumps(location)).url == str(tmp_path / "runs")


@pytest.mark.parametrize(
    ("url", "below"),
    [
        ("/runs", "/runs/a b"),
        ("s3://bucket", "s3://bucket/a%20b"),
        ("s3://bucket/x/?scheme=http&region=r", "s3://bucket/x/a%20b?scheme=http&region=r"),
    ],
)
def test_a_name_is_joined_before_the_query_of_a_uri(url: str, below: str) -> None:
    assert join(url, "a b") == below


def test_errors_of_a_storage_become_ours_on_one_line_and_all_others_stay() -> None:
    for error, expected in ((OSError("disk\n full"), CheckpointError), (ValueError("no"), CheckpointError), (BundleError("b"), BundleError), (KeyError("k"), KeyError)):  # fmt: skip
        with pytest.raises(expected) as raised, storage_errors(CheckpointError):
            raise error
        assert raised.type is expected
        if expected is CheckpointError:
            assert "\n" not in str(raised.value)
    with pytest.raises(CheckpointError), storage_errors(CheckpointError, KeyError):
        raise KeyError("k")
