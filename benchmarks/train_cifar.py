"""Trains the networks that `make bench-vit` judges by: a ViT and a MobileNetV2 on CIFAR-10's JPEG images.

    python -m benchmarks.train_cifar {vit,mobilenet} --data DIR --out DIR [--minutes N] [--threads N] [--resume]

DIR of the data holds `train.zip` and `test.zip` with images in folders named after their class. A checkpoint lies in
OUT.work until it is done; `--resume` goes on from there, with the time already spent counted. What comes out is a
Hugging Face directory in float16 with `training.json`: how it was made, and how often it is right on the test images.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy, pad

from benchmarks.networks import IMAGENET
from edgeq.demo.vlm.training import cycle
from edgeq.errors import OutputError
from edgeq.files import atomic_write, new_directory
from edgeq.model.images.image_set import ImageSet

__all__ = ["NETWORKS", "Settings", "main"]

SIDE: Final = 32
_SHIFT: Final = 4
_COARSE_PART: Final = 0.7
_SAVE_SECONDS: Final = 120.0
_LOG_STEPS: Final = 50
_BATCH_JUDGED: Final = 250


@dataclass(frozen=True)
class Settings:
    """How a network is trained.

    Attributes:
        minutes: processor time of each thread: the rate rises and falls over it, however often it was stopped.
        batch: images of a step, each shifted by up to 4 pixels and mirrored at random.
        peak_rate, weight_decay: of AdamW.
        smoothing: of the labels.
        warm_up: share of the time in which the rate rises.
        seed: of first weights and of batches.
        threads: processors.
    """

    minutes: float
    peak_rate: float
    batch: int = 128
    weight_decay: float = 0.05
    smoothing: float = 0.1
    warm_up: float = 0.05
    seed: int = 7
    threads: int = 2


class _Vit:
    """3.1 million parameters: patches of 4 x 4 pixels, 192 wide, 7 layers.

    In the first part of the training each image shows half of its patches ("PatchDropout", arXiv:2208.07220): twice the
    images in the same time, and they overfit less.
    """

    rate = 1e-3
    bfloat16 = True

    def __init__(self, labels: list[str]) -> None:
        config = transformers.ViTConfig(
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=7,
            num_attention_heads=3,
            image_size=SIDE,
            patch_size=4,
            hidden_dropout_prob=0.0,
            id2label=dict(enumerate(labels)),
        )
        config._attn_implementation = "eager"  # of 65 tokens: 1.7 times as quick as the fused one on a CPU
        self.model: Any = transformers.ViTForImageClassification(config)
        _mimic_trained_attention(self.model)
        self.thinned = False
        self.model.vit.embeddings.register_forward_hook(self._thin)

    def trained(self, progress: float) -> Any:
        """The network as a step sees it."""
        self.thinned = progress < _COARSE_PART
        return self.model

    def _thin(self, _module: Any, _given: Any, tokens: torch.Tensor) -> torch.Tensor:
        """[n, 1 + patches, width] to half of the patches, others for each image; the class token stays."""
        if not (self.thinned and self.model.training):
            return tokens
        patches = tokens.shape[1] - 1
        chosen = torch.rand(len(tokens), patches).argsort(1)[:, : patches // 2] + 1
        kept = torch.cat([torch.zeros(len(tokens), 1, dtype=chosen.dtype), chosen], 1)
        return tokens.gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[2]))


@torch.no_grad()
def _mimic_trained_attention(model: Any) -> None:
    """First weights that look like trained ones: arXiv:2305.09828 (mimetic initialization), its table's constants.

    Each token looks at tokens like itself, values and output take away a part of it, positions are sine waves.
    """
    config = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    for layer in model.vit.layers:
        attention, size = layer.attention, width // heads
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            left, strength, right = torch.linalg.svd(_near_identity(width, 0.7, 0.7))
            root = strength[:size].sqrt()
            attention.q_proj.weight[rows] = (left[:, :size] * root).T
            attention.k_proj.weight[rows] = root[:, None] * right[:size]
        left, strength, right = torch.linalg.svd(_near_identity(width, 0.4, -0.4))
        root = strength.sqrt()
        attention.v_proj.weight[:] = (left * root).T
        attention.o_proj.weight[:] = (root[:, None] * right).T
    model.vit.embeddings.position_embeddings[0, 1:] = _waves(SIDE // config.patch_size, width)


def _near_identity(width: int, noise: float, identity: float) -> torch.Tensor:
    random = torch.randn(width, width) * (noise / math.sqrt(width))
    return random + identity * torch.eye(width)


def _waves(side: int, width: int) -> torch.Tensor:
    """[side * side, width] sine and cosine of row and column, as in arXiv:1706.03762, of a patch's usual size."""
    speeds = 10_000.0 ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * speeds
    axis = torch.cat([angles.sin(), angles.cos()], 1)
    waves = torch.cat([axis.repeat_interleave(side, 0), axis.repeat(side, 1)], 1)
    return waves * 0.5


