"""The zoo's networks as PyTorch modules, layer for layer, for side-by-side training benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn


def mlp(features: int = 784, hidden: Sequence[int] = (512, 512)) -> nn.Module:
    """Dense layers with ReLU, 10 classes."""
    widths = (features, *hidden)
    layers: list[nn.Module] = []
    for before, behind in pairwise(widths):
        layers += [nn.Linear(before, behind), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


def lenet5() -> nn.Module:
    """LeNet-5 on images of 28x28, with ReLU and max pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def vgg16() -> nn.Module:
    """VGG-16 with dropout."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in zip((64, 128, 256, 512, 512), (2, 2, 3, 3, 3), strict=True):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(512 * 49, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 4096),
            nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 1000)]  # fmt: skip
    return nn.Sequential(*layers, *head)


class Bottleneck(nn.Module):  # type: ignore[misc]
    """1x1, 3x3 with the stride, 1x1, around a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            *_conv_norm(channels, width, 1, 1), nn.ReLU(inplace=True), *_conv_norm(width, width, 3, stride),
            nn.ReLU(inplace=True), *_conv_norm(width, out, 1, 1),
        )  # fmt: skip
        is_same = stride == 1 and channels == out
        self.shortcut = (
            nn.Identity() if is_same else nn.Sequential(*_conv_norm(channels, out, 1, stride))
        )

    def forward(self, x: Any) -> Any:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    """ResNet-50 with batch normalization."""
    layers: list[nn.Module] = [
        *_conv_norm(3, 64, 7, 2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for position in range(depth):
            layers.append(Bottleneck(channels, width, 2 if stage and position == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def _conv_norm(
    channels: int, filters: int, kernel: int, stride: int
) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(channels, filters, kernel, stride, kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(filters)


class Block(nn.Module):  # type: ignore[misc]
    """Pre-norm causal attention and a gelu layer, each around a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.q, self.k, self.v, self.joined = (nn.Linear(width, width) for _ in range(4))
        self.body = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Any) -> Any:
        n, length, width = x.shape
        normal, shape = self.norms[0](x), (n, length, self.heads, width // self.heads)
        q, k, v = (own(normal).view(shape).transpose(1, 2) for own in (self.q, self.k, self.v))
        met = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.joined(met.transpose(1, 2).reshape(n, length, width))
        return x + self.body(self.norms[1](x))


class Transformer(nn.Module):  # type: ignore[misc]
    """As transformer.py has it."""

    def __init__(self, width: int = 512, heads: int = 8, blocks: int = 2) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(self.blocks(x)).mean(1))


def transformer(length: int = 1024, width: int = 512, heads: int = 8, blocks: int = 2) -> nn.Module:
    """Of any length: no weight knows it."""
    return Transformer(width, heads, blocks)


# by the options that the network's own graph takes
NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "mlp": mlp, "lenet5": lenet5, "vgg16": vgg16, "resnet50": resnet50, "transformer": transformer,
}  # fmt: skip
