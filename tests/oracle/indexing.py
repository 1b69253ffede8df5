"""Shapes, indexing and sorting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .reference import Array, Shape, adjoint, onnx
from .windows import is_inside


def _slice(x: Array, start: Shape, size: Shape, step: Shape) -> Array:
    lines = [
        [first + i * by for i in range(count)]
        for first, count, by in zip(start, size, step, strict=True)
    ]
    return x[np.ix_(*(np.array(line, np.int64) for line in lines))] if lines else x


def _slice_gradient(dy: Array, start: Shape, step: Shape, shape: Shape) -> Array:
    return adjoint(lambda x: _slice(x, start, dy.shape, step), shape, dy)


def _reflected(q: int, extent: int) -> int:
    return -q if q < 0 else (2 * (extent - 1) - q if q >= extent else q)


def _pad(x: Array, lo: Shape, hi: Shape, value: float, mode: str) -> Array:
    y = np.full([a + e + b for a, e, b in zip(lo, x.shape, hi, strict=True)], value, x.dtype)
    for p in np.ndindex(y.shape):
        q = tuple(i - a for i, a in zip(p, lo, strict=True))
        if mode == "reflect":
            q = tuple(_reflected(i, e) for i, e in zip(q, x.shape, strict=True))
        elif mode == "edge":
            q = tuple(min(max(i, 0), e - 1) for i, e in zip(q, x.shape, strict=True))
        if is_inside(q, x.shape):
            y[p] = x[q]
    return y


def _gather(x: Array, indices: Array, axis: int) -> Array:
    return x[
        (
            *[slice(None)] * axis,
            np.where(
                indices < 0, indices.astype(np.int64) + x.shape[axis], indices.astype(np.int64)
            ),
        )
    ]


def _gather_gradient(dy: Array, indices: Array, axis: int, extent: int) -> Array:
    shape = (*dy.shape[:axis], extent, *dy.shape[axis + indices.ndim :])
    return adjoint(lambda x: _gather(x, indices, axis), shape, dy)


def _gather_elements(x: Array, indices: Array, axis: int) -> Array:
    y = np.zeros(indices.shape, x.dtype)
    for p in np.ndindex(indices.shape):
        y[p] = x[(*p[:axis], int(indices[p]) % x.shape[axis], *p[axis + 1 :])]
    return y


_REDUCTIONS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _scatter(x: Array, indices: Array, updates: Array, axis: int, reduction: str) -> Array:
    y = x.copy()
    for p in np.ndindex(indices.shape):
        q = (*p[:axis], int(indices[p]) % x.shape[axis], *p[axis + 1 :])
        y[q] = _REDUCTIONS[reduction](y[q], updates[p])
    return y


def _scatter_last(x: Array, indices: Array, updates: Array, axis: int) -> Array:
    y = x.copy()
    for p in np.ndindex(indices.shape):  # along the axis, later ones come later
        y[(*p[:axis], int(indices[p]) % x.shape[axis], *p[axis + 1 :])] = updates[p]
    return y


def _scatter_source(indices: Array, axis: int, extent: int) -> Array:
    y = np.full((*indices.shape[:axis], extent, *indices.shape[axis + 1 :]), -1, np.int64)
    for p in np.ndindex(indices.shape):  # along the axis, later ones come later
        y[(*p[:axis], int(indices[p]) % extent, *p[axis + 1 :])] = p[axis]
    return y


def _sort_positions(x: Array, axis: int, descending: bool) -> Array:
    """Python's own stable sort; NaN is the largest."""

    def line(values: Array) -> Array:
        order = sorted(range(len(values)),
                       key=lambda i: (bool(np.isnan(values[i])),
                                      0 if np.isnan(values[i]) else values[i].item()),
                       reverse=descending)  # fmt: skip
        return np.array([order.index(i) for i in range(len(values))], np.int64)

    return np.apply_along_axis(line, axis, x) if x.size else np.zeros(x.shape, np.int64)


def _inverse_positions(x: Array, axis: int, size: int) -> Array:
    y = np.zeros((*x.shape[:axis], size, *x.shape[axis + 1 :]), np.int64)
    for p in np.ndindex(x.shape):
        if x[p] < size:
            y[(*p[:axis], int(x[p]), *p[axis + 1 :])] = p[axis]
    return y


def _iota(shape: Shape, axis: int, dtype: Any) -> Array:
    return np.indices(shape)[axis].astype(dtype)


def _one_hot(x: Array, depth: int, dtype: Any) -> Array:
    hit = [[float(int(v) == k) for k in range(depth)] for v in x.flat]
    return np.array(hit).reshape(*x.shape, depth).astype(dtype)


INDEXING: dict[str, Callable[..., Any]] = {
    "reshape": lambda x, shape: x.reshape(shape),
    "broadcast": lambda x, shape: np.broadcast_to(x, shape),
    "transpose": lambda x, permutation: np.moveaxis(x, permutation, range(x.ndim)),
    "reorder": lambda x, layout: x,
    "slice": _slice,
    "slice_gradient": _slice_gradient,
    "pad": _pad,
    "concat": lambda *parts, axis: np.concatenate(parts, axis=axis),
    "depth_to_space": lambda x, block, mode: onnx("DepthToSpace", x, blocksize=block, mode=mode),
    "space_to_depth": lambda x, block: onnx("SpaceToDepth", x, blocksize=block),
    "constant": lambda value: value,
    "extent": lambda extent: np.int64(extent),
    "iota": _iota,
    "gather": _gather,
    "look_up": lambda table, x: np.take(table, x.astype(np.int64) - np.iinfo(x.dtype).min),
    "gather_gradient": _gather_gradient,
    "one_hot": _one_hot,
    "gather_elements": _gather_elements,
    "scatter": _scatter,
    "scatter_last": _scatter_last,
    "scatter_source": _scatter_source,
    "sort_positions": _sort_positions,
    "inverse_positions": _inverse_positions,
}
