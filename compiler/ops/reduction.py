"""Reductions over axes, and the position of the largest or smallest element. Empty reductions
give the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import dim
from ..dim import Extent
from ..op import Array, ByDecomposition, Compute, NotDifferentiable, Op, Read, Vjp, define
from ..scalar import Expr
from ..tensor_type import BOOL, INT64, DType, TensorType

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value


@dataclass(frozen=True)
class ReduceAttrs:
    """``axes``: sorted, not negative; ``keep`` leaves extents of 1 in their place."""

    axes: tuple[int, ...]
    keep: bool = False


@dataclass(frozen=True)
class ArgAttrs:
    axis: int
    keep: bool = False
    last: bool = False


def _shape(t: TensorType, axes: Sequence[int], keep: bool) -> tuple[Extent, ...]:
    if keep:
        return tuple(1 if axis in axes else e for axis, e in enumerate(t.shape))
    return tuple(e for axis, e in enumerate(t.shape) if axis not in axes)


def _infer(attrs: ReduceAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if list(attrs.axes) != sorted(set(attrs.axes)) or any(
        not 0 <= axis < x.rank for axis in attrs.axes
    ):
        raise ValueError(f"axes {attrs.axes} must be sorted, different, and inside rank {x.rank}")
    if x.dtype is BOOL:
        raise ValueError("cast bool to a number type first")
    return [TensorType(x.dtype, _shape(x, attrs.axes, attrs.keep))]


def _index(
    attrs: ReduceAttrs, rank: int, i: tuple[Extent, ...], r: Sequence[Extent]
) -> list[Extent]:
    """The input's index: reduced axes from r, the others from i."""
    rest, reduced = list(i), list(r)
    result: list[Extent] = []
    for axis in range(rank):
        if axis in attrs.axes:
            result.append(reduced.pop(0))
            if attrs.keep:
                rest.pop(0)
        else:
            result.append(rest.pop(0))
    return result


def _compute(combine: str, initial: float) -> Callable[..., Compute]:
    def compute(
        attrs: ReduceAttrs, inputs: Sequence[TensorType], _outputs: Sequence[TensorType]
    ) -> Compute:
        (x,) = inputs

        def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
            return read(0, _index(attrs, x.rank, i, r))

        return Compute(term, tuple(x.shape[axis] for axis in attrs.axes), combine, initial)

    return compute


def _reference(
    function: Callable[..., Any], identity: Callable[[DType], Any]
) -> Callable[..., Sequence[Array]]:
    def reference(
        attrs: ReduceAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
    ) -> Sequence[Array]:
        (x,) = inputs
        if not attrs.axes:
            return [x]
        dtype = outputs[0].dtype
        wide = x.astype(np.float32) if dtype.is_float and dtype.bytes < 4 else x
        with np.errstate(all="ignore"):
            result = function(wide, axis=attrs.axes, keepdims=attrs.keep, initial=identity(dtype))
        return [np.asarray(result).astype(x.dtype)]

    return reference


def _lowest(dtype: DType) -> Any:
    return -np.inf if dtype.is_float else np.iinfo(dtype.numpy).min


def _highest(dtype: DType) -> Any:
    return np.inf if dtype.is_float else np.iinfo(dtype.numpy).max


def _spread(b: Builder, node: Node, value: Value) -> Value:
    """A reduced value over the input's shape again."""
    x, attrs = node.inputs[0], node.attrs
    kept = b("reshape", value, shape=_shape(x.type, attrs.axes, True))
    return b("broadcast", kept, shape=x.shape)


def _sum_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    return [_spread(b, node, cotangents[0])]


def _extreme_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    """The cotangent, shared equally by all elements that equal the result."""
    x = node.inputs[0]
    hit = b("cast", b("equal", x, _spread(b, node, node.output)), dtype=x.dtype)
    count = b("reduce_sum", hit, axes=node.attrs.axes, keep=node.attrs.keep)
    return [b("mul", hit, _spread(b, node, b("div", cotangents[0], count)))]


def _product_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    """dy times the product of the other elements: of all that are not zero, over x, where no
    other is zero.
    """
    (x,), attrs = node.inputs, node.attrs
    zero, one = b.number(0.0, x.dtype), b.number(1.0, x.dtype)
    is_zero = b("equal", x, zero)
    filled = b("select", is_zero, one, x)
    product = b("reduce_product", filled, axes=attrs.axes, keep=attrs.keep)
    count = b("cast", is_zero, dtype=x.dtype)
    others = b(
        "sub", _spread(b, node, b("reduce_sum", count, axes=attrs.axes, keep=attrs.keep)), count
    )
    share = b("div", _spread(b, node, b("mul", cotangents[0], product)), filled)
    return [b("select", b("equal", others, zero), share, zero)]


