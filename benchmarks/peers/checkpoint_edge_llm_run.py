"""TensorRT Edge-LLM's own export of a handed-over checkpoint: are the bundle's integers and scales in its graph?

Arguments: checkpoint, the bundle's language half, an empty directory. Prints one JSON object. edgeq need not be
installed there; `tensorrt_edgellm` must be, with what its exporter imports.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main() -> None:
    """Export as `tensorrt-edgellm-export` does, and look into the graph of the language model."""
    export: Any = import_module("tensorrt_edgellm.scripts.export")
    checkpoint, half, output = sys.argv[1:4]
    sys.argv = ["tensorrt-edgellm-export", checkpoint, output]
    said, sys.stdout = sys.stdout, sys.stderr
    export.main()
    sys.stdout = said
    plugins, constants = _graph(Path(output) / "llm" / "model.onnx")
    wanted = _wanted(Path(half))
    found = sum(each in constants for each in wanted)
    tower = (Path(output) / "visual" / "model.onnx").exists()
    answer = {
        "release": version("tensorrt-edgellm"),
        "code": "tensorrt-edgellm-export",
        "said": f"{len(plugins)} x {', '.join(sorted(set(plugins)))}; {found} of {len(wanted)} of the bundle's weights "
        f"and scales are in its graph; vision graph {'written' if tower else 'missing'}",
    }
    print(json.dumps(answer))


def _graph(path: Path) -> tuple[list[str], set[bytes]]:
    """Operators of INT4, and the bytes of all constants."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    constants = {numpy_helper.to_array(constant).tobytes() for constant in graph.initializer}
    return [node.op_type for node in graph.node if node.op_type.startswith("Int4")], constants


def _wanted(half: Path) -> list[bytes]:
    """Each packed weight in the order of Edge-LLM's kernel, made by its own code, and each scale."""
    import numpy as np
    import torch
    from safetensors.torch import load_file

    repacking: Any = import_module("tensorrt_edgellm.checkpoint.repacking")
    found = []
    tensors: dict[str, Any] = {}
    for file in half.glob("*.safetensors"):
        tensors |= load_file(file)
    for name, value in tensors.items():
        if name.endswith(".weight_packed"):
            words = value.view(torch.uint8)
            nibbles = torch.stack([words & 15, words >> 4], -1).flatten(1)
            found.append(repacking.repack_to_cutedsl_fragment(nibbles.numpy().astype(np.int16)).tobytes())
        elif name.endswith(".weight_scale"):
            found.append(value.t().contiguous().to(torch.float16).numpy().tobytes())
    return found


if __name__ == "__main__":
    main()
