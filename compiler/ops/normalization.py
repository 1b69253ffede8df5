"""Normalizations: all are decompositions into small ops; the references are written apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dim import Extent
from ..op import Array, ByDecomposition, Op, define
from ..tensor_type import FLOAT32, DType, TensorType

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value


@dataclass(frozen=True)
class EpsilonAttrs:
    epsilon: float = 1e-5


@dataclass(frozen=True)
class AxisEpsilonAttrs:
    """Normalizes over ``axis`` and all axes behind it."""

    axis: int
    epsilon: float = 1e-5


@dataclass(frozen=True)
class GroupNormAttrs:
    groups: int
    epsilon: float = 1e-5


@dataclass(frozen=True)
class AxisAttrs:
    axis: int


@dataclass(frozen=True)
class LrnAttrs:
    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0


def _channel(b: Builder, v: Value, rank: int) -> Value:
    return b("reshape", v, shape=(*v.shape, *(1,) * (rank - 2)))


def _channel_array(v: Array, rank: int) -> Array:
    return v.reshape(-1, *(1,) * (rank - 2))


def _same(check: Any = None) -> Any:
    def infer(attrs: Any, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
        if check is not None:
            check(attrs, inputs)
        if not inputs[0].dtype.is_float:
            raise ValueError("normalization needs floats")
        return [inputs[0]]

    return infer


def _per_channel(_attrs: Any, inputs: Sequence[TensorType]) -> None:
    x, *rest = inputs
    if x.rank < 2 or any(t.shape != (x.shape[1],) for t in rest):
        raise ValueError("scale, bias, mean and variance need one element per channel (axis 1)")


def _axis_inside(attrs: Any, inputs: Sequence[TensorType]) -> None:
    if not 0 <= attrs.axis < inputs[0].rank:
        raise ValueError(f"there is no axis {attrs.axis} in rank {inputs[0].rank}")


def _groups_divide(attrs: GroupNormAttrs, inputs: Sequence[TensorType]) -> None:
    _per_channel(attrs, inputs)
    if attrs.groups < 1 or inputs[0].shape[1] % attrs.groups != 0:
        raise ValueError(f"{attrs.groups} groups do not divide {inputs[0].shape[1]} channels")


def _batch_norm(b: Builder, node: Node) -> Sequence[Value]:
    x = node.inputs[0]
    scale, bias, mean, variance = (_widened(b, value) for value in node.inputs[1:])
    factor = b("div", scale, b("sqrt", b("add", variance, node.attrs.epsilon)))
    shift = b("sub", bias, b("mul", mean, factor))
    factor, shift = (_cast(b, value, x.dtype) for value in (factor, shift))
    rank = x.type.rank
    return [b("add", b("mul", x, _channel(b, factor, rank)), _channel(b, shift, rank))]


def _batch_norm_reference(
    attrs: EpsilonAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    x, scale, bias, mean, variance = (_wide(a) for a in inputs)
    rank = x.ndim
    factor = scale / np.sqrt(variance + scale.dtype.type(attrs.epsilon))
    shift = bias - mean * factor
    return [
        (x * _channel_array(factor, rank) + _channel_array(shift, rank)).astype(inputs[0].dtype)
    ]


def _widened(b: Builder, value: Value) -> Value:
    """A parameter of 16 bits as float32: its sum with epsilon is not the parameter."""
    return _cast(b, value, FLOAT32) if value.dtype.bytes < FLOAT32.bytes else value


def _cast(b: Builder, value: Value, dtype: DType) -> Value:
    return value if value.dtype is dtype else b("cast", value, dtype=dtype)


def _wide(a: Array) -> Array:
    return a.astype(np.float32) if a.dtype.itemsize < 4 else a


def _standard(b: Builder, x: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    """(x - mean) / sqrt(variance + epsilon) over axes."""
    centred = b("sub", x, b("reduce_mean", x, axes=axes, keep=True))
    variance = b("reduce_mean", b("mul", centred, centred), axes=axes, keep=True)
    return b("div", centred, b("sqrt", b("add", variance, epsilon)))


def _standard_array(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    centred: Array = x - x.mean(axis=axes, keepdims=True)
    result: Array = centred / np.sqrt(
        (centred * centred).mean(axis=axes, keepdims=True) + x.dtype.type(epsilon)
    )
    return result


def _behind(axis: int, rank: int) -> tuple[int, ...]:
    return tuple(range(axis, rank))


def _layer_norm(b: Builder, node: Node) -> Sequence[Value]:
    x, scale, bias = node.inputs
    return [
        b(
            "add",
            b(
                "mul",
                _standard(b, x, _behind(node.attrs.axis, x.type.rank), node.attrs.epsilon),
                scale,
            ),
            bias,
        )
    ]


def _layer_norm_reference(
    a: AxisEpsilonAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    x, scale, bias = (_wide(v) for v in inputs)
    return [
        (_standard_array(x, _behind(a.axis, x.ndim), a.epsilon) * scale + bias).astype(
            inputs[0].dtype
        )
    ]


def _rms_norm(b: Builder, node: Node) -> Sequence[Value]:
    x, scale = node.inputs
    mean = b("reduce_mean", b("mul", x, x), axes=_behind(node.attrs.axis, x.type.rank), keep=True)
    return [b("mul", b("div", x, b("sqrt", b("add", mean, node.attrs.epsilon))), scale)]


def _rms_norm_reference(
    a: AxisEpsilonAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    x, scale = (_wide(v) for v in inputs)
    mean = (x * x).mean(axis=_behind(a.axis, x.ndim), keepdims=True)
    return [(x / np.sqrt(mean + x.dtype.type(a.epsilon)) * scale).astype(inputs[0].dtype)]


def _group_shape(x: TensorType, groups: Any) -> tuple[Extent, ...]:
    return (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


def _group_norm(b: Builder, node: Node) -> Sequence[Value]:
    x, scale, bias = node.inputs
    groups = node.attrs.groups if isinstance(node.attrs, GroupNormAttrs) else x.shape[1]
    rank = x.type.rank
    parts = b("reshape", x, shape=_group_shape(x.type, groups))
    normal = b(
        "reshape", _standard(b, parts, _behind(2, rank + 1), node.attrs.epsilon), shape=x.shape
    )
    return [b("add", b("mul", normal, _channel(b, scale, rank)), _channel(b, bias, rank))]


def _group_norm_reference(
    attrs: Any, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    x, scale, bias = (_wide(v) for v in inputs)
    groups = attrs.groups if isinstance(attrs, GroupNormAttrs) else x.shape[1]
    parts = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    normal = _standard_array(parts, _behind(2, parts.ndim), attrs.epsilon).reshape(x.shape)
    return [
        (normal * _channel_array(scale, x.ndim) + _channel_array(bias, x.ndim)).astype(
            inputs[0].dtype
        )
    ]


def _lrn(b: Builder, node: Node) -> Sequence[Value]:
    """x * (bias + alpha / size * sum of squares over ``size`` neighbouring channels) ** -beta."""
    (x,) = node.inputs
    a = node.attrs
    n, c, *rest = x.shape
    before = (a.size - 1) // 2
    flat = b("reshape", b("mul", x, x), shape=(n, 1, c, _product(rest)))
    window = (a.size, 1)
    mean = b("average_pool", flat, kernel=window, stride=(1, 1), dilation=(1, 1), lo=(before, 0),
             hi=(a.size - 1 - before, 0), count_padding=True)  # fmt: skip
    base = b("add", b("mul", b("reshape", mean, shape=x.shape), a.alpha), a.bias)
    # base ** 0.75 by square roots: two are cheaper, and closer, than a logarithm and an exponential
    if a.beta == 0.75:
        root = b("sqrt", base)
        power = b("mul", root, b("sqrt", root))
    else:
        power = b("pow", base, a.beta)
    return [b("div", x, power)]


def _product(extents: Sequence[Extent]) -> Extent:
    total: Extent = 1
    for extent in extents:
        total = total * extent
    return total


def _lrn_reference(
    attrs: LrnAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    x = _wide(inputs[0])
    before = (attrs.size - 1) // 2
    padded = np.pad(x * x, [(0, 0), (before, attrs.size - 1 - before), *[(0, 0)] * (x.ndim - 2)])
    total = np.asarray(sum(padded[:, k : k + x.shape[1]] for k in range(attrs.size)))
    base = x.dtype.type(attrs.bias) + x.dtype.type(attrs.alpha / attrs.size) * total
    return [(x / base ** x.dtype.type(attrs.beta)).astype(inputs[0].dtype)]


def _softmax(b: Builder, node: Node) -> Sequence[Value]:
    return [softmax_parts(b, node.inputs[0], node.attrs.axis)]


def softmax_parts(b: Builder, x: Value, axis: int) -> Value:
    """softmax(x) along an axis in smaller ops."""
    axes = (axis,)
    power = b("exp", b("sub", x, b("reduce_max", x, axes=axes, keep=True)))
    return b("div", power, b("reduce_sum", power, axes=axes, keep=True))


def _softmax_reference(
    attrs: AxisAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    x = _wide(inputs[0])
    if not x.size:
        return [inputs[0]]
    with np.errstate(all="ignore"):
        power = np.exp(x - x.max(axis=attrs.axis, keepdims=True))
        return [(power / power.sum(axis=attrs.axis, keepdims=True)).astype(inputs[0].dtype)]


def _log_softmax(b: Builder, node: Node) -> Sequence[Value]:
    (x,) = node.inputs
    axes = (node.attrs.axis,)
    centred = b("sub", x, b("reduce_max", x, axes=axes, keep=True))
    return [b("sub", centred, b("log", b("reduce_sum", b("exp", centred), axes=axes, keep=True)))]


def _log_softmax_reference(
    attrs: AxisAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    x = _wide(inputs[0])
    if not x.size:
        return [inputs[0]]
    with np.errstate(all="ignore"):
        centred = x - x.max(axis=attrs.axis, keepdims=True)
        total = np.log(np.exp(centred).sum(axis=attrs.axis, keepdims=True))
        return [(centred - total).astype(inputs[0].dtype)]


def _normalization(
    name: str, doc: str, infer: Any, reference: Any, attrs: type, decompose: Any
) -> None:
    define(
        Op(
            name,
            doc,
            infer,
            reference,
            ByDecomposition(),
            attrs,
            "normalization",
            decompose=decompose,
        )
    )


_normalization("batch_norm", "(x - mean) / sqrt(variance + epsilon) * scale + bias, per channel", _same(_per_channel),
               _batch_norm_reference, EpsilonAttrs, _batch_norm)  # fmt: skip
_normalization(
    "layer_norm",
    "(x - mean(x)) / sqrt(variance(x) + epsilon) * scale + bias over the axes from axis on",
    _same(_axis_inside),
    _layer_norm_reference,
    AxisEpsilonAttrs,
    _layer_norm,
)
_normalization("rms_norm", "x / sqrt(mean(x * x) + epsilon) * scale over the axes from axis on", _same(_axis_inside),
               _rms_norm_reference, AxisEpsilonAttrs, _rms_norm)  # fmt: skip
_normalization(
    "group_norm",
    "normalized over each group of channels and all space, * scale + bias per channel",
    _same(_groups_divide),
    _group_norm_reference,
    GroupNormAttrs,
    _group_norm,
)
_normalization("instance_norm", "normalized over space for each channel, * scale + bias", _same(_per_channel),
               _group_norm_reference, EpsilonAttrs, _group_norm)  # fmt: skip
_normalization("lrn", "x / (bias + alpha / size * sum of squares of neighbouring channels) ** beta",
               _same(), _lrn_reference, LrnAttrs, _lrn)  # fmt: skip
_normalization("softmax", "exp(x) / sum of exp(x) along an axis", _same(_axis_inside), _softmax_reference, AxisAttrs,
               _softmax)  # fmt: skip
_normalization("log_softmax", "x - log of sum of exp(x) along an axis", _same(_axis_inside), _log_softmax_reference,
               AxisAttrs, _log_softmax)  # fmt: skip
