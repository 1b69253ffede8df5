"""Convolution of any spatial rank and its two gradients.

x is [n, c, spatial...], w is [o, c / groups, kernel...], y is [n, o, out...]; s is the stride, d
the dilation, lo and hi the zero padding: y[n, o, p] = sum over c, k of x[n, g c/groups + c, p s + k
d - lo] * w[o, c, k], g = o // (O / groups).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as grid
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import dim
from ..dim import Extent
from ..op import Array, Compute, Op, Read, define
from ..scalar import Expr, cast, guarded
from ..tensor_type import TensorType
from .input_axis import InputAxis
from .products import product_dtype

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value


@dataclass(frozen=True)
class ConvAttrs:
    """One entry per spatial axis; lo and hi are zeros put before and behind."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    lo: tuple[int, ...]
    hi: tuple[int, ...]
    groups: int = 1


@dataclass(frozen=True)
class ConvInputGradientAttrs(ConvAttrs):
    """``spatial``: the extents of x's spatial axes."""

    spatial: tuple[Extent, ...] = ()


@dataclass(frozen=True)
class ConvWeightGradientAttrs(ConvAttrs):
    """``kernel``: the extents of w's spatial axes."""

    kernel: tuple[int, ...] = ()


def is_depthwise(weights: TensorType, groups: int) -> bool:
    """Whether each filter of a convolution meets one channel, and each channel one filter."""
    filters, channels = weights.shape[:2]
    return channels == 1 and filters == groups > 1


def output_extents(
    attrs: ConvAttrs, spatial: Sequence[Extent], kernel: Sequence[Extent]
) -> tuple[Extent, ...]:
    """floor((extent + lo + hi - d (k - 1) - 1) / s) + 1, per axis; ValueError if a window does
    not fit.
    """
    result = []
    for axis, (e, k) in enumerate(zip(spatial, kernel, strict=True)):
        room = e + attrs.lo[axis] + attrs.hi[axis] - (k - 1) * attrs.dilation[axis] - 1
        out = room // attrs.stride[axis] + 1
        if isinstance(out, int) and out < 1:
            raise ValueError(f"a kernel of {k} does not fit into {e} elements with this padding")
        result.append(out)
    return tuple(result)


def _check(attrs: ConvAttrs, rank: int) -> None:
    if not 1 <= rank <= 3:
        raise ValueError("convolutions have 1 to 3 spatial axes")
    if any(len(part) != rank for part in (attrs.stride, attrs.dilation, attrs.lo, attrs.hi)):
        raise ValueError(f"stride, dilation, lo and hi need {rank} entries")
    if (
        min(attrs.stride) < 1
        or min(attrs.dilation) < 1
        or min(*attrs.lo, *attrs.hi) < 0
        or attrs.groups < 1
    ):
        raise ValueError("stride, dilation and groups are at least 1, padding at least 0")


def _channels(attrs: ConvAttrs, x: Extent, o: Extent, per_group: Extent | None) -> None:
    if x % attrs.groups != 0 or o % attrs.groups != 0:
        raise ValueError(f"{attrs.groups} groups do not divide {x} channels and {o} filters")
    if per_group is not None and per_group * attrs.groups != x:
        raise ValueError(f"filters for {per_group} x {attrs.groups} channels meet {x}")


def _infer(attrs: ConvAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    x, w = inputs
    dtype = product_dtype(x.dtype, w.dtype)
    if x.rank != w.rank or dtype is None:
        raise ValueError("input and weights must agree in rank and dtype, or be uint8 and int8")
    _check(attrs, x.rank - 2)
    _channels(attrs, x.shape[1], w.shape[0], w.shape[1])
    return [
        TensorType(
            dtype, (x.shape[0], w.shape[0], *output_extents(attrs, x.shape[2:], w.shape[2:]))
        )
    ]


def _infer_input(
    attrs: ConvInputGradientAttrs, inputs: Sequence[TensorType]
) -> Sequence[TensorType]:
    dy, w = inputs
    _check(attrs, dy.rank - 2)
    if dy.shape[1] != w.shape[0]:
        raise ValueError(f"{dy.shape[1]} channels meet {w.shape[0]} filters")
    _channels(attrs, w.shape[1] * attrs.groups, w.shape[0], w.shape[1])
    if output_extents(attrs, attrs.spatial, w.shape[2:]) != dy.shape[2:]:
        raise ValueError(f"an input of {attrs.spatial} does not give an output of {dy.shape[2:]}")
    return [TensorType(dy.dtype, (dy.shape[0], w.shape[1] * attrs.groups, *attrs.spatial))]


def _infer_weight(
    attrs: ConvWeightGradientAttrs, inputs: Sequence[TensorType]
) -> Sequence[TensorType]:
    x, dy = inputs
    _check(attrs, x.rank - 2)
    _channels(attrs, x.shape[1], dy.shape[1], None)
    if output_extents(attrs, x.shape[2:], attrs.kernel) != dy.shape[2:]:
        raise ValueError(f"an input of {x.shape[2:]} does not give an output of {dy.shape[2:]}")
    channels = dim.exact_quotient(x.shape[1], attrs.groups)
    assert channels is not None
    return [TensorType(x.dtype, (dy.shape[1], channels, *attrs.kernel))]


def _wide(array: Array) -> Array:
    """Small floats are summed in float32."""
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array


def _padded(attrs: ConvAttrs, x: Array) -> Array:
    return np.pad(x, [(0, 0), (0, 0), *zip(attrs.lo, attrs.hi, strict=True)])


def _window(attrs: ConvAttrs, k: Sequence[int], out: Sequence[int]) -> tuple[Any, ...]:
    """Where kernel position k meets the padded input, for all outputs."""
    return tuple(slice(i * d, i * d + e * s, s) for i, d, s, e in
                 zip(k, attrs.dilation, attrs.stride, out, strict=True))  # fmt: skip


def _at(*index: Any) -> Any:
    """An index of NumPy's, which its annotations do not let us put together."""
    return index


def _grouped(array: Array, axis: int, groups: int) -> Array:
    shape = array.shape
    return array.reshape(*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])


