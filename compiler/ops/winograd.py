"""The stages of Winograd's minimal filtering (Lavin and Gray, CVPR 2016, section 4) for kernels of r x s taps.

A convolution of stride 1 is cut into tiles of m x k outputs. Along an axis with m outputs and r taps a tile reads
a = m + r - 1 inputs, and y = A' [(G w) * (B' x)] with matrices that follow from a - 1 interpolation points (and infinity) by
exact rationals: ``matrices(m, r)``. In two dimensions both axes have such matrices; an axis with one tap has m = a = 1.
Shapes, with E = a b the entries of a tile, g groups and T = n tiles down x tiles across: x [n, c, h, w];
V [E, g, T, c/g]; U [E, g, c/g, o/g]; M [E, g, T, o/g]; y [n, o, oh, ow]. The gradient of the weights is
G' [sum over tiles of V * P] G with P = A dy A', the transpose of the last stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import prod
from typing import TypeAlias

import numpy as np

from .. import dim
from ..dim import Extent
from ..op import Array, NotDifferentiable, Op, define
from ..tensor_type import TensorType

Pair: TypeAlias = tuple[int, int]  # one number down, one across

POINTS = tuple(map(Fraction, ("0", "1", "-1", "2", "-1/2", "-2", "1/2")))  # the first a - 1 of them, and infinity
LARGEST = len(POINTS) + 1  # inputs of a tile along an axis


@cache
def matrices(m: int, r: int) -> tuple[Array, Array, Array]:
    """(A' [m, a], G [a, r], B' [a, a]) in float64 for m outputs and r taps, a = m + r - 1."""
    a = m + r - 1
    points = POINTS[: a - 1]
    evaluate_y = [[p**i for p in points] + [Fraction(int(i == m - 1))] for i in range(m)]
    scales = [_product(p - q for q in points if q != p) for p in points]
    filter_rows = [[p**j / scale for j in range(r)] for p, scale in zip(points, scales, strict=True)]
    filter_rows.append([Fraction(int(j == r - 1)) for j in range(r)])
    input_rows = [_polynomial([q for q in points if q != p], a) for p in points] + [_polynomial(points, a)]
    return _array(evaluate_y), _array(filter_rows), _array(input_rows)


def _product(factors: Iterable[Fraction]) -> Fraction:
    return prod(factors, start=Fraction(1))


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
class WinogradAttrs:
    """``m``: outputs of a tile, ``taps``: of the kernel, both down and across."""

    m: Pair
    taps: Pair

    @property
    def inputs(self) -> Pair:
        """Inputs of a tile down and across."""
        return self.m[0] + self.taps[0] - 1, self.m[1] + self.taps[1] - 1

    @property
    def entries(self) -> int:
        return prod(self.inputs)

    def matrices(self, which: int) -> tuple[Array, Array]:
        """A', G or B' (0, 1, 2) down and across."""
        down, across = (matrices(m, r)[which] for m, r in zip(self.m, self.taps, strict=True))
        return down, across

    def tiles(self, shape: Sequence[Extent]) -> tuple[Extent, Extent]:
        """Tiles down and across a result [n, o, oh, ow]."""
        return dim.ceil_div(shape[2], self.m[0]), dim.ceil_div(shape[3], self.m[1])


@dataclass(frozen=True)
class WinogradInputAttrs(WinogradAttrs):
    """``lo``: zeros before the input; ``counts``: tiles down and across."""

    lo: Pair
    counts: tuple[Extent, Extent]
    groups: int = 1


@dataclass(frozen=True)
class WinogradOutputAttrs(WinogradAttrs):
    """``shape``: that of the convolution's result, [n, o, oh, ow]."""

    shape: tuple[Extent, ...]


@dataclass(frozen=True)
class WinogradGradientAttrs(WinogradAttrs):
    """Of the output's gradient."""

    groups: int = 1


