"""Normalizations and losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from .reference import Array, Shape, onnx


def _standardized(x: Array, axes: Shape, epsilon: float) -> Array:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def _per_channel(v: Array, rank: int) -> Array:
    return v.reshape(-1, *[1] * (rank - 2))


def _batch_norm(
    x: Array, scale: Array, bias: Array, mean: Array, variance: Array, epsilon: float
) -> Array:
    return onnx("BatchNormalization", x, scale, bias, mean, variance, epsilon=epsilon)


def _layer_norm(x: Array, scale: Array, bias: Array, axis: int, epsilon: float) -> Array:
    return _standardized(x, tuple(range(axis, x.ndim)), epsilon) * scale + bias


def _rms_norm(x: Array, scale: Array, axis: int, epsilon: float) -> Array:
    mean = np.mean(np.square(x), axis=tuple(range(axis, x.ndim)), keepdims=True)
    return x / np.sqrt(mean + epsilon) * scale


def _group_norm(x: Array, scale: Array, bias: Array, groups: int, epsilon: float) -> Array:
    parts = [
        _standardized(part, tuple(range(1, x.ndim)), epsilon)
        for part in np.split(x, groups, axis=1)
    ]
    return np.concatenate(parts, axis=1) * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)


def _lrn(x: Array, size: int, alpha: float, beta: float, bias: float) -> Array:
    """By the definition in ONNX's text; its reference evaluator takes the batch's extent for
    that of the channels.
    """
    before, behind = math.floor((size - 1) / 2), math.ceil((size - 1) / 2)
    c = x.shape[1]
    sums = [
        np.square(x[:, max(0, i - before) : min(c - 1, i + behind) + 1]).sum(axis=1)
        for i in range(c)
    ]
    return x / (bias + alpha / size * np.stack(sums, axis=1)) ** beta


def _cross_entropy(logits: Array, labels: Array) -> Array:
    logs = special.log_softmax(logits, axis=1)
    terms = [
        -logs[(i[0], labels[i], *i[1:])] if 0 <= labels[i] < logits.shape[1] else 0.0
        for i in np.ndindex(labels.shape)
    ]
    return np.asarray(np.mean(terms))


NORMALIZATION: dict[str, Callable[..., Any]] = {
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": lambda x, scale, bias, epsilon: onnx(
        "InstanceNormalization", x, scale, bias, epsilon=epsilon
    ),
    "lrn": _lrn,
    "softmax": special.softmax,
    "log_softmax": special.log_softmax,
    "cross_entropy": _cross_entropy,
    "mean_squared_error": lambda x, y: np.mean(np.square(x - y)),
}
