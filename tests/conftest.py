"""Settings of all tests: no network, reproducible and bounded property tests, and plugins that all share."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import HealthCheck, settings

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
