#!/usr/bin/env bash
# deepspeed 0.19.8 where mlflow-skinny 3.17.2 is installed too.
#
# One would expect: `import deepspeed` imports what training needs; a tracker of experiments that nothing asks for stays where it is.
# What happens: deepspeed.runtime.config imports the configuration of the autotuner, its package imports the tuner itself, and that imports MLflow where
#   it is installed, to be able to log its trials: nearly nine hundred modules, 484 of them its own, and more than a third of the CPU time of the
#   import, in every process that imports DeepSpeed, autotuning or not. No switch of DeepSpeed leaves it out; with sys.modules["mlflow"] = None during the import it is
#   taken for absent, and MLflow can be imported afterwards.
# Why it matters here: each worker of each training run is a process that imports DeepSpeed; the driver alone tracks by MLflow. bert-agent's workers
#   import DeepSpeed without it (training/engine/deepspeed_internals.py).
# Seen on 2026-11-29 with torch 2.13.0, Python 3.11, Linux x86-64.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check setuptools wheel torch==2.13.0 2>/dev/null
DS_ACCELERATOR=cpu venv/bin/pip install --quiet --disable-pip-version-check --no-build-isolation deepspeed==0.19.8 mlflow-skinny==3.17.2 2>/dev/null
cat > starts.py <<'PY'
import sys
import time

absent = "absent" in sys.argv
if absent:
    sys.modules["mlflow"] = None
start = time.process_time()
import deepspeed

seconds = time.process_time() - start
if absent:
    del sys.modules["mlflow"]
found = {name for name, module in sys.modules.items() if module is not None and name.split(".")[0] == "mlflow"}
print(f"deepspeed {deepspeed.__version__}: {len(sys.modules):,} modules, {len(found)} of MLflow, {seconds:.1f} s of CPU time")
import mlflow

sys.exit(bool(found) == absent)
PY
export DS_ACCELERATOR=cpu
echo "import deepspeed, and with MLflow taken for absent:"
venv/bin/python starts.py 2>/dev/null || { echo "this finding no longer holds: MLflow is not imported"; exit 1; }
venv/bin/python starts.py absent 2>/dev/null || { echo "this finding no longer holds: MLflow is imported all the same"; exit 1; }
