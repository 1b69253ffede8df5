"""Padding: elements before and behind a value on each axis, constant or repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import dim
from ..dim import Extent
from ..op import Array, Compute, Op, Read, define
from ..scalar import Expr, guarded
from ..tensor_type import TensorType

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value


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
