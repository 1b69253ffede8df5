"""ONNX's ops on shapes -> reshape, transpose, slice, pad, concat, broadcast; their contents are
followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from netloom.compiler import dim
from netloom.compiler.dim import Extent, product
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import TensorType, broadcast_shapes

from .context import Context, check_size, numbers
from .data_slices import slice_by_data
from .handler import HandlerTable
from .node import ModelNode
from .restriction import TooSmall
from .window import FIX_DIMS

SHAPE: Final = HandlerTable()


# -- reshapes --------------------------------------------------------------------------------------


@SHAPE.on("Reshape")
def reshape(context: Context, node: ModelNode) -> Value:
    """0 copies the extent (unless allowzero), -1 takes the rest."""
    x = node.input(0)
    if node.opset < 5:
        wanted: tuple[Extent, ...] = node.integers("shape") or ()
    else:
        wanted = context.extents(node.input(1), node, "the new shape")
    shape = _resolved(node, x, wanted, not node.flag("allowzero", False))
    total = product(shape)
    if isinstance(total, int) and isinstance(x.type.elements, int) and total != x.type.elements:
        raise node.misshapen(
            f"{x.type} has {x.type.elements} elements and cannot become {_listed(shape)} ({total}).",
            "Is a batch size written into the model? Fix it with dims= (--dim).",
        )
    return context.reshape(x, shape)


def _resolved(
    node: ModelNode, x: Value, wanted: Sequence[Extent], copies_zero: bool
) -> tuple[Extent, ...]:
    shape: list[Extent] = []
    for axis, extent in enumerate(wanted):
        if extent == 0 and copies_zero:
            if axis >= x.type.rank:
                raise node.misshapen(
                    f"its new shape {_listed(wanted)} copies axis {axis}, which {x.type} lacks."
                )
            extent = x.shape[axis]
        if isinstance(extent, int) and extent < -1:
            raise node.misshapen(
                f"its new shape {_listed(wanted)} has a negative extent.", "Export it again."
            )
        shape.append(extent)
    unknown = [axis for axis, extent in enumerate(shape) if extent == -1]
    if len(unknown) > 1:
        raise node.misshapen(
            f"its new shape {_listed(wanted)} has several entries -1.", "Keep one."
        )
    if unknown:
        shape[unknown[0]] = _rest(node, x, [e for e in shape if e != -1])
    return tuple(shape)


def _rest(node: ModelNode, x: Value, others: Sequence[Extent]) -> Extent:
    rest = dim.exact_quotient(x.type.elements, product(list(others)))
    if rest is None:
        is_static = x.type.is_static and all(isinstance(extent, int) for extent in others)
        kind = node.misshapen if is_static else node.unsupported
        raise kind(
            f"{x.type} cannot be divided into {_listed([*others, -1])}.",
            FIX_DIMS if not is_static else "Is a batch size written into the model?",
        )
    return rest


def _listed(shape: Sequence[Extent]) -> str:
    return f"[{', '.join(map(str, shape))}]"


@SHAPE.on("Flatten")
def flatten(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    axis = node.integer("axis", 1)
    axis = axis if axis == x.type.rank else node.axis(axis, max(x.type.rank, 1)) if axis else 0
    return context.reshape(x, (product(x.shape[:axis]), product(x.shape[axis:])))


def _listed_axes(context: Context, node: ModelNode) -> tuple[int, ...] | None:
    """Axes from the attribute (before opset 13) or the second input."""
    if node.opset < 13:
        return node.integers("axes")
    axes = node.optional(1)
    return None if axes is None else context.integers(axes, node, "the list of axes")


@SHAPE.on("Squeeze")
def squeeze(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    given = _listed_axes(context, node)
    axes = (
        node.axes(given, x.type.rank)
        if given is not None
        else tuple(a for a, e in enumerate(x.shape) if e == 1)
    )
    for axis in axes:
        if x.shape[axis] != 1:
            raise node.misshapen(
                f"axis {axis} of {x.type} is not 1 and cannot be squeezed.", "Export it again."
            )
    return context.reshape(
        x, tuple(extent for axis, extent in enumerate(x.shape) if axis not in axes)
    )


@SHAPE.on("Unsqueeze")
def unsqueeze(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    given = _listed_axes(context, node)
    if given is None:
        raise node.fault("axes are missing.", "Export it again.")
    axes = node.axes(given, x.type.rank + len(given))
    rest = iter(x.shape)
    return context.reshape(
        x, tuple(1 if axis in axes else next(rest) for axis in range(x.type.rank + len(axes)))
    )


@SHAPE.on("Shape")
def shape(context: Context, node: ModelNode) -> Value:
    extents = node.input(0).shape
    start, end = (
        (node.integer("start", 0), node.integer("end", len(extents)))
        if node.opset >= 15
        else (0, None)
    )
    return context.extents_value(extents[slice(start, end)])


@SHAPE.on("Transpose")
def transpose(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    permutation = node.integers("perm")
    if permutation is None:
        permutation = tuple(reversed(range(x.type.rank)))
    if sorted(permutation) != list(range(x.type.rank)):
        raise node.fault(f"attribute perm is {list(permutation)}, no permutation of {x.type.rank} axes.",
                         "Export it again.")  # fmt: skip
    return context.transpose(x, permutation)


# -- parts and joins -------------------------------------------------------------------------------


@SHAPE.on("Concat")
def concat(context: Context, node: ModelNode) -> Value:
    values = node.present
    default = 1 if node.opset < 4 else None
    if default is None and "axis" not in node.attributes:
        raise node.fault("attribute axis is missing.", "Export it again.")
    axis = node.axis(node.integer("axis", 1), values[0].type.rank)
    whole = [value for value in values if value.shape[axis] != 0] or values[:1]
    if len(whole) == 1:
        return whole[0]
    value = context("concat", *whole, axis=axis)
    return context.learn(value, lambda *parts: np.concatenate(parts, axis), *whole)


@SHAPE.on("Split")
def split(context: Context, node: ModelNode) -> list[Value | None]:
    x = node.input(0)
    axis = node.axis(node.integer("axis", 0), x.type.rank)
    sizes = _split_sizes(context, node, x.shape[axis])
    total = sum(sizes[1:], sizes[0])
    if len(sizes) != len(node.outputs) or total != x.shape[axis]:
        raise node.misshapen(f"{x.type} has no {len(node.outputs)} parts {_listed(sizes)} along axis {axis}.",
                             "Export it again.")  # fmt: skip
    parts: list[Value | None] = []
    start: Extent = 0
    for size in sizes:
        parts.append(_sliced(context, x, {axis: (start, size, 1)}))
        start = start + size
    return parts


def _split_sizes(context: Context, node: ModelNode, extent: Extent) -> list[Extent]:
    count = len(node.outputs)
    given: Sequence[Extent] | None = node.integers("split")
    sizes = node.optional(1)
    if sizes is not None:
        given = context.extents(sizes, node, "the sizes of the parts")
    if given:
        if any(isinstance(size, int) and size < 0 for size in given):
            raise node.misshapen(
                f"its parts {_listed(given)} include a negative size.", "Export it again."
            )
        return list(given)
    if node.opset >= 18:
        if node.integer("num_outputs", count) != count:
            raise node.fault(
                f"num_outputs is {node.integer('num_outputs', count)}, but it has {count} outputs."
            )
        each = dim.ceil_div(extent, count)
        return [each] * (count - 1) + [extent - each * (count - 1)]
    each_exact = dim.exact_quotient(extent, count)
    if each_exact is None:
        raise node.misshapen(
            f"an extent of {extent} has no {count} equal parts.", "Give the sizes of the parts."
        )
    return [each_exact] * count


def _sliced(context: Context, x: Value, axes: dict[int, tuple[Extent, Extent, int]]) -> Value:
    """axis -> (start, size, step); the others whole. Contents are sliced too."""
    start: list[Extent] = [0] * x.type.rank
    size, step = list(x.shape), [1] * x.type.rank
    for axis, (first, count, stride) in axes.items():
        start[axis], size[axis], step[axis] = first, count, stride
    value = context.slice(x, start, size, step)
    starts, sizes = numbers(start), numbers(size)
    if value is x or starts is None or sizes is None or context.contents(x) is None:
        return value
    picks = [
        [first + i * stride for i in range(count)]
        for first, count, stride in zip(starts, sizes, step, strict=True)
    ]
    return context.learn(value, lambda a: a[np.ix_(*picks)] if picks else a, x)


@SHAPE.on("Slice", last=9)
def slice_by_attributes(context: Context, node: ModelNode) -> Value:
    starts, ends = node.integers("starts"), node.integers("ends")
    if starts is None or ends is None:
        raise node.fault("starts and ends are needed.", "Export it again.")
    axes = node.integers("axes") or tuple(range(len(starts)))
    return _slice(context, node, starts, ends, axes, (1,) * len(starts))


@SHAPE.on("Slice", first=10)
def slice_by_inputs(context: Context, node: ModelNode) -> Value:
    starts, ends = node.input(1), node.input(2)
    is_known = context.contents(starts) is not None and context.contents(ends) is not None
    count = starts.shape[0] if starts.type.rank == 1 else None
    if not is_known and isinstance(count, int):
        return slice_by_data(context, node, *_axes_and_steps(context, node, count))
    first = context.extents(starts, node, "starts")
    last = context.extents(ends, node, "ends")
    return _slice(context, node, first, last, *_axes_and_steps(context, node, len(first)))


def _axes_and_steps(
    context: Context, node: ModelNode, count: int
) -> tuple[Sequence[int], Sequence[int]]:
    """By default the first axes, each element."""
    axes, steps = node.optional(3), node.optional(4)
    where = tuple(range(count)) if axes is None else context.integers(axes, node, "axes")
    return where, (1,) * count if steps is None else context.integers(steps, node, "steps")


def _slice(
    context: Context, node: ModelNode, starts: Sequence[Extent], ends: Sequence[Extent], axes: Sequence[int],
    steps: Sequence[int],
) -> Value:  # fmt: skip
    x = node.input(0)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise node.fault("starts, ends, axes and steps differ in length.", "Export it again.")
    node.axes(axes, x.type.rank)
    chosen: dict[int, tuple[Extent, Extent, int]] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        where = node.axis(axis, x.type.rank)
        if step == 0:
            raise node.fault("a step is 0.", "Export it again.")
        chosen[where] = (*_clamped(start, end, x.shape[where], step), step)
    return _sliced(context, x, chosen)


def _clamped(start: Extent, end: Extent, extent: Extent, step: int) -> tuple[Extent, Extent]:
    """(start, size) by Python's rules for slices: negative ends count back, and all are clamped."""
    low, high = (0, extent) if step > 0 else (-1, extent - 1)
    first, last = (_placed(position, extent, low, high) for position in (start, end))
    distance = last - first if step > 0 else first - last
    size = dim.maximum(dim.ceil_div(distance, abs(step)), 0)
    return (first if size != 0 else 0), size


