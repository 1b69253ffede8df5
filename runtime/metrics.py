"""Measures of a network's outputs against targets, over all samples, with NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from netloom.errors import InputError, UsageError

Array: TypeAlias = npt.NDArray[Any]
# (what Trainer.predict returns, the target or one target for each output) -> the measure
Metric: TypeAlias = Callable[..., float]


def accuracy(logits: Array, labels: Array) -> float:
    """The share of labels [n, ...] at which logits [n, c, ...] are largest along axis 1.
    InputError for other shapes.
    """
    if logits.shape[:1] + logits.shape[2:] != labels.shape or logits.ndim < 2:
        raise _misfit("accuracy", "[n, c, ...] and [n, ...]", logits, labels)
    return float(np.mean(np.argmax(logits, axis=1) == labels))


def mean_squared_error(outputs: Array, target: Array) -> float:
    """The mean of the squared differences, in float64. InputError unless the shapes are equal."""
    if outputs.shape != target.shape:
        raise _misfit("mean squared error", "equal shapes", outputs, target)
    return float(np.mean(np.square(outputs.astype(np.float64) - target)))


def measured(metric: Metric, found: Any, targets: Sequence[Array]) -> float:
    """What a metric makes of outputs and targets, as a number that a checkpoint can hold.
    UsageError for what is no metric.
    """
    if not callable(metric):
        raise UsageError(
            f"the metric is {metric!r}, which is no function.",
            hint="Give a function of the outputs and the target.",
        )
    measure = metric(found, *targets)
    try:
        return float(measure)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the metric gave {measure!r}, which is no number.") from error


def _misfit(measure: str, takes: str, outputs: Array, target: Array) -> InputError:
    return InputError(
        f"the {measure} takes an output and a target of {takes}, not "
        f"{list(outputs.shape)} and {list(target.shape)}.",
        hint="Give a target of that shape, or a metric= of your own.",
    )


__all__ = ["Metric", "accuracy", "mean_squared_error", "measured"]
