"""The device half has no onnx, torch or transformers: the model room must import without them."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import importlib, pkgutil, sys
absent = ("onnx", "onnxruntime", "onnx_graphsurgeon", "torch", "transformers", "huggingface_hub", "safetensors")
sys.modules.update(dict.fromkeys(absent))
import edgeq.model
names = [module.name for module in pkgutil.iter_modules(edgeq.model.__path__, "edgeq.model.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_every_module_imports_without_the_workshop_packages() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10
