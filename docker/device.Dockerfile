# The device: a Jetson Orin with JetPack 6. Built on a Jetson, or where nvcc for L4T runs under emulation (slow).
#
#   docker build --file docker/device.Dockerfile --build-context wheels=WHEELS --tag edgeq-device .
#
# WHEELS is a directory with the wheel of torch for JetPack 6 (torch-*.whl); jetson/README.md says where one comes from.
#
# `--target vision` is the image for classifiers, detectors and encoders: no torch, no bitsandbytes, and no wheel is asked
# for. With `--build-context bitsandbytes=DIR` a wheel of bitsandbytes in DIR takes the place of the stages that build one;
# they alone need CUDA's compiler. TensorRT comes with the base image: where it has none, graphs run in ONNX Runtime.
# `--build-arg EXTRAS=camera,retrieval` adds extras of edgeq to either.
# `--build-arg PIP_INDEX_URL=URL` and PIP_EXTRA_INDEX_URL name other package indexes.

# L4T with CUDA 12.6, cuDNN and TensorRT 10.3. Its release has to fit the one on the device (same R36).
ARG L4T_IMAGE=nvcr.io/nvidia/l4t-jetpack:r36.4.0

# Empty, unless a directory is named: without this stage the name would be looked for in a registry.
FROM scratch AS wheels


FROM ${L4T_IMAGE} AS vision

ARG EXTRAS=""
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*

COPY pyproject.toml README.md LICENSE /opt/edgeq/source/
COPY edgeq /opt/edgeq/source/edgeq

# The system's packages are seen from inside: TensorRT's bindings come from the base image.
RUN python3 -m venv --system-site-packages /opt/edgeq/venv \
    && /opt/edgeq/venv/bin/python -m pip install --no-cache-dir "/opt/edgeq/source[device,service${EXTRAS:+,$EXTRAS}]"

# In this group, because the GPU's device files belong to it on the device.
RUN useradd --system --uid 10001 --groups video --home-dir /var/lib/edgeq edgeq \
    && install --directory --owner edgeq --group edgeq --mode 0750 /var/lib/edgeq /var/lib/edgeq/engines

ENV PATH=/opt/edgeq/venv/bin:$PATH
USER edgeq
WORKDIR /var/lib/edgeq
ENTRYPOINT ["edgeq"]
CMD ["doctor"]


FROM ${L4T_IMAGE} AS bitsandbytes-build

ARG BITSANDBYTES_REPOSITORY=https://github.com/bitsandbytes-foundation/bitsandbytes.git
ARG BITSANDBYTES_TAG=0.50.2
# Every Orin.
ARG COMPUTE_CAPABILITY=87
ARG BUILD_JOBS=4
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential ca-certificates cmake git python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The wheel of a package index is built for servers: on L4T it imports, and fails at its first kernel. What CMake built
# here is what is packed: else pip would run it once more, in an environment of its own, for the CPU alone.
RUN git clone --depth 1 --branch "${BITSANDBYTES_TAG}" "${BITSANDBYTES_REPOSITORY}" /build/bitsandbytes \
    && cmake -S /build/bitsandbytes -B /build/objects -DCMAKE_BUILD_TYPE=Release -DCOMPUTE_BACKEND=cuda \
        "-DCOMPUTE_CAPABILITY=${COMPUTE_CAPABILITY}" -DCMAKE_CUDA_COMPILER=/usr/local/cuda/bin/nvcc \
    && cmake --build /build/objects --parallel "${BUILD_JOBS}" \
    && python3 -m venv /build/venv \
    && /build/venv/bin/python -m pip install --no-cache-dir scikit-build-core "setuptools>=77.0.3" trove-classifiers wheel \
    && BNB_SKIP_CMAKE=1 /build/venv/bin/python -m pip wheel --no-cache-dir --no-build-isolation --no-deps \
        --wheel-dir /build/wheels /build/bitsandbytes


FROM scratch AS bitsandbytes

COPY --from=bitsandbytes-build /build/wheels /


FROM vision AS device

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

USER root

# torch and bitsandbytes first, then held at their versions, so that none comes from a package index with edgeq.
RUN --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,from=bitsandbytes,target=/bitsandbytes \
    /opt/edgeq/venv/bin/python -m pip install --no-cache-dir --find-links /wheels /wheels/torch-*.whl \
    && /opt/edgeq/venv/bin/python -m pip install --no-cache-dir --no-deps /bitsandbytes/bitsandbytes-*.whl \
    && /opt/edgeq/venv/bin/python -m pip list --format=freeze >/opt/edgeq/installed.txt \
    && grep --extended-regexp '^(torch|bitsandbytes)==' /opt/edgeq/installed.txt >/opt/edgeq/constraints.txt \
    && /opt/edgeq/venv/bin/python -m pip install --no-cache-dir \
        --constraint /opt/edgeq/constraints.txt "/opt/edgeq/source[device,service,language]"

USER edgeq
