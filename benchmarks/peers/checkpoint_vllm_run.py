"""vLLM's CPU build on a handed-over checkpoint: what it answers about a photograph.

Arguments: checkpoint, photograph, question. Prints one JSON object. edgeq need not be installed there.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
from importlib import import_module
from typing import Any, Final

_QUANTIZATION: Final = "vllm.model_executor.layers.quantization"
_METHODS: Final = (
    ("compressed_tensors.schemes", "CompressedTensorsWNA16"),
    ("auto_awq", "AutoAWQMarlinLinearMethod"),
)


def main() -> None:
    """Start the whole engine in this process, and ask."""
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    os.environ.update(settings)
    from PIL import Image

    vllm: Any = import_module("vllm")

    checkpoint, photograph, question = sys.argv[1:4]
    engine: Any = vllm.LLM(checkpoint, enforce_eager=True, max_model_len=512, max_num_seqs=1, dtype="bfloat16")
    with Image.open(photograph) as image, io.BytesIO() as file:
        image.convert("RGB").save(file, "PNG")
        address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": question}]
    greedy = vllm.SamplingParams(temperature=0, max_tokens=48)
    said = engine.chat([{"role": "user", "content": content}], greedy)[0].outputs[0].text
    answer = {
        "release": f"{vllm.__version__} (CPU)",
        "code": "LLM(...).chat",
        "said": f"kernel {', '.join(_kernels())}",
        "answer": said.strip(),
    }
    print(json.dumps(answer))


def _kernels() -> list[str]:
    """What the layers of each method are computed with."""
    methods = [getattr(import_module(f"{_QUANTIZATION}.{place}"), name) for place, name in _METHODS]
    return sorted({kernel for method in methods for kernel in method._kernel_backends_being_used})


if __name__ == "__main__":
    main()
