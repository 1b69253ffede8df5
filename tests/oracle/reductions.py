"""Reductions and products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .elementwise import integer_division
from .reference import Array, Shape, is_float


def _reduced(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(x: Array, axes: Shape, keep: bool) -> Any:
        return function(x, axis=axes, keepdims=keep).astype(x.dtype) if axes else x

    return reduce


def _extreme(function: Callable[..., Any], sign: int) -> Callable[..., Any]:
    """NumPy's maximum or minimum; an empty one is the least or the largest number of the dtype."""

    def reduce(x: Array, axes: Shape, keep: bool) -> Any:
        if not axes:
            return x
        limit = np.iinfo(x.dtype) if x.dtype.kind in "iu" else None
        start = sign * math.inf if limit is None else (limit.max if sign > 0 else limit.min)
        return function(x, axis=axes, keepdims=keep, initial=start)

    return reduce


def _mean(x: Array, axes: Shape, keep: bool) -> Array:
    count = math.prod(x.shape[axis] for axis in axes)
    total = np.sum(x, axis=axes, keepdims=keep) if axes else x
    return (
        total / count
        if is_float(x.dtype)
        else integer_division(total.astype(x.dtype), np.array(count, x.dtype))
    )


def _position(best: Callable[..., Any]) -> Callable[..., Array]:
    """The first (last) position of the best element; NaN is better than any number."""

    def line(values: Array, last: bool) -> int:
        extreme = best(values)
        places = [
            i for i, v in enumerate(values) if v == extreme or (np.isnan(v) and np.isnan(extreme))
        ]
        return places[-1 if last else 0]

    def find(x: Array, axis: int, keep: bool, last: bool) -> Array:
        lines = np.moveaxis(x, axis, -1)
        found = np.array(
            [line(lines[i], last) for i in np.ndindex(*lines.shape[:-1])], np.int64
        ).reshape(lines.shape[:-1])
        return np.expand_dims(found, axis) if keep else found

    return find


def _matmul(a: Array, b: Array, transpose_a: bool, transpose_b: bool) -> Array:
    left, right = "...km" if transpose_a else "...mk", "...nk" if transpose_b else "...kn"
    return np.asarray(np.einsum(f"{left},{right}->...mn", a, b)).astype(a.dtype)


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "reduce_sum": _reduced(np.sum),
    "reduce_product": _reduced(np.prod),
    "reduce_mean": _mean,
    "reduce_max": _extreme(np.max, -1),
    "reduce_min": _extreme(np.min, 1),
    "argmax": _position(np.max),
    "argmin": _position(np.min),
    "matmul": _matmul,
}
