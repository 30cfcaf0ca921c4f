"""The network that comes with edgeq: small, and with every shape of layer that quantization has to get right.

A strided stem, residual additions, strided downsampling, depthwise convolutions, BatchNorm after each convolution,
global average pooling and a linear head: 303,150 parameters and 40 million multiplications per 64 x 64 picture.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

__all__ = ["DepthwiseBlock", "InspectionNet", "ResidualBlock", "convolution"]


def convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias and its BatchNorm; [n, inputs, h, w] to [n, outputs, h / stride, w / stride].

    Args:
        inputs: channels read.
        outputs: channels made.
        size: edge of the kernel, odd.
        stride: in both directions.
        groups: of channels; as many as `inputs` is depthwise.
    """
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside an identity (He et al., 2016, arXiv:1512.03385); the shape stays as it is."""

    def __init__(self, channels: int) -> None:
        """A block for [n, channels, h, w]."""
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = convolution(channels, channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Float32 [n, channels, h, w] to the same shape."""
        return torch.relu(features + self.second(torch.relu(self.first(features))))


class DepthwiseBlock(nn.Module):
    """A depthwise 3 x 3 and a pointwise convolution (Howard et al., 2017, arXiv:1704.04861)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """A block from `inputs` to `outputs` channels."""
        super().__init__()
        self.depthwise = convolution(inputs, inputs, groups=inputs)
        self.pointwise = convolution(inputs, outputs, size=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Float32 [n, inputs, h, w] to [n, outputs, h, w]."""
        return torch.relu(self.pointwise(torch.relu(self.depthwise(features))))


class InspectionNet(nn.Module):
    """Tells kinds of scene apart."""

    def __init__(self, classes: int) -> None:
        """A network of `classes` outputs with random weights."""
        super().__init__()
        self.stages = nn.Sequential(
            convolution(3, 24, stride=2),
            nn.ReLU(),
            ResidualBlock(24),
            convolution(24, 48, stride=2),
            nn.ReLU(),
            ResidualBlock(48),
            DepthwiseBlock(48, 64),
            convolution(64, 96, stride=2),
            nn.ReLU(),
            ResidualBlock(96),
            DepthwiseBlock(96, 128),
        )
        self.head = nn.Linear(128, classes)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Normalized pictures [n, 3, h, w] float32 to logits [n, classes] float32."""
        pooled = self.stages(pixel_values).mean(dim=(2, 3))
        return cast(torch.Tensor, self.head(pooled))