def _placed(position: Extent, extent: Extent, low: Extent, high: Extent) -> Extent:
    if isinstance(position, int) and position >= (1 << 31) - 1:
        return high
    if isinstance(position, int) and position <= -(1 << 31) + 1:
        return low
    is_negative = position < 0 if isinstance(position, int) else dim.is_nonnegative(-position - 1)
    counted = position + extent if is_negative else position
    return dim.maximum(dim.minimum(counted, high), low)


# -- padding, repeating ----------------------------------------------------------------------------


@SHAPE.on("Pad", last=10)
def pad_by_attributes(context: Context, node: ModelNode) -> Value:
    pads = node.integers("paddings" if node.opset < 2 else "pads")
    if pads is None:
        raise node.fault("attribute pads is missing.", "Export it again.")
    return _pad(context, node, pads, range(node.input(0).type.rank), node.number("value", 0.0))


@SHAPE.on("Pad", first=11)
def pad_by_inputs(context: Context, node: ModelNode) -> Value:
    x, axes = node.input(0), node.optional(3)
    pads = context.integers(node.input(1), node, "pads")
    number = context.scalar(node.optional(2), node, "constant_value")
    where = range(x.type.rank) if axes is None else context.integers(axes, node, "axes")
    return _pad(context, node, pads, where, 0 if number is None else number)


