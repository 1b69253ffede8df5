"""Pooling over windows, and its gradients. Padding never wins a maximum; NaN passes through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product as grid
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import dim, scalar
from ..dim import Extent
from ..op import Array, Compute, NotDifferentiable, Op, Read, define
from ..scalar import Expr, Index, guarded
from ..tensor_type import INT32, TensorType

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value


@dataclass(frozen=True)
class PoolAttrs:
    """One entry per spatial axis; lo and hi are the padding before and behind."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    lo: tuple[int, ...]
    hi: tuple[int, ...]


@dataclass(frozen=True)
class PoolGradientAttrs(PoolAttrs):
    """``spatial``: the extents of x's spatial axes."""

    spatial: tuple[Extent, ...] = ()


@dataclass(frozen=True)
class AveragePoolAttrs(PoolAttrs):
    """``count_padding``: divide by the kernel's size, not by the number of real elements.
    ``extra``: the part of hi that comes from rounding the output's extents up; it is never
    counted."""

    count_padding: bool = False
    extra: tuple[int, ...] = ()


@dataclass(frozen=True)
class AveragePoolGradientAttrs(AveragePoolAttrs):
    """``spatial``: the extents of x's spatial axes."""

    spatial: tuple[Extent, ...] = ()


def _outputs(attrs: PoolAttrs, spatial: Sequence[Extent]) -> tuple[Extent, ...]:
    rank = len(spatial)
    if (
        any(
            len(p) != rank for p in (attrs.kernel, attrs.stride, attrs.dilation, attrs.lo, attrs.hi)
        )
        or rank < 1
    ):
        raise ValueError(f"kernel, stride, dilation, lo and hi need {rank} entries")
    if min(*attrs.kernel, *attrs.stride, *attrs.dilation) < 1 or min(*attrs.lo, *attrs.hi) < 0:
        raise ValueError("kernel, stride and dilation are at least 1, padding at least 0")
    result = []
    for a, e in enumerate(spatial):
        out = (
            e + attrs.lo[a] + attrs.hi[a] - (attrs.kernel[a] - 1) * attrs.dilation[a] - 1
        ) // attrs.stride[a] + 1
        if isinstance(out, int) and out < 1:
            raise ValueError(f"a window of {attrs.kernel[a]} does not fit into {e} elements")
        result.append(out)
    return tuple(result)


