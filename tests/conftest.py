"""Settings of all tests: no network, reproducible and bounded property tests, an end without the interpreter's own."""

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.durations"]

settings.register_profile(
    "bert-agent",
    deadline=None,
    derandomize=True,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("bert-agent")

_status = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_status] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leaves before the interpreter takes apart what no program of ours ever has in one process.

    Torch, ONNX Runtime, Ray's driver, Arrow's S3, gRPC and a browser's client: one run of CI ended there with a segmentation
    fault after every result was told. What our own programs do at their end, their exit statuses tell.
    """
    if _status not in config.stash:
        return
    if ray := sys.modules.get("ray"):
        ray.shutdown()
    config.get_terminal_writer().flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(config.stash[_status])