def _pad(
    context: Context, node: ModelNode, pads: Sequence[int], axes: Sequence[int], number: float
) -> Value:
    x = node.input(0)
    mode = node.text("mode", "constant", ("constant", "reflect", "edge", "wrap"))
    if len(pads) != 2 * len(axes):
        raise node.fault(
            f"it has {len(pads)} pads for {len(axes)} axes; two for each are needed.",
            "Export it again.",
        )
    node.axes(axes, x.type.rank)
    lo, hi = [0] * x.type.rank, [0] * x.type.rank
    for position, axis in enumerate(axes):
        where = node.axis(axis, x.type.rank)
        lo[where], hi[where] = pads[position], pads[position + len(axes)]
    x = _cropped(context, node, x, lo, hi)
    lo, hi = [max(p, 0) for p in lo], [max(p, 0) for p in hi]
    if not any(lo) and not any(hi):
        return x
    _check_reach(node, x, mode, lo, hi)
    if mode == "wrap":
        return _wrapped(context, x, lo, hi)
    check_size(
        TensorType(x.dtype, tuple(a + e + b for a, e, b in zip(lo, x.shape, hi, strict=True)))
    )
    return context("pad", x, lo=tuple(lo), hi=tuple(hi), value=number, mode=mode)


def _cropped(
    context: Context, node: ModelNode, x: Value, lo: Sequence[int], hi: Sequence[int]
) -> Value:
    """Negative pads cut off."""
    cuts: dict[int, tuple[Extent, Extent, int]] = {}
    for axis, extent in enumerate(x.shape):
        low, high = max(-lo[axis], 0), max(-hi[axis], 0)
        size = extent - low - high
        if isinstance(size, int) and size < 0:
            raise node.misshapen(
                f"its pads cut {low + high} elements off axis {axis} of {x.type}.",
                "Export it again.",
            )
        if low or high:
            cuts[axis] = (low, size, 1)
    return _sliced(context, x, cuts) if cuts else x


