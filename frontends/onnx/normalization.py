"""ONNX's normalizations and softmaxes -> normalization ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from onnx import TensorProto

from netloom.compiler.dim import Extent, product
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT32, INT64

from .context import Context
from .handler import HandlerTable
from .node import ModelNode
from .short_floats import widened
from .sizes import listed
from .tensors import dtype_of

NORMALIZATION: Final = HandlerTable()


def _check_channels(node: ModelNode, x: Value, parameters: list[Value]) -> None:
    if x.type.rank < 2:
        raise node.misshapen(f"its input is {x.type}; a channel axis is needed.")
    for parameter in parameters:
        if parameter.shape != (x.shape[1],):
            raise node.misshapen(f"a parameter is {parameter.type}; {x.shape[1]} elements are needed.",
                                 "Export it again.")  # fmt: skip


@NORMALIZATION.on("BatchNormalization")
def batch_normalization(context: Context, node: ModelNode) -> list[Value | None]:
    x, scale, bias, mean, variance = (node.input(position) for position in range(5))
    epsilon = node.number("epsilon", 1e-5)
    if node.opset < 9 and not node.flag("spatial", True):
        return [_normalized_by_element(context, node, x, (scale, bias, mean, variance), epsilon)]
    _check_channels(node, x, [scale, bias, mean, variance])
    if node.opset >= 14 and node.flag("training_mode", False):
        return _training_batch_normalization(
            context, node, [x, scale, bias, mean, variance], epsilon
        )
    if any(node.is_used(output) for output in range(1, len(node.outputs))):
        raise node.unsupported(
            "statistics are asked for (training mode).", "Export the model for inference."
        )
    return [_batch_norm(context, x, [scale, bias, mean, variance], epsilon)]


def _normalized_by_element(
    context: Context, node: ModelNode, x: Value, parameters: Sequence[Value], epsilon: float
) -> Value:
    """With statistics of each element of an example (spatial = 0)."""
    for parameter in parameters:
        if parameter.shape != x.shape[1:]:
            raise node.misshapen(
                f"a parameter is {parameter.type}; {listed(x.shape[1:])} is needed.",
                "Export it again.",
            )
    scale, bias, mean, variance = parameters
    deviation = context("sqrt", context("add", variance, epsilon))
    factor = context("div", scale, deviation)
    return context("add", context("mul", context("sub", x, mean), factor), bias)


def _training_batch_normalization(
    context: Context, node: ModelNode, values: list[Value], epsilon: float
) -> list[Value | None]:
    """Statistics of this batch; the running ones move towards them by 1 - momentum."""
    x, scale, bias, mean, variance = values
    axes = (0, *range(2, x.type.rank))
    wide = context.cast(x, mean.dtype)
    own_mean = context("reduce_mean", wide, axes=axes, keep=True)
    centred = context("sub", wide, own_mean)
    own_variance = context("reduce_mean", context("mul", centred, centred), axes=axes, keep=True)
    flat = [context.reshape(value, mean.shape) for value in (own_mean, own_variance)]
    momentum = node.number("momentum", 0.9)
    running = [
        context("add", context("mul", old, momentum), context("mul", new, 1 - momentum))
        for old, new in zip((mean, variance), flat, strict=True)
    ]
    return [_batch_norm(context, x, [scale, bias, *flat], epsilon), *running]


def _batch_norm(context: Context, x: Value, parameters: Sequence[Value], epsilon: float) -> Value:
    """Parameters keep the largest of their dtypes: float16 has no room for many a variance."""
    dtypes = {value.dtype for value in (x, *parameters)}
    largest = max(dtypes, key=lambda dtype: dtype.bytes)
    is_mixed = sum(dtype.bytes == largest.bytes for dtype in dtypes) > 1  # both kinds of 16 bits
    common = FLOAT32 if is_mixed else largest
    wide = [context.cast(value, common) for value in parameters]
    return context("batch_norm", x, *wide, epsilon=epsilon)


@NORMALIZATION.on("InstanceNormalization")
def instance_normalization(context: Context, node: ModelNode) -> Value:
    x, scale, bias = node.input(0), node.input(1), node.input(2)
    _check_channels(node, x, [scale, bias])
    epsilon = node.number("epsilon", 1e-5)
    source = context.source(x)
    if x.type.is_static or not _is_grouped(source, x):
        return context("instance_norm", x, scale, bias, epsilon=epsilon)
    groups, channels = x.type.shape[1], source.shape[1]
    assert isinstance(groups, int) and isinstance(channels, int)
    scale, bias = (_per_group(context, node, value, groups, channels) for value in (scale, bias))
    return context.reshape(
        context("group_norm", source, scale, bias, groups=groups, epsilon=epsilon), x.shape
    )


def _is_grouped(source: Value, x: Value) -> bool:
    """Whether [n, c, ..] became [n, groups, rest]: group normalization, as exported before the
    standard had it.
    """
    if source.type.rank < 3 or x.type.rank != 3 or source.shape[0] != x.shape[0]:
        return False
    channels, groups = source.shape[1], x.shape[1]
    return isinstance(channels, int) and isinstance(groups, int) and channels % groups == 0


@NORMALIZATION.on("GroupNormalization")
def group_normalization(context: Context, node: ModelNode) -> Value:
    """Before opset 21, scale and bias have one element per group."""
    x, scale, bias = node.input(0), node.input(1), node.input(2)
    groups = node.integer("num_groups", 0)
    if x.type.rank < 2:
        raise node.misshapen(f"its input is {x.type}; a channel axis is needed.")
    channels = x.shape[1]
    if groups < 1 or not isinstance(channels, int) or channels % groups:
        raise node.misshapen(
            f"num_groups = {groups} does not divide the {channels} channels.", "Export it again."
        )
    if node.opset < 21:
        scale, bias = (
            _per_group(context, node, value, groups, channels) for value in (scale, bias)
        )
    _check_channels(node, x, [scale, bias])
    return context(
        "group_norm", x, scale, bias, groups=groups, epsilon=node.number("epsilon", 1e-5)
    )


def _per_group(
    context: Context, node: ModelNode, value: Value, groups: int, channels: int
) -> Value:
    if value.shape != (groups,):
        raise node.misshapen(
            f"a parameter is {value.type}; {groups} elements are needed.", "Export it again."
        )
    spread = context(
        "broadcast", context.reshape(value, (groups, 1)), shape=(groups, channels // groups)
    )
    return context.reshape(spread, (channels,))


@NORMALIZATION.on("LayerNormalization")
def layer_normalization(context: Context, node: ModelNode) -> list[Value | None]:
    x, scale = node.input(0), node.input(1)
    axis = node.axis(node.integer("axis", -1), x.type.rank)
    epsilon = node.number("epsilon", 1e-5)
    bias = node.optional(2)
    plain = context.splat(0, x.dtype, x.shape[axis:]) if bias is None else bias
    y = _scaled_norm(context, node, "layer_norm", x, [scale, plain])
    if not (node.is_used(1) or node.is_used(2)):
        return [y]
    wide = widened(context, x)
    axes = tuple(range(axis, x.type.rank))
    mean = context("reduce_mean", wide, axes=axes, keep=True)
    centred = context("sub", wide, mean)
    variance = context("reduce_mean", context("mul", centred, centred), axes=axes, keep=True)
    deviation = context("sqrt", context("add", variance, epsilon))
    stash = dtype_of(node.integer("stash_type", TensorProto.FLOAT), f"{node.title}: the mean")
    return [y, context.cast(mean, stash), context.cast(context("reciprocal", deviation), stash)]


def _scaled_norm(
    context: Context, node: ModelNode, op: str, x: Value, parameters: Sequence[Value]
) -> Value:
    """x normalized from the attribute axis on, times a scale (and plus a bias). Those that vary along
    the axes before, to which ONNX broadcasts them, are applied apart.
    """
    axis = node.axis(node.integer("axis", -1), x.type.rank)
    attrs = {"axis": axis, "epsilon": node.number("epsilon", 1e-5)}
    behind = x.shape[axis:]
    own = [_over(context, value, behind) for value in parameters]
    whole = [value for value in own if value is not None]
    if len(whole) == len(own):
        return context(op, x, *whole, **attrs)
    neutral = [context.splat(number, x.dtype, behind) for number in (1, 0)][: len(own)]
    y = context(op, x, *neutral, **attrs)
    for step, value in zip(("mul", "add"), parameters, strict=False):
        y = context(step, y, value)
    if y.shape != x.shape:
        shown = " and ".join(str(value.type) for value in parameters)
        raise node.misshapen(f"{shown} do not broadcast to {x.type}.", "Export it again.")
    return y


def _over(context: Context, parameter: Value, shape: Sequence[Extent]) -> Value | None:
    """A parameter over the axes that are normalized; None if it varies along others."""
    extra = max(parameter.type.rank - len(shape), 0)
    if any(extent != 1 for extent in parameter.shape[:extra]):
        return None
    own = context.reshape(parameter, parameter.shape[extra:])
    return own if own.shape == tuple(shape) else context("broadcast", own, shape=tuple(shape))


@NORMALIZATION.on("RMSNormalization", first=23)
def rms_normalization(context: Context, node: ModelNode) -> Value:
    return _scaled_norm(context, node, "rms_norm", node.input(0), [node.input(1)])


@NORMALIZATION.on("LRN")
def local_response_normalization(context: Context, node: ModelNode) -> Value:
    x, size = node.input(0), node.integer("size", 0)
    if size < 1:
        raise node.fault(f"attribute size is {size}; it must be at least 1.", "Export it again.")
    if x.type.rank < 2:
        raise node.misshapen(f"its input is {x.type}; a channel axis is needed.")
    alpha, beta, bias = (
        node.number("alpha", 1e-4),
        node.number("beta", 0.75),
        node.number("bias", 1.0),
    )
    return context("lrn", x, size=size, alpha=alpha, beta=beta, bias=bias)


@NORMALIZATION.on("MeanVarianceNormalization")
def mean_variance_normalization(context: Context, node: ModelNode) -> Value:
    """(x - mean) / (sqrt(mean(x^2) - mean(x)^2) + 1e-9)."""
    x = widened(context, node.input(0))
    axes = node.axes(node.integers("axes") or (0, 2, 3), x.type.rank)
    centred = context("sub", x, context("reduce_mean", x, axes=axes, keep=True))
    deviation = context(
        "sqrt", context("reduce_mean", context("mul", centred, centred), axes=axes, keep=True)
    )
    y = context("div", centred, context("add", deviation, 1e-9))
    return context.cast(y, node.input(0).dtype)


@NORMALIZATION.on("LpNormalization")
def lp_normalization(context: Context, node: ModelNode) -> Value:
    """x / |x|_p along an axis; zero where the norm is zero."""
    x, p = widened(context, node.input(0)), node.integer("p", 2)
    axes = (node.axis(node.integer("axis", -1), x.type.rank),)
    if p not in (1, 2):
        raise node.fault(f"attribute p is {p}; it must be 1 or 2.", "Export it again.")
    terms = context("mul", x, x) if p == 2 else context("abs", x)
    norm = context("reduce_sum", terms, axes=axes, keep=True)
    norm = context("sqrt", norm) if p == 2 else norm
    zero = context.number(0.0, x.dtype)
    y = context("select", context("equal", norm, zero), zero, context("div", x, norm))
    return context.cast(y, node.input(0).dtype)


# -- softmax ---------------------------------------------------------------------------------------

SOFTMAX: Final = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}


@NORMALIZATION.on("Softmax", "LogSoftmax", "Hardmax", first=13)
def softmax(context: Context, node: ModelNode) -> Value:
    """Along one axis."""
    x = node.input(0)
    return _softmax(context, node, x, node.axis(node.integer("axis", -1), x.type.rank))


@NORMALIZATION.on("Softmax", "LogSoftmax", "Hardmax", last=12)
def softmax_of_matrix(context: Context, node: ModelNode) -> Value:
    """Before opset 13: the input is flattened to a matrix at ``axis``, and each row is one
    distribution.
    """
    x = node.input(0)
    rank = x.type.rank
    axis = node.integer("axis", 1)
    axis = rank if axis == rank else node.axis(axis, rank)
    if axis == rank - 1:
        return _softmax(context, node, x, axis)
    matrix = context.reshape(x, (product(x.shape[:axis]), product(x.shape[axis:])))
    return context.reshape(_softmax(context, node, matrix, 1), x.shape)


def _softmax(context: Context, node: ModelNode, x: Value, axis: int) -> Value:
    if node.op_type != "Hardmax":
        return context(SOFTMAX[node.op_type], x, axis=axis)
    if x.shape[axis] == 0:  # and has no elements
        return x
    first = context("argmax", x, axis=axis, keep=True, last=False)
    return context.cast(
        context("equal", context("iota", shape=x.shape, axis=axis, dtype=INT64), first), x.dtype
    )
