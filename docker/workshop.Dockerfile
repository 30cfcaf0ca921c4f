# The workshop: from a model and images to a bundle. Any x86-64 machine; no GPU.
#
#   docker build --file docker/workshop.Dockerfile --target workshop --tag edgeq-workshop .
#
# With `--build-context wheels=WHEELS` the wheels in a directory are taken before those of the package index: a torch for
# CPUs alone is a tenth of the usual one. `--build-arg PIP_INDEX_URL=URL` and PIP_EXTRA_INDEX_URL name other indexes.
#
# Stage `tensorrt` adds the TensorRT of JetPack 6, to try a bundle's engine on an x86 GPU. It alone needs NVIDIA's base;
# `--target workshop` leaves it out. Such an engine is for that GPU alone and never leaves it: docs/why-not-x86-engines.md.
#
#   docker build --file docker/workshop.Dockerfile --target tensorrt --tag edgeq-tensorrt .

ARG PYTHON_IMAGE=python:3.11.9-slim-bookworm
# TensorRT 10.3.0 with CUDA 12.6 and Python 3.10, as JetPack 6 has them.
ARG TENSORRT_IMAGE=nvcr.io/nvidia/tensorrt:24.08-py3

# Empty, unless a directory is named: without this stage the name would be looked for in a registry.
FROM scratch AS wheels


FROM ${PYTHON_IMAGE} AS workshop

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

COPY pyproject.toml README.md LICENSE /opt/edgeq/source/
COPY requirements/dev.lock /opt/edgeq/source/requirements/dev.lock
COPY edgeq /opt/edgeq/source/edgeq

# The versions that this repository is tested with.
RUN --mount=type=bind,from=wheels,target=/wheels \
    python -m venv /opt/edgeq/venv \
    && /opt/edgeq/venv/bin/python -m pip install --no-cache-dir --find-links /wheels \
        --constraint /opt/edgeq/source/requirements/dev.lock "/opt/edgeq/source[quantize,torch,language]"

RUN useradd --create-home --uid 10001 edgeq \
    && install --directory --owner edgeq --group edgeq /work

ENV PATH=/opt/edgeq/venv/bin:$PATH
USER edgeq
WORKDIR /work
ENTRYPOINT ["edgeq"]
CMD ["--help"]


FROM ${TENSORRT_IMAGE} AS tensorrt

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

# Without a version: what the base image's Ubuntu has.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*

COPY pyproject.toml README.md LICENSE /opt/edgeq/source/
COPY edgeq /opt/edgeq/source/edgeq

# The system's packages are seen from inside: TensorRT's bindings come from the base image. No lock file: the one of this
# repository is for Python 3.11.
RUN python3 -m venv --system-site-packages /opt/edgeq/venv \
    && /opt/edgeq/venv/bin/python -m pip install --no-cache-dir "/opt/edgeq/source[device,torch]"

RUN useradd --create-home --uid 10001 edgeq \
    && install --directory --owner edgeq --group edgeq /var/lib/edgeq /var/lib/edgeq/engines /work

ENV PATH=/opt/edgeq/venv/bin:$PATH
USER edgeq
WORKDIR /work
ENTRYPOINT ["edgeq"]
CMD ["doctor"]
