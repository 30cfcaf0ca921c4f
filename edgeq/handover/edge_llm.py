"""TensorRT Edge-LLM: what its release 0.11.0 takes, and the commands that make engines of a checkpoint on an Orin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edgeq.bundle.vlm_settings import VlmSettings

__all__ = ["KERNEL_GROUP", "KERNEL_MULTIPLE", "RELEASE", "recipe"]

RELEASE: Final = "0.11.0"

KERNEL_GROUP: Final = 128
"""Numbers with one scale: the kernels of its INT4 plugin are built for this alone (cuteDslInt4Gemm.cpp)."""

KERNEL_MULTIPLE: Final = 64
"""Of which both sides of a weight are multiples (checkpoint/repacking.py)."""

_RECIPE: Final = """\
TensorRT Edge-LLM {release} on a Jetson Orin (JetPack 7.2), from this directory

The commands are those of Edge-LLM's own documentation (Installation, Quick Start), with the sizes of this bundle. Its
export (step 1) was run on such checkpoints of tiny models. Steps 2 to 5 were not run: they need a Jetson.

1. On a workstation, x86-64, Python 3.10 to 3.12; no GPU is needed, and memory for 1.5 times the checkpoint. The extra
   is tools and not export, because the command imports ModelOpt as well:

   python3 -m venv edgellm
   edgellm/bin/pip install "tensorrt-edgellm[tools]=={release}"
   edgellm/bin/tensorrt-edgellm-export . onnx

   It makes onnx/llm and onnx/visual.

2. On the Orin, once: build Edge-LLM, with its INT4 kernels, which are not in a build without ENABLE_CUTE_DSL.

   git clone --branch v{release} https://github.com/NVIDIA/TensorRT-Edge-LLM.git
   cd TensorRT-Edge-LLM
   git submodule update --init --recursive
   mkdir -p build
   cd build
   cmake .. \\
       -DCMAKE_BUILD_TYPE=Release \\
       -DTRT_PACKAGE_DIR=/usr \\
       -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64_linux_toolchain.cmake \\
       -DEMBEDDED_TARGET=jetson-orin \\
       -DCUDA_CTK_VERSION=13.2 \\
       -DENABLE_CUTE_DSL=ALL
   make -j$(nproc)
   cd ..

3. On the Orin, with the folder onnx copied there (ONNX is its path), from the folder TensorRT-Edge-LLM:

   ./build/examples/llm/llm_build \\
       --onnxDir "$ONNX/llm" \\
       --engineDir engines/llm \\
       --maxBatchSize 1 \\
       --maxInputLen {context} \\
       --maxKVCacheCapacity {context}
   ./build/examples/multimodal/visual_build \\
       --onnxDir "$ONNX/visual" \\
       --engineDir engines \\
       --minImageTokens 4 \\
       --maxImageTokens {tokens} \\
       --maxImageTokensPerImage {tokens}

4. Ask, with a request as Edge-LLM's Quick Start shows it in input.json:

   ./build/examples/llm/llm_inference \\
       --engineDir engines/llm \\
       --multimodalEngineDir engines \\
       --inputFile input.json \\
       --outputFile output.json

5. Judge it, where its server runs: `edgeq judge http://127.0.0.1:8000 --against BUNDLE --eval questions.jsonl`.
"""


def recipe(_form: str, settings: VlmSettings) -> Mapping[str, str]:
    """The commands as a text file.

    Args:
        settings: of the bundle, whose context and tokens of an image are the engines' limits.
    """
    return {"edge-llm.txt": _RECIPE.format(release=RELEASE, context=settings.context, tokens=settings.tokens)}
