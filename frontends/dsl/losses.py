"""Losses: (output of the network, target) -> a scalar to be minimised, as symbolic values.

Every loss is the mean over all elements (over all samples for the classifying ones). A ``Loss``
also says what type its target has, so that the training step can declare that input. Any function
of two symbolic values serves as a loss too; its target then has the type of the output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from netloom.compiler.tensor_type import INT64, TensorType
from netloom.errors import ShapeError

from .functions import cast, equal, maximum, reduce_mean, reduce_sum, softplus
from .trace import Symbolic

Function = Callable[[Symbolic, Symbolic], Symbolic]


@dataclass(frozen=True)
class Loss:
    """A loss, the type of its target, and (for classifiers) the number of right answers in a
    batch.
    """

    name: str
    function: Function
    target: Callable[[TensorType], TensorType]
    correct: Function | None = None

    def __call__(self, output: Symbolic, target: Symbolic) -> Symbolic:
        """The loss as a scalar of the output's dtype."""
        expected = self.target(output.type)
        if target.type != expected:
            raise ShapeError(
                f"{self.name} of {output.type} takes a target {expected}, not {target.type}"
            )
        return self.function(output, target)


def _same(type: TensorType) -> TensorType:
    return type


def _labels(type: TensorType) -> TensorType:
    """[n, c, ...] -> int64[n, ...]."""
    if type.rank < 2:
        raise ShapeError(f"a classifier's output is [n, c, ...], not {type}")
    return TensorType(INT64, (type.shape[0], *type.shape[2:]))


def _cross_entropy(logits: Symbolic, labels: Symbolic) -> Symbolic:
    return logits.trace("cross_entropy", logits, labels, label="cross_entropy")


def _most_likely(logits: Symbolic, labels: Symbolic) -> Symbolic:
    best = logits.trace("argmax", logits, axis=1, keep=False)
    return reduce_sum(cast(equal(best, labels), INT64))


def _squared(output: Symbolic, target: Symbolic) -> Symbolic:
    difference = output - target
    return reduce_mean(difference * difference)


def _absolute(output: Symbolic, target: Symbolic) -> Symbolic:
    return reduce_mean(abs(output - target))


def _binary(logits: Symbolic, target: Symbolic) -> Symbolic:
    """-t log(p) - (1-t) log(1-p) with p = sigmoid(x), which is softplus(x) - t x."""
    return reduce_mean(softplus(logits) - target * logits)


def _right_sign(logits: Symbolic, target: Symbolic) -> Symbolic:
    return reduce_sum(cast(equal(logits > 0.0, target > 0.5), INT64))


def _hinge(output: Symbolic, target: Symbolic) -> Symbolic:
    return reduce_mean(maximum(1.0 - target * output, 0.0))


def _same_sign(output: Symbolic, target: Symbolic) -> Symbolic:
    return reduce_sum(cast(output * target > 0.0, INT64))


cross_entropy = Loss("cross_entropy", _cross_entropy, _labels, _most_likely)
mean_squared_error = Loss("mean_squared_error", _squared, _same)
mean_absolute_error = Loss("mean_absolute_error", _absolute, _same)
binary_cross_entropy_with_logits = Loss(
    "binary_cross_entropy_with_logits", _binary, _same, _right_sign
)
hinge = Loss("hinge", _hinge, _same, _same_sign)


def huber(delta: float = 1.0) -> Loss:
    """Half the square where |difference| <= delta, and delta * (|difference| - delta / 2) beyond
    (Huber 1964).
    """

    def function(output: Symbolic, target: Symbolic) -> Symbolic:
        distance = abs(output - target)
        near = distance.trace("min", distance, delta)
        return reduce_mean(near * (distance - 0.5 * near))

    return Loss("huber", function, _same)


LOSSES = {
    loss.name: loss
    for loss in (
        cross_entropy,
        mean_squared_error,
        mean_absolute_error,
        binary_cross_entropy_with_logits,
        hinge,
        huber(),
    )
}
