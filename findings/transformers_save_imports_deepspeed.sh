#!/usr/bin/env bash
# transformers 5.24.0, save_pretrained of a plain model, with accelerate 1.15.0 and deepspeed 0.19.8 installed, on a machine without a GPU.
#
# One would expect: a model that DeepSpeed never touched is written without DeepSpeed, and a library that saves a file leaves standard output alone.
# What happens: save_pretrained asks accelerate to unwrap the model, and accelerate imports DeepSpeed to know the class that it would unwrap
#   (accelerate.utils.other.extract_model_from_parallel): hundreds of modules, up to a second, at the first save of a process. DeepSpeed then writes to
#   standard output which accelerator it chose, so a program whose answer on standard output is JSON answers something that no parser takes. With
#   DS_ACCELERATOR=cpu in the environment the import stays and the line goes.
# Why it matters here: training installs DeepSpeed, and compression, which has no use for it, saves models in the same environment: every report of a
#   compression on a CPU would hold a line about a GPU that was not found. bert-agent sets DS_ACCELERATOR=cpu where none is.
# The line needs a machine without a GPU; where there is one, the script says so and ends with 0.
# Seen on 2026-11-29 with torch 2.13.0, Python 3.11, Linux x86-64.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check setuptools wheel torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 2>/dev/null
DS_ACCELERATOR=cpu venv/bin/pip install --quiet --disable-pip-version-check --no-build-isolation deepspeed==0.19.8 2>/dev/null
cat > save.py <<'PY'
import json
import sys
import time

from transformers import BertConfig, BertModel
from transformers.utils import logging

logging.disable_progress_bar()
model = BertModel(BertConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
before, start = set(sys.modules), time.perf_counter()
model.save_pretrained("saved")
new = set(sys.modules) - before
answer = {
    "imported before": "deepspeed" in before,
    "imported by save_pretrained": "deepspeed" in new,
    "new modules": len(new),
    "of DeepSpeed": sum(name.split(".")[0] == "deepspeed" for name in new),
    "seconds": round(time.perf_counter() - start, 1),
}
print(json.dumps(answer))
PY
if venv/bin/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "a GPU is in sight: nothing to show here"
  exit 0
fi
env -u DS_ACCELERATOR venv/bin/python save.py > plain.txt 2>plain.err || { cat plain.err; exit 1; }
DS_ACCELERATOR=cpu venv/bin/python save.py > chosen.txt 2>chosen.err || { cat chosen.err; exit 1; }
venv/bin/python - <<'PY'
import json
from pathlib import Path

plain, chosen = Path("plain.txt").read_text(), Path("chosen.txt").read_text()
print("standard output of a program that saves a BERT and prints one line of JSON:", plain, "with DS_ACCELERATOR=cpu:", chosen, sep="\n")
holds = "this finding no longer holds: "
answer = json.loads(plain.splitlines()[-1])
if answer["imported before"] or not answer["imported by save_pretrained"] or answer["of DeepSpeed"] < 100:
    raise SystemExit(holds + "save_pretrained does not import DeepSpeed in full")
try:
    json.loads(plain)
except json.JSONDecodeError as error:
    print("json refuses the first output:", error)
else:
    raise SystemExit(holds + "standard output is JSON")
if "Setting accelerator to CPU" not in plain:
    raise SystemExit(holds + "DeepSpeed's line is another")
if not json.loads(chosen)["imported by save_pretrained"]:
    raise SystemExit(holds + "with DS_ACCELERATOR=cpu DeepSpeed is not imported")
PY
