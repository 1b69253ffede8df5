"""Resize and Upsample -> each axis sampled at new places (resampling.py).

This file reads the attributes of all opsets as axes with an extent, a count and a scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Final

import numpy as np

from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT32, FLOAT64

from .context import Context
from .handler import HandlerTable
from .node import ModelNode
from .resampling import Axis, Sampling, cut, extrapolated, resample
from .window import FIX_DIMS

RESIZE: Final = HandlerTable()

COORDINATES: Final = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
                      "tf_half_pixel_for_nn", "tf_crop_and_resize")  # fmt: skip
ROUNDING: Final = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SIMPLEST: Final = 1 << 10  # the largest denominator of a scale of a free dim


@RESIZE.on("Upsample", last=6)
def upsample_of_images(context: Context, node: ModelNode) -> Value:
    """[n, c, h, w] by height_scale and width_scale."""
    if node.input(0).type.rank != 4:
        raise node.misshapen(f"its input is {node.input(0).type}; images [n, c, h, w] are needed.")
    scales = (1.0, 1.0, *(node.number(f"{name}_scale", 1.0) for name in ("height", "width")))
    mode = node.text("mode", "nearest", ("nearest", "bilinear"))
    sampling = Sampling("linear" if mode == "bilinear" else mode, "asymmetric")
    return _scaled(context, node, scales, sampling)


@RESIZE.on("Upsample", first=7, last=8)
def upsample_by_attribute(context: Context, node: ModelNode) -> Value:
    scales = node.numbers("scales")
    if scales is None:
        raise node.fault("attribute scales is missing.", "Export it again.")
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


def _scaled(
    context: Context, node: ModelNode, scales: Sequence[float], sampling: Sampling
) -> Value:
    """Before opset 11: the nearest element is that before, of an axis that shrinks that after."""
    x = node.input(0)
    _check_length(node, "scales", scales, x.type.rank)
    y = _real(context, x, sampling)
    for number, scale in enumerate(scales):
        own = replace(sampling, rounding="floor" if scale >= 1 else "ceil")
        y = resample(context, node, y, _by_scale(node, x, number, scale), own)
    return _rounded(context, y, x, sampling)


def _real(context: Context, x: Value, sampling: Sampling) -> Value:
    """x in what its elements are mixed in: floats of 32 bits at least, of integers 64."""
    if sampling.mode == "nearest" or x.dtype in (FLOAT32, FLOAT64):
        return x
    return context.cast(x, FLOAT32 if x.dtype.is_float else FLOAT64)


def _rounded(context: Context, y: Value, x: Value, sampling: Sampling) -> Value:
    """y in the dtype of x: integers are cut, as ONNX Runtime has it where it mixes two neighbours,
    else rounded.
    """
    if sampling.mode == "linear" and not sampling.antialias:
        return cut(context, y, x.dtype)
    if y.dtype.is_float and x.dtype.is_integer:
        y = context("round", y)
    return context.cast(y, x.dtype)


@RESIZE.on("Resize", first=11)
def resize(context: Context, node: ModelNode) -> Value:
    """Scales or sizes, for all axes or those listed."""
    x = node.input(0)
    sampling = Sampling(
        node.text("mode", "nearest", ("nearest", "linear", "cubic")),
        node.text("coordinate_transformation_mode", "half_pixel", COORDINATES),
        node.text("nearest_mode", "round_prefer_floor", ROUNDING),
        node.number("cubic_coeff_a", -0.75),
        node.flag("exclude_outside", False),
        node.opset >= 18 and node.flag("antialias", False),
    )
    listed = (node.integers("axes") if node.opset >= 18 else None) or tuple(range(x.type.rank))
    node.axes(listed, x.type.rank)
    axes = _axes(context, node, [node.axis(axis, x.type.rank) for axis in listed])
    is_cropped = sampling.coordinates == "tf_crop_and_resize"
    if is_cropped:
        axes = _with_regions(context, node, axes)
    y = _real(context, x, sampling)
    for axis in axes:
        y = resample(context, node, y, axis, sampling)
    y = extrapolated(context, node, y, axes, sampling) if is_cropped else y
    return _rounded(context, y, x, sampling)


def _axes(context: Context, node: ModelNode, numbers: Sequence[int]) -> list[Axis]:
    """The axes to resize, by scales or to sizes."""
    x, scales, sizes = node.input(0), node.optional(2), node.optional(3)
    factors = (
        _numbers(context, node, scales) if scales is not None and scales.shape != (0,) else None
    )
    targets = (
        context.extents(sizes, node, "sizes") if sizes is not None and sizes.shape != (0,) else None
    )
    if (factors is None) == (targets is None):
        raise node.fault("exactly one of scales and sizes is needed.", "Export it again.")
    _check_length(node, "scales or sizes", factors or targets or (), len(numbers))
    if factors is not None:
        return [
            _by_scale(node, x, number, scale)
            for number, scale in zip(numbers, factors, strict=True)
        ]
    assert targets is not None
    return _by_sizes(node, x, numbers, targets)


def _by_sizes(
    node: ModelNode, x: Value, numbers: Sequence[int], targets: Sequence[Extent]
) -> list[Axis]:
    """Each axis to its size; where the aspect ratio is kept, all by the least or largest ratio."""
    policy = "stretch"
    if node.opset >= 18:
        policy = node.text(
            "keep_aspect_ratio_policy", policy, ("stretch", "not_larger", "not_smaller")
        )
    if policy == "stretch":
        return [
            Axis(number, x.shape[number], size, None)
            for number, size in zip(numbers, targets, strict=True)
        ]
    extents = [extent for number in numbers if isinstance(extent := x.shape[number], int)]
    sizes = [size for size in targets if isinstance(size, int)]
    if len(extents) < len(numbers) or len(sizes) < len(targets) or 0 in extents:
        raise node.unsupported(f"{policy} depends on a free dim.", FIX_DIMS)
    ratios = [size / extent for extent, size in zip(extents, sizes, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [
        Axis(number, extent, math.floor(extent * scale + 0.5), scale)
        for number, extent in zip(numbers, extents, strict=True)
    ]


def _check_length(node: ModelNode, what: str, values: Sequence[Any], count: int) -> None:
    if len(values) != count:
        raise node.fault(f"it has {len(values)} {what} for {count} axes.", "Export it again.")


def _by_scale(node: ModelNode, x: Value, number: int, scale: float) -> Axis:
    """floor(extent * scale), in float32 as everywhere; of a free dim, with the scale as a simple
    fraction.
    """
    if not (math.isfinite(scale) and 0 < scale < 1 << 31):
        raise node.fault(f"a scale is {scale}; it must be positive.", "Export it again.")
    extent = x.shape[number]
    if isinstance(extent, int):
        return Axis(number, extent, math.floor(np.float32(extent) * np.float32(scale)), scale)
    ratio = Fraction(scale).limit_denominator(SIMPLEST)
    if np.float32(ratio.numerator / ratio.denominator) != np.float32(scale):
        raise node.unsupported(
            f"it scales the free dim {extent} by {scale}, which is no simple fraction.", FIX_DIMS
        )
    return Axis(number, extent, extent * ratio.numerator // ratio.denominator, scale)


def _with_regions(context: Context, node: ModelNode, axes: Sequence[Axis]) -> list[Axis]:
    """The input roi: where each axis starts, then where each ends."""
    regions = _numbers(context, node, node.input(1))
    _check_length(node, "ends of regions", regions, 2 * len(axes))
    return [
        replace(axis, region=(regions[k], regions[k + len(axes)])) for k, axis in enumerate(axes)
    ]
