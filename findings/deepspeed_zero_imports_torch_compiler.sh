#!/usr/bin/env bash
# deepspeed 0.19.8 with torch 2.13.0: ZeRO with AdamW.
#
# One would expect: training with AdamW at ZeRO stage 1, 2 or 3, without torch.compile, imports what AdamW and ZeRO need.
# What happens: deepspeed.initialize imports DeepSpeed's Muon optimizer to ask whether ZeRO takes the optimizer (runtime/zero/utils.py), and Muon's functions are
#   decorated with torch.compile at import; that loads torch's compiler: Dynamo, AOTAutograd and Inductor, hundreds of modules and seconds of CPU time, in each
#   process of the run. At stage 0 nothing of it is loaded. stage_1_and_2.py imports Muon late, since that is slow, as its comment says, but by then it is there.
# Why it matters here: every worker of every run at ZeRO 1 to 3 pays it once more after each restart and each change of the group's size. bert-agent's workers
#   import Muon before the first step with deepspeed.runtime.compiler.compile replaced by its own dummy decorator (training/engine/deepspeed_internals.py), which saves
#   about 2 of their 10 s of CPU time (transformers loads a part of Dynamo by itself).
# Seen on 2026-11-30 with Python 3.11, Linux x86-64.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check setuptools wheel numpy torch==2.13.0 2>/dev/null
DS_ACCELERATOR=cpu venv/bin/pip install --quiet --disable-pip-version-check --no-build-isolation deepspeed==0.19.8 2>/dev/null
cat > steps.py <<'PY'
import os
import sys
import time

import deepspeed
import torch
import torch.distributed as dist

stage = int(sys.argv[1])
os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be built with a C++ compiler
model = torch.nn.Linear(8, 8)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
before, start = len(sys.modules), time.process_time()
config = {"train_micro_batch_size_per_gpu": 4, "zero_optimization": {"stage": stage}}
engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
seconds, added = time.process_time() - start, len(sys.modules) - before
engine.backward(engine(torch.ones(4, 8)).sum())
engine.step()
print(f"deepspeed {deepspeed.__version__}, stage {stage}: initialize takes {seconds:.1f} s of CPU time, imports {added:,} modules;", end=" ")
loaded = "torch._inductor.compile_fx" in sys.modules
print("torch's compiler is", "loaded" if loaded else "not loaded")
sys.exit(loaded != (stage > 0))
PY
export DS_ACCELERATOR=cpu
for stage in 0 1 2 3; do
  venv/bin/python steps.py $stage 2>steps.log | grep "^deepspeed" || { cat steps.log; echo "this finding no longer holds at stage $stage"; exit 1; }
done
