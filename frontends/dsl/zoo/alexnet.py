"""AlexNet (Krizhevsky et al. 2012): grouped convolutions, local response normalization, dropout."""

from __future__ import annotations

from ..functions import flatten, lrn, relu
from ..initializers import Initializer
from ..layers import conv2d, dense, dropout, max_pool2d
from ..network import TracedGraph, network
from ..trace import Symbolic, tensor


@network
def alex(x: Symbolic, classes: int = 1000) -> Symbolic:
    """[n, 3, 224, 224] -> [n, classes]; an image of 227x227 is taken without padding, as the
    paper's sizes imply.
    """
    first = 2 if x.shape[2] == 224 else 0
    x = relu(conv2d(x, 96, 11, stride=4, padding=first, name="conv1"))  # [n, 96, 55, 55]
    x = max_pool2d(_normalise(x), 3, stride=2)
    x = relu(conv2d(x, 256, 5, padding=2, groups=2, name="conv2"))  # [n, 256, 27, 27]
    x = max_pool2d(_normalise(x), 3, stride=2)
    x = relu(conv2d(x, 384, 3, padding=1, name="conv3"))  # [n, 384, 13, 13]
    x = relu(conv2d(x, 384, 3, padding=1, groups=2, name="conv4"))
    x = relu(conv2d(x, 256, 3, padding=1, groups=2, name="conv5"))
    x = flatten(max_pool2d(x, 3, stride=2))  # [n, 256 * 6 * 6]
    x = relu(dense(dropout(x), 4096, name="dense6"))
    x = relu(dense(dropout(x), 4096, name="dense7"))
    return dense(x, classes, name="dense8")


def _normalise(x: Symbolic) -> Symbolic:
    """§3.3 adds up alpha = 1e-4 times the squares of n = 5 channels; the op divides alpha by n."""
    return lrn(x, size=5, alpha=5e-4, beta=0.75, bias=2.0)


def alexnet(
    classes: int = 1000, size: int = 224, batch: int | str = "N", *, seed: int = 0, training: bool = False,
    initializer: Initializer | None = None,
) -> TracedGraph:  # fmt: skip
    """AlexNet with the paper's two groups: 60,965,224 parameters at 1000 classes."""
    x = tensor(batch, 3, size, size)
    return (
        alex.with_options(classes=classes)
        .named("alexnet")
        .graph(x=x, training=training, seed=seed, initializer=initializer)
    )