def _reference(
    attrs: ConvAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    dtype = outputs[0].dtype.numpy
    is_mixed = inputs[0].dtype != inputs[1].dtype
    x, w = (array.astype(dtype) if is_mixed else _wide(array) for array in inputs)
    x = _padded(attrs, x)
    n, o, *out = outputs[0].static_shape
    g = attrs.groups
    xs, ws = _grouped(x, 1, g), _grouped(w, 0, g)  # [n, g, c, ...], [g, o/g, c, k...]
    y = np.zeros((g, o // g, n, *out), x.dtype)
    for k in grid(*map(range, w.shape[2:])):
        part = xs[_at(slice(None), slice(None), slice(None), *_window(attrs, k, out))]
        for group in range(g):
            y[group] += np.tensordot(
                ws[_at(group, slice(None), slice(None), *k)], part[:, group], ([1], [1])
            )
    result = np.moveaxis(y.reshape(o, n, *out), 0, 1)
    return [np.ascontiguousarray(result).astype(dtype)]


def _reference_input(
    attrs: ConvInputGradientAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    dy, w = _wide(inputs[0]), _wide(inputs[1])
    n, c, *spatial = outputs[0].static_shape
    g, out = attrs.groups, dy.shape[2:]
    dys, ws = _grouped(dy, 1, g), _grouped(w, 0, g)
    padded = [e + lo + hi for e, lo, hi in zip(spatial, attrs.lo, attrs.hi, strict=True)]
    dx = np.zeros((n, g, c // g, *padded), dy.dtype)
    for k in grid(*map(range, w.shape[2:])):
        where = _window(attrs, k, out)
        for group in range(g):
            part = np.tensordot(
                ws[_at(group, slice(None), slice(None), *k)], dys[:, group], ([0], [1])
            )
            dx[_at(slice(None), group, slice(None), *where)] += np.moveaxis(part, 0, 1)
    inner = tuple(slice(lo, lo + e) for lo, e in zip(attrs.lo, spatial, strict=True))
    return [
        np.ascontiguousarray(
            dx.reshape(n, c, *padded)[_at(slice(None), slice(None), *inner)]
        ).astype(inputs[0].dtype)
    ]


def _reference_weight(
    attrs: ConvWeightGradientAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    x, dy = _padded(attrs, _wide(inputs[0])), _wide(inputs[1])
    o, c, *kernel = outputs[0].static_shape
    g, out = attrs.groups, dy.shape[2:]
    xs, dys = _grouped(x, 1, g), _grouped(dy, 1, g)
    dw = np.zeros((g, o // g, c, *kernel), x.dtype)
    axes = [0, *range(2, dy.ndim)]
    for k in grid(*map(range, kernel)):
        part = xs[_at(slice(None), slice(None), slice(None), *_window(attrs, k, out))]
        for group in range(g):
            dw[_at(group, slice(None), slice(None), *k)] = np.tensordot(
                dys[:, group], part[:, group], (axes, axes)
            )
    return [dw.reshape(o, c, *kernel).astype(inputs[0].dtype)]


def _compute(
    attrs: ConvAttrs, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
) -> Compute:
    x, w = inputs
    filters = outputs[0].shape[1]
    per_group = dim.exact_quotient(filters, attrs.groups)
    assert isinstance(per_group, int), "filters are known when compiling"

    def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
        n, o, *p = i
        c, *k = r
        channel = c if attrs.groups == 1 else (o // per_group) * w.shape[1] + c
        at = [
            p[a] * attrs.stride[a] + k[a] * attrs.dilation[a] - attrs.lo[a] for a in range(len(p))
        ]
        value = guarded(dim.inside(at, x.shape[2:]), read(0, (n, channel, *at)))
        dtype = outputs[0].dtype
        return cast(value, dtype) * cast(read(1, (o, c, *k)), dtype)

    return Compute(term, w.shape[1:])


def _compute_input(
    attrs: ConvInputGradientAttrs, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
) -> Compute:
    dy, w = inputs
    channels = w.shape[1]
    per_group = dim.exact_quotient(w.shape[0], attrs.groups)
    assert isinstance(channels, int) and per_group is not None, "channels are known when compiling"
    axes = _axes_of_input(attrs, dy, w)

    def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
        n, c, *p = i
        o, *u = r
        group, own = (0, c) if attrs.groups == 1 else (c // channels, c % channels)
        met = [axis.met(q, number) for axis, q, number in zip(axes, p, u, strict=True)]
        at, k = [place for place, _, _ in met], [tap for _, tap, _ in met]
        are_taps = dim.inside(k, w.shape[2:])
        conditions = (*(c for _, _, c in met), *are_taps, *dim.inside(at, dy.shape[2:]))
        filter_ = group * per_group + o
        value = guarded(conditions, read(0, (n, filter_, *at)))
        return value * guarded(are_taps, read(1, (filter_, own, *k)))

    return Compute(term, (per_group, *(axis.terms for axis in axes)))


def _axes_of_input(attrs: ConvAttrs, dy: TensorType, w: TensorType) -> list[InputAxis]:
    return [
        InputAxis(*parts)
        for parts in zip(
            attrs.stride, attrs.dilation, attrs.lo, w.static_shape[2:], dy.shape[2:], strict=True
        )
    ]


def padding_of_output_gradient(
    attrs: ConvInputGradientAttrs, dy: TensorType, w: TensorType
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Zeros before and behind dy, axis by axis, with which the loops of the input's gradient test
    no borders."""
    axes = _axes_of_input(attrs, dy, w)
    pads = [
        axis.padding(extent, hi)
        for axis, extent, hi in zip(axes, attrs.spatial, attrs.hi, strict=True)
    ]
    return tuple(before for before, _ in pads), tuple(behind for _, behind in pads)


def _compute_weight(
    attrs: ConvWeightGradientAttrs, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
) -> Compute:
    x, dy = inputs
    per_group = dim.exact_quotient(dy.shape[1], attrs.groups)
    channels = outputs[0].shape[1]
    assert isinstance(per_group, int), "filters are known when compiling"

    def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
        o, c, *k = i
        n, *p = r
        channel = c if attrs.groups == 1 else (o // per_group) * channels + c
        at = [
            p[a] * attrs.stride[a] + k[a] * attrs.dilation[a] - attrs.lo[a] for a in range(len(p))
        ]
        return guarded(dim.inside(at, x.shape[2:]), read(0, (n, channel, *at))) * read(
            1, (n, o, *p)
        )

    return Compute(term, (x.shape[0], *dy.shape[2:]))


def _plain(attrs: ConvAttrs) -> dict[str, Any]:
    return {
        "stride": attrs.stride,
        "dilation": attrs.dilation,
        "lo": attrs.lo,
        "hi": attrs.hi,
        "groups": attrs.groups,
    }


def _vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    x, w = node.inputs
    plain = _plain(node.attrs)
    return [b("conv_input_gradient", cotangents[0], w, **plain, spatial=x.shape[2:]),
            b("conv_weight_gradient", x, cotangents[0], **plain, kernel=w.shape[2:])]  # fmt: skip


def _vjp_input(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    dy, w = node.inputs
    plain = _plain(node.attrs)
    return [b("conv", cotangents[0], w, **plain),
            b("conv_weight_gradient", cotangents[0], dy, **plain, kernel=w.shape[2:])]  # fmt: skip


def _vjp_weight(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    x, dy = node.inputs
    plain = _plain(node.attrs)
    return [b("conv_input_gradient", dy, cotangents[0], **plain, spatial=x.shape[2:]),
            b("conv", x, cotangents[0], **plain)]  # fmt: skip


def _flops(
    _attrs: ConvAttrs, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
) -> Extent:
    return 2 * dim.product(outputs[0].shape) * dim.product(inputs[1].shape[1:])


def _flops_input(
    _attrs: ConvAttrs, inputs: Sequence[TensorType], _outputs: Sequence[TensorType]
) -> Extent:
    return 2 * dim.product(inputs[0].shape) * dim.product(inputs[1].shape[1:])


def _flops_weight(
    _attrs: ConvAttrs, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
) -> Extent:
    return 2 * dim.product(inputs[1].shape) * dim.product(outputs[0].shape[1:])


define(Op("conv", "y[n,o,p] = sum over c, k of x[n,c,p s + k d - lo] * w[o,c,k]", _infer, _reference, _vjp, ConvAttrs,
          "convolution", _compute, flops=_flops))  # fmt: skip
define(Op("conv_input_gradient", "dx[n,c,q] = sum over o, k of dy[n,o,(q + lo - k d) / s] * w[o,c,k]: conv transposed",
          _infer_input, _reference_input, _vjp_input, ConvInputGradientAttrs, "convolution", _compute_input,
          flops=_flops_input))  # fmt: skip
define(Op("conv_weight_gradient", "dw[o,c,k] = sum over n, p of x[n,c,p s + k d - lo] * dy[n,o,p]",
          _infer_weight, _reference_weight, _vjp_weight, ConvWeightGradientAttrs, "convolution", _compute_weight,
          flops=_flops_weight))  # fmt: skip
