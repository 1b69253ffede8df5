"""The convolutions of VGG-19 (network E) and ResNet-50 as graphs of one layer, and their counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from netloom.compiler.graph import Builder, Graph
from netloom.compiler.tensor_type import FLOAT32, TensorType


@dataclass(frozen=True)
class Layer:
    """A square convolution: channels, filters, extent of the input, kernel, stride."""

    channels: int
    filters: int
    extent: int
    kernel: int = 3
    stride: int = 1

    @property
    def name(self) -> str:
        window = f"{self.kernel}x{self.kernel}/{self.stride}"
        return f"{self.channels}->{self.filters}, {self.extent}x{self.extent}, {window}"

    @property
    def result(self) -> int:
        """The extent of the output."""
        return (self.extent - 1) // self.stride + 1

    def weights(self) -> npt.NDArray[np.float32]:
        """He-normal, always the same."""
        shape = (self.filters, self.channels, self.kernel, self.kernel)
        scale = (2 / (self.channels * self.kernel**2)) ** 0.5
        return np.random.default_rng(0).standard_normal(shape, np.float32) * np.float32(scale)

    def graph(self, batch: int) -> Graph:
        """The layer with constant weights, bias and ReLU left out."""
        b = Builder("layer")
        x = b.input(TensorType(FLOAT32, (batch, self.channels, self.extent, self.extent)), "x")
        pad = (self.kernel // 2,) * 2
        w = b.constant(self.weights())
        y = b(
            "conv", x, w, stride=(self.stride,) * 2, dilation=(1, 1), lo=pad, hi=pad, label="layer"
        )
        return b.build([y], ["y"])

    def flops(self, batch: int) -> float:
        """Two for each multiply-add of the convolution as written."""
        return 2.0 * batch * self.result**2 * self.filters * self.channels * self.kernel**2

    def bytes(self, batch: int) -> float:
        """Of input, weights and output, each moved once."""
        images = self.channels * self.extent**2 + self.filters * self.result**2
        return 4.0 * (batch * images + self.filters * self.channels * self.kernel**2)


VGG19: Mapping[Layer, int] = {
    Layer(c, o, e): n
    for c, o, e, n in (
        (3, 64, 224, 1), (64, 64, 224, 1), (64, 128, 112, 1), (128, 128, 112, 1),
        (128, 256, 56, 1), (256, 256, 56, 3), (256, 512, 28, 1), (512, 512, 28, 3),
        (512, 512, 14, 4),
    )
}  # fmt: skip
RESNET50: Mapping[Layer, int] = {
    Layer(c, o, e, k, s): n
    for c, o, e, k, s, n in (
        (3, 64, 224, 7, 2, 1), (64, 64, 56, 1, 1, 1), (64, 64, 56, 3, 1, 3), (64, 256, 56, 1, 1, 4),
        (256, 64, 56, 1, 1, 2), (256, 128, 56, 1, 1, 1), (128, 128, 56, 3, 2, 1),
        (128, 128, 28, 3, 1, 3), (128, 512, 28, 1, 1, 4), (512, 128, 28, 1, 1, 3),
        (256, 512, 56, 1, 2, 1), (512, 256, 28, 1, 1, 1), (256, 256, 28, 3, 2, 1),
        (256, 256, 14, 3, 1, 5), (256, 1024, 14, 1, 1, 6),
        (1024, 256, 14, 1, 1, 5), (512, 1024, 28, 1, 2, 1), (1024, 512, 14, 1, 1, 1),
        (512, 512, 14, 3, 2, 1), (512, 512, 7, 3, 1, 2),
        (512, 2048, 7, 1, 1, 3), (2048, 512, 7, 1, 1, 2), (1024, 2048, 14, 1, 2, 1),
    )
}  # fmt: skip
# layer -> how often the network has it
LAYERS: Mapping[str, Mapping[Layer, int]] = {"vgg19": VGG19, "resnet50": RESNET50}
