"""The stages of Winograd's minimal filtering for 3x3 convolutions (Lavin and Gray, CVPR 2016, section 4).

A convolution of stride 1 is cut into tiles of m x m outputs; with a = m + 2, y = A' [(G w G') * (B' x B)] A for every tile.
The matrices follow from interpolation points by exact rationals: ``matrices(m)``. Shapes: x [n, c, h, w] already padded so
that h = m th + 2; V [a a, n th tw, c]; U [a a, c, o]; M [a a, n th tw, o]; y [n, o, oh, ow]. The gradient of the
weights is G' [sum over tiles of V * P] G with P = A dy A', the transpose of the last stage.
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


@dataclass(frozen=True)
class WinogradInputAttrs:
    """``m``: outputs of a tile along each axis; ``lo``: zeros before the input; ``tiles``: their number down and across."""

    m: int
    lo: tuple[int, int]
    tiles: tuple[int, int]


@dataclass(frozen=True)
class WinogradOutputAttrs:
    """``shape``: that of the convolution's result, [n, o, oh, ow]."""

    m: int
    shape: tuple[Extent, ...]


@dataclass(frozen=True)
class WinogradGradientAttrs:
    """``m``: outputs of a tile along each axis."""

    m: int


def _input_infer(attrs: WinogradInputAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    n, c = x.shape[:2]
    return [x.with_shape(((attrs.m + 2) ** 2, n * attrs.tiles[0] * attrs.tiles[1], c))]


def _input_reference(
    attrs: WinogradInputAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (x,) = inputs
    m, a = attrs.m, attrs.m + 2
    n, c, *spatial = x.shape
    padded = np.zeros((n, c, *(t * m + 2 for t in attrs.tiles)), x.dtype)
    kept = [min(e, p - lo) for e, p, lo in zip(spatial, padded.shape[2:], attrs.lo, strict=True)]
    padded[:, :, attrs.lo[0] : attrs.lo[0] + kept[0], attrs.lo[1] : attrs.lo[1] + kept[1]] = x[:, :, : kept[0], : kept[1]]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (a, a), axis=(2, 3))[:, :, ::m, ::m]
    back = matrices(m)[2].astype(x.dtype)
    transformed = np.einsum("ei,ncyxij,fj->efnyxc", back, windows, back)
    return [np.ascontiguousarray(transformed.reshape(outputs[0].static_shape))]


def _output_infer(attrs: WinogradOutputAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (product,) = inputs
    n, o, oh, ow = attrs.shape
    size, m = (attrs.m + 2) ** 2, attrs.m
    if product.shape != (size, n * dim.ceil_div(oh, m) * dim.ceil_div(ow, m), o):
        raise ValueError(f"the products do not make the tiles of {list(attrs.shape)}")
    return [product.with_shape(attrs.shape)]


def _output_reference(
    attrs: WinogradOutputAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (product,) = inputs
    n, o, oh, ow = outputs[0].static_shape
    m, a = attrs.m, attrs.m + 2
    th, tw = -(-oh // m), -(-ow // m)
    forward = matrices(m)[0].astype(product.dtype)
    tiles = np.einsum("ie,jf,efnyxo->noyixj", forward, forward, product.reshape(a, a, n, th, tw, o))
    whole = tiles.reshape(n, o, th * m, tw * m)
    return [np.ascontiguousarray(whole[:, :, :oh, :ow])]


@dataclass(frozen=True)
class WinogradFilterAttrs:
    """``is_turned``: weights turned by 180 degrees, filters and channels exchanged, as the input's gradient wants them."""

    m: int
    is_turned: bool = False


def _filter_infer(attrs: WinogradFilterAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (w,) = inputs
    if w.rank != 4 or w.shape[2:] != (3, 3):
        raise ValueError(f"weights are {w}, not 3 x 3")
    rows, columns = (w.shape[0], w.shape[1]) if attrs.is_turned else (w.shape[1], w.shape[0])
    return [w.with_shape(((attrs.m + 2) ** 2, rows, columns))]


def _filter_reference(
    attrs: WinogradFilterAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (w,) = inputs
    taps = w[:, :, ::-1, ::-1] if attrs.is_turned else w.transpose(1, 0, 2, 3)
    g = matrices(attrs.m)[1]
    made = np.einsum("ek,fl,rckl->efrc", g, g, taps.astype(np.float64))
    return [np.ascontiguousarray(made.reshape(outputs[0].static_shape).astype(w.dtype))]


def _filter_gradient_infer(attrs: WinogradGradientAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (product,) = inputs
    if product.rank != 3 or product.shape[0] != (attrs.m + 2) ** 2:
        raise ValueError(f"{product} holds no sums of {attrs.m + 2} x {attrs.m + 2} tiles")
    return [product.with_shape((product.shape[2], product.shape[1], 3, 3))]


def _filter_gradient_reference(
    attrs: WinogradGradientAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (product,) = inputs
    a = attrs.m + 2
    g = matrices(attrs.m)[1]
    sums = product.reshape(a, a, *product.shape[1:]).astype(np.float64)
    return [np.ascontiguousarray(np.einsum("ek,fl,efco->ockl", g, g, sums).astype(product.dtype))]


def tile_counts(m: int, shape: Sequence[Extent]) -> tuple[Extent, Extent]:
    """Tiles down and across a result [n, o, oh, ow]."""
    return dim.ceil_div(shape[2], m), dim.ceil_div(shape[3], m)


def _gradient_infer(attrs: WinogradGradientAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (dy,) = inputs
    down, across = tile_counts(attrs.m, dy.shape)
    return [dy.with_shape(((attrs.m + 2) ** 2, dy.shape[0] * down * across, dy.shape[1]))]


def _gradient_reference(
    attrs: WinogradGradientAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (dy,) = inputs
    m = attrs.m
    n, o, oh, ow = dy.shape
    padded = np.pad(dy, [(0, 0), (0, 0), (0, -oh % m), (0, -ow % m)])
    tiles = padded.reshape(n, o, -(-oh // m), m, -(-ow // m), m)
    forward = matrices(m)[0].astype(dy.dtype)
    transformed = np.einsum("ie,jf,noyixj->efnyxo", forward, forward, tiles)
    return [np.ascontiguousarray(transformed.reshape(outputs[0].static_shape))]


_SECOND = NotDifferentiable("strategies are chosen after differentiation")
# Their loops are loops/winograd.py: a tile at a time, not an element.
define(Op("winograd_input", "V = B' x B of every tile", _input_infer, _input_reference, _SECOND, WinogradInputAttrs,
          "transforms", flops=lambda a, i, o: 4 * o[0].elements * (a.m + 2)))  # fmt: skip
define(Op("winograd_output", "y = A' M A of every tile", _output_infer, _output_reference, _SECOND, WinogradOutputAttrs,
          "transforms", flops=lambda a, i, o: 4 * o[0].elements * (a.m + 2)))  # fmt: skip
define(Op("winograd_output_gradient", "P = A dy A' of every tile", _gradient_infer, _gradient_reference, _SECOND,
          WinogradGradientAttrs, "transforms", flops=lambda a, i, o: 4 * o[0].elements * (a.m + 2)))  # fmt: skip
define(Op("winograd_filter", "U = G w G' of every filter and channel", _filter_infer, _filter_reference, _SECOND,
          WinogradFilterAttrs, "transforms", flops=lambda a, i, o: 4 * o[0].elements * 3))  # fmt: skip
define(Op("winograd_filter_gradient", "dw = G' dU G", _filter_gradient_infer, _filter_gradient_reference, _SECOND,
          WinogradGradientAttrs, "transforms", flops=lambda a, i, o: 4 * i[0].elements * 3))  # fmt: skip


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
