"""Settings of all tests: no network, reproducible draws, bounded property tests, and plugins that all share."""

import inspect
import os
import random
import sys
import zlib
from functools import cache

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import HealthCheck, settings

from tests.waiting import PATIENCE_S

pytest_plugins = [
    "tests.wanted_modules",
    "tests.commands",
    "tests.durations",
    "tests.local_ray",
    "tests.parallel",
    "tests.s3",
]

settings.register_profile(
    "bert-agent",
    deadline=None,
    derandomize=True,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("bert-agent")


@cache
def share_tls_context() -> None:
    """One TLS context for all calls of httpx: each makes its own, of the certificates of all authorities, in 30 ms of a core."""
    import httpx

    context = httpx.create_ssl_context()
    calls = [httpx.get, httpx.post, httpx.put, httpx.patch, httpx.delete, httpx.head, httpx.options, httpx.request]
    streaming = inspect.unwrap(httpx.stream)
    for call in (*calls, streaming, httpx.Client.__init__, httpx.AsyncClient.__init__):
        call.__kwdefaults__["verify"] = context  # type: ignore[attr-defined]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Each test draws what it drew before, whichever tests its process ran first: one in twenty 95% intervals misses.

    A machine that others use may stand still for longer than the 5 s that httpx waits where it is not told.
    """
    if "httpx" in sys.modules:
        share_tls_context()
        allowed = inspect.signature(sys.modules["httpx"].get).parameters["timeout"].default
        allowed.connect = allowed.read = allowed.write = allowed.pool = PATIENCE_S
    seed = zlib.crc32(item.nodeid.encode())
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
