"""What our workers print reaches the terminal as it is; what Ray and libraries say reaches a file."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import ray
import ray._private.worker

from cluster import ray_output
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PROGRAM = """
import io, logging, sys
sys.path.insert(0, {root!r})
import ray
from cluster import ClusterConfig, connect, ray_output

@ray.remote(num_cpus=1)
def work():
    ray_output.show_own_logs()
    print("epoch 1/3  loss 0.5", flush=True)
    print("a library grumbles", file=sys.stderr, flush=True)
    logging.getLogger("training.loop.worker").warning("memory is short")

class Reader(logging.StreamHandler):
    pass

reader, closed = Reader(io.StringIO()), io.StringIO()
logging.getLogger("ray").addHandler(reader)
logging.getLogger("ray.serve").addHandler(logging.StreamHandler(closed))
closed.close()
connect(ClusterConfig(address="local", num_cpus=1, num_gpus=0, dashboard=False))
logging.getLogger("ray").warning("a warning of Ray")
assert "a warning of Ray" in reader.stream.getvalue()
ray.get(work.remote())
sys.stdin.readline()  # the test has read the lines
ray.shutdown()
"""


def test_the_terminal_shows_our_lines_and_the_file_the_others(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    program = [sys.executable, "-c", PROGRAM.format(root=str(ROOT))]
    with subprocess.Popen(program, cwd=tmp_path, text=True, **pipes) as started:
        try:
            first, *shown = [started.stdout.readline().rstrip() for _ in range(3)]
            found = re.fullmatch(r"cluster: local Ray, 1 node\(s\), 1 CPUs, 0 GPUs; what Ray says: (\S+)", first)
            log = Path(found[1])
            until(lambda: "a library grumbles" in log.read_text())
            others, errors = started.communicate("\n", timeout=60)
        finally:
            started.kill()
    assert started.returncode == 0, errors
    assert sorted(shown) == ["WARNING: memory is short", "epoch 1/3  loss 0.5"], others + errors
    assert not others
    assert "pid=" not in errors
    assert "a warning of Ray" not in errors
    assert "a warning of Ray" in log.read_text()


def test_ray_still_prints_through_the_function_that_is_replaced():
    """Written for Ray 2.60: a new version that renames it would bring prefixes and warnings back to the terminal."""
    written_for = "cluster/ray_output.py was written for Ray 2.60; this is " + ray.__version__
    function = ray._private.worker.print_worker_logs
    function = function.original if isinstance(function, ray_output._Router) else function
    assert list(inspect.signature(function).parameters) == ["data", "print_file", "ignore_prefix"], written_for
    for caller in (ray._private.worker.print_to_stdstream,):
        assert "print_worker_logs(batch, sink, ignore_prefix)" in inspect.getsource(caller), written_for
