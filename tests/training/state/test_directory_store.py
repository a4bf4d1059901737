"""Stores over a local directory and over S3's protocol: a real HTTP server, if MOTO_SERVER names one (CONTRIBUTING.md)."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agent.errors import CheckpointError
from cluster.file_system import join
from tests.waiting import until
from training.state.directory_store import DirectoryStore

ROOT = Path(__file__).resolve().parents[3]
MARKER = "complete.json"


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    if request.param == "local":
        return str(tmp_path / "store")
    return f"s3://bucket/{uuid.uuid4()}{request.getfixturevalue('s3')}"


def put(store, name, **files):
    with store.draft(name) as directory:
        for file, content in files.items():
            (directory / file).write_text(content)


def content(store, name):
    with store.fetch(name) as directory:
        files = [file for file in directory.rglob("*") if file.is_file() and file.name != MARKER]
        return {file.relative_to(directory).as_posix(): file.read_text() for file in files}


def fail_in_draft(store, name, seen):
    with store.draft(name) as directory:
        (directory / "a").write_text("x")
        seen.append(directory)
        _ = 1 / 0


def stored(store):
    """Files that really lie there, whatever the store says of them."""
    from pyarrow.fs import FileSelector, FileType

    infos = store.location.filesystem.get_file_info(
        FileSelector(store.location.root, recursive=True, allow_not_found=True)
    )
    return sorted(info.path[len(store.location.root) + 1 :] for info in infos if info.type == FileType.File)


def overwrite(store, name, text):
    with store.location.filesystem.open_output_stream(f"{store.location.root}/{name}") as stream:
        stream.write(text.encode())


def run_python(code, *arguments, prefix=(), **options):
    command = [*prefix, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def answer(code, *arguments, prefix=()):
    process = run_python(code, *arguments, prefix=prefix)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def test_an_entry_comes_back_as_it_was_drafted(place):
    store = DirectoryStore(place)
    with store.draft("last-1") as directory:
        (directory / "below").mkdir()
        (directory / "below" / "ü b?#%20").write_text("odd")
        (directory / "empty").touch()
        (directory / "a").write_text("plain")
    assert content(DirectoryStore(place), "last-1") == {"below/ü b?#%20": "odd", "empty": "", "a": "plain"}


def test_names_are_the_complete_entries_in_order(place):
    store = DirectoryStore(place)
    assert store.names() == []
    for name in ("last-2", "best-1", "last-1"):
        put(store, name, a="x")
    assert store.names() == ["best-1", "last-1", "last-2"]
    assert store.names("last-") == ["last-1", "last-2"]


def test_an_entry_is_there_only_when_its_block_has_ended_well(place):
    store = DirectoryStore(place)
    with store.draft("last-1") as directory:
        (directory / "a").write_text("x")
        assert DirectoryStore(place).names() == []
    assert store.names() == ["last-1"]
    seen = []
    with pytest.raises(ZeroDivisionError):
        fail_in_draft(store, "last-2", seen)
    assert store.names() == ["last-1"]
    assert [name for name in stored(store) if "last-2" in name] == []
    assert not seen[0].exists()


@pytest.mark.parametrize("what", ["altered", "truncated", "missing", "marker cut", "marker of another kind"])
def test_a_damaged_entry_is_refused_by_name(place, what):
    store = DirectoryStore(place)
    put(store, "last-1", weights="0123456789")
    if what == "missing":
        store.location.filesystem.delete_file(f"{store.location.root}/last-1/weights")
    else:
        name, text = {
            "altered": ("weights", "012345678X"), "truncated": ("weights", "01234"), "marker cut": (MARKER, '{"wei'),
            "marker of another kind": (MARKER, "[]"),
        }[what]  # fmt: skip
        overwrite(store, f"last-1/{name}", text)
    with pytest.raises(CheckpointError, match=r"last-1.*cannot be read") as caught, store.fetch("last-1"):
        pass
    assert "resume=false" in caught.value.remedy
    if what in ("altered", "truncated", "missing"):
        assert "weights" in str(caught.value)


def test_an_entry_that_is_not_there_is_an_error_by_name(place):
    store = DirectoryStore(place)
    put(store, "last-1", a="x")
    with pytest.raises(CheckpointError, match="last-7"), store.fetch("last-7"):
        pass


def test_an_error_inside_the_reader_s_block_is_left_as_it_is(place):
    store = DirectoryStore(place)
    put(store, "last-1", a="x")
    with pytest.raises(FileNotFoundError), store.fetch("last-1") as directory:
        (directory / "none").read_text()


def test_entries_are_removed_one_by_one_or_all_at_once(place):
    store = DirectoryStore(place)
    put(store, "last-1", a="x")
    put(store, "last-2", a="y")
    store.remove("last-1")
    assert store.names() == ["last-2"]
    assert [name for name in stored(store) if name.startswith("last-1")] == []
    overwrite(store, "stray", "s")
    store.clear()
    assert stored(store) == []
    store.clear()  # what is not there is clear
    put(store, "last-3", a="z")
    assert content(store, "last-3") == {"a": "z"}


def test_sweeping_removes_what_is_unfinished_and_nothing_else(place):
    store = DirectoryStore(place)
    put(store, "last-1", a="x")
    put(store, "last-2", a="y")
    store.location.filesystem.delete_file(f"{store.location.root}/last-2/{MARKER}")  # a removal that was cut short
    for name in ("ray-train", "last-3.partial.abc", "last-4"):
        store.location.filesystem.create_dir(f"{store.location.root}/{name}")
        overwrite(store, f"{name}/a", "x")
    store.remove_incomplete()
    assert stored(store) == ["last-1/a", "last-1/complete.json", "ray-train/a"]
    put(store, "last-2", a="again")
    assert content(store, "last-2") == {"a": "again"}


def test_partial_entries_have_no_name_even_with_a_marker(place):
    store = DirectoryStore(place)
    put(store, "last-1.partial.abc", a="x")
    assert store.names() == []


def test_a_pickled_store_is_the_same_place(place, tmp_path, monkeypatch):
    store = DirectoryStore(place)
    put(store, "last-1", a="x")
    restored = pickle.loads(pickle.dumps(store))
    monkeypatch.chdir(tmp_path)
    assert content(restored, "last-1") == {"a": "x"}


def test_a_relative_place_does_not_move_with_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = DirectoryStore("checkpoints/agent")
    raw = pickle.dumps(store)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # as Ray Train does to its workers
    put(pickle.loads(raw), "last-1", a="x")
    assert (tmp_path / "checkpoints" / "agent" / "last-1" / "a").is_file()


def test_ray_train_takes_the_place_beside(place):
    from ray.train.v2._internal.execution.storage import StorageContext

    store = DirectoryStore(place)
    put(store, "last-1", a="x")
    context = StorageContext(store.ray_train_url, experiment_dir_name="ray")  # writes and finds a file of its own
    assert context.experiment_fs_path == f"{store.location.root}/ray-train/ray"
    assert any(name.startswith("ray-train/ray/") for name in stored(store))
    assert store.names() == ["last-1"]
    store.clear()
    assert stored(store) == []


@pytest.mark.parametrize(
    "name", ["a b", "ü", "what?really", "50%20 off", "hash#tag", "x&y=z+1", "trailing/", "twice//"]
)
def test_odd_places_work_for_us_and_for_ray_train(place, name):
    from pyarrow.fs import FileSystem

    root, *query = place.split("?", 1)
    odd = join(place, name.rstrip("/")) if not name.endswith("/") else "?".join([f"{root}/{name}", *query])
    store = DirectoryStore(odd)
    put(store, "last-1", a="x")
    assert content(DirectoryStore(odd), "last-1") == {"a": "x"}
    filesystem, path = FileSystem.from_uri(store.ray_train_url)
    assert filesystem.type_name == store.location.filesystem.type_name
    assert path.rpartition("/") == (store.location.root, "/", "ray-train")


def test_a_local_uri_is_a_place_too(tmp_path):
    put(DirectoryStore(f"file://{tmp_path}/a%20b"), "last-1", a="x")
    assert DirectoryStore(str(tmp_path / "a b")).names() == ["last-1"]


@pytest.mark.parametrize("place", ["foo://bucket/x", "s3://bucket/a b"])
def test_a_place_that_is_no_uri_is_refused_by_name(place):
    with pytest.raises(CheckpointError, match=place) as caught:
        DirectoryStore(place).names()
    assert caught.value.allowed


@pytest.mark.system
def test_a_bucket_that_is_not_there_and_a_server_that_does_not_answer_are_named(s3):
    with pytest.raises(CheckpointError, match=r"s3://none/x.*written") as caught:
        put(DirectoryStore(f"s3://none/x{s3}"), "last-1", a="x")
    assert caught.value.remedy
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and nobody listens
        silent = f"127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(CheckpointError, match=silent):
            DirectoryStore(f"s3://bucket/x?endpoint_override={silent}&scheme=http").names()


class RefuseWeights(BaseHTTPRequestHandler):
    """Hands everything on to the server behind it, but refuses uploads of `weights` at their very end."""

    protocol_version = "HTTP/1.1"

    def handle_any(self):
        body = self.read_body()
        if self.command == "POST" and "/weights?uploadId=" in self.path:
            return self.reply(
                400, {}, b'<?xml version="1.0"?><Error><Code>InvalidPart</Code><Message>no</Message></Error>'
            )
        dropped = {"connection", "transfer-encoding", "expect", "content-length"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        request = urllib.request.Request(self.server.behind + self.path, body, headers, method=self.command)
        try:
            answer = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            answer = error
        kept = dropped - {"content-length"} if self.command == "HEAD" else dropped
        return self.reply(
            answer.status, {n: v for n, v in answer.headers.items() if n.lower() not in kept}, answer.read()
        )

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

    def read_body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def reply(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def log_message(self, *arguments):
        pass


@pytest.mark.system
def test_an_upload_that_s3_refuses_at_its_end_makes_no_entry(s3):
    address = s3.partition("=")[2].partition("&")[0]
    with ThreadingHTTPServer(("127.0.0.1", 0), RefuseWeights) as proxy:
        proxy.behind, proxy.daemon_threads = f"http://{address}", True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        store = DirectoryStore(f"s3://bucket/refused{s3.replace(address, f'127.0.0.1:{proxy.server_port}')}")
        put(store, "last-1", other="x")
        with pytest.raises(CheckpointError, match=r"weights.*InvalidPart|INVALID_PART"):
            put(store, "last-2", other="x", weights="y")
        assert store.names() == ["last-1"]
        proxy.shutdown()


WRITE_FOREVER = """
import sys
from training.state.directory_store import DirectoryStore
store = DirectoryStore(sys.argv[1])
for number in range(100000):
    with store.draft(f"last-{number:06d}") as directory:
        for file in range(20):
            (directory / f"f{file}").write_text(f"{number} {file} " * 2000)
    print(number, flush=True)
