"""attention_gradient_direct and attention_gradient_fused: attention's gradient by products of
matrices that are in memory, or in one kernel for queries and one for keys and values.

The fused kernels read each query's largest score and sum, which the forward kernel leaves where a
gradient asks for them (split_attention.py), and each query's sum of dy y. They make scores and the
products of cotangents and values once more: seven products of matrices for the five that are
needed, and no scores in memory. A causal one meets half of them.

The gradients by q, k and v of one attention are nodes of their own; each counts a third of what all
take, so that they are decided alike. The direct form's cost includes its weights, since a forward
kernel that keeps them costs as much more than a fused one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ...dim import Extent, bounds
from ...graph import Builder, Graph, Node, Value
from ...op import Array, NotDifferentiable, Op
from ...ops.attention_gradient import (
    GradientAttrs,
    exact_gradients,
    gradient_as_products,
    row_sums,
)
from ...strategies.attention import LENGTH, bytes_moved
from ...strategies.strategy import Cost, Strategy, nominal
from ...tensor_type import FLOAT32, TensorType
from .attention_tiles import KEYS, WIDEST_GRADIENT
from .forms import CHAIN
from .split_attention import NUMBERS, NumbersAttrs

OPS = ("attention_gradient",)
NODES = 3  # that share the work: by q, k and v
SCORE_PASSES = 12  # of writing and reading scores, weights and their slopes, as kernels fuse
WEIGH = 16  # multiply-adds of a score's time for its weight and slope: an estimate


def _extents(node: Node, free: int) -> tuple[int, int, int, int, int]:
    """Heads in all, queries, keys, depth and width of values, at nominal dims."""
    q, k, _, y = (nominal(value, max(free, LENGTH)) for value in node.inputs[:4])
    *batch, _, width = y
    return prod(batch), q[-2], k[-2], q[-1], width


def _direct_cost(_graph: Graph, node: Node, free: int) -> Cost:
    heads, queries, keys, depth, width = _extents(node, free)
    scores = heads * queries * keys
    passed = float(SCORE_PASSES * scores * node.output.dtype.bytes)
    products = scores * (3 * depth + 2 * width) / NODES
    return Cost(products, bytes_moved(node, free) + passed / NODES, 0.0)


def _direct(b: Builder, _graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    b.label = node.label
    made = gradient_as_products(b, node.attrs, inputs)
    b.label = ""
    return made


def gradient_rejects(graph: Graph, node: Node, longest: int = CHAIN * KEYS) -> str | None:
    """Why the fused kernels are not for a node; ``longest``: queries or keys of which they add up
    as many tiles as a chain has terms."""
    q, _, v, *_ = node.inputs
    depth, width = q.shape[-1], v.shape[-1]
    if node.attrs.wrt == "mask":
        return "it is that of the mask, which has the scores' shape"
    if q.dtype is not FLOAT32:
        return f"it computes in {q.dtype.value}; the fused kernel is for float32"
    if not (isinstance(depth, int) and isinstance(width, int)):
        return "the depth of its heads is a free dim"
    if not all(node.output.shape) or not all(node.inputs[3].shape):
        return "it has no elements"
    if max(depth, width) > WIDEST_GRADIENT:
        return f"its heads are {depth} deep and {width} wide; the most is {WIDEST_GRADIENT}"
    if max(map(_most, (q.shape[-2], v.shape[-2]))) > longest:
        return f"it has more than {longest} queries or keys, of which sums would be too long"
    constants = [graph.constant_of(value) for value in (*node.inputs[:3], node.inputs[4])]
    if any(constant is not None and constant.is_splat for constant in constants):
        return "an operand is one repeated number, of which nothing is copied"
    return None


def _most(extent: Extent) -> int:
    high = bounds(extent)[1]
    return 0 if high is None else int(high)


def _fused_cost(_graph: Graph, node: Node, free: int) -> Cost:
    """Rows, columns and widths in whole tiles; operands are read again by every block, from the
    caches."""
    heads, *lengths, depth, width = _extents(node, free)
    queries, keys, deep, wide = (-(-e // KEYS) * KEYS for e in (*lengths, depth, width))
    seen = 0.5 + 0.5 * KEYS / max(min(queries, keys), KEYS) if node.attrs.is_causal else 1.0
    terms = 2 * depth + 2 * width + 2 * deep + wide + 2 * WEIGH
    return Cost(heads * queries * keys * seen * terms / NODES, bytes_moved(node, free), 0.0)


def _fused(b: Builder, _graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    q, k, v, y, dy, *mask = inputs
    attrs = {name: value for name, value in vars(node.attrs).items() if name != "wrt"}
    numbers = [
        b.add(NUMBERS, [q, k, v, *mask], NumbersAttrs(**attrs, which=which), node.label).output
        for which in ("base", "inverse")
    ]
    operands = [q, k, v, dy, *numbers, row_sums(b, y, dy, keep=False), *mask]
    wrt = "q" if node.attrs.wrt == "q" else "kv"
    made = b.add(FUSED, operands, GradientAttrs(**attrs, wrt=wrt), node.label).output
    if wrt == "q":
        return made
    depth, width = q.shape[-1], v.shape[-1]
    first, size = (0, depth) if node.attrs.wrt == "k" else (depth, width)
    return b("slice", made, start=(*[0] * (made.type.rank - 1), first),
             size=(*made.shape[:-1], size), step=(1,) * made.type.rank)  # fmt: skip


ATTENTION_GRADIENT_DIRECT = Strategy(
    "attention_gradient_direct",
    "attention's gradient as products and the slopes of scores",
    lambda _graph, _node: None,
    _direct_cost,
    _direct,
    ops=OPS,
)
ATTENTION_GRADIENT_FUSED = Strategy(
    "attention_gradient_fused",
    "attention's gradient in two kernels, its scores never in memory",
    gradient_rejects,
    _fused_cost,
    _fused,
    ops=OPS,
)


# -- the op of both kernels ------------------------------------------------------------------------


def _infer(attrs: GradientAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    q, k, v, dy, *_ = inputs
    heads, (keys, depth), width = dy.shape[:-2], k.shape[-2:], v.shape[-1]
    if attrs.wrt == "q":
        return [q.with_shape((*heads, q.shape[-2], depth))]
    return [q.with_shape((*heads, keys, depth + width))]


def _reference(
    attrs: GradientAttrs, inputs: Sequence[Array], _outputs: Sequence[TensorType]
) -> Sequence[Array]:
    q, k, v, dy, _, _, delta, *mask = inputs
    found = exact_gradients(attrs, q, k, v, dy, delta, mask)
    made = found["q"] if attrs.wrt == "q" else np.concatenate([found["k"], found["v"]], axis=-1)
    return [made.astype(q.dtype)]


FUSED = Op("attention_gradient_fused", "attention's gradient by its queries, or keys and values",
           _infer, _reference, NotDifferentiable("it is made after differentiation"),
           GradientAttrs, "attention")  # fmt: skip

__all__ = [
    "ATTENTION_GRADIENT_DIRECT",
    "ATTENTION_GRADIENT_FUSED",
    "FUSED",
    "OPS",
    "gradient_rejects",
]
