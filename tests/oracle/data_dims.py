"""Counts, searches and suppression, element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .reference import Array


def _running_sum(x: Array, axis: int, exclusive: bool, reverse: bool) -> Array:
    y = np.zeros_like(x)
    for p in np.ndindex(x.shape):
        own = p[axis]
        first, last = (own, x.shape[axis]) if reverse else (0, own + 1)
        if exclusive:
            first, last = (first + 1, last) if reverse else (first, last - 1)
        for place in range(first, last):
            y[p] += x[(*p[:axis], place, *p[axis + 1 :])] if axis >= 0 else x[(*p[:-1], place)]
    return y


def _true_positions(x: Array, size: int) -> Array:
    y = np.full((*x.shape[:-1], size + 1), x.shape[-1], np.int64)
    for at in np.ndindex(x.shape[:-1]):
        places = [place for place, holds in enumerate(x[at]) if holds]
        for number, place in enumerate(places[:size]):
            y[(*at, number)] = place
    return y


def _search_sorted(line: Array, values: Array) -> Array:
    y = np.zeros(values.shape, np.int64)
    for p in np.ndindex(values.shape):
        y[p] = sum(int(element) <= int(values[p]) for element in line[p[:-1]])
    return y


def _order_keys(x: Array, descending: bool, half: str) -> Array:
    """Numbers by their value, as integers that lie as far apart as floats that are neighbours."""
    bits = 32 if half == "whole" else 64

    def number(value: Any) -> int:
        if x.dtype.kind in "iu":
            return int(value) - (0 if x.dtype.kind == "i" else 1 << bits - 1)
        if np.isnan(value):
            return (1 << bits - 1) - 1
        wide = np.float32(abs(value)) if bits == 32 else np.float64(abs(value))
        magnitude = int(wide.view(np.int32 if bits == 32 else np.int64))
        return magnitude if value >= 0 else -magnitude - 1

    y = np.zeros(x.shape, np.int64)
    for p in np.ndindex(x.shape):
        key = -1 - number(x[p]) if descending else number(x[p])
        if half == "lower":
            key = key % (1 << 32) - (1 << 31)
        elif half == "upper":
            key = key // (1 << 32)
        y[p] = key * (1 << 32) + p[-1]
    return y


def _merge_sort(x: Array) -> Array:
    y = np.zeros((*x.shape[:-1], 2, x.shape[-1]), np.int64)
    run = 16
    while 2 * run < x.shape[-1]:
        run *= 2
    for at in np.ndindex(x.shape[:-1]):
        line = [int(number) for number in x[at]]
        y[at][0] = sorted(line)
        y[at][1] = sorted(line[:run]) + sorted(line[run:], reverse=True)
    return y


def _first_places(x: Array, size: int, descending: bool = False, is_ranked: bool = True) -> Array:
    """The best that is left, again and again; NaN is the largest, and the first of equals first."""
    y = np.zeros((*x.shape[:-1], size), np.int64)
    for at in np.ndindex(x.shape[:-1]):
        left = list(range(x.shape[-1]))
        for number in range(size):
            best = left[0]
            for place in left:
                a, b = (x[at][place], x[at][best])
                larger, other = (a, b) if descending else (b, a)
                if larger > other or (larger != larger and other == other):
                    best = place
            left.remove(best)
            y[(*at, number)] = best
    return y if is_ranked else np.sort(y)


def _run_sum(x: Array, numbers: Array) -> Array:
    y = np.zeros(x.shape, np.float64)
    for i in range(len(numbers)):
        first = i
        while first > 0 and numbers[first - 1] == numbers[i]:
            first -= 1
        y[i] = x[first : i + 1].astype(np.float64).sum(axis=0)
    return y.astype(x.dtype)


def _suppress(boxes: Array, candidates: Array, threshold: Array, most: int | None = None) -> Array:
    """Greedy: the first box that is left is taken, and those that it overlaps go."""
    y = np.zeros(candidates.shape, np.bool_)
    for at in np.ndindex(candidates.shape[:-1]):
        left = [i for i in range(candidates.shape[-1]) if candidates[(*at, i)]]
        while left and y[at].sum() != most:
            best, *left = left
            y[(*at, best)] = True
            left = [i for i in left if not _overlap(boxes[at], best, i) > threshold]
    return y


def _overlap(boxes: Array, a: int, b: int) -> float:
    """Intersection over union; less than any threshold where they do not meet."""
    (y0, x0, y1, x1), (v0, u0, v1, u1) = boxes[:, a], boxes[:, b]
    height, width = np.minimum(y1, v1) - np.maximum(y0, v0), np.minimum(x1, u1) - np.maximum(x0, u0)
    first, second = (y1 - y0) * (x1 - x0), (v1 - v0) * (u1 - u0)
    if not (height > 0 and width > 0 and first > 0 and second > 0):
        return float("-inf")
    return float(height * width / (first + second - height * width))


def _iterate(x: Array, *w: Array, count: Any, handed_on: int, **_: Any) -> Array:
    """The two bodies of tests/cases: x w + turn again and again, or each entry times its turn."""
    if not handed_on:
        return np.stack([entry * np.float32(turn) for turn, entry in enumerate(x)])
    for turn in range(count):
        x = (x * w[0] + turn).astype(x.dtype)
    return x


DATA_DIMS: dict[str, Callable[..., Any]] = {
    "data_dim": lambda count, extent, bound: count,
    "iterate": _iterate,
    "running_sum": _running_sum,
    "search_sorted": _search_sorted,
    "true_positions": _true_positions,
    "order_keys": _order_keys,
    "merge_sort": _merge_sort,
    "first_places": _first_places,
    "run_sum": _run_sum,
    "suppress": _suppress,
}