"""


def left_by_a_killed_writer(store, place, drafts, delay_s):
    """How many unfinished entries a writer leaves that is killed some seconds after its first entry."""
    writer = run_python(WRITE_FOREVER, place, env=os.environ | {"TMPDIR": str(drafts)})  # drafts for S3 stay behind
    assert writer.stdout.readline() == "0\n", writer.stderr.read()
    time.sleep(delay_s)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    names = store.names()
    assert names
    for name in names:
        wanted = {f"f{file}": f"{int(name[5:])} {file} " * 2000 for file in range(20)}
        assert content(store, name) == wanted
    unfinished = len(store._directories()) - len(names)
    store.remove_incomplete()
    assert sorted({path.split("/")[0] for path in stored(store)}) == names
    store.clear()
    return unfinished


@pytest.mark.faults
@pytest.mark.system
def test_whoever_is_killed_while_writing_leaves_whole_entries_only(place, tmp_path):
    store, delays = DirectoryStore(place), random.Random(0)
    unfinished = sum(left_by_a_killed_writer(store, place, tmp_path, 0.003 * kill) for kill in range(1, 6))
    assert until(  # killed in the middle of an entry, or the test has shown nothing
        lambda: unfinished or left_by_a_killed_writer(store, place, tmp_path, delays.uniform(0, 0.1)), seconds=300
    )


def test_a_reader_beside_a_writer_sees_whole_entries_or_none(place):
    store, writer = DirectoryStore(place), DirectoryStore(place)
    put(store, "last-000", a="0" * 1000, b="0" * 1000)

    def replace():
        for number in range(1, 25):
            put(writer, f"last-{number:03d}", a=str(number) * 1000, b=str(number) * 1000)
            writer.remove(f"last-{number - 1:03d}")

    thread, read = threading.Thread(target=replace), set()
    thread.start()
    while thread.is_alive():
        newest = DirectoryStore(place).names("last-")[-1:]  # two listings may pass each other: none is an answer
        for name in newest:
            try:
                with store.fetch(name) as directory:
                    texts = [(directory / file).read_text() for file in "ab"]
            except (CheckpointError, FileNotFoundError):
                continue  # it was removed meanwhile
            assert texts == [str(int(name[5:])) * 1000] * 2
            read.add(name)
    thread.join()
    assert read
    assert store.names() == ["last-024"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=str(tmp_path / "file" / "below")) as caught:
        put(DirectoryStore(str(tmp_path / "file" / "below")), "last-1", a="x")
    assert "mend the permissions" in caught.value.remedy


def alone_on(options, directory):
    """A shell in a mount namespace of its own, so that what is mounted ends with it; skips where that is not permitted."""
    directory.mkdir()
    prefix = ["unshare", "--mount", "--map-root-user", "sh", "-ec", f'mount -t tmpfs -o {options} none "$0"; exec "$@"']
    command = [*prefix, str(directory)]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this system lets no one mount a file system of their own")
    return command


CHECKPOINTS = """
import os, resource, sys
import torch
from agent.errors import CheckpointError
from training.state.run_state import RunState
from training.state.checkpoint import Checkpoint, OptimizerState
from training.state.directory_store import DirectoryStore