class _MobileNet:
    """2.2 million parameters; the last eight of sixteen blocks see 4 x 4 places, wider apart, instead of 2 x 2.

    In the first part of the training they see 2 x 2: three times the images in the same time, with the same weights.
    """

    rate = 3e-3
    bfloat16 = False

    def __init__(self, labels: list[str]) -> None:
        def built(output_stride: int) -> Any:
            config = transformers.MobileNetV2Config(
                image_size=SIDE,
                output_stride=output_stride,
                classifier_dropout_prob=0.1,
                id2label=dict(enumerate(labels)),
            )
            return transformers.MobileNetV2ForImageClassification(config).to(memory_format=torch.channels_last)

        self.model = built(8)
        self._coarse = built(16)

    def trained(self, progress: float) -> Any:
        """The network as a step sees it."""
        if progress >= _COARSE_PART:
            return self.model
        if self._coarse.classifier.weight is not self.model.classifier.weight:
            self._coarse.load_state_dict(self.model.state_dict(keep_vars=True), assign=True)
        return self._coarse


NETWORKS: Final[dict[str, type[_Vit] | type[_MobileNet]]] = {"vit": _Vit, "mobilenet": _MobileNet}


@dataclass
class Training:
    """What a checkpoint holds: network, optimizer, steps done, and the seconds that each thread worked for them."""

    network: _Vit | _MobileNet
    settings: Settings
    step: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Biases and normalizations are not decayed."""
        kinds: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
        for weight in self.network.model.parameters():
            kinds[weight.ndim > 1].append(weight)
        groups = [
            {"params": kinds[True], "weight_decay": self.settings.weight_decay},
            {"params": kinds[False], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, self.settings.peak_rate, betas=(0.9, 0.98))

    @property
    def progress(self) -> float:
        """Share of the time that is spent."""
        return min(1.0, self.seconds / (60 * self.settings.minutes))

    def advance(self, pixels: NDArray[np.uint8], classes: torch.Tensor) -> float:
        """One step on a batch that depends on seed and step only; the loss before it."""
        before = time.process_time()
        rng = np.random.default_rng((self.settings.seed, self.step))
        chosen = rng.integers(len(pixels), size=self.settings.batch)
        images = _shifted(_normalized(pixels[chosen]), rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.network.bfloat16):
            logits = self.network.trained(self.progress)(images).logits
        loss = cross_entropy(logits.float(), classes[chosen], label_smoothing=self.settings.smoothing)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.peak_rate * cycle(self.progress, self.settings.warm_up)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.network.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.seconds += (time.process_time() - before) / self.settings.threads
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """Write a checkpoint in one step."""
        state = {
            "model": self.network.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        atomic_write(path, partial(torch.save, state))

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.network.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]


def _normalized(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 [n, h, w, 3] to float32 [n, 3, h, w]."""
    mean, std = (torch.tensor(IMAGENET[key]) for key in ("image_mean", "image_std"))
    return ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 3, 1, 2)


