"""Views: ops that give the same elements in another shape, order or layout, or several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import dim
from ..dim import Extent
from ..formula import sum_to
from ..layout import Layout
from ..op import Compute, Op, Read, define
from ..scalar import Expr
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