place, limit = sys.argv[1], int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
store = DirectoryStore(place)

def save(name, numbers):
    with store.draft(name) as directory:
        Checkpoint({"w": torch.ones(numbers)}, OptimizerState({}, {}), RunState(step=7), []).write(directory)

save("last-1", 10_000)
for attempt in range(3):  # what failed leaves no rest that fills the disk for good
    try:
        save("last-2", 1_000_000)
    except CheckpointError as error:
        print(error)
    else:
        sys.exit("there was room after all")
assert store.names() == ["last-1"], store.names()
assert os.listdir(place) == ["last-1"], os.listdir(place)
with store.fetch("last-1") as directory:
    read = Checkpoint.read(directory)
assert read.weights["w"].sum() == 10_000 and read.state.step == 7
save("last-3", 10_000)
assert store.names() == ["last-1", "last-3"]
"""


@pytest.mark.system
@pytest.mark.parametrize("how", ["full disk", "limited files"])
def test_no_room_is_an_error_that_names_the_place_and_spares_the_older_entry(tmp_path, how):
    if how == "full disk":
        prefix, limit, why = alone_on("size=1m", tmp_path / "small"), 0, "No space left"
    else:
        prefix, limit, why = (), 1_000_000, "File too large"
    place = tmp_path / "small" / "store"
    lines = [line for line in answer(CHECKPOINTS, place, limit, prefix=prefix).splitlines() if "Remedy" in line]
    assert len(lines) == 3
    for line in lines:
        assert str(place) in line
        assert why in line
        assert "free space" in line


@pytest.mark.system
def test_a_read_only_place_is_an_error_that_names_it(tmp_path):
    prefix = alone_on("ro", tmp_path / "fixed")
    code = """
