"""The stages of Winograd's convolution, from interpolation at its points."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from .reference import Array, Shape
from .windows import is_inside

_POINTS = [0.0, 1.0, -1.0, 2.0, -0.5, -2.0, 0.5]  # as many as needed, and infinity


def _points(m: int, taps: int) -> list[float]:
    return _POINTS[: m + taps - 2]


def _input(x: Array, m: Shape, taps: Shape, lo: Shape, counts: Shape, groups: int) -> Array:
    """Row e of B' holds the coefficients of the polynomial that is zero at all points but e."""
    backs = [_back(*axis) for axis in zip(m, taps, strict=True)]
    (a, b), c = map(len, backs), x.shape[1]
    found = np.zeros((a, b, len(x), *counts, c))
    for n, ty, tx, i, j in product(range(len(x)), *map(range, counts), range(a), range(b)):
        q = (ty * m[0] + i - lo[0], tx * m[1] + j - lo[1])
        if is_inside(q, x.shape[2:]):
            found[:, :, n, ty, tx] += np.multiply.outer(
                np.outer(backs[0][:, i], backs[1][:, j]), x[(n, slice(None), *q)]
            )
    return grouped(found, groups)


def _back(m: int, taps: int) -> Array:
    points = _points(m, taps)
    back = np.zeros((m + taps - 1,) * 2)
    for row, roots in zip(
        back, [*([q for q in points if q != p] for p in points), points], strict=True
    ):
        row[: len(roots) + 1] = np.polynomial.polynomial.polyfromroots(roots)
    return back


def grouped(tiles: Array, groups: int) -> Array:
    """[a, b, n, y, x, channels] as [a b, g, n y x, channels of a group]."""
    flat = tiles.reshape(tiles.shape[0] * tiles.shape[1], -1, groups, tiles.shape[-1] // groups)
    return flat.swapaxes(1, 2)


def _powers(m: int, taps: int) -> Array:
    """A' [m, points]: column e holds the powers of point e; that of infinity, the highest
    coefficient.
    """
    return np.array([[*(p**i for p in _points(m, taps)), float(i == m - 1)] for i in range(m)])


def _output(products: Array, m: Shape, taps: Shape, shape: Shape) -> Array:
    down, across = (_powers(*axis) for axis in zip(m, taps, strict=True))
    n, o, height, width = shape
    tiles = products.swapaxes(1, 2).reshape(
        down.shape[1], across.shape[1], n, -(-height // m[0]), -(-width // m[1]), o
    )
    y = np.zeros(shape)
    for h, w in product(range(height), range(width)):
        y[:, :, h, w] = np.einsum(
            "e,f,efno->no", down[h % m[0]], across[w % m[1]], tiles[:, :, :, h // m[0], w // m[1]]
        )
    return y


def _fused(x: Array, u: Array, m: Shape, taps: Shape, lo: Shape, shape: Shape) -> Array:
    counts = (-(-shape[2] // m[0]), -(-shape[3] // m[1]))
    return _output(_input(x, m, taps, lo, counts, 1) @ u, m, taps, shape)


def _output_gradient(dy: Array, m: Shape, taps: Shape, groups: int) -> Array:
    """The adjoint of the output's transform: each dy goes to its tile, at every point."""
    down, across = (_powers(*axis) for axis in zip(m, taps, strict=True))
    n, o, height, width = dy.shape
    tiles = np.zeros((down.shape[1], across.shape[1], n, -(-height // m[0]), -(-width // m[1]), o))
    for h, w in product(range(height), range(width)):
        at = tiles[:, :, :, h // m[0], w // m[1]]
        at += np.einsum("e,f,no->efno", down[h % m[0]], across[w % m[1]], dy[:, :, h, w])
    return grouped(tiles, groups)


def _filter(w: Array, m: Shape, taps: Shape, groups: int, is_flipped: bool) -> Array:
    """Each filter as a polynomial at every point, by Lagrange's scale; at infinity its highest
    coefficient.
    """
    parts = []
    for part in np.split(w, groups):
        flipped = np.flip(part, (2, 3)).swapaxes(0, 1) if is_flipped else part
        u = sum(
            np.multiply.outer(
                np.outer(_lagrange(m[0], taps[0], i), _lagrange(m[1], taps[1], j)),
                flipped[:, :, i, j].T,
            )
            for i, j in product(*map(range, taps))
        )
        parts.append(np.asarray(u).reshape(-1, *flipped.shape[1::-1]))
    return np.stack(parts, axis=1)


def _lagrange(m: int, taps: int, k: int) -> Array:
    """What the k-th tap contributes at every point."""
    points = _points(m, taps)
    scales = [math.prod(p - q for q in points if q != p) for p in points]
    return np.array(
        [*(p**k / scale for p, scale in zip(points, scales, strict=True)), float(k == taps - 1)]
    )


def _filter_gradient(du: Array, m: Shape, taps: Shape) -> Array:
    """By pairs of a filter and a channel, the adjoint of the filters' transform."""
    _, groups, channels, filters = du.shape
    dw = np.zeros((groups * filters, channels, *taps))
    for k in np.ndindex(*taps):
        unit = np.zeros((1, 1, *taps))
        unit[(0, 0, *k)] = 1
        row = _filter(unit, m, taps, 1, is_flipped=False)[:, 0, 0, 0]
        dw[(..., *k)] = np.einsum("e,egco->goc", row, du).reshape(groups * filters, channels)
    return dw


WINOGRAD: dict[str, Callable[..., Any]] = {
    "winograd_input": _input,
    "winograd_output": _output,
    "winograd_fused": _fused,
    "winograd_output_gradient": _output_gradient,
    "winograd_filter": _filter,
    "winograd_filter_gradient": _filter_gradient,
}
