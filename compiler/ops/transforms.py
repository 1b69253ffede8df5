"""The stages of Winograd's minimal filtering for 3x3 convolutions (Lavin and Gray, CVPR 2016, section 4).

A convolution of stride 1 is cut into tiles of m x m outputs; with a = m + 2, y = A' [(G w G') * (B' x B)] A for every tile.
The matrices follow from interpolation points by exact rationals: ``matrices(m)``. Shapes: x [n, c, h, w] already padded so
that h = m th + 2; V [a a, n th tw, c]; U [a a, c, o]; M [a a, n th tw, o]; y [n, o, oh, ow].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from .. import dim
from ..dim import Extent
from ..op import Array, Compute, NotDifferentiable, Op, Read, define
from ..scalar import Expr
from ..tensor_type import TensorType

_POINTS = {2: (0, 1, -1), 4: (0, 1, -1, 2, Fraction(-1, 2))}  # and infinity


@cache
def matrices(m: int) -> tuple[Array, Array, Array]:
    """(A' [m, a], G [a, 3], B' [a, a]) in float64, a = m + 2."""
    points = [Fraction(p) for p in _POINTS[m]]
    a = m + 2
    evaluate_y = [[p**i for p in points] + [Fraction(int(i == m - 1))] for i in range(m)]
    scales = [_product(p - q for q in points if q != p) for p in points]
    filter_rows = [[p**j / scale for j in range(3)] for p, scale in zip(points, scales, strict=True)]
    filter_rows.append([Fraction(0), Fraction(0), Fraction(1)])
    input_rows = [_polynomial([q for q in points if q != p], a) for p in points] + [_polynomial(points, a)]
    return _array(evaluate_y), _array(filter_rows), _array(input_rows)


def _product(factors: object) -> Fraction:
    total = Fraction(1)
    for factor in factors:  # type: ignore[attr-defined]
        total *= factor
    return total


def _polynomial(roots: Sequence[Fraction], length: int) -> list[Fraction]:
    """Coefficients of the product of (x - root), lowest first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [s - root * c for s, c in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return coefficients + [Fraction(0)] * (length - len(coefficients))


def _array(rows: Sequence[Sequence[Fraction]]) -> Array:
    return np.asarray([[float(entry) for entry in row] for row in rows])


def square(matrix: Array) -> Array:
    """The matrix applied to both axes of a tile, as one matrix over the flattened tile."""
    return np.kron(matrix, matrix)


@dataclass(frozen=True)
class WinogradAttrs:
    """``m``: outputs of a tile along each axis."""

    m: int


@dataclass(frozen=True)
class WinogradOutputAttrs:
    """``shape``: that of the convolution's result, [n, o, oh, ow]."""

    m: int
    shape: tuple[Extent, ...]


def _tiles(attrs: WinogradAttrs, x: TensorType) -> tuple[Extent, Extent]:
    h, w = x.shape[2:]
    if (h - 2) % attrs.m != 0 or (w - 2) % attrs.m != 0:
        raise ValueError(f"{h} x {w} is not a whole number of tiles of {attrs.m}")
    return (h - 2) // attrs.m, (w - 2) // attrs.m


def _input_infer(attrs: WinogradAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    x, matrix = inputs
    th, tw = _tiles(attrs, x)
    size = (attrs.m + 2) ** 2
    if matrix.shape != (size, size):
        raise ValueError(f"the transform must be [{size}, {size}]")
    return [x.with_shape((size, x.shape[0], th, tw, x.shape[1]))]


def _input_reference(attrs: WinogradAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]) -> Sequence[Array]:
    x, matrix = inputs
    m, a = attrs.m, attrs.m + 2
    windows = np.lib.stride_tricks.sliding_window_view(x, (a, a), axis=(2, 3))[:, :, ::m, ::m]
    flat = windows.transpose(0, 2, 3, 1, 4, 5).reshape(*outputs[0].static_shape[1:], a * a)
    return [np.ascontiguousarray(np.moveaxis(flat @ matrix.T, -1, 0))]


def _input_compute(attrs: WinogradAttrs, _i: Sequence[TensorType], _o: Sequence[TensorType]) -> Compute:
    m, a = attrs.m, attrs.m + 2

    def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
        e, n, ty, tx, c = i
        return read(0, (n, c, ty * m + r[0], tx * m + r[1])) * read(1, (e, r[0] * a + r[1]))

    return Compute(term, (a, a))


def _output_infer(attrs: WinogradOutputAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    product, matrix = inputs
    n, o, oh, ow = attrs.shape
    size, m = (attrs.m + 2) ** 2, attrs.m
    if product.shape != (size, n, dim.ceil_div(oh, m), dim.ceil_div(ow, m), o) or matrix.shape != (m * m, size):
        raise ValueError(f"the products do not make the tiles of {list(attrs.shape)}")
    return [product.with_shape(attrs.shape)]


def _output_reference(
    attrs: WinogradOutputAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    product, matrix = inputs
    n, o, oh, ow = outputs[0].static_shape
    _, _, th, tw, _ = product.shape
    tiles = np.tensordot(matrix, product, ([1], [0])).reshape(attrs.m, attrs.m, n, th, tw, o)
    whole = tiles.transpose(2, 5, 3, 0, 4, 1).reshape(n, o, th * attrs.m, tw * attrs.m)
    return [np.ascontiguousarray(whole[:, :, :oh, :ow])]


def _output_compute(attrs: WinogradOutputAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]) -> Compute:
    m = attrs.m

    def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
        n, o, y, x = i
        return read(0, (r[0], n, y // m, x // m, o)) * read(1, ((y % m) * m + x % m, r[0]))

    return Compute(term, (inputs[0].shape[0],))


_SECOND = NotDifferentiable("strategies are chosen after differentiation")
define(Op("winograd_input", "V = (B' x B) of every tile", _input_infer, _input_reference, _SECOND, WinogradAttrs,
          "transforms", _input_compute, flops=lambda a, i, o: 2 * o[0].elements * (a.m + 2) ** 2))  # fmt: skip
define(Op("winograd_output", "y = A' M A of every tile", _output_infer, _output_reference, _SECOND, WinogradOutputAttrs,
          "transforms", _output_compute, flops=lambda a, i, o: 2 * o[0].elements * (a.m + 2) ** 2))  # fmt: skip


@dataclass(frozen=True)
class WindowsAttrs:
    """One entry per spatial axis of an input that is padded already."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


def _windows_infer(attrs: WindowsAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    out = []
    for e, k, s, d in zip(x.shape[2:], attrs.kernel, attrs.stride, attrs.dilation, strict=True):
        extent = (e - (k - 1) * d - 1) // s + 1
        if isinstance(extent, int) and extent < 1:
            raise ValueError(f"a kernel of {k} does not fit into {e} elements")
        out.append(extent)
    return [x.with_shape((*x.shape[:2], *attrs.kernel, *out))]


def _windows_reference(attrs: WindowsAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]) -> Sequence[Array]:
    (x,) = inputs
    result = np.empty(outputs[0].static_shape, x.dtype)
    out = outputs[0].static_shape[2 + len(attrs.kernel) :]
    for k in np.ndindex(*attrs.kernel):
        where = tuple(slice(i * d, i * d + (e - 1) * s + 1, s) for i, d, s, e in
                      zip(k, attrs.dilation, attrs.stride, out, strict=True))  # fmt: skip
        result[(slice(None), slice(None), *k)] = x[(slice(None), slice(None), *where)]
    return [result]


def _windows_compute(attrs: WindowsAttrs, _i: Sequence[TensorType], _o: Sequence[TensorType]) -> Compute:
    rank = len(attrs.kernel)

    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        k, p = i[2 : 2 + rank], i[2 + rank :]
        at = [p[a] * attrs.stride[a] + k[a] * attrs.dilation[a] for a in range(rank)]
        return read(0, (*i[:2], *at))

    return Compute(term)


define(Op("windows", "y[n, c, k, p] = x[n, c, p s + k d]: im2col", _windows_infer, _windows_reference, _SECOND,
          WindowsAttrs, "transforms", _windows_compute))  # fmt: skip
