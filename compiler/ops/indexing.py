"""Constants, index patterns, and access by computed indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .. import scalar
from ..constant import Constant
from ..dim import Extent, evaluate
from ..op import Array, Compute, NotDifferentiable, Op, Read, define
from ..scalar import Checked, Expr, Index
from ..tensor_type import FLOAT32, INT64, DType, TensorType

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value

_NO_INPUT = NotDifferentiable("it has no differentiable input")


@dataclass(frozen=True)
class ConstantAttrs:
    value: Constant


define(Op("constant", "a tensor that is known when compiling", lambda a, _i: [a.value.type],
          lambda a, _i, _o: [a.value.array], _NO_INPUT, ConstantAttrs, "indexing"))  # fmt: skip


@dataclass(frozen=True)
class ExtentAttrs:
    extent: Extent


define(Op("extent", "an extent as an int64 scalar", lambda _a, _i: [TensorType(INT64, ())],
          lambda a, _i, _o: [np.asarray(evaluate(a.extent, {}), np.int64)], _NO_INPUT, ExtentAttrs, "indexing",
          lambda a, _i, _o: Compute(lambda _at, _r, _read: Index(a.extent))))  # fmt: skip


@dataclass(frozen=True)
class IotaAttrs:
    """0, 1, 2, … along ``axis``."""

    shape: tuple[Extent, ...]
    axis: int
    dtype: DType = INT64


def _iota_infer(attrs: IotaAttrs, _inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    if not 0 <= attrs.axis < len(attrs.shape):
        raise ValueError(f"there is no axis {attrs.axis} in {attrs.shape}")
    return [TensorType(attrs.dtype, attrs.shape)]


def _iota_reference(
    attrs: IotaAttrs, _i: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    shape = outputs[0].static_shape
    line = np.arange(shape[attrs.axis]).astype(attrs.dtype.numpy)
    return [
        np.broadcast_to(
            line.reshape([-1 if a == attrs.axis else 1 for a in range(len(shape))]), shape
        )
    ]


def _iota_compute(attrs: IotaAttrs, _i: Sequence[TensorType], _o: Sequence[TensorType]) -> Compute:
    return Compute(lambda i, _r, _read: scalar.cast(Index(i[attrs.axis]), attrs.dtype))


define(
    Op(
        "iota",
        "y[i] = i[axis]",
        _iota_infer,
        _iota_reference,
        _NO_INPUT,
        IotaAttrs,
        "indexing",
        _iota_compute,
    )
)


@dataclass(frozen=True)
class GatherAttrs:
    axis: int


def _gather_infer(attrs: GatherAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    x, indices = inputs
    if not 0 <= attrs.axis < x.rank:
        raise ValueError(f"there is no axis {attrs.axis} in rank {x.rank}")
    if not indices.dtype.is_integer:
        raise ValueError("indices must be integers")
    return [
        TensorType(x.dtype, (*x.shape[: attrs.axis], *indices.shape, *x.shape[attrs.axis + 1 :]))
    ]


def _gather_reference(
    attrs: GatherAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    x, indices = inputs
    extent = x.shape[attrs.axis]
    wide = indices.astype(np.int64)
    if wide.size and not (-extent <= int(wide.min()) and int(wide.max()) < extent):
        raise ValueError(f"an index is outside [-{extent}, {extent})")
    return [np.take(x, wide, axis=attrs.axis)]


def _run_time_index(read: Read, position: int, at: Sequence[Extent], extent: Extent) -> Expr:
    return Checked(scalar.cast(read(position, list(at)), INT64), extent)


def _gather_compute(
    attrs: GatherAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    x, indices = inputs

    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        inner = i[attrs.axis : attrs.axis + indices.rank]
        found = _run_time_index(read, 1, inner, x.shape[attrs.axis])
        return read(0, [*i[: attrs.axis], found, *i[attrs.axis + indices.rank :]])

    return Compute(term)


def _gather_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    x, indices = node.inputs
    axis = node.attrs.axis
    return [b("gather_gradient", cotangents[0], indices, axis=axis, extent=x.shape[axis]), None]


define(Op("gather", "numpy.take(x, indices, axis); an index out of range is an error", _gather_infer,
          _gather_reference, _gather_vjp, GatherAttrs, "indexing", _gather_compute))  # fmt: skip


@dataclass(frozen=True)
class GatherGradientAttrs:
    axis: int
    extent: Extent


def _scatter_infer(
    attrs: GatherGradientAttrs, inputs: Sequence[TensorType]
) -> Sequence[TensorType]:
    dy, indices = inputs
    if dy.shape[attrs.axis : attrs.axis + indices.rank] != indices.shape:
        raise ValueError("the indices' axes do not stand at the axis")
    return [
        TensorType(
            dy.dtype,
            (*dy.shape[: attrs.axis], attrs.extent, *dy.shape[attrs.axis + indices.rank :]),
        )
    ]


def _scatter_reference(
    attrs: GatherGradientAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    dy, indices = inputs
    result = np.zeros(outputs[0].static_shape, dy.dtype)
    flat = dy.reshape(*dy.shape[: attrs.axis], -1, *dy.shape[attrs.axis + indices.ndim :])
    target = np.moveaxis(result, attrs.axis, 0)
    np.add.at(target, indices.reshape(-1).astype(np.int64), np.moveaxis(flat, attrs.axis, 0))
    return [result]


def _scatter_compute(
    attrs: GatherGradientAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    """Each element sums the cotangents whose index is its own."""
    _, indices = inputs

    def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
        found = scalar.cast(read(1, list(r)), INT64)
        wrapped = scalar.select(found < 0, found + Index(attrs.extent), found)
        value = read(0, [*i[: attrs.axis], *r, *i[attrs.axis + 1 :]])
        return scalar.select(scalar.call("equal", wrapped, Index(i[attrs.axis])), value, 0)

    return Compute(term, indices.shape)


def _scatter_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    return [b("gather", cotangents[0], node.inputs[1], axis=node.attrs.axis), None]


define(Op("gather_gradient", "dx[j] = sum over i with indices[i] = j of dy[i]", _scatter_infer, _scatter_reference,
          _scatter_vjp, GatherGradientAttrs, "indexing", _scatter_compute))  # fmt: skip


@dataclass(frozen=True)
class OneHotAttrs:
    depth: int
    dtype: DType = field(default=FLOAT32)


def _one_hot_infer(attrs: OneHotAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    if not inputs[0].dtype.is_integer or attrs.depth < 1:
        raise ValueError("indices must be integers and depth at least 1")
    return [TensorType(attrs.dtype, (*inputs[0].shape, attrs.depth))]


def _one_hot_reference(
    attrs: OneHotAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    return [
        (inputs[0][..., None].astype(np.int64) == np.arange(attrs.depth)).astype(attrs.dtype.numpy)
    ]


def _one_hot_compute(
    attrs: OneHotAttrs, _i: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        hit = scalar.call("equal", scalar.cast(read(0, list(i[:-1])), INT64), Index(i[-1]))
        return scalar.cast(hit, attrs.dtype)

    return Compute(term)


define(Op("one_hot", "1 where the last index equals x, else 0; x outside [0, depth) gives zeros", _one_hot_infer,
          _one_hot_reference, NotDifferentiable("indices are integers"), OneHotAttrs, "indexing",
          _one_hot_compute))  # fmt: skip
