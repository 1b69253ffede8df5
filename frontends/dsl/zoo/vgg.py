"""VGG-16 and VGG-19 (Simonyan and Zisserman 2015, table 1, columns D and E)."""

from __future__ import annotations

from collections.abc import Sequence

from ..functions import flatten, relu
from ..initializers import Initializer
from ..layers import conv2d, dense, dropout, max_pool2d
from ..network import TracedGraph, network
from ..trace import Symbolic, tensor

_WIDTHS = (64, 128, 256, 512, 512)


@network
def vgg(x: Symbolic, depths: Sequence[int] = (2, 2, 3, 3, 3), classes: int = 1000) -> Symbolic:
    """[n, 3, h, w] -> [n, classes]: five stages of 3x3 convolutions, each halved by pooling."""
    for stage, (width, depth) in enumerate(zip(_WIDTHS, depths, strict=True), 1):
        for layer in range(1, depth + 1):
            x = relu(conv2d(x, width, 3, padding=1, name=f"conv{stage}_{layer}"))
        x = max_pool2d(x, 2)
    x = dropout(relu(dense(flatten(x), 4096, name="dense6")))  # flatten: [n, 512 * 7 * 7]
    x = dropout(relu(dense(x, 4096, name="dense7")))
    return dense(x, classes, name="dense8")


def vgg16(
    classes: int = 1000, size: int = 224, batch: int | str = "N", *, seed: int = 0, training: bool = False,
    initializer: Initializer | None = None,
) -> TracedGraph:  # fmt: skip
    """VGG-16: 13 convolutions and 3 dense layers, 138,357,544 parameters at 1000 classes."""
    return _graph("vgg16", (2, 2, 3, 3, 3), classes, size, batch, seed, training, initializer)


def vgg19(
    classes: int = 1000, size: int = 224, batch: int | str = "N", *, seed: int = 0, training: bool = False,
    initializer: Initializer | None = None,
) -> TracedGraph:  # fmt: skip
    """VGG-19: 16 convolutions and 3 dense layers, 143,667,240 parameters at 1000 classes."""
    return _graph("vgg19", (2, 2, 4, 4, 4), classes, size, batch, seed, training, initializer)


def _graph(
    name: str, depths: tuple[int, ...], classes: int, size: int, batch: int | str, seed: int, training: bool,
    initializer: Initializer | None,
) -> TracedGraph:  # fmt: skip
    model = vgg.with_options(depths=depths, classes=classes).named(name)
    return model.graph(
        x=tensor(batch, 3, size, size), training=training, seed=seed, initializer=initializer
    )