def _check_reach(
    node: ModelNode, x: Value, mode: str, lo: Sequence[int], hi: Sequence[int]
) -> None:
    """A mirror image is at most the input less one long; nothing can be repeated of an empty
    axis.
    """
    for axis, extent in enumerate(x.shape):
        widest = max(lo[axis], hi[axis])
        if mode == "constant" or not widest:
            continue
        fewest = {"reflect": widest + 1, "wrap": widest, "edge": 1}[mode]
        if not dim.is_nonnegative(extent - fewest):
            message = f"mode {mode} cannot pad axis {axis} of {x.type} by {widest}."
            hint = "Use smaller pads."
            raise TooSmall(message, hint=hint, extent=extent, fewest=fewest)


def _wrapped(context: Context, x: Value, lo: Sequence[int], hi: Sequence[int]) -> Value:
    for axis in range(x.type.rank):
        parts = []
        if lo[axis]:
            parts.append(context.slice_axis(x, axis, x.shape[axis] - lo[axis], lo[axis]))
        parts.append(x)
        if hi[axis]:
            parts.append(context.slice_axis(x, axis, 0, hi[axis]))
        x = context("concat", *parts, axis=axis) if len(parts) > 1 else x
    return x


@SHAPE.on("Expand", first=8)
def expand(context: Context, node: ModelNode) -> Value:
    x = node.input(0)
    wanted = context.extents(node.input(1), node, "the new shape")
    target = broadcast_shapes([x.shape, tuple(wanted)])
    if target is None or any(isinstance(extent, int) and extent < 0 for extent in wanted):
        raise node.misshapen(f"{x.type} does not broadcast to {_listed(wanted)}.", FIX_DIMS)
    check_size(TensorType(x.dtype, target))
    if target == x.shape:
        return x
    value = context("broadcast", x, shape=target)
    static = numbers(target)
    if static is None:
        return value
    return context.learn(value, lambda a: np.broadcast_to(a, static), x)


