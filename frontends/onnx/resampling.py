"""One axis resized -> a weighted sum of gathers, or a product with a matrix (antialias).

The output element at position i of an axis lies at a coordinate of the input, and mixes the
elements near it: one (nearest), two (linear) or four (cubic, Keys 1981). Beyond the edge the last
element is repeated. Coordinates are computed by nodes, which vanish at import unless the axis is a
free dim: in float64, but in float32 for the nearest element, because scales are float32 numbers (8 /
1.6 is 5 there, and less in float64).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from netloom.compiler import dim
from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, INT64, DType

from .context import Context
from .folding import MOST_FOLDED
from .node import ModelNode
from .window import FIX_DIMS

Positions = npt.NDArray[np.float64]
REPEATING: Final = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "asymmetric")
MOST_ANTIALIASED: Final = 1 << 24  # elements of an antialiasing matrix
SMALLEST: Final = 1.0 / (1 << 20)  # difference of sums of integers


def cut(context: Context, y: Value, dtype: DType) -> Value:
    """Sums of neighbours in a dtype; integers are cut. What float64 leaves of 9 may be 8.999: it
    counts as 9 within a millionth.
    """
    if y.dtype.is_float and dtype.is_integer:
        y = context("mul", context("round", context("mul", y, 1 / SMALLEST)), SMALLEST)
    return context.cast(y, dtype)


@dataclass(frozen=True)
class Sampling:
    """How coordinates are computed and neighbours are mixed."""

    mode: str
    coordinates: str
    rounding: str = "floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False

    @property
    def dtype(self) -> DType:
        """That of coordinates."""
        return FLOAT32 if self.mode == "nearest" else FLOAT64


@dataclass(frozen=True)
class Axis:
    """One axis to resize: its number, its extents before and after, and their ratio (None: that of
    the extents).

    ``region`` is the part that tf_crop_and_resize takes, from 0 to 1.
    """

    number: int
    extent: Extent
    count: Extent
    scale: float | None
    region: tuple[float, float] = (0.0, 1.0)


def resample(context: Context, node: ModelNode, x: Value, axis: Axis, sampling: Sampling) -> Value:
    """One axis resized."""
    is_whole = sampling.coordinates != "tf_crop_and_resize" or axis.region == (0.0, 1.0)
    if is_whole and axis.count == axis.extent and axis.scale in (None, 1):
        return x
    for size in (axis.count, axis.extent):
        if isinstance(size, int) and not 1 <= size < 1 << 31:
            raise node.misshapen(
                f"axis {axis.number} of {x.type} would get {axis.count} elements.",
                "Use another scale.",
            )
    if sampling.antialias and sampling.mode != "nearest":
        return _antialiased(context, node, x, axis, sampling)
    if repeats := _repeats(axis, sampling):
        return repeated(context, x, axis.number, repeats)
    at = _coordinates(context, sampling, axis)
    total: Value | None = None
    for index, weight in _taps(context, sampling, at, axis.extent):
        part = context("gather", x, index, axis=axis.number)
        if weight is not None:
            part = context(
                "mul",
                part,
                context.per_channel(context.cast(weight, x.dtype), x.type.rank, axis.number),
            )
        total = part if total is None else context("add", total, part)
    assert total is not None
    return total


def _repeats(axis: Axis, sampling: Sampling) -> int:
    """How often each element is repeated, if that is all: with a whole scale, wherever
    coordinates round to i / scale.
    """
    repeats = round(axis.scale) if axis.scale is not None else 0
    if axis.scale is None and isinstance(axis.count, int) and isinstance(axis.extent, int):
        repeats = axis.count // axis.extent
    is_exact = repeats > 0 and axis.count == axis.extent * repeats and axis.scale in (None, repeats)
    if not is_exact or sampling.mode != "nearest" or sampling.coordinates not in REPEATING:
        return 0
    i = np.arange(repeats)
    at = i / repeats if sampling.coordinates == "asymmetric" else (i + 0.5) / repeats - 0.5
    rounded = {"round_prefer_floor": np.ceil(at - 0.5), "round_prefer_ceil": np.floor(at + 0.5), "floor": np.floor(at),
               "ceil": np.ceil(at)}[sampling.rounding]  # fmt: skip
    return repeats if not rounded.any() else 0


def repeated(context: Context, x: Value, axis: int, repeats: int) -> Value:
    """Each entry of an axis so many times, NumPy's repeat."""
    before, after = x.shape[: axis + 1], x.shape[axis + 1 :]
    wide = context(
        "broadcast", context.reshape(x, (*before, 1, *after)), shape=(*before, repeats, *after)
    )
    return context.reshape(wide, (*x.shape[:axis], x.shape[axis] * repeats, *after))


