#!/usr/bin/env bash
# ray 2.60.0, ray.util.metrics.Histogram, as Prometheus scrapes it from a node.
#
# One would expect: NAME_sum is the sum of what was observed, so that NAME_sum / NAME_count is the mean; the docstring says that the class corresponds to
#   Prometheus' histogram.
# What happens: a worker hands its node's agent the counts of the buckets only, and the agent replays every observation as the middle of its bucket, in the
#   last bucket as twice the highest boundary. Buckets and NAME_count are right, NAME_sum is made up: almost three times too high for the first probe
#   below, fifty times too low for the second, whose values lie beyond the last boundary.
# Why it matters here: the panels of bert-agent divide such sums for the mean batch, the mean score and the share of each stage. It therefore copies its
#   histograms to Ray as cumulative series with the true sum.
# Seen on 2026-11-29 with Python 3.11, Linux x86-64.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "ray[default]==2.60.0" 2>/dev/null
mkdir home
HOME="$work/home" RAY_USAGE_STATS_ENABLED=0 venv/bin/python - "$work/ray" 2>errors.txt <<'PY' || { code=$?; tail -n 5 errors.txt; exit "$code"; }
import socket
import sys
import time
import urllib.request

import ray
from prometheus_client.parser import text_string_to_metric_families
from ray.util.metrics import Histogram

BOUNDARIES = [0.1, 1.0, 10.0]
OBSERVED = {"probe_usual_seconds": [0.2] * 100, "probe_slow_seconds": [1000.0] * 3}


def scraped(port):
    """What the node exports for the probes: sample name to value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    return {sample.name: sample.value for sample in samples if sample.name.startswith("ray_probe") and not sample.name.endswith("_bucket")}


with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
ray.init(address="local", num_cpus=1, include_dashboard=False, _metrics_export_port=port, _temp_dir=sys.argv[1], logging_level="error")
for name, values in OBSERVED.items():
    histogram = Histogram(name, description="probe", boundaries=BOUNDARIES)
    for value in values:
        histogram.observe(value)
found, deadline = {}, time.monotonic() + 180
while not all(f"ray_{name}_count" in found for name in OBSERVED):
    if time.monotonic() > deadline:
        raise SystemExit("the node exported no probe in three minutes")
    time.sleep(2)
    try:
        found = scraped(port)
    except OSError:
        continue  # the agent has not opened its port yet
ray.shutdown()
print("ray", ray.__version__, "boundaries", BOUNDARIES)
for name, values in OBSERVED.items():
    count, total = found[f"ray_{name}_count"], found[f"ray_{name}_sum"]
    print(f"{name}: {len(values)} times {values[0]}: exported count {count:g}, exported sum {total:g}, true sum {sum(values):g}")
    if count != len(values) or abs(total - sum(values)) < 0.01 * sum(values):
        raise SystemExit("this finding no longer holds")
PY
