"""Losses: scalars to be made small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..op import Array, ByDecomposition, NoAttrs, Op, define
from ..tensor_type import INT64, TensorType

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value


def _entropy_infer(_a: NoAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    logits, labels = inputs
    if (
        logits.rank < 2
        or not labels.dtype.is_integer
        or labels.shape != (logits.shape[0], *logits.shape[2:])
    ):
        raise ValueError("logits are [n, classes, ...] and labels integers [n, ...]")
    return [logits.with_shape(())]


def _entropy(b: Builder, node: Node) -> Sequence[Value]:
    """-mean of log_softmax at the labels, of whatever size it is at others. A label outside
    [0, classes) is nobody's and adds nothing.
    """
    logits, labels = node.inputs
    classes = b("iota", shape=logits.shape, axis=1, dtype=INT64)
    wide = labels if labels.dtype is INT64 else b("cast", labels, dtype=INT64)
    shape = (labels.shape[0], 1, *labels.shape[1:])
    hit = b("equal", classes, b("reshape", wide, shape=shape))
    own = b("select", hit, b("log_softmax", logits, axis=1), 0.0)
    chosen = b("reduce_sum", own, axes=(1,), keep=False)
    return [b("neg", b("reduce_mean", chosen, axes=tuple(range(labels.type.rank)), keep=False))]


def _entropy_reference(
    _a: NoAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    logits, labels = inputs
    centred = logits - logits.max(axis=1, keepdims=True)
    logs = centred - np.log(np.exp(centred).sum(axis=1, keepdims=True))
    inside = (labels >= 0) & (labels < logits.shape[1])
    index = np.expand_dims(np.where(inside, labels, 0).astype(np.int64), 1)
    chosen = np.where(inside, np.take_along_axis(logs, index, axis=1)[:, 0], 0)
    return [np.asarray(-_mean(chosen)).astype(logits.dtype)]


def _mean(values: Array) -> Array:
    """Of nothing NaN, where np.mean warns."""
    mean: Array = np.divide(values.sum(dtype=np.float64), values.size)
    return mean


def _error_infer(_a: NoAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    if inputs[0] != inputs[1] or not inputs[0].dtype.is_float:
        raise ValueError("both inputs must be floats of one shape")
    return [inputs[0].with_shape(())]


def _squared(b: Builder, node: Node) -> Sequence[Value]:
    difference = b("sub", *node.inputs)
    return [
        b(
            "reduce_mean",
            b("mul", difference, difference),
            axes=tuple(range(difference.type.rank)),
            keep=False,
        )
    ]


def _squared_reference(
    _a: NoAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    return [np.asarray(_mean((inputs[0] - inputs[1]) ** 2)).astype(inputs[0].dtype)]


define(Op("cross_entropy", "-mean over n of log_softmax(logits)[n, labels[n]]", _entropy_infer, _entropy_reference,
          ByDecomposition(), NoAttrs, "loss", decompose=_entropy))  # fmt: skip
define(Op("mean_squared_error", "mean of (x - y)^2", _error_infer, _squared_reference, ByDecomposition(), NoAttrs,
          "loss", decompose=_squared))  # fmt: skip
