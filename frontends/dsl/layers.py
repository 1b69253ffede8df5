"""Layers: functions of symbolic values that own parameters.

Activations are [n, c, spatial...], weights of convolutions [o, c/groups, kernel...], of dense
layers [in, out]. A layer named ``conv1`` owns the states ``conv1.weight`` and ``conv1.bias``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeAlias

import numpy as np

from netloom.arguments import whole
from netloom.compiler.dim import Extent
from netloom.compiler.tensor_type import FLOAT32, INT64, TensorType
from netloom.errors import ShapeError, UsageError

from .functions import cast, equal, reshape, where
from .initializers import Fans, Initializer, he_normal, normal, zeros
from .trace import Symbolic, trace_of

Padding: TypeAlias = "str | int | Sequence[int | tuple[int, int]]"
Window: TypeAlias = "int | Sequence[int]"
_AXES = {1: "n c w", 2: "n c h w", 3: "n c d h w"}


# -- convolution -----------------------------------------------------------------------------------


def conv1d(
    x: Symbolic, filters: int, kernel: Window, *, stride: Window = 1, padding: Padding = "valid",
    dilation: Window = 1,
    groups: int = 1, bias: bool = True, weight_initializer: Initializer = he_normal,
    bias_initializer: Initializer = zeros, name: str | None = None,
) -> Symbolic:  # fmt: skip
    """Convolution over [n, c, w]; the arguments are those of ``conv2d``."""
    return _conv(x, 1, filters, kernel, stride, padding, dilation, groups, bias, weight_initializer,
                 bias_initializer, name)  # fmt: skip


def conv2d(
    x: Symbolic, filters: int, kernel: Window, *, stride: Window = 1, padding: Padding = "valid",
    dilation: Window = 1,
    groups: int = 1, bias: bool = True, weight_initializer: Initializer = he_normal,
    bias_initializer: Initializer = zeros, name: str | None = None,
) -> Symbolic:  # fmt: skip
    """Cross-correlation of [n, c, h, w] with ``filters`` filters -> [n, filters, oh, ow].

    ``padding`` is "valid" (none), "same" (output extent = ceil(input / stride), the odd element at
    the end), an int for all sides, or one int or (lo, hi) pair for each spatial axis. ``groups``
    must divide c and ``filters``.
    """
    return _conv(x, 2, filters, kernel, stride, padding, dilation, groups, bias, weight_initializer,
                 bias_initializer, name)  # fmt: skip


def conv3d(
    x: Symbolic, filters: int, kernel: Window, *, stride: Window = 1, padding: Padding = "valid",
    dilation: Window = 1,
    groups: int = 1, bias: bool = True, weight_initializer: Initializer = he_normal,
    bias_initializer: Initializer = zeros, name: str | None = None,
) -> Symbolic:  # fmt: skip
    """Convolution over [n, c, d, h, w]; the arguments are those of ``conv2d``."""
    return _conv(x, 3, filters, kernel, stride, padding, dilation, groups, bias, weight_initializer,
                 bias_initializer, name)  # fmt: skip


def _conv(
    x: Symbolic, rank: int, filters: int, kernel: Window, stride: Window, padding: Padding,
    dilation: Window,
    groups: int, bias: bool, weight_initializer: Initializer, bias_initializer: Initializer,
    name: str | None,
) -> Symbolic:  # fmt: skip
    label = trace_of(x).layer_name("conv", name)
    channels = _channels(x, rank, f"conv{rank}d", label)
    filters = whole(filters, "the number of filters", node=label, least=1)
    groups = whole(groups, "the number of groups", node=label, least=1)
    if channels % groups or filters % groups:
        raise ShapeError(
            f"{groups} groups must divide {channels} channels and {filters} filters", node=label
        )
    window = _window(kernel, rank, "kernel", label)
    steps, spread = (
        _window(stride, rank, "stride", label),
        _window(dilation, rank, "dilation", label),
    )
    lo, hi = _padding(padding, x.shape[2:], window, steps, spread, label)
    area = math.prod(window)
    fans = Fans(channels // groups * area, filters // groups * area)
    w = x.trace.parameter(
        f"{label}.weight",
        TensorType(x.dtype, (filters, channels // groups, *window)),
        weight_initializer,
        fans,
    )
    y = x.trace(
        "conv", x, w, stride=steps, dilation=spread, lo=lo, hi=hi, groups=groups, label=label
    )
    return _add_bias(y, filters, bias_initializer, fans, label) if bias else y


def conv_transpose2d(
    x: Symbolic, filters: int, kernel: Window, *, stride: Window = 1,
    padding: int | Sequence[int | tuple[int, int]] = 0,
    extra: Window = 0, bias: bool = True, weight_initializer: Initializer = he_normal,
    bias_initializer: Initializer = zeros, name: str | None = None,
) -> Symbolic:  # fmt: skip
    """The transpose of ``conv2d``: [n, c, h, w] -> [n, filters, (h-1)*stride - lo - hi + kernel +
    extra, ...].

    The weight is [c, filters, kh, kw], as the convolution from the output to the input has it.
    """
    label = trace_of(x).layer_name("conv_transpose", name)
    channels = _channels(x, 2, "conv_transpose2d", label)
    filters = whole(filters, "the number of filters", node=label, least=1)
    window, steps = _window(kernel, 2, "kernel", label), _window(stride, 2, "stride", label)
    more = _window(extra, 2, "extra", label, least=0)
    if any(e >= s for e, s in zip(more, steps, strict=True)):
        raise ShapeError(f"extra {more} must be less than the stride {steps}", node=label)
    lo, hi = _padding(padding, x.shape[2:], window, steps, (1, 1), label)
    spatial = tuple(
        (extent - 1) * s - a - z + k + e
        for extent, s, a, z, k, e in zip(x.shape[2:], steps, lo, hi, window, more, strict=True)
    )
    if any(isinstance(extent, int) and extent < 1 for extent in spatial):
        raise ShapeError(f"padding {padding!r} leaves nothing of {x.type}", node=label)
    fans = Fans(channels * math.prod(window), filters * math.prod(window))
    w = x.trace.parameter(
        f"{label}.weight",
        TensorType(x.dtype, (channels, filters, *window)),
        weight_initializer,
        fans,
    )
    y = x.trace("conv_input_gradient", x, w, stride=steps, dilation=(1, 1), lo=lo, hi=hi, groups=1,
                spatial=spatial,
                label=label)  # fmt: skip
    return _add_bias(y, filters, bias_initializer, fans, label) if bias else y


def _add_bias(
    y: Symbolic, filters: int, initializer: Initializer, fans: Fans, label: str
) -> Symbolic:
    bias = y.trace.parameter(f"{label}.bias", TensorType(y.dtype, (filters,)), initializer, fans)
    return y.trace("add", y, per_channel(bias, y.rank), label=label)


def per_channel(values: Symbolic, rank: int) -> Symbolic:
    """[c] -> [c, 1, ...], so that it broadcasts along axis 1 of a value of ``rank``."""
    return (
        values
        if rank == 2
        else values.trace("reshape", values, shape=(*values.shape, *(1,) * (rank - 2)))
    )


def dense(
    x: Symbolic, units: int, *, bias: bool = True, weight_initializer: Initializer = he_normal,
    bias_initializer: Initializer = zeros, name: str | None = None,
) -> Symbolic:  # fmt: skip
    """[..., in] -> [..., units]: x @ weight + bias, the weight being [in, units]."""
    label = trace_of(x).layer_name("dense", name)
    if x.rank < 2 or not isinstance(x.shape[-1], int):
        raise ShapeError(f"dense takes [..., in] with a fixed last extent, not {x.type}",
                         node=label,
                         hint="Call flatten first.")  # fmt: skip
    units = whole(units, "the number of units", node=label, least=0)
    fans = Fans(x.shape[-1], units)
    w = x.trace.parameter(
        f"{label}.weight", TensorType(x.dtype, (x.shape[-1], units)), weight_initializer, fans
    )
    y = x.trace("matmul", x, w, label=label)
    if not bias:
        return y
    b = x.trace.parameter(f"{label}.bias", TensorType(x.dtype, (units,)), bias_initializer, fans)
    return x.trace("add", y, b, label=label)


def embedding(
    indices: Symbolic,
    count: int,
    width: int,
    *,
    padding: int | None = None,
    weight_initializer: Initializer | None = None,
    name: str | None = None,
) -> Symbolic:
    """[...] of integers below ``count`` -> [..., width]: rows of the table ``weight``; zeros, from
    which the table gets no gradient, for the index ``padding``. Negative ones count from the end.
    """
    label = trace_of(indices).layer_name("embedding", name)
    if not indices.dtype.is_integer:
        raise ShapeError(f"embedding takes integers, not {indices.type}", node=label)
    count = whole(count, "the number of rows", node=label, least=1)
    width = whole(width, "the width", node=label, least=1)
    if padding is not None and not -count <= whole(padding, "padding", node=label) < count:
        raise UsageError(f"a padding index of {padding} is none of {count} rows.", node=label)
    type = TensorType(FLOAT32, (count, width))
    w = indices.trace.parameter(
        f"{label}.weight", type, weight_initializer or normal(1.0), Fans(1, width)
    )
    rows = indices.trace("gather", w, indices, axis=0, label=label)
    if padding is None:
        return rows
    places = cast(indices, INT64)  # which holds the count
    places = where(places < 0, places + count, places)
    return where(reshape(equal(places, padding % count), (*indices.shape, 1)), 0.0, rows)


# -- pooling ---------------------------------------------------------------------------------------


def max_pool2d(
    x: Symbolic,
    kernel: Window,
    *,
    stride: Window | None = None,
    padding: Padding = "valid",
    dilation: Window = 1,
) -> Symbolic:
    """The largest element of each window of [n, c, h, w]; the stride is the kernel unless given;
    padding never wins.
    """
    _channels(x, 2, "max_pool2d", "max_pool2d")
    window = _window(kernel, 2, "kernel", "max_pool2d")
    steps = _window(stride if stride is not None else window, 2, "stride", "max_pool2d")
    spread = _window(dilation, 2, "dilation", "max_pool2d")
    lo, hi = _pool_padding(padding, x.shape[2:], window, steps, spread, "max_pool2d")
    return x.trace("max_pool", x, kernel=window, stride=steps, dilation=spread, lo=lo, hi=hi)


def average_pool2d(
    x: Symbolic, kernel: Window, *, stride: Window | None = None, padding: Padding = "valid",
    count_padding: bool = False,
) -> Symbolic:  # fmt: skip
    """The mean of each window of [n, c, h, w]; padding counts as zeros only with
    ``count_padding``.
    """
    _channels(x, 2, "average_pool2d", "average_pool2d")
    window = _window(kernel, 2, "kernel", "average_pool2d")
    steps = _window(stride if stride is not None else window, 2, "stride", "average_pool2d")
    lo, hi = _pool_padding(padding, x.shape[2:], window, steps, (1, 1), "average_pool2d")
    return x.trace("average_pool", x, kernel=window, stride=steps, dilation=(1, 1), lo=lo, hi=hi,
                   count_padding=count_padding)  # fmt: skip


def global_average_pool(x: Symbolic) -> Symbolic:
    """[n, c, spatial...] -> [n, c]: the mean over all spatial axes."""
    if x.rank < 3:
        raise ShapeError(f"global_average_pool takes [n, c, spatial...], not {x.type}")
    return x.trace("reduce_mean", x, axes=tuple(range(2, x.rank)), keep=False)


# -- noise ------------------------------------------------------------------------------------------


def dropout(x: Symbolic, rate: float = 0.5) -> Symbolic:
    """In the training form: zero with probability ``rate``, else x / (1 - rate); in the
    inference form: x.
    """
    check_dropout(rate)
    trace_of(x)
    if not x.dtype.is_float:
        raise ShapeError(f"dropout takes floats, not {x.type}")
    if not x.trace.training or rate == 0:
        return x
    return x.trace("dropout", x, x.trace.random_key(), rate=rate)


def check_dropout(rate: float, label: str = "") -> None:
    """UsageError unless it is the rate of a dropout."""
    if not isinstance(rate, Real) or not 0 <= rate < 1:
        raise UsageError(f"a dropout rate of {rate!r} is not in [0, 1).", node=label)


# -- arguments -------------------------------------------------------------------------------------


def _channels(x: Symbolic, rank: int, layer: str, label: str) -> int:
    """The number of channels, after checking the rank."""
    trace_of(x)
    if x.rank != rank + 2:
        raise ShapeError(
            f"{layer} takes a value of rank {rank + 2} ({_AXES[rank]}), not {x.type}", node=label
        )
    channels = x.shape[1]
    if not isinstance(channels, int):
        raise ShapeError(f"{layer} needs a fixed number of channels, not {x.type}", node=label)
    return channels


def _window(given: Window, rank: int, what: str, label: str, least: int = 1) -> tuple[int, ...]:
    """One int for each spatial axis."""
    values = tuple(given) if isinstance(given, Sequence) else (given,) * rank
    if len(values) != rank or not all(_is_whole(value, least) for value in values):
        raise ShapeError(f"{what} {given!r} is not {rank} ints >= {least}", node=label)
    return tuple(int(value) for value in values)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int | np.integer) and bool(value >= least)


def _padding(
    padding: Padding, spatial: Sequence[Extent], kernel: tuple[int, ...], stride: tuple[int, ...],
    dilation: tuple[int, ...], label: str,
) -> tuple[tuple[int, ...], tuple[int, ...]]:  # fmt: skip
    """(lo, hi) for each spatial axis."""
    pairs: list[Any]
    match padding:
        case "valid":
            pairs = [(0, 0)] * len(kernel)
        case "same":
            pairs = [
                _same(extent, (k - 1) * d + 1, s, label)
                for extent, k, s, d in zip(spatial, kernel, stride, dilation, strict=True)
            ]
        case str():
            raise UsageError(
                f"padding {padding!r} is unknown.",
                node=label,
                hint='Use "same", "valid", an int, or one int or (lo, hi) pair for each axis.',
            )
        case Sequence():
            pairs = [tuple(side) if isinstance(side, Sequence) else (side,) * 2 for side in padding]
        case _:
            pairs = [(padding, padding)] * len(kernel)
    is_pair = [len(pair) == 2 and all(_is_whole(side, 0) for side in pair) for pair in pairs]
    if len(pairs) != len(kernel) or not all(is_pair):
        raise ShapeError(f"padding {padding!r} is not {len(kernel)} pairs of ints >= 0", node=label)
    return tuple(lo for lo, _ in pairs), tuple(hi for _, hi in pairs)


def _pool_padding(
    padding: Padding, spatial: Sequence[Extent], kernel: tuple[int, ...], stride: tuple[int, ...],
    dilation: tuple[int, ...], label: str,
) -> tuple[tuple[int, ...], tuple[int, ...]]:  # fmt: skip
    """(lo, hi) for each spatial axis, so that no window meets padding alone."""
    lo, hi = _padding(padding, spatial, kernel, stride, dilation, label)
    for most, k, d in zip(map(max, lo, hi), kernel, dilation, strict=True):
        if most > (k - 1) * d:
            raise ShapeError(
                f"padding {padding!r} is wider than a window of {kernel} leaves room for",
                node=label,
            )
    return lo, hi


def _same(extent: Extent, reach: int, stride: int, label: str) -> tuple[int, int]:
    """Padding that makes the output extent ceil(extent / stride); ``reach`` is the extent of the
    dilated kernel.
    """
    if stride == 1:
        total = reach - 1
    elif isinstance(extent, int):
        total = max((-(-extent // stride) - 1) * stride + reach - extent, 0)
    else:
        raise UsageError(f'padding "same" with stride {stride} needs a fixed extent, not {extent}.',
                         node=label,
                         hint="Give the padding as ints.")  # fmt: skip
    return total // 2, total - total // 2


__all__ = [
    "average_pool2d", "check_dropout", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "dense",
    "dropout", "embedding",
    "global_average_pool", "max_pool2d", "per_channel",
]  # fmt: skip
