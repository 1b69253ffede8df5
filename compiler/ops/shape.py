"""Ops that move elements: no arithmetic, only indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import dim
from ..dim import Extent
from ..formula import sum_to
from ..layout import Layout
from ..op import Array, ByDecomposition, Compute, Op, Read, define
from ..scalar import Expr, guarded
from ..tensor_type import TensorType, broadcast_shapes

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value


@dataclass(frozen=True)
class ShapeAttrs:
    shape: tuple[Extent, ...]


# -- reshape ---------------------------------------------------------------------------------------


def _reshape_infer(attrs: ShapeAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if x.elements != dim.product(attrs.shape):
        raise ValueError(f"{x.elements} elements cannot take the shape {list(attrs.shape)}")
    return [x.with_shape(attrs.shape)]


def axis_groups(old: Sequence[Extent], new: Sequence[Extent]) -> list[tuple[list[int], list[int]]]:
    """The finest matching runs of axes with equal products: (axes of old, axes of new) each."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [i] if i < len(old) else [], [j] if j < len(new) else []
        i, j = i + len(left), j + len(right)
        while (a := dim.product([old[k] for k in left])) != (
            b := dim.product([new[k] for k in right])
        ):
            if j >= len(new) or (i < len(old) and _is_smaller(a, b)):
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        groups.append((left, right))
    return groups


def _is_smaller(a: Extent, b: Extent) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    return isinstance(a, int) or dim.is_nonnegative(b - a)


def divides_by_free_dims(old: Sequence[Extent], new: Sequence[Extent]) -> bool:
    """Whether the formula of a reshape, new indices -> old ones, divides by free dims, which
    extents cannot.

    [N, M] as [N*M]: element i was element [i / M, i mod M]. Such a reshape is left to memory
    (passes/plan_memory.py)."""
    if all(isinstance(extent, int) for extent in (*old, *new)) or dim.product(tuple(old)) == 0:
        return False
    runs = [[old[axis] for axis in left if old[axis] != 1] for left, _ in axis_groups(old, new)]
    return any(not isinstance(extent, int) for run in runs for extent in run[1:])