@dataclass(frozen=True)
class WinogradFilterAttrs(WinogradAttrs):
    """``is_turned``: weights turned by 180 degrees, filters and channels exchanged, as the input's gradient wants them."""

    groups: int = 1
    is_turned: bool = False


def _check(attrs: WinogradAttrs, kind: TensorType, rank: int) -> None:
    if kind.rank != rank:
        raise ValueError(f"{kind} has {kind.rank} axes, not {rank}")
    if min(*attrs.m, *attrs.taps) < 1 or max(attrs.inputs) > LARGEST:
        raise ValueError(f"tiles of {attrs.m} outputs with {attrs.taps} taps; at most {LARGEST} inputs along an axis")


def _per_group(extent: Extent, groups: int) -> Extent:
    if extent % groups != 0:
        raise ValueError(f"{groups} groups do not divide {extent}")
    return extent // groups


def _input_infer(attrs: WinogradInputAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    _check(attrs, x, 4)
    channels = _per_group(x.shape[1], attrs.groups)
    return [x.with_shape((attrs.entries, attrs.groups, x.shape[0] * attrs.counts[0] * attrs.counts[1], channels))]


def _input_reference(attrs: WinogradInputAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]) -> Sequence[Array]:
    (x,) = inputs
    n, c, *spatial = x.shape
    counts = [count for count in attrs.counts if isinstance(count, int)]  # both: symbols are replaced by now
    down, across = (m * (t - 1) + a for m, a, t in zip(attrs.m, attrs.inputs, counts, strict=True))
    padded = np.zeros((n, c, down, across), x.dtype)
    kept = [min(e, p - lo) for e, p, lo in zip(spatial, (down, across), attrs.lo, strict=True)]
    padded[:, :, attrs.lo[0] : attrs.lo[0] + kept[0], attrs.lo[1] : attrs.lo[1] + kept[1]] = x[:, :, : kept[0], : kept[1]]
    windows = np.lib.stride_tricks.sliding_window_view(padded, attrs.inputs, axis=(2, 3))
    return [_transformed(windows[:, :, :: attrs.m[0], :: attrs.m[1]], attrs.matrices(2), attrs.groups, outputs[0])]


def _transformed(windows: Array, pair: tuple[Array, Array], groups: int, kind: TensorType) -> Array:
    """Windows [n, c, y, x, i, j] by matrices down and across, as [E, g, n y x, c/g]."""
    down, across = (matrix.astype(windows.dtype) for matrix in pair)
    made = np.einsum("ei,ncyxij,fj->efnyxc", down, windows, across)
    split = made.reshape(len(down) * len(across), -1, groups, made.shape[-1] // groups)
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3).reshape(kind.static_shape))


