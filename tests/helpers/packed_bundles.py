"""Vision-language bundles whose language half is integers, rounded to nearest: made in a second, by the real writer."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from edgeq.bundle.manifest import Manifest
from edgeq.families.modules import read_modules
from edgeq.model.checkpoint.packed_weights import unpack_integers
from edgeq.plan.precision import Precision
from edgeq.plan.rules import plan_modules
from edgeq.quantize.weight_only.write import write_packed

__all__ = ["dequantized", "pack_bundle", "unpacked_tensors"]

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bundles-0.1.0" / "vlm"
"""A bundle with the graph of another model, which a whole checkpoint does not need."""

_SETTINGS = ("vlm.json", "pair.json")


def pack_bundle(
    model: Path, target: Path, precision: Precision = Precision.INT4, embeddings: Precision = Precision.FP16
) -> Path:
    """A bundle of a model, with a language half in INT4 or INT8.

    Args:
        model: a whole model with its processor.
        target: the bundle.
        precision: of the language half.
        embeddings: of its input embedding and output head.
    """
    shutil.copytree(GOLDEN, target, ignore=shutil.ignore_patterns("language", "manifest.*", "config.json"))
    for file in model.iterdir():
        if file.suffix != ".safetensors" and not file.name.endswith("index.json"):
            shutil.copyfile(file, target / file.name)
    config = json.loads((model / "config.json").read_text())
    settings = next(target / name for name in _SETTINGS if (target / name).exists())
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_type": config["model_type"]}))
    plan = plan_modules(read_modules(model), language=precision, embeddings=embeddings)
    write_packed(model, plan, target / "language", precision=precision)
    list_files(target)
    return target


def list_files(bundle: Path) -> None:
    """Write a manifest of what lies in a bundle."""
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    manifest["files"] = [
        {
            "name": str(file.relative_to(bundle)),
            "size": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(bundle.rglob("*"))
        if file.is_file() and file.name != "manifest.json"
    ]
    Manifest.model_validate(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def dequantized(packed: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    """The weight that integers and scales mean, in the scales' type."""
    values = unpack_integers(packed, bits).to(scale.dtype)
    rows, columns = values.shape
    return (values.reshape(rows, scale.shape[1], -1) * scale[:, :, None]).reshape(rows, columns)


def unpacked_tensors(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors in float32, of packed weights what integers and scales mean."""
    found = {}
    for name, tensor in stored.items():
        if name.endswith(".weight_packed"):
            layer = name.removesuffix("_packed")
            bits = 32 * tensor.shape[1] // int(stored[f"{layer}_shape"][1])
            found[layer] = dequantized(tensor, stored[f"{layer}_scale"].float(), bits)
        elif not name.endswith((".weight_scale", ".weight_shape")):
            found[name] = tensor.float()
    return found
