"""LeNet-5 (LeCun et al. 1998), in its modern form (ReLU, max pooling) or the classic one (tanh,
average pooling).

Both have 61,706 parameters: every filter of the second convolution sees all six maps, and the last
layer is dense.

Weights start by Glorot and Bengio's rule, which weighs inputs and outputs, for the layers narrow:
400, 120, 84, 10. The rule for deep rectifier networks (He et al.) looks at the inputs only. On
standardised digits, whose neighbouring pixels are alike, it starts with logits of deviation 2 and a
loss of 4, where a classifier that knows nothing has log 10 = 2.3; Glorot's starts with a deviation
of 0.5 and a loss of 2.4.
"""

from __future__ import annotations

from functools import partial

from netloom.errors import UsageError

from ..functions import flatten, relu, tanh
from ..initializers import Initializer, glorot_uniform
from ..layers import average_pool2d, conv2d, dense, max_pool2d
from ..network import TracedGraph, network
from ..trace import Symbolic, tensor

_conv = partial(conv2d, weight_initializer=glorot_uniform)
_dense = partial(dense, weight_initializer=glorot_uniform)


@network
def lenet(x: Symbolic, classes: int = 10, classic: bool = False) -> Symbolic:
    """[n, c, 28, 28] (or 32, 32 without padding) -> [n, classes]."""
    activation = tanh if classic else relu
    pool = average_pool2d if classic else max_pool2d
    padding = 2 if x.shape[2] == 28 else 0
    x = pool(activation(_conv(x, 6, 5, padding=padding, name="conv1")), 2)  # [n, 6, 14, 14]
    x = pool(activation(_conv(x, 16, 5, name="conv2")), 2)  # [n, 16, 5, 5]
    x = activation(_dense(flatten(x), 120, name="dense1"))
    x = activation(_dense(x, 84, name="dense2"))
    return _dense(x, classes, name="dense3")


def lenet5(
    classes: int = 10, size: int = 28, channels: int = 1, batch: int | str = "N", *, variant: str = "modern",
    seed: int = 0, training: bool = False, initializer: Initializer | None = None,
) -> TracedGraph:  # fmt: skip
    """LeNet-5 on images of 28x28 (padded by 2) or 32x32; ``variant`` is "modern" or "classic"."""
    if variant not in ("modern", "classic"):
        raise UsageError(f"LeNet-5 has no variant {variant!r}.", hint='Use "modern" or "classic".')
    if size not in (28, 32):
        raise UsageError(f"LeNet-5 takes images of 28x28 or 32x32, not {size}x{size}.")
    model = lenet.with_options(classes=classes, classic=variant == "classic").named("lenet5")
    x = tensor(batch, channels, size, size)
    return model.graph(x=x, training=training, seed=seed, initializer=initializer)