# -- coordinates and neighbours --------------------------------------------------------------------


def _coordinates(context: Context, sampling: Sampling, axis: Axis) -> Value:
    """Where each output element lies in the input, [count]."""
    count, extent = (
        context.cast(context.extent_value(e), sampling.dtype) for e in (axis.count, axis.extent)
    )
    scale = (
        context("div", count, extent)
        if axis.scale is None
        else context.number(axis.scale, sampling.dtype)
    )
    i = _steps(context, axis.count, sampling.dtype)
    half = context("sub", context("div", context("add", i, 0.5), scale), 0.5)
    match sampling.coordinates:
        case "asymmetric":
            return context("div", i, scale)
        case "align_corners":
            return _between(context, i, axis, (0.0, 1.0)) if axis.count != 1 else i
        case "pytorch_half_pixel" if axis.count == 1:
            return context("mul", i, 0.0)
        case "tf_half_pixel_for_nn":
            return context("add", half, 0.5)
        case "half_pixel_symmetric":
            adjustment = context("div", count, context("mul", scale, extent))
            offset = context(
                "mul",
                context("mul", extent, 0.5),
                context("sub", context.number(1.0, sampling.dtype), adjustment),
            )
            return context("add", half, offset)
        case "tf_crop_and_resize":
            return _between(context, i, axis, axis.region)
        case _:
            return half


def _steps(context: Context, count: Extent, dtype: DType) -> Value:
    """0, 1, .. [count]; of very many they are made while the program runs."""
    if isinstance(count, int) and count <= MOST_FOLDED:
        return context.constant(np.arange(count, dtype=dtype.numpy))
    return context("iota", shape=(count,), axis=0, dtype=dtype)


def _between(context: Context, i: Value, axis: Axis, region: tuple[float, float]) -> Value:
    """From the first to the last element of a region, both included; the middle if there is one
    step only.
    """
    last = context.cast(context.extent_value(axis.extent - 1), i.dtype)
    if axis.count == 1:
        return context("add", i, context("mul", last, (region[0] + region[1]) / 2))
    steps = context.cast(context.extent_value(dim.maximum(axis.count - 1, 1)), i.dtype)
    part = context("mul", context("div", context("mul", i, last), steps), region[1] - region[0])
    return context("add", part, context("mul", last, region[0]))


def _taps(
    context: Context, sampling: Sampling, at: Value, extent: Extent
) -> list[tuple[Value, Value | None]]:
    """(indices, weights) of each neighbour; no weights for one neighbour alone."""
    last = context.extent_value(extent - 1)
    if sampling.mode == "nearest":
        return [(_clamped(context, _rounded(context, sampling.rounding, at), last), None)]
    base = context("floor", at)
    t = context("sub", at, base)
    rest = context("sub", context.number(1.0, FLOAT64), t)
    if sampling.mode == "linear":
        offsets: tuple[float, ...] = (0.0, 1.0)
        weights = [rest, t]
    else:
        offsets = (-1.0, 0.0, 1.0, 2.0)
        distances = (context("add", t, 1.0), t, rest, context("add", rest, 1.0))
        weights = [
            _keys(context, distance, sampling.cubic, k in (0, 3))
            for k, distance in enumerate(distances)
        ]
    raw = [context("add", base, offset) for offset in offsets]
    if sampling.exclude_outside:
        weights = _inside_only(context, raw, weights, context.cast(last, FLOAT64))
    return [(_clamped(context, p, last), w) for p, w in zip(raw, weights, strict=True)]


def _rounded(context: Context, rounding: str, at: Value) -> Value:
    match rounding:
        case "round_prefer_floor":
            return context("ceil", context("sub", at, 0.5))
        case "round_prefer_ceil":
            return context("floor", context("add", at, 0.5))
        case _:
            return context(rounding, at)


def _clamped(context: Context, at: Value, last: Value) -> Value:
    return context("max", context("min", context.cast(at, INT64), last), 0)


