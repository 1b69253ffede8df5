"""The gradient of attention by one of its inputs.

With weights P = softmax(scale Q K' + mask), y = P V and cotangents dy: dV = P' dy, the scores'
gradient is dS = P (dy V' - delta) where delta is each query's sum of dy y, and dQ = scale dS K,
dK = scale dS' Q (FlashAttention-2, Dao 2023, section 2.2). No gradient flows through the largest
score, which a softmax does not depend on. Of an input that heads share, the gradient still has an
entry for each head: ``attention``'s rule adds them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..dim import Extent, product
from ..op import Array, ByDecomposition, Op, define
from ..tensor_type import BOOL, TensorType
from .attention import (
    AttentionAttrs,
    attention_type,
    exact_weights,
    weights_of,
)

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value


@dataclass(frozen=True)
class GradientAttrs(AttentionAttrs):
    """``wrt``: q, k, v or mask, whose gradient it is."""

    wrt: str = "q"


def gradient_type(wrt: str, q: TensorType, k: TensorType, y: TensorType) -> TensorType:
    """Of queries, keys, values or a mask, for all heads."""
    *heads, queries, width = y.shape
    keys, depth = k.shape[-2:]
    shapes: dict[str, tuple[Extent, ...]] = {
        "q": (queries, depth), "k": (keys, depth), "v": (keys, width), "mask": (queries, keys),
    }  # fmt: skip
    return q.with_shape((*heads, *shapes[wrt]))


def _infer(attrs: GradientAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    q, k, v, y, dy, *mask = inputs
    wanted = attention_type(q, k, v, mask)
    if y != wanted or dy != wanted:
        raise ValueError(f"the result {y} and its cotangents {dy} must be {wanted}")
    if attrs.wrt not in ("q", "k", "v", "mask"):
        raise ValueError(f"attention has no input {attrs.wrt!r} with a gradient")
    return [gradient_type(attrs.wrt, q, k, y)]


def _reference(
    attrs: GradientAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    q, k, v, y, dy, *mask = inputs
    with np.errstate(all="ignore"):
        delta = (y.astype(np.float64) * dy).sum(axis=-1)
        found = exact_gradients(attrs, q, k, v, dy, delta, mask)
        return [np.asarray(found[attrs.wrt].astype(q.dtype))]


def exact_gradients(
    attrs: AttentionAttrs, q: Array, k: Array, v: Array, dy: Array, delta: Array,
    mask: Sequence[Array],
) -> dict[str, Array]:  # fmt: skip
    """By q, k, v and the mask, in float64; ``delta``: each query's sum of dy y."""
    wide_q, wide_k, wide_v, wide_dy = (a.astype(np.float64) for a in (q, k, v, dy))
    with np.errstate(all="ignore"):
        weights = exact_weights(attrs, q, k, mask)
        slopes = weights * (wide_dy @ np.swapaxes(wide_v, -1, -2) - delta[..., None])
        for given in mask:
            slopes = np.where(given, slopes, 0) if given.dtype == np.bool_ else slopes
        return {
            "q": attrs.scale * (slopes @ wide_k),
            "k": attrs.scale * (np.swapaxes(slopes, -1, -2) @ wide_q),
            "v": np.swapaxes(weights, -1, -2) @ wide_dy,
            "mask": slopes,
        }


def _decompose(b: Builder, node: Node) -> Sequence[Value]:
    return [gradient_as_products(b, node.attrs, node.inputs)]


def gradient_as_products(b: Builder, attrs: GradientAttrs, inputs: Sequence[Value]) -> Value:
    """The gradient as products of matrices that are in memory, each an op of its own."""
    q, k, v, y, dy, *mask = inputs
    weights = weights_of(b, attrs, q, k, mask)
    if attrs.wrt == "v":
        return b("matmul", weights, dy, transpose_a=True)
    slopes = b("sub", b("matmul", dy, v, transpose_b=True), row_sums(b, y, dy, keep=True))
    slopes = b("mul", weights, slopes)
    for given in mask:
        if given.dtype is BOOL:
            slopes = b("select", given, slopes, b.number(0.0, slopes.dtype))
    if attrs.wrt == "mask":
        return slopes
    other, is_turned = (k, False) if attrs.wrt == "q" else (q, True)
    if attrs.scale != 1:
        slopes = b("mul", slopes, attrs.scale)
    return b("matmul", slopes, other, transpose_a=is_turned)


def row_sums(b: Builder, y: Value, dy: Value, keep: bool) -> Value:
    """delta[.., l]: each query's sum of dy y."""
    return b("reduce_sum", b("mul", dy, y), axes=(y.type.rank - 1,), keep=keep)


def _flops(attrs: GradientAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]) -> Extent:
    q, _, v, y, *_ = inputs
    depth, width = q.shape[-1], v.shape[-1]
    scores = product(y.shape[:-1]) * v.shape[-2]
    terms: dict[str, Extent] = {"q": 2 * depth + width, "k": 2 * depth + width, "v": depth + width,
                                "mask": depth + width}  # fmt: skip
    return 2 * scores * terms[attrs.wrt] + 8 * scores


define(Op("attention_gradient", "the gradient of attention by one of its inputs", _infer,
          _reference, ByDecomposition(), GradientAttrs,
          "attention", decompose=_decompose, flops=_flops))  # fmt: skip

__all__ = ["GradientAttrs", "exact_gradients", "gradient_as_products", "gradient_type", "row_sums"]