def _reshape_compute(
    attrs: ShapeAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    (x,) = inputs
    found = axis_groups(x.shape, attrs.shape) if x.elements != 0 else []
    groups = [([axis for axis in left if x.shape[axis] != 1], right) for left, right in found]

    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        index: list[Extent] = [0] * x.rank
        for left, right in groups:
            flat: Extent = 0
            for axis in right:
                flat = flat * attrs.shape[axis] + i[axis]
            kept = [axis for axis in left if x.shape[axis] != 1]
            for place, axis in reversed(list(enumerate(kept))):
                if place == 0:
                    index[axis] = flat
                else:
                    extent = x.shape[axis]
                    assert isinstance(extent, int), f"a reshape from {x} has no formula"
                    index[axis], flat = flat % extent, flat // extent
        return read(0, index)

    return Compute(term)


def _reshape_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    return [b("reshape", cotangents[0], shape=node.inputs[0].shape)]


define(Op("reshape", "the same elements in another shape", _reshape_infer,
          lambda _a, i, o: [i[0].reshape(o[0].static_shape)], _reshape_vjp, ShapeAttrs, "shape",
          _reshape_compute))  # fmt: skip


# -- transpose, broadcast, reorder -----------------------------------------------------------------


@dataclass(frozen=True)
class TransposeAttrs:
    """Axis i of the result is axis permutation[i] of the input."""

    permutation: tuple[int, ...]


def _transpose_infer(attrs: TransposeAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if sorted(attrs.permutation) != list(range(x.rank)):
        raise ValueError(f"{attrs.permutation} is not a permutation of {x.rank} axes")
    return [x.with_shape(tuple(x.shape[axis] for axis in attrs.permutation))]


def _transpose_compute(
    attrs: TransposeAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        index: list[Extent] = [0] * inputs[0].rank
        for position, axis in enumerate(attrs.permutation):
            index[axis] = i[position]
        return read(0, index)

    return Compute(term)


def _transpose_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    inverse = tuple(int(axis) for axis in np.argsort(node.attrs.permutation))
    return [b("transpose", cotangents[0], permutation=inverse)]


define(Op("transpose", "y[i] = x with axes in another order", _transpose_infer,
          lambda a, i, _o: [i[0].transpose(a.permutation)], _transpose_vjp, TransposeAttrs, "shape",
          _transpose_compute))  # fmt: skip


def _broadcast_infer(attrs: ShapeAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if broadcast_shapes([x.shape, attrs.shape]) != attrs.shape:
        raise ValueError(f"the shape does not broadcast to {list(attrs.shape)}")
    return [x.with_shape(attrs.shape)]


def _broadcast_compute(
    attrs: ShapeAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    (x,) = inputs

    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        own = i[len(i) - x.rank :]
        return read(0, [0 if e == 1 else p for e, p in zip(x.shape, own, strict=True)])

    return Compute(term)


def _broadcast_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    return [sum_to(b, cotangents[0], node.inputs[0].type)]


define(Op("broadcast", "x repeated to a shape by NumPy's rule", _broadcast_infer,
          lambda _a, i, o: [np.broadcast_to(i[0], o[0].static_shape)], _broadcast_vjp, ShapeAttrs, "shape",
          _broadcast_compute))  # fmt: skip


@dataclass(frozen=True)
class ReorderAttrs:
    """The layout of the result; None is row-major."""

    layout: Layout | None = None


def _reorder_vjp(_b: Builder, _node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    return [cotangents[0]]


define(
    Op(
        "reorder",
        "x, laid out otherwise in memory",
        lambda _a, i: [i[0]],
        lambda _a, i, _o: [i[0]],
        _reorder_vjp,
        ReorderAttrs,
        "shape",
        lambda _a, _i, _o: Compute(lambda i, _r, read: read(0, i)),
    )
)


# -- slice, pad, concat ----------------------------------------------------------------------------


@dataclass(frozen=True)
class SliceAttrs:
    """y[i] = x[start + i * step], ``size`` elements of each axis; a step may be negative."""

    start: tuple[Extent, ...]
    size: tuple[Extent, ...]
    step: tuple[int, ...]


def _slice_infer(attrs: SliceAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if not len(attrs.start) == len(attrs.size) == len(attrs.step) == x.rank:
        raise ValueError(f"start, size and step need {x.rank} entries")
    for start, size, step, extent in zip(attrs.start, attrs.size, attrs.step, x.shape, strict=True):
        last = start + (size - 1) * step
        ends = (start, last) if step > 0 else (last, start)
        bad = isinstance(ends[0], int) and ends[0] < 0
        over = ends[1] - extent
        if step == 0 or (size != 0 and (bad or (isinstance(over, int) and over >= 0))):
            raise ValueError(
                f"a slice from {start}, {size} elements with step {step}, leaves an axis of {extent}"
            )
    return [x.with_shape(attrs.size)]


def _slice_reference(
    attrs: SliceAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    result = inputs[0]
    for axis, (start, size, step) in enumerate(
        zip(attrs.start, outputs[0].static_shape, attrs.step, strict=True)
    ):
        result = np.take(
            result, np.asarray([start + k * step for k in range(size)], np.int64), axis=axis
        )
    return [result]


def _slice_compute(
    attrs: SliceAttrs, _i: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        return read(
            0, [start + p * step for start, p, step in zip(attrs.start, i, attrs.step, strict=True)]
        )

    return Compute(term)


def _slice_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    (x,) = node.inputs
    return [
        b(
            "slice_gradient",
            cotangents[0],
            start=node.attrs.start,
            step=node.attrs.step,
            shape=x.shape,
        )
    ]


define(Op("slice", "y[i] = x[start + i * step]", _slice_infer, _slice_reference, _slice_vjp, SliceAttrs, "shape",
          _slice_compute))  # fmt: skip


@dataclass(frozen=True)
class SliceGradientAttrs:
    start: tuple[Extent, ...]
    step: tuple[int, ...]
    shape: tuple[Extent, ...]


def _unslice_infer(attrs: SliceGradientAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    if not len(attrs.start) == len(attrs.step) == len(attrs.shape) == inputs[0].rank:
        raise ValueError("start, step and shape need one entry per axis")
    return [inputs[0].with_shape(attrs.shape)]


def _unslice_reference(
    attrs: SliceGradientAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (dy,) = inputs
    result = np.zeros(outputs[0].static_shape, dy.dtype)
    lines = [
        np.arange(e) * step + start
        for e, start, step in zip(dy.shape, attrs.start, attrs.step, strict=True)
    ]
    result[np.ix_(*lines)] = dy
    return [result]


def _unslice_compute(
    attrs: SliceGradientAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    (dy,) = inputs

    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        conditions: list[Extent] = []
        index: list[Extent] = []
        for p, start, step, extent in zip(i, attrs.start, attrs.step, dy.shape, strict=True):
            distance = (p - start) if step > 0 else (start - p)
            place = distance // abs(step)
            index.append(place)
            conditions += [-(distance % abs(step)), place, extent - 1 - place]
        return guarded(conditions, read(0, index))

    return Compute(term)


def _unslice_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    attrs = node.attrs
    return [
        b("slice", cotangents[0], start=attrs.start, size=node.inputs[0].shape, step=attrs.step)
    ]


define(Op("slice_gradient", "dx[start + i * step] = dy[i], zero elsewhere", _unslice_infer, _unslice_reference,
          _unslice_vjp, SliceGradientAttrs, "shape", _unslice_compute))  # fmt: skip


@dataclass(frozen=True)
class PadAttrs:
    """``mode``: constant, reflect (without the border element) or edge."""

    lo: tuple[int, ...]
    hi: tuple[int, ...]
    value: float = 0.0
    mode: str = "constant"


def _pad_infer(attrs: PadAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if len(attrs.lo) != x.rank or len(attrs.hi) != x.rank or min((*attrs.lo, *attrs.hi, 0)) < 0:
        raise ValueError(
            f"lo and hi need {x.rank} entries of at least 0; a negative pad is a slice"
        )
    if attrs.mode not in ("constant", "reflect", "edge"):
        raise ValueError(f"there is no padding mode {attrs.mode!r}")
    for lo, hi, e in zip(attrs.lo, attrs.hi, x.shape, strict=True):
        if (
            isinstance(e, int)
            and max(lo, hi) > 0
            and max(lo, hi) > e - 1
            and attrs.mode == "reflect"
        ):
            raise ValueError(
                f"reflection of {max(lo, hi)} elements needs more than the {e} of its axis"
            )
        if e == 0 and max(lo, hi) > 0 and attrs.mode == "edge":
            raise ValueError("an empty axis has no edge")
    return [
        x.with_shape(tuple(e + a + c for e, a, c in zip(x.shape, attrs.lo, attrs.hi, strict=True)))
    ]


def _pad_reference(
    attrs: PadAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    widths = list(zip(attrs.lo, attrs.hi, strict=True))
    if not widths:
        return [inputs[0]]
    if attrs.mode == "constant":
        return [
            np.pad(
                inputs[0], widths, constant_values=np.asarray(attrs.value).astype(inputs[0].dtype)
            )
        ]
    return [np.pad(inputs[0], widths, mode="reflect" if attrs.mode == "reflect" else "edge")]


def _pad_compute(
    attrs: PadAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    (x,) = inputs

    def constant(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        index = [p - lo for p, lo in zip(i, attrs.lo, strict=True)]
        return guarded(dim.inside(index, x.shape), read(0, index), attrs.value)

    def mirrored(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        index = []
        for p, lo, hi, e in zip(i, attrs.lo, attrs.hi, x.shape, strict=True):
            place = p - lo
            if lo or hi:
                inner = (
                    dim.minimum(place, 2 * (e - 1) - place)
                    if attrs.mode == "reflect"
                    else dim.minimum(place, e - 1)
                )
                outer = -place if attrs.mode == "reflect" else 0
                place = dim.maximum(inner, outer)
            index.append(place)
        return read(0, index)

    return Compute(constant if attrs.mode == "constant" else mirrored)


def _pad_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    (x,) = node.inputs
    if node.attrs.mode == "constant":
        return [
            b("slice", cotangents[0], start=node.attrs.lo, size=x.shape, step=(1,) * x.type.rank)
        ]
    dy = cotangents[0]
    for axis in range(x.type.rank):
        dy = _fold_border(b, node.attrs, dy, axis, x.shape[axis])
    return [dy]


def _fold_border(b: Builder, attrs: PadAttrs, dy: Value, axis: int, extent: Extent) -> Value:
    """Add the cotangents of one axis's border to the elements that it repeats."""
    lo, hi, rank = attrs.lo[axis], attrs.hi[axis], dy.type.rank

    def part(start: Extent, size: Extent, step: int = 1) -> Value:
        starts = tuple(start if a == axis else 0 for a in range(rank))
        sizes = tuple(size if a == axis else e for a, e in enumerate(dy.shape))
        return b(
            "slice",
            dy,
            start=starts,
            size=sizes,
            step=tuple(step if a == axis else 1 for a in range(rank)),
        )

    def placed(value: Value, before: Extent) -> Value:
        shape = tuple(extent if a == axis else e for a, e in enumerate(dy.shape))
        starts = tuple(before if a == axis else 0 for a in range(rank))
        return b("slice_gradient", value, start=starts, step=(1,) * rank, shape=shape)

    total = part(lo, extent)
    for width, start, at in ((lo, 0, 0), (hi, lo + extent, extent - 1)):
        if not width:
            continue
        if attrs.mode == "edge":
            total = b(
                "add",
                total,
                placed(b("reduce_sum", part(start, width), axes=(axis,), keep=True), at),
            )
        else:
            total = b(
                "add",
                total,
                placed(part(start + width - 1, width, -1), 1 if start == 0 else extent - 1 - width),
            )
    return total


define(Op("pad", "x with elements put before (lo) and behind (hi) on each axis", _pad_infer, _pad_reference, _pad_vjp,
          PadAttrs, "shape", _pad_compute))  # fmt: skip


@dataclass(frozen=True)
class ConcatAttrs:
    axis: int


def _concat_infer(attrs: ConcatAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    first = inputs[0]
    if not 0 <= attrs.axis < first.rank:
        raise ValueError(f"there is no axis {attrs.axis} in rank {first.rank}")
    total: Extent = 0
    for t in inputs:
        if t.dtype is not first.dtype or t.rank != first.rank:
            raise ValueError("all inputs must share dtype and rank")
        if (
            t.shape[: attrs.axis] != first.shape[: attrs.axis]
            or t.shape[attrs.axis + 1 :] != first.shape[attrs.axis + 1 :]
        ):
            raise ValueError(f"all extents but axis {attrs.axis} must agree")
        total = total + t.shape[attrs.axis]
    return [first.with_shape((*first.shape[: attrs.axis], total, *first.shape[attrs.axis + 1 :]))]


def _concat_compute(
    attrs: ConcatAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        offset: Extent = 0
        result: Expr | None = None
        for position, t in enumerate(inputs):
            place = i[attrs.axis] - offset
            value = read(position, [*i[: attrs.axis], place, *i[attrs.axis + 1 :]])
            result = guarded(
                dim.inside([place], [t.shape[attrs.axis]]), value, 0 if result is None else result
            )
            offset = offset + t.shape[attrs.axis]
        assert result is not None
        return result

    return Compute(term)


def _concat_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    offset: Extent = 0
    parts: list[Value | None] = []
    for value in node.inputs:
        start = tuple(offset if a == node.attrs.axis else 0 for a in range(value.type.rank))
        parts.append(
            b("slice", cotangents[0], start=start, size=value.shape, step=(1,) * value.type.rank)
        )
        offset = offset + value.shape[node.attrs.axis]
    return parts


define(Op("concat", "inputs one after another along an axis", _concat_infer,
          lambda a, i, _o: [np.concatenate(i, axis=a.axis)], _concat_vjp, ConcatAttrs, "shape",
          _concat_compute))  # fmt: skip


# -- depth and space -------------------------------------------------------------------------------


@dataclass(frozen=True)
class DepthToSpaceAttrs:
    """``mode``: DCR (blocks are the outer channel axis) or CRD (channels are)."""

    block: int
    mode: str = "DCR"


@dataclass(frozen=True)
class SpaceToDepthAttrs:
    block: int


def _depth_infer(attrs: DepthToSpaceAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if (
        x.rank != 4
        or attrs.block < 1
        or x.shape[1] % (attrs.block**2) != 0
        or attrs.mode not in ("DCR", "CRD")
    ):
        raise ValueError(
            f"a block of {attrs.block} x {attrs.block} does not divide the channels of [n, c, h, w]"
        )
    n, c, h, w = x.shape
    return [x.with_shape((n, c // attrs.block**2, h * attrs.block, w * attrs.block))]


def _depth_to_space(b: Builder, node: Node) -> Sequence[Value]:
    (x,) = node.inputs
    n, c, h, w = x.shape
    k = node.attrs.block
    depth = c // k**2
    if node.attrs.mode == "DCR":
        parts = b(
            "transpose",
            b("reshape", x, shape=(n, k, k, depth, h, w)),
            permutation=(0, 3, 4, 1, 5, 2),
        )
    else:
        parts = b(
            "transpose",
            b("reshape", x, shape=(n, depth, k, k, h, w)),
            permutation=(0, 1, 4, 2, 5, 3),
        )
    return [b("reshape", parts, shape=node.output.shape)]


def _depth_reference(
    attrs: DepthToSpaceAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    n, c, h, w = inputs[0].shape
    k = attrs.block
    if attrs.mode == "DCR":
        parts = inputs[0].reshape(n, k, k, c // k**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = inputs[0].reshape(n, c // k**2, k, k, h, w).transpose(0, 1, 4, 2, 5, 3)
    return [parts.reshape(outputs[0].static_shape)]


def _space_infer(attrs: SpaceToDepthAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if x.rank != 4 or attrs.block < 1 or any(e % attrs.block != 0 for e in x.shape[2:]):
        raise ValueError(
            f"a block of {attrs.block} does not divide the spatial axes of [n, c, h, w]"
        )
    n, c, h, w = x.shape
    return [x.with_shape((n, c * attrs.block**2, h // attrs.block, w // attrs.block))]


def _space_to_depth(b: Builder, node: Node) -> Sequence[Value]:
    (x,) = node.inputs
    n, c, h, w = x.shape
    k = node.attrs.block
    parts = b("reshape", x, shape=(n, c, h // k, k, w // k, k))
    return [
        b("reshape", b("transpose", parts, permutation=(0, 3, 5, 1, 2, 4)), shape=node.output.shape)
    ]


def _space_reference(
    attrs: SpaceToDepthAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    n, c, h, w = inputs[0].shape
    k = attrs.block
    parts = inputs[0].reshape(n, c, h // k, k, w // k, k).transpose(0, 3, 5, 1, 2, 4)
    return [parts.reshape(outputs[0].static_shape)]


define(Op("depth_to_space", "blocks of channels become blocks of space", _depth_infer, _depth_reference,
          ByDecomposition(), DepthToSpaceAttrs, "shape", decompose=_depth_to_space))  # fmt: skip
define(Op("space_to_depth", "blocks of space become blocks of channels", _space_infer, _space_reference,
          ByDecomposition(), SpaceToDepthAttrs, "shape", decompose=_space_to_depth))  # fmt: skip
