"""Convolution and pooling, window by window."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from scipy import signal

from .reference import Array, Shape, adjoint, adjoint_by_sample, is_float


def _conv(
    x: Array, w: Array, stride: Shape, dilation: Shape, lo: Shape, hi: Shape, groups: int
) -> Array:
    """Cross-correlation of the padded input with filters that have zeros put between their
    elements.
    """
    spread = np.zeros(
        (*w.shape[:2], *((k - 1) * d + 1 for k, d in zip(w.shape[2:], dilation, strict=True)))
    )
    spread[(..., *(slice(None, None, d) for d in dilation))] = w
    padded = np.pad(x, [(0, 0), (0, 0), *zip(lo, hi, strict=True)])
    per_filter, per_group = w.shape[1], len(w) // groups
    if not len(x):  # SciPy does not take an empty batch
        return _conv(np.zeros((1, *x.shape[1:])), w, stride, dilation, lo, hi, groups)[:0]
    maps = [
        signal.correlate(
            padded[:, (o // per_group) * per_filter :][:, :per_filter],
            filter_[None],
            "valid",
            "direct",
        )
        for o, filter_ in enumerate(spread)
    ]
    return np.concatenate(maps, axis=1)[(..., *(slice(None, None, s) for s in stride))].astype(
        x.dtype
    )


def _conv_input_gradient(dy: Array, w: Array, spatial: Shape, groups: int, **attrs: Any) -> Array:
    shape = (w.shape[1] * groups, *spatial)
    return adjoint_by_sample(lambda x: _conv(x, w, groups=groups, **attrs), shape, dy)


def _conv_weight_gradient(x: Array, dy: Array, kernel: Shape, groups: int, **attrs: Any) -> Array:
    shape = (dy.shape[1], x.shape[1] // groups, *kernel)
    return adjoint(lambda w: _conv(x, w, groups=groups, **attrs), shape, dy)


def _windows(
    spatial: Shape, kernel: Shape, stride: Shape, dilation: Shape, lo: Shape, hi: Shape
) -> Iterator[tuple[Shape, list[tuple[int, Shape]]]]:
    """Each output position with (flat kernel position, input position), positions in the padding
    among them.
    """
    ends = [
        e + a + b - (k - 1) * d
        for e, a, b, k, d in zip(spatial, lo, hi, kernel, dilation, strict=True)
    ]
    for p in product(*(range((end - 1) // s + 1) for end, s in zip(ends, stride, strict=True))):
        yield (
            p,
            [
                (
                    flat,
                    tuple(
                        i * s + j * d - a
                        for i, s, j, d, a in zip(p, stride, k, dilation, lo, strict=True)
                    ),
                )
                for flat, k in enumerate(np.ndindex(*kernel))
            ],
        )


def is_inside(q: Shape, spatial: Sequence[int], first: Sequence[int] | None = None) -> bool:
    return all(low <= i < e for low, i, e in zip(first or [0] * len(q), q, spatial, strict=True))


def _max_pool(x: Array, **attrs: Any) -> Array:
    spatial = x.shape[2:]
    least = -math.inf if is_float(x.dtype) else np.iinfo(x.dtype).min
    found = {}
    for p, window in _windows(spatial, **attrs):
        parts = [x[(..., *q)] for _, q in window if is_inside(q, spatial)]
        found[p] = (
            np.max(np.stack(parts), axis=0) if parts else np.full(x.shape[:2], least, x.dtype)
        )
    return _assembled(found, x.shape[:2], x.dtype)


def _assembled(found: Mapping[Shape, Array], head: Shape, dtype: Any) -> Array:
    out = tuple(1 + max(p[axis] for p in found) for axis in range(len(next(iter(found)))))
    result = np.zeros((*head, *out), dtype)
    for p, part in found.items():
        result[(..., *p)] = part
    return result


def _max_pool_index(x: Array, y: Array, **attrs: Any) -> Array:
    size = math.prod(attrs["kernel"])
    found = {}
    for p, window in _windows(x.shape[2:], **attrs):
        index = np.full(x.shape[:2], size, np.int32)
        for flat, q in reversed(window):
            if is_inside(q, x.shape[2:]):
                index[x[(..., *q)] == y[(..., *p)]] = flat
        found[p] = index
    return _assembled(found, x.shape[:2], np.int32)


def _max_pool_gradient(dy: Array, index: Array, spatial: Shape, **attrs: Any) -> Array:
    dx = np.zeros((*dy.shape[:2], *spatial))
    for p, window in _windows(spatial, **attrs):
        for flat, q in window:
            if is_inside(q, spatial):
                dx[(..., *q)] += np.where(index[(..., *p)] == flat, dy[(..., *p)], 0)
    return dx


def _average_pool(x: Array, count_padding: bool, extra: Shape, **attrs: Any) -> Array:
    spatial, lo, hi = x.shape[2:], attrs["lo"], attrs["hi"]
    end = [e + b - c for e, b, c in zip(spatial, hi, extra or (0,) * len(hi), strict=True)]
    found = {}
    for p, window in _windows(spatial, **attrs):
        parts = [x[(..., *q)] for _, q in window if is_inside(q, spatial)]
        counted = (
            [q for _, q in window if is_inside(q, end, [-a for a in lo])]
            if count_padding
            else parts
        )
        found[p] = np.sum(parts, axis=0) / len(counted)
    return _assembled(found, x.shape[:2], x.dtype)


def _average_pool_gradient(dy: Array, spatial: Shape, **attrs: Any) -> Array:
    return adjoint_by_sample(lambda x: _average_pool(x, **attrs), (dy.shape[1], *spatial), dy)


def _im2col(x: Array, kernel: Shape, stride: Shape, dilation: Shape) -> Array:
    none = (0,) * len(kernel)
    parts = {
        p: np.stack([x[(..., *q)] for _, q in window], axis=-1)
        for p, window in _windows(x.shape[2:], kernel, stride, dilation, none, none)
    }
    y = _assembled(parts, (*x.shape[:2], math.prod(kernel)), x.dtype)
    return y.reshape(*x.shape[:2], *kernel, *y.shape[3:])


WINDOWS: dict[str, Callable[..., Any]] = {
    "conv": _conv,
    "conv_input_gradient": _conv_input_gradient,
    "conv_weight_gradient": _conv_weight_gradient,
    "max_pool": _max_pool,
    "max_pool_index": _max_pool_index,
    "max_pool_gradient": _max_pool_gradient,
    "average_pool": _average_pool,
    "average_pool_gradient": _average_pool_gradient,
    "windows": _im2col,
}
