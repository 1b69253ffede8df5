"""Slices, their gradient, and concatenation: parts of a value, and a value of parts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from .. import dim
from ..dim import Extent
from ..op import Array, Compute, Op, Read, define
from ..scalar import Expr, guarded
from ..tensor_type import TensorType

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value

MOST_IN_CHAIN: Final = 32  # inputs of a concat that are tried one after another


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
    extents = [t.shape[attrs.axis] for t in inputs]
    starts = list(itertools.accumulate(extents, initial=0))

    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        def one(position: int, otherwise: Expr | int) -> Expr:
            place = i[attrs.axis] - starts[position]
            value = read(position, [*i[: attrs.axis], place, *i[attrs.axis + 1 :]])
            return guarded(dim.inside([place], [extents[position]]), value, otherwise)

        def joined(first: int, last: int) -> Expr:
            """Of many inputs each half by itself, so that no expression is deep."""
            if last - first > MOST_IN_CHAIN:
                middle = (first + last) // 2
                place = i[attrs.axis] - starts[first]
                is_before = dim.inside([place], [starts[middle] - starts[first]])
                return guarded(is_before, joined(first, middle), joined(middle, last))
            result = one(first, 0)
            for position in range(first + 1, last):
                result = one(position, result)
            return result

        return joined(0, len(inputs))

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
