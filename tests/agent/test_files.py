"""Files and directories are whole or absent, and leave no drafts."""

import hashlib

import pytest

from agent.files import draft_directory, draft_file, replace_directory, sha256_of, write_file


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_and_its_directory_made(tmp_path, durable):
    file = tmp_path / "below" / "file.json"
    for content in ("one", "twö"):
        write_file(file, content, durable=durable)
        assert file.read_text(encoding="utf-8") == content
    write_file(file, b"\xff")
    assert file.read_bytes() == b"\xff"
    assert list(file.parent.iterdir()) == [file]


def test_what_fails_leaves_the_file_as_it_was(tmp_path):
    file = tmp_path / "file"
    write_file(file, "before")

    def fail():
        with draft_file(file) as draft:
            draft.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_a_directory_replaces_the_one_that_stands_there(tmp_path):
    place = tmp_path / "above" / "place"
    for content in ("one", "two"):
        with draft_directory(place) as draft:
            (draft / content).touch()
            replace_directory(draft, place)
        assert [file.name for file in place.iterdir()] == [content]
    assert list(place.parent.iterdir()) == [place]


def test_a_draft_that_takes_no_place_is_removed(tmp_path):
    with draft_directory(tmp_path / "place") as draft:
        (draft / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_a_digest_is_that_of_the_content(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
