"""ONNX's Pad, Expand, Tile and ConstantOfShape -> pad, broadcast and splat constants.

The contents of small values are followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from netloom.compiler import dim
from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import BOOL, INT64, TensorType, broadcast_shapes

from .context import Context
from .handler import HandlerTable
from .node import ModelNode
from .restriction import TooSmall, is_negative_somewhere
from .sizes import check_size, listed, numbers
from .slicing import sliced
from .tensors import NARROW
from .window import FIX_DIMS

PADDING: Final = HandlerTable()


@PADDING.on("Pad", last=10)
def pad_by_attributes(context: Context, node: ModelNode) -> Value:
    pads = node.integers("paddings" if node.opset < 2 else "pads")
    if pads is None:
        raise node.fault("attribute pads is missing.", "Export it again.")
    x = node.input(0)
    return _pad(context, node, x, pads, range(x.type.rank), node.number("value", 0.0))


@PADDING.on("Pad", first=11)
def pad_by_inputs(context: Context, node: ModelNode) -> Value:
    x, fill, axes = node.input(0), node.optional(2), node.optional(3)
    pads = context.extents(node.input(1), node, "pads")
    where = range(x.type.rank) if axes is None else context.integers(axes, node, "axes")
    is_known = fill is None or context.array(fill) is not None
    number = context.scalar(fill, node, "constant_value") if is_known else 0
    y = _pad(context, node, x, pads, where, 0 if number is None else number)
    if is_known or node.text("mode", "constant") != "constant":
        return y
    return _filled_around(context, node, y, (x, pads, where))


def _filled_around(
    context: Context,
    node: ModelNode,
    y: Value,
    padded: tuple[Value, Sequence[Extent], Sequence[int]],
) -> Value:
    """y, which was padded with zeros, with the number that the third input is there instead."""
    x, pads, where = padded
    fill = node.input(2)
    if fill.type.elements != 1:
        raise node.misshapen(
            f"constant_value is {fill.type}; one number is needed.", "Export it again."
        )
    inside = _pad(context, node, context.splat(True, BOOL, x.shape), pads, where, False)
    return context("select", inside, y, context.reshape(fill, ()))


def _pad(
    context: Context, node: ModelNode, x: Value, pads: Sequence[Extent], axes: Sequence[int],
    number: float,
) -> Value:  # fmt: skip
    mode = node.text("mode", "constant", ("constant", "reflect", "edge", "wrap"))
    if len(pads) != 2 * len(axes):
        raise node.fault(
            f"it has {len(pads)} pads for {len(axes)} axes; two for each are needed.",
            "Export it again.",
        )
    node.axes(axes, x.type.rank)
    lo: list[Extent] = [0] * x.type.rank
    hi: list[Extent] = [0] * x.type.rank
    for position, axis in enumerate(axes):
        where = node.axis(axis, x.type.rank)
        lo[where], hi[where] = pads[position], pads[position + len(axes)]
    added = [[dim.maximum(pad, 0) for pad in pads] for pads in (lo, hi)]
    removed = [
        [a - p for a, p in zip(*both, strict=True)] for both in zip(added, (lo, hi), strict=True)
    ]
    x = _cropped(context, node, x, *removed)
    lo, hi = added
    if not any(lo) and not any(hi):
        return x
    _check_reach(x, mode, lo, hi)
    if mode == "wrap":
        return _wrapped(context, x, lo, hi)
    check_size(
        TensorType(x.dtype, tuple(a + e + b for a, e, b in zip(lo, x.shape, hi, strict=True)))
    )
    below, above = numbers(lo), numbers(hi)
    if below is not None and above is not None:
        return context("pad", x, lo=below, hi=above, value=number, mode=mode)
    for axis, (low, high) in enumerate(zip(lo, hi, strict=True)):
        if low != 0 or high != 0:
            x = padded_axis(context, x, axis, (low, high), number, mode)
    return x


def padded_axis(
    context: Context, x: Value, axis: int, pads: tuple[Extent, Extent], number: float, mode: str
) -> Value:
    """By as many elements as free dims say: joined with them, or gathered."""
    extent = x.shape[axis]
    if mode == "constant":
        filled = [
            context.splat(number, x.dtype, (*x.shape[:axis], pad, *x.shape[axis + 1 :]))
            for pad in pads
        ]
        parts = [v for v in (filled[0], x, filled[1]) if v.shape[axis] != 0]
        return context("concat", *parts, axis=axis)
    places = context("iota", shape=(pads[0] + extent + pads[1],), axis=0, dtype=INT64)
    at = context("sub", places, context.extent_value(pads[0]))
    last = context.extent_value(extent - 1)
    if mode == "edge":
        at = context("max", context("min", at, last), 0)
    else:
        at = context("sub", last, context("abs", context("sub", last, context("abs", at))))
    return context("gather", x, at, axis=axis)


def _cropped(
    context: Context, node: ModelNode, x: Value, lo: Sequence[Extent], hi: Sequence[Extent]
) -> Value:
    """Elements cut off at both ends of each axis."""
    cuts: dict[int, tuple[Extent, Extent, int]] = {}
    for axis, extent in enumerate(x.shape):
        low, high = lo[axis], hi[axis]
        size = extent - low - high
        if is_negative_somewhere(context, size):
            message = f"its pads cut {low + high} elements off axis {axis} of {x.type}."
            hint = "Export it again, or give the free dim a range (dims=; --dim)."
            raise TooSmall(message, hint=hint, extent=size)
        if low != 0 or high != 0:
            cuts[axis] = (low, size, 1)
    return sliced(context, x, cuts) if cuts else x


def _check_reach(x: Value, mode: str, lo: Sequence[Extent], hi: Sequence[Extent]) -> None:
    """A mirror image is at most the input less one long; of an empty axis nothing can be repeated."""
    if mode == "constant":
        return
    for axis, extent in enumerate(x.shape):
        for pad in (lo[axis], hi[axis]):
            rest = extent - pad if mode == "reflect" else extent
            if pad != 0 and not dim.is_nonnegative(rest - 1):
                message = f"mode {mode} cannot pad axis {axis} of {x.type} by {pad}."
                hint = "Use smaller pads."
                raise TooSmall(message, hint=hint, extent=rest, fewest=1)


def _wrapped(context: Context, x: Value, lo: Sequence[Extent], hi: Sequence[Extent]) -> Value:
    """Repeated along each axis; where that is less than once, parts are joined."""
    for axis, extent in enumerate(x.shape):
        if not all(dim.is_nonnegative(extent - pad) for pad in (lo[axis], hi[axis])):
            x = context("gather", x, _turning(context, lo[axis], extent, hi[axis]), axis=axis)
            continue
        parts = []
        if lo[axis] != 0:
            parts.append(context.slice_axis(x, axis, x.shape[axis] - lo[axis], lo[axis]))
        parts.append(x)
        if hi[axis] != 0:
            parts.append(context.slice_axis(x, axis, 0, hi[axis]))
        x = context("concat", *parts, axis=axis) if len(parts) > 1 else x
    return x


def _turning(context: Context, before: Extent, extent: Extent, behind: Extent) -> Value:
    """The places 0 to ``extent`` less one over and over, so that ``before`` stand before a 0."""
    places = context("iota", shape=(before + extent + behind,), axis=0, dtype=INT64)
    size = context.extent_value(extent)
    rest = context("rem", context("sub", places, context.extent_value(before)), size)
    return context("rem", context("add", rest, size), size)


@PADDING.on("Expand", first=8)
def expand(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    wanted = context.extents(node.input(1), node, "the new shape")
    target = broadcast_shapes([x.shape, tuple(wanted)])
    if target is None or any(isinstance(extent, int) and extent < 0 for extent in wanted):
        raise node.misshapen(f"{x.type} does not broadcast to {listed(wanted)}.", FIX_DIMS)
    check_size(TensorType(x.dtype, target))
    if target == x.shape:
        return x
    value = context("broadcast", x, shape=target)
    static = numbers(target)
    if static is None:
        return value
    return context.learn(value, lambda a: np.broadcast_to(a, static), x)


@PADDING.on("Tile", last=5)
def tile_axis(context: Context, node: ModelNode) -> Value:
    """One axis, so many times."""
    x = node.input(0)
    times, at = (
        int(context.scalar(node.input(k), node, what)) for k, what in ((1, "tiles"), (2, "axis"))
    )
    if times < 0:
        raise node.misshapen(f"its tiles are {times}.", "Export it again.")
    where = node.axis(at, x.type.rank)
    return repeat(context, x, [times if axis == where else 1 for axis in range(x.type.rank)])


@PADDING.on("Tile", first=6)
def tile(context: Context, node: ModelNode) -> Value:
    """Each axis gets a new axis before it, which is broadcast and merged: [.., r, e, ..] -> [..,
    r * e, ..].
    """
    x = node.input(0)
    repeats = context.extents(node.input(1), node, "repeats")
    if len(repeats) != x.type.rank:
        raise node.misshapen(f"it has {len(repeats)} repeats for {x.type}.", "Export it again.")
    if any(isinstance(r, int) and r < 0 for r in repeats):
        raise node.misshapen(
            f"its repeats {listed(repeats)} include a negative number.", "Export it again."
        )
    return repeat(context, x, repeats)


def repeat(context: Context, x: Value, repeats: Sequence[Extent]) -> Value:
    """NumPy's tile."""
    final = tuple(r * e for r, e in zip(repeats, x.shape, strict=True))
    check_size(TensorType(x.dtype, final))
    if final == x.shape:
        return x
    split_shape: list[Extent] = []
    spread: list[Extent] = []
    for r, e in zip(repeats, x.shape, strict=True):
        split_shape += [e] if r == 1 else [1, e]
        spread += [e] if r == 1 else [r, e]
    wide = context("broadcast", context.reshape(x, split_shape), shape=tuple(spread))
    value = context.reshape(wide, final)
    counts = numbers(repeats)
    return value if counts is None else context.learn(value, lambda a: np.tile(a, counts), x)


@PADDING.on("ConstantOfShape", first=9)
def constant_of_shape(context: Context, node: ModelNode) -> Value:
    shape = context.extents(node.input(0), node, "the shape")
    if any(isinstance(extent, int) and extent < 0 for extent in shape):
        raise node.misshapen(
            f"the shape {listed(shape)} has a negative extent.", "Export it again."
        )
    tensor = node.tensor("value")
    if tensor is None:
        return _filled(context, np.zeros((), np.float32), shape)
    constant = context.reader.constant(tensor, f"the value of {node.title}")
    if constant.array.size != 1:
        raise node.fault(
            f"its value is {constant.type}; one element is needed.", "Export it again."
        )
    value = _filled(context, constant.array, shape)
    if tensor.data_type in NARROW:
        context.narrow[value] = NARROW[tensor.data_type]
    return value


def _filled(context: Context, number: np.ndarray, shape: tuple[Extent, ...]) -> Value:
    element = context.constant(number.reshape(()))
    return context.splat(number.reshape(()).item(), element.dtype, shape)