def _infer(attrs: PoolAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    x = inputs[0]
    if x.rank < 3:
        raise ValueError("pooling needs a batch, a channel and spatial axes")
    return [x.with_shape((*x.shape[:2], *_outputs(attrs, x.shape[2:])))]


def _infer_gradient(attrs: PoolGradientAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    dy = inputs[0]
    if _outputs(attrs, attrs.spatial) != dy.shape[2:]:
        raise ValueError(f"an input of {attrs.spatial} does not give an output of {dy.shape[2:]}")
    return [dy.with_shape((*dy.shape[:2], *attrs.spatial))]


def _at(attrs: PoolAttrs, p: Sequence[Extent], k: Sequence[Extent]) -> list[Extent]:
    return [p[a] * attrs.stride[a] + k[a] * attrs.dilation[a] - attrs.lo[a] for a in range(len(p))]


def _least(t: TensorType) -> float:
    return float("-inf") if t.dtype.is_float else int(np.iinfo(t.dtype.numpy).min)


def _windows(attrs: PoolAttrs, x: Array, out: Sequence[int], fill: float) -> list[Array]:
    """The input under each kernel position, for all outputs."""
    padded = np.pad(
        x,
        [(0, 0), (0, 0), *zip(attrs.lo, attrs.hi, strict=True)],
        constant_values=np.asarray(fill, x.dtype),
    )
    parts = []
    for k in grid(*map(range, attrs.kernel)):
        where = tuple(slice(i * d, i * d + (e - 1) * s + 1, s) for i, d, s, e in
                      zip(k, attrs.dilation, attrs.stride, out, strict=True))  # fmt: skip
        parts.append(padded[(slice(None), slice(None), *where)])
    return parts


def _max_reference(
    attrs: PoolAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    parts = _windows(attrs, inputs[0], outputs[0].static_shape[2:], _least(outputs[0]))
    result = parts[0]
    for part in parts[1:]:
        result = np.maximum(result, part)
    return [np.ascontiguousarray(result)]


def _in_windows(
    attrs: PoolAttrs, x: TensorType, outside: float
) -> Callable[[tuple[Extent, ...], tuple[Extent, ...], Read], Expr]:
    """The elements of a window; ``outside`` stands for those of the padding."""

    def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
        at = _at(attrs, i[2:], r)
        return guarded(dim.inside(at, x.shape[2:]), read(0, (*i[:2], *at)), outside)

    return term


def _max_compute(
    attrs: PoolAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    (x,) = inputs
    return Compute(_in_windows(attrs, x, _least(x)), attrs.kernel, "max", float("-inf"))


def _plain(attrs: PoolAttrs) -> dict[str, Any]:
    return {name: getattr(attrs, name) for name in ("kernel", "stride", "dilation", "lo", "hi")}


def _max_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    (x,) = node.inputs
    index = b("max_pool_index", x, node.output, **_plain(node.attrs))
    return [b("max_pool_gradient", cotangents[0], index, **_plain(node.attrs), spatial=x.shape[2:])]


def _infer_index(attrs: PoolAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    return [_infer(attrs, inputs)[0].with_dtype(INT32)]


def _flat(attrs: PoolAttrs, k: Sequence[Extent]) -> Extent:
    total: Extent = 0
    for size, position in zip(attrs.kernel, k, strict=True):
        total = total * size + position
    return total


def _index_reference(
    attrs: PoolAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    x, y = inputs
    parts = _windows(attrs, x, outputs[0].static_shape[2:], 0)
    inside = _windows(attrs, np.ones(x.shape, np.int8), outputs[0].static_shape[2:], 0)
    result = np.full(y.shape, len(parts), np.int32)
    for position in range(len(parts) - 1, -1, -1):
        result[(parts[position] == y) & (inside[position] == 1)] = position
    return [result]


def _index_compute(
    attrs: PoolAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    x, _ = inputs
    size = int(np.prod(attrs.kernel))

    def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
        at = _at(attrs, i[2:], r)
        hit = scalar.call("equal", read(0, (*i[:2], *at)), read(1, i))
        here = scalar.cast(Index(_flat(attrs, r)), INT32)
        return guarded(dim.inside(at, x.shape[2:]), scalar.select(hit, here, size), size)

    return Compute(term, attrs.kernel, "min", float(size))


def _gradient_reference(
    attrs: PoolGradientAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    dy, index = inputs
    return [
        _scattered(
            attrs,
            [np.where(index == k, dy, 0) for k in range(int(np.prod(attrs.kernel)))],
            outputs[0],
        )
    ]


def _scattered(attrs: PoolAttrs, parts: Sequence[Array], out: TensorType) -> Array:
    n, c, *spatial = out.static_shape
    padded = [e + lo + hi for e, lo, hi in zip(spatial, attrs.lo, attrs.hi, strict=True)]
    dx = np.zeros((n, c, *padded), parts[0].dtype)
    for part, k in zip(parts, grid(*map(range, attrs.kernel)), strict=True):
        where = tuple(
            slice(i * d, i * d + (e - 1) * s + 1, s)
            for i, d, s, e in zip(k, attrs.dilation, attrs.stride, part.shape[2:], strict=True)
        )
        dx[(slice(None), slice(None), *where)] += part
    inner = tuple(slice(lo, lo + e) for lo, e in zip(attrs.lo, spatial, strict=True))
    return np.ascontiguousarray(dx[(slice(None), slice(None), *inner)])


def _windows_of(attrs: PoolAttrs, i: tuple[Extent, ...], r: tuple[Extent, ...], out: Sequence[Extent]) -> tuple[
    tuple[Extent, ...], tuple[Extent, ...]
]:  # fmt: skip
    """The output whose kernel position r lies on input element i, and the conditions under which
    there is one.
    """
    place = [i[2 + a] + attrs.lo[a] - r[a] * attrs.dilation[a] for a in range(len(r))]
    at = tuple(q // s for q, s in zip(place, attrs.stride, strict=True))
    divides = tuple(-(q % s) for q, s in zip(place, attrs.stride, strict=True))
    return at, divides + dim.inside(at, out)


def _gradient_compute(
    attrs: PoolGradientAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    dy, _ = inputs

    def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
        at, conditions = _windows_of(attrs, i, r, dy.shape[2:])
        own = scalar.cast(Index(_flat(attrs, r)), INT32)
        hit = scalar.call("equal", read(1, (*i[:2], *at)), own)
        return guarded(conditions, scalar.select(hit, read(0, (*i[:2], *at)), 0), 0)

    return Compute(term, attrs.kernel)


_NO_SECOND = NotDifferentiable("second derivatives of pooling are not provided")


def _counts(
    attrs: AveragePoolAttrs, i: Sequence[Extent], spatial: Sequence[Extent]
) -> Expr | float:
    """How many elements a window counts, as a number or an expression of the output's position."""
    sizes: list[Extent] = []
    for a, e in enumerate(spatial):
        extra = attrs.extra[a] if attrs.extra else 0
        end = e + attrs.hi[a] - extra if attrs.count_padding else e
        first = -attrs.lo[a] if attrs.count_padding else 0
        start = i[a] * attrs.stride[a] - attrs.lo[a]
        d = attrs.dilation[a]
        # kernel positions before the first counted element
        before = dim.maximum(0, dim.ceil_div(first - start, d))
        behind = dim.minimum(attrs.kernel[a], dim.ceil_div(end - start, d))
        sizes.append(behind - before)
    total = dim.product(sizes)
    return float(total) if isinstance(total, int) else Index(total)


def _mean_compute(
    attrs: AveragePoolAttrs, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
) -> Compute:
    (x,) = inputs

    def finish(total: Expr, i: tuple[Extent, ...], _read: Read) -> Expr:
        count = _counts(attrs, i[2:], x.shape[2:])
        return total / (scalar.cast(count, total.dtype) if isinstance(count, Expr) else count)

    return Compute(_in_windows(attrs, x, 0.0), attrs.kernel, finish=finish)


def _count_array(attrs: AveragePoolAttrs, spatial: Sequence[int], out: Sequence[int]) -> Array:
    ones = np.ones((1, 1, *spatial))
    if attrs.count_padding:
        extra = attrs.extra or (0,) * len(spatial)
        real = [(lo, hi - e) for lo, hi, e in zip(attrs.lo, attrs.hi, extra, strict=True)]
        ones = np.pad(ones, [(0, 0), (0, 0), *real], constant_values=1.0)
        attrs = AveragePoolAttrs(
            attrs.kernel, attrs.stride, attrs.dilation, (0,) * len(spatial), extra
        )
    return np.asarray(sum(_windows(attrs, ones, out, 0.0)))


def _mean_reference(
    attrs: AveragePoolAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (x,) = inputs
    wide = x.astype(np.float32) if x.dtype.itemsize < 4 else x
    out = outputs[0].static_shape[2:]
    total = sum(_windows(attrs, wide, out, 0.0))
    with np.errstate(all="ignore"):
        return [
            np.asarray(total / _count_array(attrs, x.shape[2:], out).astype(wide.dtype)).astype(
                x.dtype
            )
        ]


def _mean_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    attrs, (x,) = node.attrs, node.inputs
    return [b("average_pool_gradient", cotangents[0], **_plain(attrs), count_padding=attrs.count_padding,
              extra=attrs.extra, spatial=x.shape[2:])]  # fmt: skip


def _mean_gradient_reference(
    attrs: AveragePoolGradientAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (dy,) = inputs
    share = dy / _count_array(attrs, outputs[0].static_shape[2:], dy.shape[2:]).astype(dy.dtype)
    return [_scattered(attrs, [share] * int(np.prod(attrs.kernel)), outputs[0])]


def _mean_gradient_compute(
    attrs: AveragePoolGradientAttrs, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
) -> Compute:
    (dy,) = inputs
    spatial = outputs[0].shape[2:]

    def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
        at, conditions = _windows_of(attrs, i, r, dy.shape[2:])
        count = _counts(attrs, at, spatial)
        value = read(0, (*i[:2], *at))
        return guarded(
            conditions,
            value / (scalar.cast(count, value.dtype) if isinstance(count, Expr) else count),
            0,
        )

    return Compute(term, attrs.kernel)


def _mean_gradient_vjp(
    b: Builder, node: Node, cotangents: Sequence[Value]
) -> Sequence[Value | None]:
    attrs = node.attrs
    return [
        b(
            "average_pool",
            cotangents[0],
            **_plain(attrs),
            count_padding=attrs.count_padding,
            extra=attrs.extra,
        )
    ]


def _flops(attrs: PoolAttrs, _i: Sequence[TensorType], outputs: Sequence[TensorType]) -> Extent:
    return outputs[0].elements * int(np.prod(attrs.kernel))


_F = "pooling"
define(Op("max_pool", "the largest element under each window", _infer, _max_reference, _max_vjp, PoolAttrs, _F,
          _max_compute, flops=_flops))  # fmt: skip
define(Op("max_pool_index", "the first kernel position (flat) whose element equals the window's maximum", _infer_index,
          _index_reference, NotDifferentiable("a position does not change smoothly"), PoolAttrs, _F,
          _index_compute, flops=_flops))  # fmt: skip
define(
    Op(
        "max_pool_gradient",
        "dx[q] = sum over windows whose maximum lies at q of dy",
        _infer_gradient,
        _gradient_reference,
        _NO_SECOND,
        PoolGradientAttrs,
        _F,
        _gradient_compute,
        flops=_flops,
    )
)
define(Op("average_pool", "the mean of the elements under each window", _infer, _mean_reference, _mean_vjp,
          AveragePoolAttrs, _F, _mean_compute, flops=_flops))  # fmt: skip
define(Op("average_pool_gradient", "dx[q] = sum over windows on q of dy / count", _infer_gradient,
          _mean_gradient_reference, _mean_gradient_vjp, AveragePoolGradientAttrs, _F, _mean_gradient_compute,
          flops=_flops))  # fmt: skip
