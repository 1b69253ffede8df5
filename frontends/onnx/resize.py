"""Resize and Upsample -> for each axis a weighted sum of gathers at indices computed here.

The output element at position i of an axis lies at a coordinate of the input, and mixes the elements near it: one
(nearest), two (linear) or four (cubic, Keys 1981). Beyond the edge the last element is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value

from .context import Context
from .handler import HandlerTable
from .node import ModelNode
from .window import FIX_DIMS

RESIZE: Final = HandlerTable()

Positions = npt.NDArray[np.float64]

COORDINATES: Final = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
                      "tf_half_pixel_for_nn")  # fmt: skip
ROUNDING: Final[dict[str, Callable[[Positions], Positions]]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@dataclass(frozen=True)
class Sampling:
    """How coordinates are computed and neighbours are mixed."""

    mode: str
    coordinates: str
    rounding: str = "floor"
    cubic: float = -0.75
    exclude_outside: bool = False


@RESIZE.on("Upsample", last=8)
def upsample_by_attribute(context: Context, node: ModelNode) -> Value:
    scales = node.numbers("scales")
    if scales is None:
        raise node.unsupported("scales are missing (opset 1 has others).", "Convert the model to opset 9 or later.")
    return _scaled(context, node, scales, _legacy(node))


@RESIZE.on("Upsample", first=9, last=9)
def upsample(context: Context, node: ModelNode) -> Value:
    return _scaled(context, node, _numbers(context, node, node.input(1)), _legacy(node))


@RESIZE.on("Resize", first=10, last=10)
def resize_by_scales(context: Context, node: ModelNode) -> Value:
    return _scaled(context, node, _numbers(context, node, node.input(1)), _legacy(node))


def _legacy(node: ModelNode) -> Sampling:
    return Sampling(node.text("mode", "nearest", ("nearest", "linear")), "asymmetric")


def _numbers(context: Context, node: ModelNode, value: Value) -> list[float]:
    array = context.array(value)
    if array is None:
        raise node.unsupported("its scales are computed from data.", FIX_DIMS)
    return [float(number) for number in array.reshape(-1)]


def _scaled(context: Context, node: ModelNode, scales: Sequence[float], sampling: Sampling) -> Value:
    x = node.input(0)
    _check_length(node, "scales", scales, x.type.rank)
    for axis, scale in enumerate(scales):
        x = _resample(context, node, x, axis, scale, None, sampling)
    return x


@RESIZE.on("Resize", first=11)
def resize(context: Context, node: ModelNode) -> Value:
    """Scales or sizes, for all axes or those listed."""
    x, scales, sizes = node.input(0), node.optional(2), node.optional(3)
    if node.opset >= 18 and node.flag("antialias", False):
        raise node.unsupported("antialias is not supported.", "Export without antialias.")
    policy = node.text("keep_aspect_ratio_policy", "stretch") if node.opset >= 18 else "stretch"
    if policy != "stretch":
        raise node.unsupported(f"keep_aspect_ratio_policy {policy!r} is not supported.", "Give the sizes themselves.")
    sampling = Sampling(
        node.text("mode", "nearest", ("nearest", "linear", "cubic")),
        node.text("coordinate_transformation_mode", "half_pixel", COORDINATES),
        node.text("nearest_mode", "round_prefer_floor", tuple(ROUNDING)),
        node.number("cubic_coeff_a", -0.75),
        node.flag("exclude_outside", False),
    )
    axes = (node.integers("axes") if node.opset >= 18 else None) or tuple(range(x.type.rank))
    node.axes(axes, x.type.rank)
    factors = _numbers(context, node, scales) if scales is not None and scales.shape != (0,) else None
    targets = context.extents(sizes, node, "sizes") if sizes is not None and sizes.shape != (0,) else None
    if (factors is None) == (targets is None):
        raise node.fault("exactly one of scales and sizes is needed.", "Export it again.")
    _check_length(node, "scales or sizes", factors or targets or (), len(axes))
    for position, axis in enumerate(axes):
        where = node.axis(axis, x.type.rank)
        if factors is not None:
            x = _resample(context, node, x, where, factors[position], None, sampling)
        elif targets is not None:
            x = _resample(context, node, x, where, 0.0, targets[position], sampling)
    return x


def _check_length(node: ModelNode, what: str, values: Sequence[Any], count: int) -> None:
    if len(values) != count:
        raise node.fault(f"it has {len(values)} {what} for {count} axes.", "Export it again.")


def _resample(
    context: Context, node: ModelNode, x: Value, axis: int, scale: float, size: Extent | None, sampling: Sampling
) -> Value:
    """One axis resized, by a factor or to a size."""
    extent = x.shape[axis]
    if size == extent or (size is None and scale == 1):
        return x
    if size is None and not (math.isfinite(scale) and 0 < scale < 1 << 31):
        raise node.fault(f"a scale is {scale}; it must be positive.", "Export it again.")
    if not isinstance(extent, int) or not (size is None or isinstance(size, int)):
        raise node.unsupported(f"it resizes axis {axis}, the free dim {extent}.", FIX_DIMS)
    count = math.floor(extent * scale) if size is None else size
    if count < 1 or extent < 1:
        raise node.misshapen(f"axis {axis} of {x.type} would get {count} elements.", "Export it again.")
    if count > 1 << 31:
        raise node.misshapen(f"axis {axis} of {x.type} would get {count} elements.", "Use a smaller scale.")
    positions = _coordinates(sampling, extent, count, count / extent if size is not None else scale)
    taps = _taps(sampling, positions, extent)
    return _mixed(context, x, axis, taps)


def _coordinates(sampling: Sampling, extent: int, count: int, scale: float) -> Positions:
    """Where each output element lies in the input."""
    i = np.arange(count, dtype=np.float64)
    match sampling.coordinates:
        case "asymmetric":
            return np.asarray(i / scale)
        case "align_corners":
            return np.asarray(i * (extent - 1) / (count - 1)) if count > 1 else i
        case "pytorch_half_pixel" if count == 1:
            return np.zeros(1)
        case "tf_half_pixel_for_nn":
            return np.asarray((i + 0.5) / scale)
        case "half_pixel_symmetric":
            adjustment = count / (scale * extent)
            return np.asarray(extent / 2 * (1 - adjustment) + (i + 0.5) / scale - 0.5)
        case _:
            return np.asarray((i + 0.5) / scale - 0.5)


def _taps(sampling: Sampling, positions: Positions, extent: int) -> list[tuple[npt.NDArray[np.int64], Positions]]:
    """(indices, weights) of each neighbour."""
    if sampling.mode == "nearest":
        nearest = ROUNDING[sampling.rounding](positions)
        return [(np.clip(nearest, 0, extent - 1).astype(np.int64), np.ones_like(positions))]
    base = np.floor(positions)
    t = positions - base
    if sampling.mode == "linear":
        offsets, weights = [0, 1], [1 - t, t]
    else:
        a = sampling.cubic
        offsets, weights = [-1, 0, 1, 2], [_keys(t + 1, a), _keys(t, a), _keys(1 - t, a), _keys(2 - t, a)]
    raw = [base + offset for offset in offsets]
    if sampling.exclude_outside:
        weights = [np.where((p >= 0) & (p < extent), w, 0.0) for p, w in zip(raw, weights, strict=True)]
        total = sum(weights)
        weights = [w / total for w in weights]
    return [(np.clip(p, 0, extent - 1).astype(np.int64), w) for p, w in zip(raw, weights, strict=True)]


def _keys(distance: Positions, a: float) -> Positions:
    """Keys' cubic convolution kernel: equation 4 within 1, its outer part up to 2."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.asarray(np.where(distance <= 1, near, far))


def _mixed(context: Context, x: Value, axis: int, taps: Sequence[tuple[npt.NDArray[np.int64], Positions]]) -> Value:
    total: Value | None = None
    for indices, weights in taps:
        part = _taken(context, x, axis, indices)
        if len(taps) > 1:
            factor = context.constant(weights.reshape(-1, *(1,) * (x.type.rank - axis - 1)), x.dtype)
            part = context("mul", part, factor)
        total = part if total is None else context("add", total, part)
    assert total is not None
    return total


def _taken(context: Context, x: Value, axis: int, indices: npt.NDArray[np.int64]) -> Value:
    """x at indices along an axis; a whole repetition of each element is a broadcast."""
    extent, count = x.shape[axis], len(indices)
    assert isinstance(extent, int)
    if count % extent == 0 and np.array_equal(indices, np.arange(count) // (count // extent)):
        before, after = x.shape[: axis + 1], x.shape[axis + 1 :]
        wide = context("broadcast", context.reshape(x, (*before, 1, *after)), shape=(*before, count // extent, *after))
        return context.reshape(wide, (*x.shape[:axis], count, *after))
    return context("gather", x, context.constant(indices), axis=axis)