def _output_infer(attrs: WinogradOutputAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (product,) = inputs
    _check(attrs, product, 4)
    down, across = attrs.tiles(attrs.shape)
    filters = product.shape[1] * product.shape[3]
    if (product.shape[0], product.shape[2], filters) != (attrs.entries, attrs.shape[0] * down * across, attrs.shape[1]):
        raise ValueError(f"the products {product} do not make the tiles of {list(attrs.shape)}")
    return [product.with_shape(attrs.shape)]


def _output_reference(
    attrs: WinogradOutputAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (product,) = inputs
    n, o, oh, ow = outputs[0].static_shape
    th, tw = -(-oh // attrs.m[0]), -(-ow // attrs.m[1])
    down, across = (matrix.astype(product.dtype) for matrix in attrs.matrices(0))
    entries = product.transpose(0, 2, 1, 3).reshape(*attrs.inputs, n, th, tw, o)
    whole = np.einsum("ie,jf,efnyxo->noyixj", down, across, entries).reshape(n, o, th * attrs.m[0], tw * attrs.m[1])
    return [np.ascontiguousarray(whole[:, :, :oh, :ow])]


def _gradient_infer(attrs: WinogradGradientAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (dy,) = inputs
    _check(attrs, dy, 4)
    down, across = attrs.tiles(dy.shape)
    return [dy.with_shape((attrs.entries, attrs.groups, dy.shape[0] * down * across, _per_group(dy.shape[1], attrs.groups)))]


def _gradient_reference(
    attrs: WinogradGradientAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (dy,) = inputs
    (m, k), (oh, ow) = attrs.m, dy.shape[2:]
    padded = np.pad(dy, [(0, 0), (0, 0), (0, -oh % m), (0, -ow % k)])
    tiles = padded.reshape(*dy.shape[:2], -(-oh // m), m, -(-ow // k), k).transpose(0, 1, 2, 4, 3, 5)
    down, across = attrs.matrices(0)
    return [_transformed(tiles, (down.T, across.T), attrs.groups, outputs[0])]


def _filter_infer(attrs: WinogradFilterAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (w,) = inputs
    _check(attrs, w, 4)
    if w.shape[2:] != attrs.taps:
        raise ValueError(f"weights {w} have no {attrs.taps} taps")
    filters = _per_group(w.shape[0], attrs.groups)
    rows, columns = (filters, w.shape[1]) if attrs.is_turned else (w.shape[1], filters)
    return [w.with_shape((attrs.entries, attrs.groups, rows, columns))]


def _filter_reference(
    attrs: WinogradFilterAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (w,) = inputs
    grouped = w.reshape(attrs.groups, -1, *w.shape[1:]).astype(np.float64)
    taps = grouped[..., ::-1, ::-1] if attrs.is_turned else grouped.transpose(0, 2, 1, 3, 4)
    down, across = attrs.matrices(1)
    made = np.einsum("ek,fl,grckl->efgrc", down, across, taps)
    return [np.ascontiguousarray(made.reshape(outputs[0].static_shape).astype(w.dtype))]


def _filter_gradient_infer(attrs: WinogradAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (sums,) = inputs
    _check(attrs, sums, 4)
    if sums.shape[0] != attrs.entries:
        raise ValueError(f"{sums} does not hold the {attrs.entries} entries of a tile")
    return [sums.with_shape((sums.shape[1] * sums.shape[3], sums.shape[2], *attrs.taps))]


def _filter_gradient_reference(
    attrs: WinogradAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (sums,) = inputs
    down, across = attrs.matrices(1)
    entries = sums.reshape(*attrs.inputs, *sums.shape[1:]).astype(np.float64)
    made = np.einsum("ek,fl,efgco->gockl", down, across, entries)
    return [np.ascontiguousarray(made.reshape(outputs[0].static_shape).astype(sums.dtype))]


def _flops(attrs: WinogradAttrs, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Extent:
    """About one multiply-add for each entry of a tile and each pass."""
    return 4 * max(attrs.inputs) * dim.product((inputs if inputs[0].shape[0] == attrs.entries else outputs)[0].shape)


_SECOND = NotDifferentiable("strategies are chosen after differentiation")
# Their loops are loops/winograd.py: a tile at a time, not an element.
define(Op("winograd_input", "V = B' x B of every tile", _input_infer, _input_reference, _SECOND, WinogradInputAttrs,
          "transforms", flops=_flops))  # fmt: skip
define(Op("winograd_output", "y = A' M A of every tile", _output_infer, _output_reference, _SECOND, WinogradOutputAttrs,
          "transforms", flops=_flops))  # fmt: skip
define(Op("winograd_output_gradient", "P = A dy A' of every tile", _gradient_infer, _gradient_reference, _SECOND,
          WinogradGradientAttrs, "transforms", flops=_flops))  # fmt: skip
define(Op("winograd_filter", "U = G w G' of every filter and channel", _filter_infer, _filter_reference, _SECOND,
          WinogradFilterAttrs, "transforms", flops=_flops))  # fmt: skip
define(Op("winograd_filter_gradient", "dw = G' dU G", _filter_gradient_infer, _filter_gradient_reference, _SECOND,
          WinogradAttrs, "transforms", flops=_flops))  # fmt: skip
