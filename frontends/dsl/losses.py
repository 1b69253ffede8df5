"""Losses: (output of the network, target) -> a scalar to be minimised, as symbolic values.

Every loss is the mean over all elements (over all samples for the classifying ones). A ``Loss``
also says what type its target has, so that the training step can declare that input. Any function
of two symbolic values serves as a loss too; its target then has the type of the output.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from netloom.arguments import real
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, INT64, DType, TensorType
from netloom.errors import ShapeError, UsageError

from .functions import (
    cast,
    equal,
    log_softmax,
    maximum,
    reduce_mean,
    reduce_sum,
    reshape,
    softplus,
    where,
)
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
    real(delta, "delta of huber", least=0)

    def function(output: Symbolic, target: Symbolic) -> Symbolic:
        distance = abs(output - target)
        near = distance.trace("min", distance, delta)
        return reduce_mean(near * (distance - 0.5 * near))

    return Loss("huber", function, _same)


def weighted_cross_entropy(
    weights: Sequence[float] | None = None, smoothing: float = 0.0, ignored: int | None = None
) -> Loss:
    """Cross entropy with a weight for each class, smoothed labels, and a label that is left out.

    The mean is over the samples' weights, without those of the label ``ignored``; the target of a
    class is ``1 - smoothing`` and ``smoothing / classes`` for each (Szegedy et al. 2016, section 7).
    """
    if not isinstance(smoothing, Real) or not 0 <= smoothing <= 1:
        raise UsageError(f"a smoothing of {smoothing!r} is not in [0, 1].")
    given = None if weights is None else _weights(weights)

    def function(logits: Symbolic, labels: Symbolic) -> Symbolic:
        classes = logits.shape[1]
        if not isinstance(classes, int) or (given is not None and len(given) != classes):
            count = "no" if given is None else len(given)
            raise ShapeError(f"{count} weights do not fit the classes of {logits.type}")
        logs = log_softmax(logits, axis=1)
        across = (1, classes, *(1,) * (logits.rank - 2))
        weight = np.reshape(given or [1.0] * classes, across).astype(logits.dtype.numpy)
        each = reshape(labels, (labels.shape[0], 1, *labels.shape[1:]))
        is_own = equal(each, np.arange(classes).reshape(across))
        hit = cast(is_own, logits.dtype)
        # [n, 1, ...]: the samples that count, and by how much
        counts = _one_unless(each, ignored, logits.dtype)
        own = reduce_sum(hit * weight, 1, keep=True) * counts
        scores = weight * logs  # of classes that cannot be: -inf
        each_total = (1 - smoothing) * reduce_sum(where(is_own, scores, 0.0), 1, keep=True)
        if smoothing:
            is_class = reduce_sum(hit, 1, keep=True)
            all_ = reduce_sum(scores, 1, keep=True) * is_class
            each_total = each_total + smoothing / classes * all_
        total = reduce_sum(where(counts > 0.0, each_total, 0.0))
        mass = reduce_sum(counts if given is None else own)
        return -total / where(mass > 0.0, mass, 1.0)

    return Loss("weighted_cross_entropy", function, _labels, _most_likely)


def _weights(given: Sequence[float]) -> list[float]:
    """UsageError unless all are numbers of at least 0."""
    if not isinstance(given, Sequence | np.ndarray):
        raise UsageError(f"the weights are {given!r}, not one number for each class.")
    for weight in given:
        real(weight, "a weight", least=0)
    return [float(weight) for weight in given]


def _one_unless(labels: Symbolic, ignored: int | None, dtype: DType) -> Symbolic:
    """1 where a label counts, else 0."""
    return 1.0 - cast(equal(labels, -1 << 62 if ignored is None else ignored), dtype)


def weighted_binary_cross_entropy(positive: float | Sequence[float]) -> Loss:
    """Binary cross entropy of logits whose targets of 1 weigh ``positive`` times as much; one
    number, or one for each element along the last axis.
    """

    def function(logits: Symbolic, target: Symbolic) -> Symbolic:
        factor = 1 + (np.asarray(positive, logits.dtype.numpy) - 1) * target
        return reduce_mean((1 - target) * logits + factor * softplus(-logits))

    return Loss("weighted_binary_cross_entropy", function, _same, _right_sign)


class Mixed:
    """The weighted sum of a loss for each output of the network, each with a target of its own.

    ``losses`` are in the order of the outputs. The targets' inputs are named ``labels.OUTPUT``, and
    the step returns each term as ``loss.OUTPUT`` beside the loss, which has the widest of their
    dtypes. UsageError for what is no ``Loss``.
    """

    def __init__(self, *losses: Loss, weights: Sequence[float] | None = None) -> None:
        for loss in losses:
            if not isinstance(loss, Loss):
                raise UsageError(
                    f"{loss!r} is not a loss that knows the type of its target.",
                    hint="Give losses of nl.losses, or nl.losses.Loss(name, function, target).",
                )
        self.losses = losses
        self.weights = [1.0] * len(losses) if weights is None else _weights(weights)
        if len(self.weights) != len(losses) or not losses:
            raise UsageError(f"{len(self.weights)} weights do not fit {len(losses)} losses.")

    def check(self, outputs: Sequence[object]) -> None:
        """UsageError unless there is one loss for each output."""
        if len(outputs) != len(self.losses):
            raise UsageError(
                f"{len(self.losses)} losses do not fit the network's {len(outputs)} outputs."
            )

    def __call__(
        self, outputs: Sequence[Symbolic], targets: Sequence[Symbolic]
    ) -> tuple[Symbolic, list[Symbolic]]:
        """(the weighted sum, its terms without their weights)"""
        terms = [
            loss(output, target)
            for loss, output, target in zip(self.losses, outputs, targets, strict=True)
        ]
        dtypes = {term.dtype for term in terms}
        # float16 and bfloat16 lie in float32
        widest = terms[0].dtype if len(dtypes) == 1 else FLOAT64 if FLOAT64 in dtypes else FLOAT32
        parts = [w * cast(term, widest) for w, term in zip(self.weights, terms, strict=True)]
        return functools.reduce(operator.add, parts), terms


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