def _shifted(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Each image moved by up to _SHIFT pixels, grey at the border, and half of them mirrored."""
    wide = pad(images, (_SHIFT,) * 4)
    rows, columns = rng.integers(2 * _SHIFT + 1, size=(2, len(images)))
    mirrored = rng.random(len(images)) < 0.5
    moved = [
        image[:, row : row + SIDE, column : column + SIDE]
        for image, row, column in zip(wide, rows, columns, strict=True)
    ]
    return torch.stack([image.flip(2) if mirror else image for image, mirror in zip(moved, mirrored, strict=True)])


def _images(archive: Path) -> tuple[NDArray[np.uint8], torch.Tensor, list[str]]:
    """All images of a zip [n, SIDE, SIDE, 3], their classes [n], and the classes' names."""
    found = ImageSet.open(archive, labelled=True)
    pixels = np.stack([np.asarray(found.read(item)) for item in found.items])
    labels = list(found.labels)
    classes = torch.tensor([labels.index(str(item.label)) for item in found.items])
    return pixels, classes, labels


@torch.inference_mode()
def _right(model: Any, pixels: NDArray[np.uint8], classes: torch.Tensor) -> float:
    """Share of images whose likeliest class is the right one."""
    model.eval()
    right = sum(
        int((model(_normalized(part)).logits.argmax(1) == wanted).sum()) for part, wanted in _parts(pixels, classes)
    )
    model.train()
    return right / len(pixels)


def _parts(pixels: NDArray[np.uint8], classes: torch.Tensor) -> Iterator[tuple[NDArray[np.uint8], torch.Tensor]]:
    for start in range(0, len(pixels), _BATCH_JUDGED):
        yield pixels[start : start + _BATCH_JUDGED], classes[start : start + _BATCH_JUDGED]


def train(training: Training, pixels: NDArray[np.uint8], classes: torch.Tensor, checkpoint: Path) -> None:
    """Train until the time is spent, with a checkpoint every two minutes."""
    losses: list[float] = []
    saved = training.seconds
    while training.progress < 1:
        losses.append(training.advance(pixels, classes))
        if training.step % _LOG_STEPS == 0:
            epochs = training.step * training.settings.batch / len(pixels)
            print(
                f"step {training.step} ({training.progress:.1%}, {epochs:.1f} epochs): {np.mean(losses):.4f}",
                flush=True,
            )
            losses.clear()
        if training.seconds - saved > _SAVE_SECONDS:
            training.save(checkpoint)
            saved = training.seconds
    training.save(checkpoint)


def write(folder: Path, name: str, training: Training, data: Path, images: int) -> None:
    """The network in float16, its preprocessing, and what became of it; judged as it is read back, in float32."""
    with new_directory(folder) as work:
        training.network.model.half().save_pretrained(work)
        preprocessing = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": False,
            "size": {"height": SIDE, "width": SIDE},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            **IMAGENET,
        }
        (work / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=1) + "\n")
        kept = type(training.network.model).from_pretrained(work, dtype=torch.float32)
        pixels, classes, _ = _images(data / "test.zip")
        record = {
            "network": name,
            "parameters": sum(weight.numel() for weight in kept.parameters()),
            "training_images": images,
            "steps": training.step,
            "epochs": round(training.step * training.settings.batch / images, 2),
            "seconds": round(training.seconds),
            "settings": {
                **asdict(training.settings),
                "autocast": "bfloat16" if training.network.bfloat16 else None,
                "coarse_part": _COARSE_PART,
            },
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "test": {"images": len(pixels), "top1": _right(kept, pixels, classes), "precision": "float32"},
        }
        (work / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_cifar")
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--data", type=Path, required=True, help="directory with train.zip and test.zip")
    parser.add_argument("--out", type=Path, required=True, help="directory to make")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    if given.out.exists():
        raise OutputError(f"{given.out} exists already")
    settings = Settings(given.minutes, NETWORKS[given.network].rate, threads=given.threads)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    pixels, classes, labels = _images(given.data / "train.zip")
    network = NETWORKS[given.network](labels)
    network.model.train()
    training = Training(network, settings)
    work = given.out.with_name(given.out.name + ".work")
    checkpoint = work / "checkpoint.pt"
    if given.resume:
        training.load(checkpoint)
    train(training, pixels, classes, checkpoint)
    write(given.out, given.network, training, given.data, len(pixels))
    shutil.rmtree(work)
    print((given.out / "training.json").read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
