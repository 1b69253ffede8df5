"""Attention: softmax(scale Q K' + mask) V over any leading axes, and the two ops of its online
form.

``attention`` means what its decomposition means, one op after another; nothing computes it
otherwise unless a strategy does (strategies/attention.py). ``attention_fused`` is the same in one
kernel, for targets that have it. Queries [.., l, d], keys [.., s, d], values [.., s, e], and a mask
that broadcasts to the scores [.., l, s]: numbers are added, and where a bool is false the score is
``fill``. ``is_causal`` hides key j from query i < j.
A row whose scores all are -inf gives NaN, as its softmax does, or zeros, as the ONNX standard's op
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from .. import scalar
from ..dim import Extent, ceil_div, product
from ..formula import sum_to
from ..op import Array, Compute, NotDifferentiable, Op, Read, define
from ..scalar import Expr
from ..tensor_type import BOOL, FLOAT32, TensorType, broadcast_shapes
from .normalization import softmax_parts

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value

PANEL = 16  # keys that lie next to each other


@dataclass(frozen=True)
class AttentionAttrs:
    """``fill``: the score where a mask of bools is false. ``is_causal``: query i sees the keys up
    to i only. ``has_zeros``: rows without any key are zeros, not NaN."""

    scale: float = 1.0
    is_causal: bool = False
    fill: float = -inf
    has_zeros: bool = False


def attention_type(
    q: TensorType, keys: TensorType, v: TensorType, mask: Sequence[TensorType]
) -> TensorType:
    """Of the output; ``keys`` as [.., s, d]. ValueError if the operands do not fit together."""
    if min(t.rank for t in (q, keys, v)) < 2:
        raise ValueError("queries, keys and values need two axes or more")
    if not q.dtype.is_float or {keys.dtype, v.dtype} != {q.dtype}:
        raise ValueError("queries, keys and values must share one float type")
    if q.shape[-1] != keys.shape[-1] or keys.shape[-2] != v.shape[-2]:
        raise ValueError(f"queries {q}, keys {keys} and values {v} do not fit together")
    batch = broadcast_shapes([t.shape[:-2] for t in (q, keys, v)])
    if batch is None:
        raise ValueError("the leading axes of queries, keys and values do not broadcast together")
    scores = (*batch, q.shape[-2], keys.shape[-2])
    for given in mask:
        if given.dtype is not q.dtype and given.dtype is not BOOL:
            raise ValueError(f"the mask {given} must be bool or {q.dtype.value}")
        if broadcast_shapes([given.shape, scores]) != scores:
            raise ValueError(f"the mask {given} does not broadcast to the scores {list(scores)}")
    return TensorType(q.dtype, (*batch, q.shape[-2], v.shape[-1]))


def _infer(_attrs: AttentionAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    q, k, v, *mask = inputs
    return [attention_type(q, k, v, mask)]


def exact_scores(attrs: AttentionAttrs, q: Array, k: Array, mask: Sequence[Array]) -> Array:
    """[.., l, s], in float64, behind the mask: the definition."""
    keys = np.swapaxes(k.astype(np.float64), -1, -2)
    scores = np.matmul(q.astype(np.float64), keys) * attrs.scale
    for given in mask:
        is_bool = given.dtype == np.bool_
        scores = (
            np.where(given, scores, attrs.fill) if is_bool else scores + given.astype(np.float64)
        )
    if attrs.is_causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=np.bool_), scores, -inf)
    return np.asarray(scores)


def exact_weights(attrs: AttentionAttrs, q: Array, k: Array, mask: Sequence[Array]) -> Array:
    """[.., l, s], in float64: the definition."""
    with np.errstate(all="ignore"):
        scores = exact_scores(attrs, q, k, mask)
        if not scores.size:  # there is no largest of no scores
            return scores
        largest = scores.max(axis=-1, keepdims=True)
        weights = np.exp(scores - largest)
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.where(largest == -inf, 0, weights) if attrs.has_zeros else np.asarray(weights)


def _attended(attrs: AttentionAttrs, q: Array, k: Array, v: Array, mask: Sequence[Array]) -> Array:
    with np.errstate(all="ignore"):
        weights = exact_weights(attrs, q, k, mask)
        return np.asarray(np.matmul(weights, v.astype(np.float64)).astype(q.dtype))


def _reference(
    attrs: AttentionAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    q, k, v, *mask = inputs
    return [_attended(attrs, q, k, v, mask)]


def _decompose(b: Builder, node: Node) -> Sequence[Value]:
    return [attention_as_products(b, node.attrs, node.inputs)]


def attention_as_products(b: Builder, attrs: AttentionAttrs, inputs: Sequence[Value]) -> Value:
    """Attention as two products and a softmax, each an op of its own."""
    q, k, v, *mask = inputs
    return b("matmul", weights_of(b, attrs, q, k, mask), v)


def weights_of(
    b: Builder, attrs: AttentionAttrs, q: Value, k: Value, mask: Sequence[Value]
) -> Value:
    """[.., l, s]: softmax(scale * q k' + mask)."""
    scores = b("matmul", q, k, transpose_b=True)
    if attrs.scale != 1:
        scores = b("mul", scores, attrs.scale)
    for given in mask:
        if given.dtype is BOOL:
            scores = b("select", given, scores, b.number(attrs.fill, scores.dtype))
        else:
            scores = b("add", scores, given)
    if attrs.is_causal:
        seen = causal_mask(b, *scores.shape[-2:])
        scores = b("select", seen, scores, b.number(-inf, scores.dtype))
    axis = scores.type.rank - 1
    weights = _softmax(b, scores, axis)
    if attrs.has_zeros:
        is_empty = b(
            "equal", b("reduce_max", scores, axes=(axis,), keep=True), b.number(-inf, scores.dtype)
        )
        weights = b("select", is_empty, b.number(0.0, scores.dtype), weights)
    return weights


def _softmax(b: Builder, scores: Value, axis: int) -> Value:
    """Of floats of 16 bits as that of float32, rounded once."""
    if scores.dtype.bytes >= FLOAT32.bytes:
        return softmax_parts(b, scores, axis)
    weights = softmax_parts(b, b("cast", scores, dtype=FLOAT32), axis)
    return b("cast", weights, dtype=scores.dtype)


def causal_mask(b: Builder, queries: Extent, keys: Extent) -> Value:
    """[queries, keys]: whether the key is not behind the query."""
    shape = (queries, keys)
    return b("less_equal", b("iota", shape=shape, axis=1), b("iota", shape=shape, axis=0))


def _flops(
    _attrs: AttentionAttrs, inputs: Sequence[TensorType], outputs: Sequence[TensorType]
) -> Extent:
    q, values = inputs[0], inputs[2]
    scores = product(outputs[0].shape[:-1]) * values.shape[-2]
    return 2 * scores * (q.shape[-1] + values.shape[-1]) + 5 * scores


# -- the online form -------------------------------------------------------------------------------


def _panels_infer(_attrs: object, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (k,) = inputs
    if k.rank < 2:
        raise ValueError("keys need two axes or more")
    return [k.with_shape((*k.shape[:-2], ceil_div(k.shape[-2], PANEL), k.shape[-1], PANEL))]


def _panels_reference(
    _attrs: object, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (k,) = inputs
    *batch, panels, depth, _ = outputs[0].static_shape
    padded = np.zeros((*batch, panels * PANEL, depth), k.dtype)
    padded[..., : k.shape[-2], :] = k
    return [np.swapaxes(padded.reshape(*batch, panels, PANEL, depth), -1, -2)]


def _panels_compute(
    _attrs: object, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    keys = inputs[0].shape[-2]

    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        key = i[-3] * PANEL + i[-1]
        return scalar.guarded((keys - 1 - key,), read(0, [*i[:-3], key, i[-2]]))

    return Compute(term)


def _online_infer(_attrs: AttentionAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    q, panels, v, *mask = inputs
    if (
        panels.rank < 3
        or v.rank < 2
        or panels.shape[-1] != PANEL
        or panels.shape[-3] != ceil_div(v.shape[-2], PANEL)
    ):
        raise ValueError(f"{panels} are no panels of the keys of {v}")
    keys = panels.with_shape((*panels.shape[:-3], v.shape[-2], panels.shape[-2]))
    return [attention_type(q, keys, v, mask)]


def _online_reference(
    attrs: AttentionAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    q, panels, v, *mask = inputs
    swapped = np.swapaxes(panels, -1, -2)
    k = swapped.reshape(*swapped.shape[:-3], -1, swapped.shape[-1])[..., : v.shape[-2], :]
    return [_attended(attrs, q, k, v, mask)]


_CHOSEN = NotDifferentiable("strategies are chosen for a network that has its gradients already")


def _vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    """By each input, ``attention_gradient``; summed where heads share the input."""
    inputs = (*node.inputs[:3], node.output, *cotangents, *node.inputs[3:])
    return [
        None if value.dtype is BOOL else sum_to(
            b, b("attention_gradient", *inputs, wrt=wrt, **vars(node.attrs)), value.type
        )
        for wrt, value in zip(("q", "k", "v", "mask"), node.inputs, strict=False)
    ]  # fmt: skip


define(Op("attention", "y = softmax(scale * q k' + mask) v", _infer, _reference, _vjp,
          AttentionAttrs, "attention", decompose=_decompose, flops=_flops))  # fmt: skip
define(Op("attention_fused", "attention in one kernel of a device", _infer, _reference, _CHOSEN,
          AttentionAttrs,
          "attention", decompose=_decompose, flops=_flops))  # fmt: skip
define(Op("key_panels", "y[.., p, d, l] = k[.., 16 p + l, d], zeros behind the keys", _panels_infer,
          _panels_reference, _CHOSEN,
          family="attention", compute=_panels_compute))  # fmt: skip
define(Op("attention_online", "attention whose keys lie in panels, without its scores in memory",
          _online_infer,
          _online_reference, _CHOSEN, AttentionAttrs, "attention", flops=_flops))  # fmt: skip

__all__ = [
    "PANEL",
    "AttentionAttrs",
    "attention_as_products",
    "attention_type",
    "causal_mask",
    "exact_scores",
    "exact_weights",
    "weights_of",
]