@SHAPE.on("Tile", first=6)
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
            f"its repeats {_listed(repeats)} include a negative number.", "Export it again."
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


@SHAPE.on("ConstantOfShape", first=9)
def constant_of_shape(context: Context, node: ModelNode) -> Value:
    shape = context.extents(node.input(0), node, "the shape")
    if any(isinstance(extent, int) and extent < 0 for extent in shape):
        raise node.misshapen(
            f"the shape {_listed(shape)} has a negative extent.", "Export it again."
        )
    tensor = node.tensor("value")
    if tensor is None:
        return _filled(context, np.zeros((), np.float32), shape)
    constant = context.reader.constant(tensor, f"the value of {node.title}")
    if constant.array.size != 1:
        raise node.fault(
            f"its value is {constant.type}; one element is needed.", "Export it again."
        )
    return _filled(context, constant.array, shape)


def _filled(context: Context, number: np.ndarray, shape: tuple[Extent, ...]) -> Value:
    element = context.constant(number.reshape(()))
    return context.splat(number.reshape(()).item(), element.dtype, shape)


# -- blocks ----------------------------------------------------------------------------------------


def _block(node: ModelNode, x: Value) -> int:
    block = node.integer("blocksize", 0)
    if block < 1:
        raise node.fault(
            f"attribute blocksize is {block}; it must be at least 1.", "Export it again."
        )
    if x.type.rank != 4:
        raise node.misshapen(f"its input is {x.type}; rank 4 is needed.")
    return block


@SHAPE.on("DepthToSpace")
def depth_to_space(context: Context, node: ModelNode) -> Value:
    """DCR: c = (by, bx, c'); CRD: c = (c', by, bx)."""
    x = node.input(0)
    b = _block(node, x)
    n, c, h, w = x.shape
    depth = dim.exact_quotient(c, b * b)
    if depth is None:
        raise node.misshapen(f"its {c} channels are no multiple of {b} x {b}.", "Export it again.")
    if node.text("mode", "DCR", ("DCR", "CRD")) == "DCR":
        parts = context.transpose(context.reshape(x, (n, b, b, depth, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        parts = context.transpose(context.reshape(x, (n, depth, b, b, h, w)), (0, 1, 4, 2, 5, 3))
    return context.reshape(parts, (n, depth, h * b, w * b))


@SHAPE.on("SpaceToDepth")
def space_to_depth(context: Context, node: ModelNode) -> Value:
    """The inverse of DepthToSpace."""
    x = node.input(0)
    b = _block(node, x)
    n, c, h, w = x.shape
    rows, columns = dim.exact_quotient(h, b), dim.exact_quotient(w, b)
    if rows is None or columns is None:
        raise node.misshapen(f"its spatial extents {h} x {w} are no multiples of {b}.", FIX_DIMS)
    parts = context.reshape(x, (n, c, rows, b, columns, b))
    order = (
        (0, 3, 5, 1, 2, 4)
        if node.text("mode", "DCR", ("DCR", "CRD")) == "DCR"
        else (0, 1, 3, 5, 2, 4)
    )
    return context.reshape(context.transpose(parts, order), (n, c * b * b, rows, columns))
