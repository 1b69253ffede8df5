"""Layers that normalize, with a scale and a bias of their own: over the batch, over channels, over
groups of channels, over space.
"""

from __future__ import annotations

from netloom.arguments import whole
from netloom.compiler.dim import Extent
from netloom.compiler.tensor_type import TensorType
from netloom.errors import ShapeError

from .initializers import Fans, Initializer, ones, zeros
from .layers import per_channel
from .trace import Symbolic, trace_of

_FANS = Fans(1, 1)


def batch_norm(
    x: Symbolic, *, epsilon: float = 1e-5, momentum: float = 0.1,
    scale_initializer: Initializer = ones,
    name: str | None = None,
) -> Symbolic:  # fmt: skip
    """Normalise each channel of [n, c, ...] (Ioffe and Szegedy 2015, algorithm 1).

    The training form uses the batch's mean and variance, and moves ``running_mean`` and
    ``running_variance`` towards them by ``momentum`` (the variance is the batch's own, divided by
    the number of elements); the inference form uses these two.
    """
    label = trace_of(x).layer_name("batch_norm", name)
    if x.rank < 2 or not isinstance(x.shape[1], int):
        raise ShapeError(f"batch_norm takes [n, c, ...] with fixed c, not {x.type}", node=label)
    type = TensorType(x.dtype, (x.shape[1],))
    scale, bias = _scale_and_bias(x, type.shape, label, scale_initializer)
    mean = x.trace.parameter(f"{label}.running_mean", type, zeros, _FANS, trainable=False)
    variance = x.trace.parameter(f"{label}.running_variance", type, ones, _FANS, trainable=False)
    if not x.trace.training:
        return x.trace("batch_norm", x, scale, bias, mean, variance, epsilon=epsilon, label=label)
    return batch_normalized(
        x, scale, bias, mean, variance, epsilon=epsilon, momentum=momentum, label=label
    )


def batch_normalized(
    x: Symbolic, scale: Symbolic, bias: Symbolic, mean: Symbolic, variance: Symbolic, *,
    epsilon: float, momentum: float, label: str,
) -> Symbolic:  # fmt: skip
    """The training form of batch norm: by the batch's statistics, towards which the states
    ``mean`` and ``variance`` move.
    """
    axes = (0, *range(2, x.rank))
    batch_mean = x.trace("reduce_mean", x, axes=axes, keep=False, label=label)
    centred = x - per_channel(batch_mean, x.rank)
    batch_variance = x.trace("reduce_mean", centred * centred, axes=axes, keep=False, label=label)
    x.trace.update_state(mean, mean + momentum * (batch_mean - mean))
    x.trace.update_state(variance, variance + momentum * (batch_variance - variance))
    factor = scale / x.trace("sqrt", batch_variance + epsilon)
    return x.trace(
        "add", centred * per_channel(factor, x.rank), per_channel(bias, x.rank), label=label
    )


def layer_norm(
    x: Symbolic, *, axis: int = -1, epsilon: float = 1e-5, name: str | None = None
) -> Symbolic:
    """Normalise over the axes from ``axis`` on, with a scale and a bias for each element of them
    (Ba et al. 2016).
    """
    label = trace_of(x).layer_name("layer_norm", name)
    first = _fixed_from(x, axis, "layer_norm", label)
    scale, bias = _scale_and_bias(x, x.shape[first:], label)
    return x.trace("layer_norm", x, scale, bias, axis=first, epsilon=epsilon, label=label)


def rms_norm(
    x: Symbolic, *, axis: int = -1, epsilon: float = 1e-6, name: str | None = None
) -> Symbolic:
    """Divide by the root mean square over the axes from ``axis`` on, with a scale for each element
    of them (Zhang and Sennrich 2019, eq. 4).
    """
    label = trace_of(x).layer_name("rms_norm", name)
    first = _fixed_from(x, axis, "rms_norm", label)
    type = TensorType(x.dtype, x.shape[first:])
    scale = x.trace.parameter(f"{label}.scale", type, ones, _FANS)
    return x.trace("rms_norm", x, scale, axis=first, epsilon=epsilon, label=label)


def group_norm(
    x: Symbolic, groups: int, *, epsilon: float = 1e-5, name: str | None = None
) -> Symbolic:
    """Normalise each sample of [n, c, ...] over each of ``groups`` groups of channels and all
    space, with a scale and a bias for each channel (Wu and He 2018). ``groups`` must divide c.
    """
    label = trace_of(x).layer_name("group_norm", name)
    channels = _channels(x, "group_norm", label)
    groups = whole(groups, "the number of groups", node=label, least=1)
    if channels % groups:
        raise ShapeError(f"{groups} groups do not divide {channels} channels", node=label)
    scale, bias = _scale_and_bias(x, (channels,), label)
    return x.trace("group_norm", x, scale, bias, groups=groups, epsilon=epsilon, label=label)


def instance_norm(x: Symbolic, *, epsilon: float = 1e-5, name: str | None = None) -> Symbolic:
    """Normalise each channel of each sample of [n, c, ...] over space, with a scale and a bias for
    each channel (Ulyanov et al. 2016).
    """
    label = trace_of(x).layer_name("instance_norm", name)
    scale, bias = _scale_and_bias(x, (_channels(x, "instance_norm", label),), label)
    return x.trace("instance_norm", x, scale, bias, epsilon=epsilon, label=label)


def _scale_and_bias(
    x: Symbolic, shape: tuple[Extent, ...], label: str, initializer: Initializer = ones
) -> tuple[Symbolic, Symbolic]:
    type = TensorType(x.dtype, shape)
    scale = x.trace.parameter(f"{label}.scale", type, initializer, _FANS)
    return scale, x.trace.parameter(f"{label}.bias", type, zeros, _FANS)


def _fixed_from(x: Symbolic, axis: int, layer: str, label: str) -> int:
    """The first axis that is normalized; all of them must be fixed."""
    axis = whole(axis, "axis", node=label)
    if not -x.rank <= axis < x.rank:
        raise ShapeError(f"{layer} over axes {axis}.. of {x.type}, which has none", node=label)
    first = axis % x.rank
    if not all(isinstance(extent, int) for extent in x.shape[first:]):
        raise ShapeError(
            f"{layer} over axes {first}.. of {x.type}, which are not fixed", node=label
        )
    return first


def _channels(x: Symbolic, layer: str, label: str) -> int:
    channels = x.shape[1] if x.rank > 2 else None
    if not isinstance(channels, int):
        raise ShapeError(f"{layer} takes [n, c, space...] with fixed c, not {x.type}", node=label)
    return channels


__all__ = [
    "batch_norm",
    "batch_normalized",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "rms_norm",
]
