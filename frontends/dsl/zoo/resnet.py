"""ResNet-18, -34, -50, -101 and -152 (He et al. 2016, table 1), with batch normalization.

Shortcuts are projections where the shape changes (option B). In bottleneck blocks the 3x3
convolution carries the stride, as in most later work, not the first 1x1.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..functions import relu
from ..initializers import Initializer
from ..layers import conv2d, dense, global_average_pool, max_pool2d
from ..network import TracedGraph, network
from ..normalizations import batch_norm
from ..trace import Symbolic, tensor


@network
def resnet(
    x: Symbolic, depths: Sequence[int] = (2, 2, 2, 2), bottleneck: bool = False, classes: int = 1000
) -> Symbolic:
    """[n, 3, h, w] -> [n, classes]."""
    x = relu(_conv_norm(x, 64, 7, 2, "stem"))
    x = max_pool2d(x, 3, stride=2, padding=1)
    block = _bottleneck if bottleneck else _plain
    for stage, depth in enumerate(depths):
        for position in range(depth):
            stride = 2 if stage > 0 and position == 0 else 1
            x = block(x, 64 << stage, stride, f"stage{stage + 1}.block{position + 1}")
    return dense(global_average_pool(x), classes, name="dense")


def _conv_norm(x: Symbolic, filters: int, kernel: int, stride: int, name: str) -> Symbolic:
    x = conv2d(
        x, filters, kernel, stride=stride, padding=kernel // 2, bias=False, name=f"{name}.conv"
    )
    return batch_norm(x, name=f"{name}.norm")


def _shortcut(x: Symbolic, filters: int, stride: int, name: str) -> Symbolic:
    unchanged = stride == 1 and x.shape[1] == filters
    return x if unchanged else _conv_norm(x, filters, 1, stride, f"{name}.shortcut")


def _plain(x: Symbolic, width: int, stride: int, name: str) -> Symbolic:
    y = relu(_conv_norm(x, width, 3, stride, f"{name}.1"))
    y = _conv_norm(y, width, 3, 1, f"{name}.2")
    return relu(y + _shortcut(x, width, stride, name))


def _bottleneck(x: Symbolic, width: int, stride: int, name: str) -> Symbolic:
    y = relu(_conv_norm(x, width, 1, 1, f"{name}.1"))
    y = relu(_conv_norm(y, width, 3, stride, f"{name}.2"))
    y = _conv_norm(y, 4 * width, 1, 1, f"{name}.3")
    return relu(y + _shortcut(x, 4 * width, stride, name))


def resnet18(
    classes: int = 1000, size: int = 224, batch: int | str = "N", *, seed: int = 0, training: bool = False,
    initializer: Initializer | None = None,
) -> TracedGraph:  # fmt: skip
    """ResNet-18: 11,689,512 parameters at 1000 classes."""
    return _graph(
        "resnet18", (2, 2, 2, 2), False, classes, size, batch, seed, training, initializer
    )


def resnet34(
    classes: int = 1000, size: int = 224, batch: int | str = "N", *, seed: int = 0, training: bool = False,
    initializer: Initializer | None = None,
) -> TracedGraph:  # fmt: skip
    """ResNet-34: 21,797,672 parameters at 1000 classes."""
    return _graph(
        "resnet34", (3, 4, 6, 3), False, classes, size, batch, seed, training, initializer
    )


def resnet50(
    classes: int = 1000, size: int = 224, batch: int | str = "N", *, seed: int = 0, training: bool = False,
    initializer: Initializer | None = None,
) -> TracedGraph:  # fmt: skip
    """ResNet-50: 25,557,032 parameters at 1000 classes."""
    return _graph("resnet50", (3, 4, 6, 3), True, classes, size, batch, seed, training, initializer)


def resnet101(
    classes: int = 1000, size: int = 224, batch: int | str = "N", *, seed: int = 0, training: bool = False,
    initializer: Initializer | None = None,
) -> TracedGraph:  # fmt: skip
    """ResNet-101: 44,549,160 parameters at 1000 classes."""
    return _graph(
        "resnet101", (3, 4, 23, 3), True, classes, size, batch, seed, training, initializer
    )


def resnet152(
    classes: int = 1000, size: int = 224, batch: int | str = "N", *, seed: int = 0, training: bool = False,
    initializer: Initializer | None = None,
) -> TracedGraph:  # fmt: skip
    """ResNet-152: 60,192,808 parameters at 1000 classes."""
    return _graph(
        "resnet152", (3, 8, 36, 3), True, classes, size, batch, seed, training, initializer
    )


def _graph(
    name: str, depths: tuple[int, ...], bottleneck: bool, classes: int, size: int, batch: int | str, seed: int,
    training: bool, initializer: Initializer | None,
) -> TracedGraph:  # fmt: skip
    model = resnet.with_options(depths=depths, bottleneck=bottleneck, classes=classes).named(name)
    return model.graph(
        x=tensor(batch, 3, size, size), training=training, seed=seed, initializer=initializer
    )