import sys
from agent.errors import CheckpointError
from training.state.directory_store import DirectoryStore
try:
    with DirectoryStore(sys.argv[1]).draft("last-1"):
        pass
except CheckpointError as error:
    print(error)
"""
    said = answer(code, tmp_path / "fixed" / "store", prefix=prefix)
    assert str(tmp_path / "fixed" / "store") in said
    assert "Read-only" in said


@pytest.mark.faults
@pytest.mark.system
def test_whoever_is_killed_while_clearing_leaves_whole_entries_only(place):
    store = DirectoryStore(place)
    code = """
import sys
from training.state.directory_store import DirectoryStore
store = DirectoryStore(sys.argv[1])
print("ready", flush=True)
store.names()
print("clearing", flush=True)
store.clear()
"""
    for delay_s in (0.0, 0.002, 0.006):
        for name in ("best-1", "last-1", "run"):
            put(store, name, **{f"f{file}": str(file) * 100 for file in range(12)})
        cleaner = run_python(code, place)
        assert cleaner.stdout.readline() == "ready\n", cleaner.stderr.read()
        assert cleaner.stdout.readline() == "clearing\n"
        time.sleep(delay_s)
        cleaner.kill()
        cleaner.communicate()
        for name in store.names():
            assert len(content(store, name)) == 12
        store.clear()
        assert stored(store) == []