def _flops(_attrs: Any, inputs: Sequence[TensorType], _outputs: Sequence[TensorType]) -> Extent:
    return dim.product(inputs[0].shape)


def _reduction(
    name: str, doc: str, function: Any, identity: Any, combine: str, initial: float, vjp: Vjp
) -> None:
    define(Op(name, doc, _infer, _reference(function, identity), vjp, ReduceAttrs, "reduction",
              _compute(combine, initial), flops=_flops))  # fmt: skip


_reduction("reduce_sum", "the sum over axes", np.sum, lambda d: 0, "add", 0.0, _sum_vjp)
_reduction(
    "reduce_product", "the product over axes", np.prod, lambda d: 1, "mul", 1.0, _product_vjp
)
_reduction(
    "reduce_max",
    "the largest over axes; NaN passes",
    np.max,
    _lowest,
    "max",
    float("-inf"),
    _extreme_vjp,
)
_reduction(
    "reduce_min",
    "the smallest over axes; NaN passes",
    np.min,
    _highest,
    "min",
    float("inf"),
    _extreme_vjp,
)


def _mean_reference(
    attrs: ReduceAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (x,) = inputs
    count = int(np.prod([x.shape[axis] for axis in attrs.axes], dtype=np.int64))
    wide = x.astype(np.float32) if outputs[0].dtype.is_float and x.dtype.itemsize < 4 else x
    total = np.sum(wide, axis=attrs.axes, keepdims=attrs.keep) if attrs.axes else wide
    with np.errstate(all="ignore"):
        if outputs[0].dtype.is_float:
            return [np.asarray(total / wide.dtype.type(count)).astype(x.dtype)]
        return [np.asarray(np.trunc(total / max(count, 1))).astype(x.dtype)]


def _mean(b: Builder, node: Node) -> Sequence[Value]:
    (x,) = node.inputs
    count = dim.product([x.shape[axis] for axis in node.attrs.axes])
    total = b("reduce_sum", x, axes=node.attrs.axes, keep=node.attrs.keep)
    if isinstance(count, int):
        return [b("div", total, float(count) if x.dtype.is_float else count)]
    return [b("div", total, b("cast", b("extent", extent=count), dtype=x.dtype))]


define(Op("reduce_mean", "the mean over axes", _infer, _mean_reference, ByDecomposition(), ReduceAttrs, "reduction",
          decompose=_mean, flops=_flops))  # fmt: skip


def _arg_infer(attrs: ArgAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if not 0 <= attrs.axis < x.rank:
        raise ValueError(f"there is no axis {attrs.axis} in rank {x.rank}")
    if x.shape[attrs.axis] == 0:
        raise ValueError("an empty axis has no largest or smallest element")
    return [TensorType(INT64, _shape(x, (attrs.axis,), attrs.keep))]


def _arg_reference(pick: Callable[..., Any]) -> Callable[..., Sequence[Array]]:
    def reference(
        attrs: ArgAttrs, inputs: Sequence[Array], _outputs: Sequence[TensorType]
    ) -> Sequence[Array]:
        (x,) = inputs
        if attrs.last:
            x = np.flip(x, attrs.axis)
        found = pick(x, axis=attrs.axis)
        if attrs.last:
            found = x.shape[attrs.axis] - 1 - found
        return [np.expand_dims(found, attrs.axis) if attrs.keep else np.asarray(found)]

    return reference


def _arg(reduce: str) -> Callable[[Builder, Node], Sequence[Value]]:
    """The first (last) index whose element equals the extreme one, or is NaN if that is."""

    def decompose(b: Builder, node: Node) -> Sequence[Value]:
        (x,) = node.inputs
        attrs = node.attrs
        best = b("broadcast", b(reduce, x, axes=(attrs.axis,), keep=True), shape=x.shape)
        hit = b("equal", x, best)
        if x.dtype.is_float:
            hit = b("or", hit, b("is_nan", x))
        index = b("iota", shape=x.shape, axis=attrs.axis, dtype=INT64)
        missing = b.number(-1 if attrs.last else (1 << 62), INT64)
        chosen = b("select", hit, index, missing)
        return [
            b(
                "reduce_max" if attrs.last else "reduce_min",
                chosen,
                axes=(attrs.axis,),
                keep=attrs.keep,
            )
        ]

    return decompose


_POSITION = NotDifferentiable("a position does not change smoothly")
define(
    Op(
        "argmax",
        "the first (or last) index of the largest element along an axis",
        _arg_infer,
        _arg_reference(np.argmax),
        _POSITION,
        ArgAttrs,
        "reduction",
        decompose=_arg("reduce_max"),
    )
)
define(
    Op(
        "argmin",
        "the first (or last) index of the smallest element along an axis",
        _arg_infer,
        _arg_reference(np.argmin),
        _POSITION,
        ArgAttrs,
        "reduction",
        decompose=_arg("reduce_min"),
    )
)
