"""Convolutions tile by tile: the five ops of an algorithm y = output(input(x) * filter(w)),
whatever its transforms.

A convolution of stride 1 is cut into tiles of m x k outputs. Along an axis with m outputs and r
taps a tile reads m + r - 1 inputs; an axis with one tap has m = 1. The transforms make E entries of
a tile, and the products of entries are matrix products. Shapes, with g groups and T = n tiles down
x tiles across: x [n, c, h, w]; V [E, g, T, c/g]; U [E, g, c/g, o/g]; M [E, g, T, o/g]; y [n, o, oh,
ow]. The gradient of the weights sums V * P over tiles, with P made of the tiles of dy.
``define_tiles`` makes the ops of one algorithm: NAME_input, NAME_output, NAME_output_gradient,
NAME_filter, NAME_filter_gradient.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from .. import dim
from ..dim import Extent
from ..op import Array, Infer, NotDifferentiable, Op, Reference, define
from ..tensor_type import TensorType

Pair: TypeAlias = tuple[int, int]  # one number down, one across
# filters that are transformed together: what they make stays in the cache, and the product that
# makes it is too small for a BLAS to start threads, which cost more
AT_ONCE = 768


@dataclass(frozen=True)
class TileAttrs:
    """``m``: outputs of a tile, ``taps``: of the kernel, both down and across."""

    m: Pair
    taps: Pair

    @property
    def inputs(self) -> Pair:
        """Inputs of a tile down and across."""
        return self.m[0] + self.taps[0] - 1, self.m[1] + self.taps[1] - 1

    def tiles(self, shape: Sequence[Extent]) -> tuple[Extent, Extent]:
        """Tiles down and across a result [n, o, oh, ow]."""
        return dim.ceil_div(shape[2], self.m[0]), dim.ceil_div(shape[3], self.m[1])


@dataclass(frozen=True)
class TileInputAttrs(TileAttrs):
    """``lo``: zeros before the input; ``counts``: tiles down and across."""

    lo: Pair
    counts: tuple[Extent, Extent]
    groups: int = 1


@dataclass(frozen=True)
class TileOutputAttrs(TileAttrs):
    """``shape``: that of the convolution's result, [n, o, oh, ow]."""

    shape: tuple[Extent, ...]


@dataclass(frozen=True)
class TileGradientAttrs(TileAttrs):
    """Of the output's gradient."""

    groups: int = 1


@dataclass(frozen=True)
class TileFilterAttrs(TileAttrs):
    """``is_flipped``: weights flipped along both axes, filters and channels exchanged, as the
    input's gradient wants them.
    """

    groups: int = 1
    is_flipped: bool = False


Transform: TypeAlias = Callable[[TileAttrs, Array], Array]


@dataclass(frozen=True)
class Algorithm:
    """The transforms in NumPy: ``input``, ``gradient`` and ``filter`` from the last two axes of an
    array to entries on its first axis, ``output`` and ``filter_gradient`` back. ``check`` raises
    ValueError for tiles that it has no transforms for; ``flops``: of a transform for each entry;
    ``doc``: what the five ops are, in the order of this file's first lines."""

    name: str
    doc: tuple[str, str, str, str, str]
    check: Callable[[TileAttrs], None]
    entries: Callable[[TileAttrs], int]
    flops: Callable[[TileAttrs], int]
    input: Transform
    output: Transform
    gradient: Transform
    filter: Transform
    filter_gradient: Transform


def define_tiles(algorithm: Algorithm) -> None:
    """Define the five ops of an algorithm. Their loops are in compiler/loops: a tile at a time,
    not an element.
    """
    ops = _Ops(algorithm)
    second = NotDifferentiable("strategies are chosen after differentiation")
    stages: tuple[tuple[str, Infer, Reference, type], ...] = (
        ("input", ops.input_infer, ops.input_reference, TileInputAttrs),
        ("output", ops.output_infer, ops.output_reference, TileOutputAttrs),
        ("output_gradient", ops.gradient_infer, ops.gradient_reference, TileGradientAttrs),
        ("filter", ops.filter_infer, ops.filter_reference, TileFilterAttrs),
        ("filter_gradient", ops.filter_gradient_infer, ops.filter_gradient_reference, TileAttrs),
    )
    for (stage, infer, reference, attrs), doc in zip(stages, algorithm.doc, strict=True):
        define(
            Op(
                f"{algorithm.name}_{stage}",
                doc,
                infer,
                reference,
                second,
                attrs,
                "transforms",
                flops=ops.flops,
            )
        )


