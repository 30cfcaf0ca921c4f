"""Architectures as people write and export them, each in a few lines of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as fn

__all__ = ["NETWORKS", "Network"]

LABELS = 10


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        make: makes it with drawn weights.
        answers: names of its outputs.
        size: height and width of its images.
        exporters: ways to export it, of `edgeq`'s benchmark: `dynamo` (opset 18), `legacy` (opset 17), with `fixed`
            where no axis is dynamic.
    """

    make: Callable[[], nn.Module]
    answers: tuple[str, ...] = ("logits",)
    size: int = 64
    exporters: tuple[str, ...] = ("dynamo",)


class Apply(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


class Residual(nn.Module):
    """x + branch(x), or a projection of x; `after` comes behind the sum."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.shortcut, self.after = branch, shortcut or nn.Identity(), after or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.after(self.shortcut(x) + self.branch(x))
        return made


class Joined(nn.Module):
    """What several branches make of the same tensor, side by side; `keep` puts the tensor itself in front."""

    def __init__(self, *branches: nn.Module, keep: bool = False) -> None:
        super().__init__()
        self.branches, self.keep = nn.ModuleList(branches), keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([*([x] if self.keep else []), *(branch(x) for branch in self.branches)], 1)


class Scaled(nn.Module):
    """x times what the gate makes of it: squeeze and excitation, or attention by channel."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = x * self.gate(x)
        return made


def conv(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution, BatchNorm, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


def head(channels: int) -> nn.Sequential:
    """Pooling and a linear classifier."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, LABELS))


def squeeze(channels: int, gate: type[nn.Module] = nn.Sigmoid, act: type[nn.Module] = nn.ReLU) -> Scaled:
    """Squeeze and excitation (Hu et al. 2018, arXiv:1709.01507)."""
    small = max(4, channels // 4)
    return Scaled(
        nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, small, 1), act(), nn.Conv2d(small, channels, 1), gate()
        )
    )


def basic(inputs: int, outputs: int, stride: int = 1, *, extra: nn.Module | None = None) -> Residual:
    """ResNet's basic block."""
    branch = nn.Sequential(
        conv(inputs, outputs, 3, stride), conv(outputs, outputs, act=None), *([extra] if extra is not None else [])
    )
    same = inputs == outputs and stride == 1
    return Residual(branch, None if same else conv(inputs, outputs, 1, stride, act=None), nn.ReLU())


def bottleneck(inputs: int, outputs: int, stride: int = 1, *, groups: int = 1, width: int = 16) -> Residual:
    """ResNet's bottleneck; with groups ResNeXt's."""
    branch = nn.Sequential(
        conv(inputs, width, 1), conv(width, width, 3, stride, groups=groups), conv(width, outputs, 1, act=None)
    )
    return Residual(branch, conv(inputs, outputs, 1, stride, act=None), nn.ReLU())


def stem(outputs: int = 16) -> nn.Sequential:
    """ResNet's stem."""
    return nn.Sequential(conv(3, outputs, 7, 2), nn.MaxPool2d(3, 2, 1))


def resnet(*blocks: nn.Module, channels: int) -> nn.Sequential:
    """Stem, blocks, head."""
    return nn.Sequential(stem(), *blocks, head(channels))


def preact() -> nn.Module:
    """ResNet-V2: BatchNorm and ReLU before each convolution (He et al. 2016, arXiv:1603.05027)."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        branch = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        )
        return Residual(branch, nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), block(16, 16, 1), block(16, 32, 2), nn.BatchNorm2d(32), nn.ReLU(), head(32)
    )


def densenet() -> nn.Module:
    """BatchNorm and ReLU before each convolution, everything side by side (Huang et al. 2017, arXiv:1608.06993)."""

    def layer(inputs: int) -> nn.Module:
        return nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 16, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 8, 3, padding=1, bias=False),
        )

    def transition(inputs: int) -> nn.Module:
        return nn.Sequential(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, inputs // 2, 1, bias=False), nn.AvgPool2d(2)
        )

    dense = [Joined(layer(16 + 8 * place), keep=True) for place in range(2)]
    more = [Joined(layer(16 + 8 * place), keep=True) for place in range(2)]
    return nn.Sequential(stem(), *dense, transition(32), *more, nn.BatchNorm2d(32), nn.ReLU(), head(32))


def vgg() -> nn.Module:
    """VGG with BatchNorm, Flatten, three linear layers and Dropout."""
    return nn.Sequential(
        *(conv(3, 16), nn.MaxPool2d(2), conv(16, 32), nn.MaxPool2d(2), conv(32, 32), nn.MaxPool2d(2)),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, LABELS)),
    )


def alexnet() -> nn.Module:
    """AlexNet, with its local response normalization."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 11, 4, 2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(16, 32, 5, padding=2, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Flatten(), nn.Dropout(), nn.Linear(32 * 9, 64), nn.ReLU(), nn.Linear(64, LABELS)),
    )


def squeezenet() -> nn.Module:
    """Fire modules; the last convolution is the head, pooled behind it."""

    def fire(inputs: int, small: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, small, 1),
            nn.ReLU(),
            Joined(
                nn.Sequential(nn.Conv2d(small, outputs, 1), nn.ReLU()),
                nn.Sequential(nn.Conv2d(small, outputs, 3, padding=1), nn.ReLU()),
            ),
        )

    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), fire(16, 8, 16), fire(32, 8, 16)),
        *(nn.MaxPool2d(3, 2, ceil_mode=True), fire(32, 8, 24), nn.Dropout(), nn.Conv2d(48, LABELS, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def googlenet() -> nn.Module:
    """Inception branches, one of them over a pooled tensor; the image is normalized inside, channel by channel."""

    def inception(inputs: int) -> nn.Module:
        return Joined(
            conv(inputs, 8, 1),
            nn.Sequential(conv(inputs, 8, 1), conv(8, 8)),
            nn.Sequential(conv(inputs, 8, 1), conv(8, 8, 5)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv(inputs, 8, 1)),
        )

    def normalized(x: torch.Tensor) -> torch.Tensor:
        planes = [x[:, place : place + 1] * (0.229 / 0.5) + (0.485 - 0.5) / 0.5 for place in range(3)]
        return torch.cat(planes, 1)

    return nn.Sequential(Apply(normalized), stem(), inception(16), nn.AvgPool2d(3, 1, 1), inception(32), head(32))


def inception_v3() -> nn.Module:
    """Factorized convolutions (1 x 7, 7 x 1) and average pooling that does not count its borders."""

    def long(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, (1, 7), padding=(0, 3), bias=False),
            nn.Conv2d(outputs, outputs, (7, 1), padding=(3, 0), bias=False),
            nn.BatchNorm2d(outputs, eps=0.001),
            nn.ReLU(),
        )

    block = Joined(
        conv(16, 8, 1), long(16, 8), nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv(16, 8, 1))
    )
    return nn.Sequential(stem(), block, nn.MaxPool2d(3, 2), head(24))


