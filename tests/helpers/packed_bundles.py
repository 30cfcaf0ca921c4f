"""Vision-language bundles whose language half is integers, rounded to nearest; no model is prepared for them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from edgeq.bundle.manifest import Manifest
from edgeq.model.checkpoint.packed_weights import (
    WeightScheme,
    int4_scheme,
    int8_scheme,
    pack_integers,
    quantization_config,
    unpack_integers,
)
from edgeq.quantize.nf4.language import open_language

__all__ = ["dequantized", "pack_bundle", "pack_language", "round_to_nearest"]

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bundles-0.1.0" / "vlm"


def round_to_nearest(weight: torch.Tensor, scheme: WeightScheme) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed integers and scales of a weight [out, in]; a group's largest magnitude becomes the largest integer."""
    rows, columns = weight.shape
    grouped = weight.float().reshape(rows, scheme.scales(columns), -1)
    scale = (grouped.abs().amax(-1) / scheme.highest).clamp_min(1e-4).to(weight.dtype)
    values = (grouped / scale.float()[:, :, None]).round().clamp(scheme.lowest, scheme.highest)
    return pack_integers(values.reshape(rows, columns).to(torch.int8), scheme.bits), scale


def dequantized(packed: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    """The weight that integers and scales mean, in the scales' type."""
    values = unpack_integers(packed, bits).to(scale.dtype)
    rows, columns = values.shape
    return (values.reshape(rows, scale.shape[1], -1) * scale[:, :, None]).reshape(rows, columns)


def pack_language(model: Path, target: Path, bits: int = 4) -> None:
    """The language half of a model as a checkpoint of its own; the head is left alone."""
    from torch import nn

    language = open_language(model)
    linear = {name for name, module in language.model.named_modules() if type(module) is nn.Linear}
    kept, schemes, tensors = ["lm_head"], {}, {}
    for name, source in language.tensors.items():
        tensor = load_file(source.file)[source.name]
        layer = name.removesuffix(".weight")
        if name.endswith(".weight") and layer in linear - {"lm_head"}:
            scheme = (int4_scheme if bits == 4 else int8_scheme)(tensor.shape[1])
            assert scheme is not None
            schemes[layer] = scheme
            packed, scale = round_to_nearest(tensor, scheme)
            tensors |= {
                f"{layer}.weight_packed": packed,
                f"{layer}.weight_scale": scale,
                f"{layer}.weight_shape": torch.tensor(tensor.shape),
            }
        else:
            tensors[name] = tensor
    target.mkdir()
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    config: dict[str, Any] = language.config.to_dict() | {
        "architectures": [type(language.model).__name__],
        "quantization_config": quantization_config(schemes, kept),
    }
    (target / "config.json").write_text(json.dumps(config))


def pack_bundle(model: Path, target: Path, bits: int = 4, like: Path = GOLDEN) -> Path:
    """A bundle whose graph is another model's, which a whole checkpoint does not need.

    Args:
        model: a whole model with its processor.
        target: the bundle.
        bits: of the language half.
        like: a vision-language bundle, whose graph and settings are taken.
    """
    shutil.copytree(like, target, ignore=shutil.ignore_patterns("language", "manifest.*", "config.json"))
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            shutil.copyfile(file, target / file.name)
    config = json.loads((model / "config.json").read_text())
    settings = json.loads((target / "vlm.json").read_text()) | {"model_type": config["model_type"]}
    (target / "vlm.json").write_text(json.dumps(settings))
    pack_language(model, target / "language", bits)
    manifest = json.loads((like / "manifest.json").read_text())
    files = sorted(file for file in target.rglob("*") if file.is_file())
    manifest["files"] = [
        {
            "name": str(file.relative_to(target)),
            "size": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in files
    ]
    Manifest.model_validate(manifest)
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target
