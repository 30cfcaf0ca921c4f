"""The networks: exported and folded once by edgeq; every tool starts from that FP32 graph."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process import ROOT

__all__ = ["CIFAR", "Network", "cifar_network", "random_resnet50"]

CIFAR = ("resnet20", "resnet56")
SIDE = 224
SEED = 0
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@dataclass(frozen=True)
class Network:
    """A directory made by `edgeq export`."""

    directory: Path

    @property
    def graph(self) -> Path:
        """The FP32 graph without BatchNorm."""
        return self.directory / "model.fp32.onnx"

    @property
    def preprocess_config(self) -> Path:
        """From an image to its input."""
        return self.directory / "preprocessor_config.json"


def random_resnet50(cache: Path, images: Path) -> Network:
    """ResNet-50 at 224 x 224 with random weights: time and memory do not depend on what they are."""
    source = cache / "resnet50-random"
    if not (source / "model.safetensors").exists():
        _run(sys.executable, "-m", "benchmarks.networks", str(source))
    return _exported(source, images, cache / "resnet50")


def cifar_network(name: str, data: Path, cache: Path) -> Network:
    """A trained ResNet for CIFAR-10: `resnet20` or `resnet56`."""
    return _exported(data / f"cifar10-{name}", data / "cifar10" / "train.zip", cache / name)


def _exported(source: Path, images: Path, directory: Path) -> Network:
    if not directory.exists():
        edgeq = Path(sys.executable).with_name("edgeq")
        _run(str(edgeq), "export", str(source), "--images", str(images), "-o", str(directory))
    return Network(directory)


def _run(*command: str) -> None:
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def _write_resnet50(directory: Path) -> None:
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(SEED)
    directory.mkdir(parents=True, exist_ok=True)
    network = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    network.save_pretrained(directory)
    steps = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "do_normalize": True,
        **IMAGENET,
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(steps, indent=1))


if __name__ == "__main__":
    _write_resnet50(Path(sys.argv[1]))