def separable(inputs: int, outputs: int, stride: int = 1, act: type[nn.Module] | None = nn.ReLU) -> nn.Sequential:
    """Depthwise and pointwise convolution."""
    return nn.Sequential(conv(inputs, inputs, 3, stride, groups=inputs, act=act), conv(inputs, outputs, 1, act=act))


def xception() -> nn.Module:
    """Separable convolutions without anything between, ReLU before them."""

    def part(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    branch = nn.Sequential(part(16, 32), part(32, 32), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(stem(), Residual(branch, conv(16, 32, 1, 2, act=None)), part(32, 32), nn.ReLU(), head(32))


def shuffle(x: torch.Tensor, groups: int = 2) -> torch.Tensor:
    """ShuffleNet's channel shuffle."""
    count, channels, height, width = x.shape
    x = x.view(count, groups, channels // groups, height, width)
    return x.transpose(1, 2).contiguous().view(count, channels, height, width)


class ShuffleUnit(nn.Module):
    """ShuffleNetV2's unit of stride 1 (Ma et al. 2018, arXiv:1807.11164)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv(half, half, 1), conv(half, half, 3, groups=half, act=None), conv(half, half, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, dim=1)
        return shuffle(torch.cat((left, self.branch(right)), 1))


def inverted(
    inputs: int,
    outputs: int,
    stride: int = 1,
    act: type[nn.Module] = nn.ReLU6,
    *,
    gate: type[nn.Module] | None = None,
) -> nn.Module:
    """MobileNetV2's block; with a gate MobileNetV3's and EfficientNet's."""
    wide = 4 * inputs
    branch = nn.Sequential(
        conv(inputs, wide, 1, act=act),
        conv(wide, wide, 3, stride, groups=wide, act=act),
        *([squeeze(wide, gate, nn.SiLU if act is nn.SiLU else nn.ReLU)] if gate else []),
        conv(wide, outputs, 1, act=None),
    )
    return Residual(branch) if stride == 1 and inputs == outputs else branch


def mobile(act: type[nn.Module], gate: type[nn.Module] | None = None) -> nn.Module:
    """A network of inverted bottlenecks."""
    return nn.Sequential(
        conv(3, 16, 3, 2, act=act),
        *(
            inverted(16, 16, 1, act, gate=gate),
            inverted(16, 24, 2, act, gate=gate),
            inverted(24, 24, 1, act, gate=gate),
        ),
        conv(24, 48, 1, act=act),
        head(48),
    )


def efficientnet_v2() -> nn.Module:
    """Fused blocks first, then blocks with squeeze and excitation."""

    def fused(inputs: int, outputs: int, stride: int) -> nn.Module:
        branch = nn.Sequential(conv(inputs, 4 * inputs, 3, stride, act=nn.SiLU), conv(4 * inputs, outputs, 1, act=None))
        return Residual(branch) if stride == 1 and inputs == outputs else branch

    return nn.Sequential(
        conv(3, 16, 3, 2, act=nn.SiLU),
        *(fused(16, 16, 1), fused(16, 24, 2), inverted(24, 32, 2, nn.SiLU, gate=nn.Sigmoid)),
        *(conv(32, 64, 1, act=nn.SiLU), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, LABELS)),
    )


class RepVGGBlock(nn.Module):
    """Three branches with a BatchNorm each, one of them over the input itself (Ding et al. 2021, arXiv:2101.03697)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.large, self.small = conv(channels, channels, act=None), conv(channels, channels, 1, act=None)
        self.identity = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.large(x) + self.small(x) + self.identity(x))


class Ghost(nn.Module):
    """Half of the channels by a cheap depthwise convolution (Han et al. 2020, arXiv:1911.11907)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = conv(inputs, outputs // 2, 1)
        self.cheap = conv(outputs // 2, outputs // 2, 3, groups=outputs // 2)
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.first(x)
        return torch.cat([made, self.cheap(made)], 1)[:, : self.outputs]


class HighResolution(nn.Module):
    """Two resolutions that exchange what they have; HRNet's kind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = conv(3, 16, 3, 2), conv(16, 32, 3, 2)
        self.high, self.low = basic(16, 16), basic(32, 32)
        self.up, self.lower, self.head = conv(32, 16, 1, act=None), conv(16, 32, 3, 2, act=None), head(48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high = self.stem(x)
        low = self.low(self.down(high))
        high = self.high(high)
        raised = fn.interpolate(self.up(low), scale_factor=2, mode="nearest")
        high, low = torch.relu(high + raised), torch.relu(low + self.lower(high))
        made: torch.Tensor = self.head(
            torch.cat([high, fn.interpolate(low, size=high.shape[-2:], mode="bilinear", align_corners=False)], 1)
        )
        return made


class UNet(nn.Module):
    """Down, up with ConvTranspose, and the earlier tensors side by side; a map of classes."""

    def __init__(self, *, transposed: bool = True) -> None:
        super().__init__()
        self.one, self.two, self.pool = conv(3, 16), conv(16, 32), nn.MaxPool2d(2)
        self.up: nn.Module = (
            nn.ConvTranspose2d(32, 16, 2, 2)
            if transposed
            else nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), conv(32, 16, 1))
        )
        self.last, self.classes = conv(32, 16), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.one(x)
        second = self.two(self.pool(first))
        made: torch.Tensor = self.classes(self.last(torch.cat([self.up(second), first], 1)))
        return made


class DeepLab(nn.Module):
    """Dilated branches beside the pooled image, resized to the image's size."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3, 2))
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(32, 8, 3, padding=rate, dilation=rate, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            for rate in (1, 2, 4)
        )
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(32, 8, 1))
        self.classes = nn.Sequential(conv(32, 16), nn.Conv2d(16, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.backbone(x)
        whole = fn.interpolate(self.whole(made), size=made.shape[-2:], mode="bilinear", align_corners=False)
        made = self.classes(torch.cat([*(branch(made) for branch in self.branches), whole], 1))
        return fn.interpolate(made, size=x.shape[-2:], mode="bilinear", align_corners=False)


class SSD(nn.Module):
    """Scores and boxes of two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3, 2)), conv(32, 32, 3, 2)
        self.scores = nn.ModuleList(nn.Conv2d(32, 3 * 5, 3, padding=1) for _ in range(2))
        self.boxes = nn.ModuleList(nn.Conv2d(32, 3 * 4, 3, padding=1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = self.one(x)
        maps = (first, self.two(first))
        flat = [
            [
                layer(place).permute(0, 2, 3, 1).flatten(1).view(x.shape[0], -1, width)
                for layer, place in zip(layers, maps, strict=True)
            ]
            for layers, width in ((self.scores, 5), (self.boxes, 4))
        ]
        return torch.cat(flat[0], 1).softmax(-1), torch.cat(flat[1], 1)


class YOLO(nn.Module):
    """Two maps, distances from a distribution, boxes in pixels beside scores in 0..1: [n, 4 + classes, places]."""

    def __init__(self, classes: int = 4, bins: int = 8) -> None:
        super().__init__()
        act = nn.SiLU
        self.one = nn.Sequential(conv(3, 16, 3, 2, act=act), conv(16, 32, 3, 2, act=act), conv(32, 32, 3, 2, act=act))
        self.split = conv(32, 32, 1, act=act)
        self.inner = nn.ModuleList(Residual(nn.Sequential(conv(16, 16, act=act), conv(16, 16, act=act))) for _ in "ab")
        self.join, self.two = conv(64, 32, 1, act=act), conv(32, 32, 3, 2, act=act)
        self.pools = nn.MaxPool2d(5, 1, 2)
        self.spp, self.up = conv(96, 32, 1, act=act), nn.Upsample(scale_factor=2, mode="nearest")
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4 * bins, 1) for width in (64, 32))
        self.scores = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in (64, 32))
        self.classes, self.bins = classes, bins
        self.weights: torch.Tensor
        self.register_buffer("weights", torch.arange(bins, dtype=torch.float32).view(1, bins, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.split(self.one(x)).chunk(2, 1))
        parts += [layer(parts[-1]) for layer in self.inner]
        first = self.join(torch.cat(parts, 1))
        second = self.two(first)
        pooled = self.pools(second)
        second = self.spp(torch.cat([second, pooled, self.pools(pooled)], 1))
        maps = (torch.cat([first, self.up(second)], 1), second)
        found = [
            torch.cat([boxes(place), scores(place)], 1).flatten(2)
            for boxes, scores, place in zip(self.boxes, self.scores, maps, strict=True)
        ]
        boxes, scores = torch.split(torch.cat(found, 2), [4 * self.bins, self.classes], 1)
        share = boxes.view(x.shape[0], 4, self.bins, -1).transpose(1, 2).softmax(1)
        distance = fn.conv2d(share, self.weights).view(x.shape[0], 4, -1)
        grid, stride = self._grid(maps, x)
        low, high = distance.chunk(2, 1)
        left, right = grid - low, grid + high
        pixels = torch.cat([(left + right) / 2, right - left], 1) * stride
        return torch.cat([pixels, scores.sigmoid()], 1)

    def _grid(self, maps: Sequence[torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        grids, strides = [], []
        for place in maps:
            height, width = place.shape[-2:]
            rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
            grids.append(torch.stack([columns, rows]).view(1, 2, -1))
            strides.append(torch.full((1, 1, height * width), x.shape[-1] / width))
        return torch.cat(grids, 2), torch.cat(strides, 2)


class Attention(nn.Module):
    """Multi-head attention with one fused projection."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        count, tokens, width = x.shape
        q, k, v = (
            self.qkv(x).reshape(count, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        scores = (q * (width // self.heads) ** -0.5) @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        made = (scores.softmax(-1) @ v).transpose(1, 2).reshape(count, tokens, width)
        out: torch.Tensor = self.out(made)
        return out


def feed_forward(width: int) -> nn.Sequential:
    """Two linear layers with GELU."""
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


def block(width: int, mix: nn.Module | None = None) -> nn.Sequential:
    """A transformer's block, normalized first."""
    return nn.Sequential(
        Residual(nn.Sequential(nn.LayerNorm(width), mix or Attention(width))),
        Residual(nn.Sequential(nn.LayerNorm(width), feed_forward(width))),
    )


class Patches(nn.Module):
    """Patches to tokens [n, tokens, width]."""

    def __init__(self, width: int, patch: int = 16) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.projection(x).flatten(2).transpose(1, 2)
        return made


class ViT(nn.Module):
    """A class token and learned positions; `answer` says what is given of the last hidden state."""

    def __init__(self, answer: str = "class", *, attention: str = "own") -> None:
        super().__init__()
        width = 32
        self.patches, self.token = Patches(width), nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 17, width) * 0.1)
        if attention == "own":
            self.blocks: nn.Module = nn.Sequential(block(width), block(width))
        else:
            layer = nn.TransformerEncoderLayer(width, 4, 64, batch_first=True, activation="gelu", norm_first=True)
            self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head, self.answer = nn.LayerNorm(width), nn.Linear(width, LABELS), answer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), self.patches(x)], 1) + self.positions
        normed: torch.Tensor = self.norm(self.blocks(tokens))
        if self.answer == "tokens":
            return normed
        made: torch.Tensor = self.head(normed[:, 0])
        return made


class Window(nn.Module):
    """Swin's shifted windows: roll, cut, attend with learned biases, put together, roll back."""

    def __init__(self, width: int, side: int, window: int, shift: int) -> None:
        super().__init__()
        self.attention, self.side, self.window, self.shift = Attention(width), side, window, shift
        self.bias = nn.Parameter(torch.randn(4, window**2, window**2) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, _, width = x.shape
        side, window = self.side, self.window
        x = torch.roll(x.view(count, side, side, width), (-self.shift, -self.shift), (1, 2))
        x = x.view(count, side // window, window, side // window, window, width).permute(0, 1, 3, 2, 4, 5)
        made = self.attention(x.reshape(-1, window**2, width), self.bias)
        made = made.view(count, side // window, side // window, window, window, width).permute(0, 1, 3, 2, 4, 5)
        made = torch.roll(made.reshape(count, side, side, width), (self.shift, self.shift), (1, 2))
        return made.view(count, side * side, width)


class Merge(nn.Module):
    """Swin's patch merging by strided slices."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side, self.norm, self.reduction = (
            side,
            nn.LayerNorm(4 * width),
            nn.Linear(4 * width, 2 * width, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, _, width = x.shape
        x = x.view(count, self.side, self.side, width)
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        made: torch.Tensor = self.reduction(self.norm(torch.cat(parts, -1).view(count, -1, 4 * width)))
        return made


def swin() -> nn.Module:
    """Two stages of windows, one of them shifted."""
    return nn.Sequential(
        *(Patches(16, 4), block(16, Window(16, 16, 4, 0)), block(16, Window(16, 16, 4, 2)), Merge(16, 16)),
        *(block(32, Window(32, 8, 4, 0)), nn.LayerNorm(32), Apply(lambda x: x.mean(1)), nn.Linear(32, LABELS)),
    )


def mixer() -> nn.Module:
    """MLP-Mixer: linear layers over tokens and over channels."""

    def turned(tokens: int) -> nn.Module:
        return nn.Sequential(
            Apply(lambda x: x.transpose(1, 2)),
            nn.Linear(tokens, 32),
            nn.GELU(),
            nn.Linear(32, tokens),
            Apply(lambda x: x.transpose(1, 2)),
        )

    return nn.Sequential(
        *(Patches(32), block(32, turned(16)), block(32, turned(16)), nn.LayerNorm(32)),
        *(Apply(lambda x: x.mean(1)), nn.Linear(32, LABELS)),
    )


class Grid(nn.Module):
    """MaxViT's attention in windows and in a grid, on [n, channels, H, W]."""

    def __init__(self, width: int, window: int, *, grid: bool) -> None:
        super().__init__()
        self.norm, self.attention, self.window, self.grid = nn.LayerNorm(width), Attention(width), window, grid

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, width, height, _ = x.shape
        window = self.window
        x = x.permute(0, 2, 3, 1)
        shape = (count, window, height // window, window, height // window, width)
        order = (0, 2, 4, 1, 3, 5)
        if not self.grid:
            shape = (count, height // window, window, height // window, window, width)
            order = (0, 1, 3, 2, 4, 5)
        cut = x.reshape(shape).permute(order)
        tokens = cut.reshape(-1, window * window, width)
        tokens = tokens + self.attention(self.norm(tokens))
        back: torch.Tensor = tokens.reshape(cut.shape).permute([order.index(place) for place in range(6)])
        made: torch.Tensor = back.reshape(count, height, height, width).permute(0, 3, 1, 2)
        return made


def coatnet() -> nn.Module:
    """Inverted bottlenecks, then attention in windows and in a grid: CoAtNet's and MaxViT's kind."""
    return nn.Sequential(
        *(conv(3, 16, 3, 2, act=nn.GELU), inverted(16, 32, 2, nn.SiLU, gate=nn.Sigmoid)),
        *(Grid(32, 4, grid=False), Grid(32, 4, grid=True), head(32)),
    )


def poolformer() -> nn.Module:
    """Pooling for attention, GroupNorm, learned scales of the residuals."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.one, self.two = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
            self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
            self.mlp = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1))
            self.first, self.second = (nn.Parameter(torch.rand(width, 1, 1)) for _ in "ab")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            normed = self.one(x)
            x = x + self.first * (self.pool(normed) - normed)
            made: torch.Tensor = x + self.second * self.mlp(self.two(x))
            return made

    return nn.Sequential(nn.Conv2d(3, 32, 7, 4, 2), Block(32), Block(32), nn.GroupNorm(1, 32), head(32))


class LastNorm(nn.Module):
    """LayerNorm over the channels of [n, channels, H, W], written out as ConvNeXt does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(width) + 0.5), nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(1, keepdim=True)
        spread = (x - mean).pow(2).mean(1, keepdim=True)
        return self.weight[:, None, None] * ((x - mean) / torch.sqrt(spread + 1e-6)) + self.bias[:, None, None]


def convnext() -> nn.Module:
    """Depthwise 7 x 7, LayerNorm, linear layers on channels last, a learned scale of the residual."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
            self.mlp, self.gamma = feed_forward(width), nn.Parameter(0.5 * torch.ones(width))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
            moved: torch.Tensor = (self.gamma * made).permute(0, 3, 1, 2)
            return x + moved

    return nn.Sequential(
        *(nn.Conv2d(3, 16, 4, 4), LastNorm(16), Block(16), LastNorm(16), nn.Conv2d(16, 32, 2, 2), Block(32)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(32), nn.Linear(32, LABELS)),
    )


class DETR(nn.Module):
    """A CNN, an encoder, and learned queries that attend to it: class scores and boxes."""

    def __init__(self) -> None:
        super().__init__()
        width = 32
        self.backbone = nn.Sequential(conv(3, 16, 3, 2), conv(16, width, 3, 2), conv(width, width, 3, 2))
        self.positions = nn.Parameter(torch.randn(64, width) * 0.1)
        self.queries = nn.Parameter(torch.randn(6, width))
        layer = nn.TransformerEncoderLayer(width, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(width, 4, 64, batch_first=True), 1)
        self.scores, self.boxes = (
            nn.Linear(width, 5),
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)),
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        memory = self.encoder(self.backbone(x).flatten(2).transpose(1, 2) + self.positions)
        found = self.decoder(self.queries.unsqueeze(0).expand(x.shape[0], -1, -1), memory)
        return self.scores(found), self.boxes(found).sigmoid()


def unit(x: torch.Tensor) -> torch.Tensor:
    """Vectors of length one."""
    return fn.normalize(x, dim=1)


def siamese() -> nn.Module:
    """An encoder whose vectors have length one."""
    return nn.Sequential(
        stem(), basic(16, 32, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 24), Apply(unit)
    )


class GeM(nn.Module):
    """Generalized mean pooling of a retrieval network, and PReLU before it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(stem(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.PReLU(32), conv(32, 32))
        self.power, self.out = nn.Parameter(torch.tensor(3.0)), nn.Linear(32, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = fn.adaptive_avg_pool2d(self.body(x).clamp(min=1e-6).pow(self.power), 1).pow(1.0 / self.power)
        return unit(self.out(pooled.flatten(1)))


def face() -> nn.Module:
    """A face network's kind: PReLU, depthwise pooling by a convolution, BatchNorm on the vector itself."""

    def prelu(inputs: int, outputs: int, stride: int, groups: int = 1) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
        )

    return nn.Sequential(
        *(prelu(3, 16, 2), prelu(16, 16, 1, 16), prelu(16, 32, 2), nn.Conv2d(32, 32, 16, groups=32, bias=False)),
        *(nn.BatchNorm2d(32), nn.Flatten(), nn.Linear(32, 24, bias=False), nn.BatchNorm1d(24)),
    )


def espcn() -> nn.Module:
    """Super-resolution by a pixel shuffle."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 5, padding=2), nn.Tanh(), nn.Conv2d(16, 16, 3, padding=1), nn.Tanh()),
        *(nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2)),
    )


class Heatmaps(nn.Module):
    """Keypoints: three transposed convolutions over a ResNet, a map for each point."""

    def __init__(self) -> None:
        super().__init__()
        ups = [
            nn.Sequential(
                nn.ConvTranspose2d(inputs, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
            )
            for inputs in (32, 16)
        ]
        self.body = nn.Sequential(stem(), basic(16, 32, 2), *ups, nn.Conv2d(16, 5, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.body(x)
        return made


class Recurrent(nn.Module):
    """A text reader's kind: a CNN, columns as time steps, an LSTM, scores for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.lstm = nn.Sequential(conv(3, 16, 3, 2), conv(16, 16, 3, 2)), nn.LSTM(16, 16, batch_first=True)
        self.out = nn.Linear(16, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        columns = self.body(x).mean(2).transpose(1, 2)
        made: torch.Tensor = self.out(self.lstm(columns)[0])
        return made


class Normalized(nn.Module):
    """GroupNorm, InstanceNorm and weights that are standardized while running: BiT's kind."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 3, 3, 3))
        self.rest = nn.Sequential(nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.InstanceNorm2d(32))
        self.head = head(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spread, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
        made: torch.Tensor = self.head(
            self.rest(fn.conv2d(x, (self.weight - mean) / (spread + 1e-5).sqrt(), padding=1))
        )
        return made


class Features(nn.Module):
    """A backbone that gives a pyramid: three maps, and the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([stem(), basic(16, 32, 2), basic(32, 32, 2)])
        self.head = head(32)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = []
        for stage in self.stages:
            x = stage(x)
            made.append(x)
        return (*made, self.head(x))


def _act(name: type[nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(conv(3, 16, 3, 2, act=name), conv(16, 32, 3, 2, act=name), head(32))


_ALL = ("dynamo", "legacy", "dynamo fixed", "legacy fixed")

NETWORKS: dict[str, Network] = {
    "ResNet-18": Network(lambda: resnet(basic(16, 16), basic(16, 32, 2), channels=32), exporters=_ALL),
    "ResNet-50": Network(lambda: resnet(bottleneck(16, 64), bottleneck(64, 128, 2), channels=128)),
    "ResNet-V2": Network(preact, exporters=_ALL),
    "WideResNet": Network(lambda: resnet(basic(16, 64), basic(64, 128, 2), channels=128)),
    "ResNeXt": Network(lambda: resnet(bottleneck(16, 64, groups=4), bottleneck(64, 64, 2, groups=4), channels=64)),
    "SE-ResNet": Network(lambda: resnet(basic(16, 32, 2, extra=squeeze(32)), channels=32)),
    "DenseNet": Network(densenet, exporters=("dynamo", "legacy")),
    "VGG": Network(vgg, exporters=_ALL),
    "AlexNet": Network(alexnet, exporters=("dynamo", "legacy")),
    "SqueezeNet": Network(squeezenet, exporters=("dynamo", "legacy")),
    "GoogLeNet": Network(googlenet),
    "Inception-V3": Network(inception_v3),
    "Xception": Network(xception),
    "ShuffleNetV2": Network(
        lambda: nn.Sequential(
            stem(),
            ShuffleUnit(16),
            ShuffleUnit(16),
            conv(16, 32, 1),
            Apply(lambda x: x.mean([2, 3])),
            nn.Linear(32, LABELS),
        ),
        exporters=_ALL,
    ),
    "MobileNetV1": Network(lambda: nn.Sequential(conv(3, 16, 3, 2), separable(16, 32), separable(32, 64, 2), head(64))),
    "MobileNetV2": Network(lambda: mobile(nn.ReLU6), exporters=_ALL),
    "MobileNetV3": Network(lambda: mobile(nn.Hardswish, nn.Hardsigmoid), exporters=("dynamo", "legacy")),
    "MnasNet": Network(lambda: mobile(nn.ReLU, nn.Sigmoid)),
    "EfficientNet": Network(lambda: mobile(nn.SiLU, nn.Sigmoid), exporters=("dynamo", "legacy")),
    "EfficientNetV2": Network(efficientnet_v2),
    "RegNet": Network(lambda: nn.Sequential(conv(3, 16, 3, 2), bottleneck(16, 32, 2, groups=2, width=32), head(32))),
    "ConvNeXt": Network(convnext, exporters=_ALL),
    "RepVGG": Network(lambda: nn.Sequential(conv(3, 16, 3, 2), RepVGGBlock(16), RepVGGBlock(16), head(16))),
    "GhostNet": Network(lambda: nn.Sequential(conv(3, 16, 3, 2), Ghost(16, 32), Ghost(32, 32), head(32))),
    "HRNet": Network(HighResolution, exporters=("dynamo", "legacy")),
    "U-Net": Network(UNet, ("map",), exporters=("dynamo", "legacy")),
    "U-Net, bilinear": Network(lambda: UNet(transposed=False), ("map",)),
    "DeepLab": Network(DeepLab, ("map",), exporters=("dynamo", "legacy")),
    "SSD": Network(SSD, ("scores", "boxes"), exporters=_ALL),
    "YOLO": Network(YOLO, ("output0",), exporters=_ALL),
    "DETR": Network(DETR, ("scores", "boxes"), exporters=("dynamo", "dynamo fixed", "legacy fixed")),
    "MLP-Mixer": Network(mixer, exporters=_ALL),
    "ViT": Network(ViT, exporters=_ALL),
    "ViT, torch's encoder": Network(
        lambda: ViT(attention="torch"), exporters=("dynamo", "dynamo fixed", "legacy fixed")
    ),
    "Transformer encoder": Network(lambda: ViT("tokens"), ("last_hidden_state",), exporters=("dynamo", "legacy")),
    "Swin": Network(swin, exporters=_ALL),
    "CoAtNet": Network(coatnet, exporters=("dynamo", "legacy")),
    "PoolFormer": Network(poolformer, exporters=("dynamo", "legacy")),
    "Siamese encoder": Network(siamese, ("embedding",), exporters=("dynamo", "legacy")),
    "Retrieval, GeM": Network(GeM, ("embedding",), exporters=("dynamo", "legacy")),
    "Face encoder": Network(face, ("embedding",), exporters=("dynamo", "legacy")),
    "ESPCN": Network(espcn, ("image",), exporters=("dynamo", "legacy")),
    "Keypoints": Network(Heatmaps, ("heatmaps",), exporters=("dynamo", "legacy")),
    "Text reader, LSTM": Network(Recurrent, ("scores",), exporters=("dynamo", "legacy")),
    "GroupNorm, standardized weights": Network(Normalized, exporters=("dynamo", "legacy")),
    "Feature pyramid": Network(Features, ("c2", "c3", "c4", "logits"), exporters=("dynamo",)),
    "Softmax inside": Network(lambda: nn.Sequential(stem(), basic(16, 16), head(16), nn.Softmax(1)), ("scores",)),
    "ArgMax inside": Network(
        lambda: nn.Sequential(stem(), basic(16, 16), head(16), Apply(lambda x: x.argmax(1))), ("class",)
    ),
    "LeakyReLU": Network(_act(lambda: nn.LeakyReLU(0.1)), exporters=("dynamo",)),  # type: ignore[arg-type]
    "ELU": Network(_act(nn.ELU)),
    "Mish": Network(_act(nn.Mish), exporters=("dynamo", "legacy")),
    "Softplus": Network(_act(nn.Softplus)),
    "CELU": Network(_act(nn.CELU)),
    "Hardtanh": Network(_act(nn.Hardtanh)),
}
"""What is tried, by name."""