def _per_group(extent: Extent, groups: int) -> Extent:
    if extent % groups != 0:
        raise ValueError(f"{groups} groups do not divide {extent}")
    return extent // groups


def _of_type(array: Array, kind: TensorType) -> Array:
    return np.ascontiguousarray(
        array.reshape(kind.static_shape).astype(kind.dtype.numpy, copy=False)
    )


def _grouped(entries: Array, groups: int, kind: TensorType) -> Array:
    """Entries [E, n, c, y, x] as [E, g, n y x, c/g]."""
    last = np.moveaxis(entries, 2, -1)
    split = last.reshape(len(entries), -1, groups, last.shape[-1] // groups)
    return _of_type(split.transpose(0, 2, 1, 3), kind)


@dataclass(frozen=True)
class _Ops:
    """Type rules and meanings of the ops of one algorithm."""

    algorithm: Algorithm

    def _check(self, attrs: TileAttrs, kind: TensorType, rank: int) -> int:
        """The entries of a tile."""
        if kind.rank != rank:
            raise ValueError(f"{kind} has {kind.rank} axes, not {rank}")
        if min(*attrs.m, *attrs.taps) < 1:
            raise ValueError(f"tiles of {attrs.m} outputs with {attrs.taps} taps")
        self.algorithm.check(attrs)
        return self.algorithm.entries(attrs)

    def input_infer(
        self, attrs: TileInputAttrs, inputs: Sequence[TensorType]
    ) -> Sequence[TensorType]:
        (x,) = inputs
        entries = self._check(attrs, x, 4)
        channels = _per_group(x.shape[1], attrs.groups)
        return [
            x.with_shape(
                (entries, attrs.groups, x.shape[0] * attrs.counts[0] * attrs.counts[1], channels)
            )
        ]

    def input_reference(
        self, attrs: TileInputAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
    ) -> Sequence[Array]:
        (x,) = inputs
        n, c, *spatial = x.shape
        # both: symbols are replaced by now
        counts = [count for count in attrs.counts if isinstance(count, int)]
        down, across = (
            m * (t - 1) + a for m, a, t in zip(attrs.m, attrs.inputs, counts, strict=True)
        )
        padded = np.zeros((n, c, down, across), x.dtype)
        kept = [min(e, p - lo) for e, p, lo in zip(spatial, (down, across), attrs.lo, strict=True)]
        padded[:, :, attrs.lo[0] : attrs.lo[0] + kept[0], attrs.lo[1] : attrs.lo[1] + kept[1]] = x[
            :, :, : kept[0], : kept[1]
        ]
        windows = np.lib.stride_tricks.sliding_window_view(padded, attrs.inputs, axis=(2, 3))
        entries = self.algorithm.input(attrs, windows[:, :, :: attrs.m[0], :: attrs.m[1]])
        return [_grouped(entries, attrs.groups, outputs[0])]

    def output_infer(
        self, attrs: TileOutputAttrs, inputs: Sequence[TensorType]
    ) -> Sequence[TensorType]:
        (product,) = inputs
        entries = self._check(attrs, product, 4)
        down, across = attrs.tiles(attrs.shape)
        filters = product.shape[1] * product.shape[3]
        if (product.shape[0], product.shape[2], filters) != (
            entries,
            attrs.shape[0] * down * across,
            attrs.shape[1],
        ):
            raise ValueError(f"the products {product} do not make the tiles of {list(attrs.shape)}")
        return [product.with_shape(attrs.shape)]

    def output_reference(
        self, attrs: TileOutputAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
    ) -> Sequence[Array]:
        (product,) = inputs
        n, o, oh, ow = outputs[0].static_shape
        th, tw = -(-oh // attrs.m[0]), -(-ow // attrs.m[1])
        entries = product.transpose(0, 2, 1, 3).reshape(len(product), n, th, tw, o)
        tiles = self.algorithm.output(attrs, entries)  # [n, th, tw, o, m, k]
        whole = tiles.transpose(0, 3, 1, 4, 2, 5).reshape(n, o, th * attrs.m[0], tw * attrs.m[1])
        return [_of_type(whole[:, :, :oh, :ow], outputs[0])]

    def gradient_infer(
        self, attrs: TileGradientAttrs, inputs: Sequence[TensorType]
    ) -> Sequence[TensorType]:
        (dy,) = inputs
        entries = self._check(attrs, dy, 4)
        down, across = attrs.tiles(dy.shape)
        return [
            dy.with_shape(
                (
                    entries,
                    attrs.groups,
                    dy.shape[0] * down * across,
                    _per_group(dy.shape[1], attrs.groups),
                )
            )
        ]

    def gradient_reference(
        self, attrs: TileGradientAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
    ) -> Sequence[Array]:
        (dy,) = inputs
        (m, k), (oh, ow) = attrs.m, dy.shape[2:]
        padded = np.pad(dy, [(0, 0), (0, 0), (0, -oh % m), (0, -ow % k)])
        tiles = padded.reshape(*dy.shape[:2], -(-oh // m), m, -(-ow // k), k).transpose(
            0, 1, 2, 4, 3, 5
        )
        return [_grouped(self.algorithm.gradient(attrs, tiles), attrs.groups, outputs[0])]

    def filter_infer(
        self, attrs: TileFilterAttrs, inputs: Sequence[TensorType]
    ) -> Sequence[TensorType]:
        (w,) = inputs
        entries = self._check(attrs, w, 4)
        if w.shape[2:] != attrs.taps:
            raise ValueError(f"weights {w} have no {attrs.taps} taps")
        filters = _per_group(w.shape[0], attrs.groups)
        rows, columns = (filters, w.shape[1]) if attrs.is_flipped else (w.shape[1], filters)
        return [w.with_shape((entries, attrs.groups, rows, columns))]

    def filter_reference(
        self, attrs: TileFilterAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
    ) -> Sequence[Array]:
        (w,) = inputs
        grouped = w.reshape(attrs.groups, -1, *w.shape[1:])
        taps = grouped[..., ::-1, ::-1] if attrs.is_flipped else grouped.transpose(0, 2, 1, 3, 4)
        made = np.empty(outputs[0].static_shape, outputs[0].dtype.numpy)  # [E, g, rows, columns]
        rows = max(1, AT_ONCE // max(1, made.shape[3]))

        def make(starts: range) -> None:
            with np.errstate(all="ignore"):  # each thread has its own; infinite weights are allowed
                for start in starts:
                    part = taps[:, start : start + rows].astype(np.float64)
                    made[:, :, start : start + rows] = self.algorithm.filter(attrs, part)

        # most of it is NumPy's work, which leaves the interpreter to another thread
        starts = range(0, made.shape[2], rows)
        threads = max(1, min(len(starts), len(os.sched_getaffinity(0))))
        with ThreadPoolExecutor(threads) as pool:
            deque(pool.map(make, (starts[place::threads] for place in range(threads))), maxlen=0)
        return [made]

    def filter_gradient_infer(
        self, attrs: TileAttrs, inputs: Sequence[TensorType]
    ) -> Sequence[TensorType]:
        (sums,) = inputs
        entries = self._check(attrs, sums, 4)
        if sums.shape[0] != entries:
            raise ValueError(f"{sums} does not hold the {entries} entries of a tile")
        return [sums.with_shape((sums.shape[1] * sums.shape[3], sums.shape[2], *attrs.taps))]

    def filter_gradient_reference(
        self, attrs: TileAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
    ) -> Sequence[Array]:
        (sums,) = inputs
        made = self.algorithm.filter_gradient(attrs, sums.astype(np.float64))  # [g, c/g, o/g, taps]
        return [_of_type(made.transpose(0, 2, 1, 3, 4), outputs[0])]

    def flops(
        self, attrs: TileAttrs, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
    ) -> Extent:
        is_forward = isinstance(attrs, TileInputAttrs | TileGradientAttrs | TileFilterAttrs)
        return self.algorithm.flops(attrs) * dim.product(
            (outputs if is_forward else inputs)[0].shape
        )
