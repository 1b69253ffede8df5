"""What a trainer is given for a step, checked: arrays, samples, learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from netloom.errors import InputError, UsageError

from .buffer import numpy_dtype
from .program import PortInfo
from .training_data import Array


def samples_of(arrays: Sequence[Array]) -> int:
    """How many samples each of the arrays holds; InputError if they differ."""
    shapes: list[tuple[int, ...]] = [np.shape(array) for array in arrays]
    if () in shapes:
        raise InputError("a single number holds no samples.", hint="Give arrays of samples.")
    if len(lengths := {shape[0] for shape in shapes}) > 1:
        raise InputError(
            f"arrays of lengths {sorted(lengths)} do not belong together.",
            hint="Give each array one row for each sample.",
        )
    return shapes[0][0]


def as_port(value: Any, port: PortInfo) -> Array:
    """The array in the port's dtype, where that loses no kind (float64 -> float32, uint8 ->
    int64, not float -> int).
    """
    try:
        array, dtype = np.asarray(value), numpy_dtype(port.dtype)
    except ValueError as error:  # lists of several lengths
        raise InputError(f'the input "{port.name}" must be {port}: {error}') from error
    if array.dtype != dtype and not np.can_cast(array.dtype, dtype, "same_kind"):
        raise InputError(
            f'the input "{port.name}" must be {port}, but {array.dtype}{list(array.shape)} was '
            "given."
        )
    return array.astype(dtype, copy=False)


def checked_rate(rate: object) -> float:
    """UsageError unless it is a finite number: any other makes NaN of every parameter."""
    try:
        number = float(rate)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(rate, str) or not math.isfinite(number):
        raise UsageError(
            f"the learning rate is {rate!r}.",
            hint="Give a number, or a function of the number of updates done that returns one.",
        )
    return number


__all__ = ["as_port", "checked_rate", "samples_of"]