def _inside_only(
    context: Context, places: Sequence[Value], weights: Sequence[Value], last: Value
) -> list[Value]:
    """No weight outside; the others add up to 1."""
    kept = []
    for place, weight in zip(places, weights, strict=True):
        is_inside = context(
            "and",
            context("less_equal", context.number(0.0, FLOAT64), place),
            context("less_equal", place, last),
        )
        kept.append(context("select", is_inside, weight, 0.0))
    total = kept[0]
    for weight in kept[1:]:
        total = context("add", total, weight)
    return [context("div", weight, total) for weight in kept]


def _keys(context: Context, distance: Value, a: float, is_outer: bool) -> Value:
    """Keys' cubic convolution kernel: equation 4 within 1, its outer part up to 2."""
    factors = (a, -5 * a, 8 * a, -4 * a) if is_outer else (a + 2, -(a + 3), 0.0, 1.0)
    value = context("mul", distance, factors[0])
    for factor in factors[1:-1]:
        value = context("mul", context("add", value, factor), distance)
    return context("add", value, factors[-1])


# -- antialias -------------------------------------------------------------------------------------


def _antialiased(
    context: Context, node: ModelNode, x: Value, axis: Axis, sampling: Sampling
) -> Value:
    """A product with a constant matrix: when shrinking, the kernel is stretched over all
    elements that shrink into one.
    """
    if not (isinstance(axis.extent, int) and isinstance(axis.count, int)):
        raise node.unsupported(
            f"it resizes axis {axis.number}, the free dim {axis.extent}, with antialias.", FIX_DIMS
        )
    if axis.extent * axis.count > MOST_ANTIALIASED:
        raise node.unsupported(
            f"it resizes {axis.extent} elements to {axis.count} with antialias.",
            "Export without antialias.",
        )
    at = context.array(_coordinates(context, sampling, axis))
    if at is None:
        raise node.unsupported(
            f"it resizes {axis.extent} elements to {axis.count} with antialias.",
            "Export without antialias.",
        )
    matrix = _filter_matrix(
        at, axis.extent, min(axis.scale or axis.count / axis.extent, 1.0), sampling
    )
    order = [k for k in range(x.type.rank) if k != axis.number] + [axis.number]
    moved = context.transpose(x, order)
    rows = context.reshape(moved, (dim.product(moved.shape[:-1]), axis.extent))
    out = context.reshape(
        context("matmul", rows, context.constant(matrix, x.dtype)), (*moved.shape[:-1], axis.count)
    )
    return context.transpose(out, [order.index(k) for k in range(x.type.rank)])


def _filter_matrix(at: Positions, extent: int, scale: float, sampling: Sampling) -> Positions:
    """[extent, count]: the weight of each input element in each output element; columns add up
    to 1.
    """
    support = (1.0 if sampling.mode == "linear" else 2.0) / scale
    matrix = np.zeros((extent, len(at)))
    for column, center in enumerate(at):
        places = np.arange(math.floor(center - support) + 1, math.ceil(center + support))
        weights = _kernel(np.abs(places - center) * scale, sampling)
        if sampling.exclude_outside:
            weights = np.where((places >= 0) & (places < extent), weights, 0.0)
        np.add.at(matrix[:, column], np.clip(places, 0, extent - 1), weights / weights.sum())
    return matrix


def _kernel(distance: Positions, sampling: Sampling) -> Positions:
    """The triangle, or Keys' cubic kernel."""
    if sampling.mode == "linear":
        return np.asarray(np.maximum(1.0 - distance, 0.0))
    a = sampling.cubic
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.asarray(np.where(distance <= 1, near, np.where(distance < 2, far, 0.0)))


def extrapolated(
    context: Context, node: ModelNode, x: Value, axes: Sequence[Axis], sampling: Sampling
) -> Value:
    """A number wherever an axis's coordinate lies outside the input."""
    number = context.number(node.number("extrapolation_value", 0.0), x.dtype)
    for axis in axes:
        at = _coordinates(context, sampling, axis)
        last = context.cast(context.extent_value(axis.extent - 1), sampling.dtype)
        is_inside = context(
            "and",
            context("less_equal", context.number(0.0, sampling.dtype), at),
            context("less_equal", at, last),
        )
        x = context("select", context.per_channel(is_inside, x.type.rank, axis.number), x, number)
    return x
