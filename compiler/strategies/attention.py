"""attention_direct and attention_online: softmax(scale Q K' + mask) V by products of matrices, or
block by block. ``ATTENTION_FUSED`` is the latter in one kernel, for machines that name it
(Rates.own).

Direct, the l x s scores of every head are written to memory, made into weights and read again.
Online (Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022, algorithm 1) a few rows of
queries meet one block of keys after another: a row keeps its largest score m so far, the sum of
exp(score - m) and the output that these weights give; where a block raises m to m', both are
multiplied by exp(m - m'). Scores stay in registers and the L1 cache, and keys behind all of its
rows are never read.

The error that the blocks add: sum and output are multiplied by the same rounded factor, which the
last division cancels, and are rounded once a block each, as where partial sums are added. With u =
2^-24, n blocks and roundings that are independent these are relative errors of u sqrt(n / 2) each:
6e-7 for 8192 keys in blocks of 64, below the budget of the direct form, whose sums are as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..graph import Builder, Graph, Node, Value
from ..loops.attention import DEEPEST
from ..ops.attention import attention_as_products
from ..tensor_type import FLOAT32
from .strategy import Cost, Strategy, nominal

OPS = ("attention",)
LENGTH = 256  # what a free dim is taken for: sequences are longer than batches
# in multiply-adds, from measurements on Zen 4:
EXPONENTIAL = 24  # of one score that stays in registers
SOFTMAX = 64  # of one score in a row kernel, which passes over a row in the cache three times
TRANSPOSED = 16  # of one element of the keys, put into panels
# of queries: fewer take as long, since every load of keys and values serves one row each
FEWEST_ROWS = 4
PASSES = 2  # of writing and reading by the direct form: its scores, then the weights made of them
# of a device's kernel: the widest values, what queries and widths are rounded up to, and one
# score's exponential, by the special function units
WIDEST, FUSED_TILE, FEW_QUERIES, FUSED_EXPONENTIAL = 256, 64, 16, 8


def _extents(node: Node, free: int) -> tuple[int, int, int, int, int]:
    """Heads in all, queries, keys, depth and width of values, at nominal dims."""
    q, k = (nominal(value, max(free, LENGTH)) for value in node.inputs[:2])
    *batch, _, width = nominal(node.output, max(free, LENGTH))
    return prod(batch), q[-2], k[-2], q[-1], width


def bytes_moved(node: Node, free: int) -> float:
    """Bytes of a node's operands and its result, at nominal dims."""
    values = (*node.inputs, node.output)
    return float(sum(prod(nominal(v, max(free, LENGTH))) * v.dtype.bytes for v in values))


def _direct_cost(_graph: Graph, node: Node, free: int) -> Cost:
    heads, queries, keys, depth, width = _extents(node, free)
    scores = heads * queries * keys
    workspace = float(scores * node.output.dtype.bytes)
    moved = bytes_moved(node, free) + 2 * PASSES * workspace
    return Cost(float(scores * (depth + width + SOFTMAX)), moved, workspace)


def _direct(b: Builder, _graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    b.label = node.label
    made = attention_as_products(b, node.attrs, inputs)
    b.label = ""
    return made


def _rejects(_graph: Graph, node: Node) -> str | None:
    q, _, v, *_ = node.inputs
    if q.dtype.bytes < 4:
        return f"its weights would be rounded to {q.dtype.value}"
    if not (isinstance(q.shape[-1], int) and isinstance(v.shape[-1], int)):
        return "the depth of its heads is a free dim"
    if not all(node.output.shape) or not all(v.shape):
        return "it has no elements"
    if max(q.shape[-1], v.shape[-1]) > DEEPEST:
        return f"its heads are {q.shape[-1]} deep and {v.shape[-1]} wide; the most is {DEEPEST}"
    return None


def _online_cost(_graph: Graph, node: Node, free: int) -> Cost:
    heads, queries, keys, depth, width = _extents(node, free)
    rows = max(queries, FEWEST_ROWS)
    # of the keys, block by block
    seen = 0.5 + 0.5 / max(queries / 64, 1) if node.attrs.is_causal else 1.0
    panels = prod(nominal(node.inputs[1], max(free, LENGTH)))
    workspace = float(panels * node.output.dtype.bytes)
    products = heads * rows * keys * seen * (depth + width + EXPONENTIAL) + panels * TRANSPOSED
    return Cost(float(products), bytes_moved(node, free) + 2 * workspace, workspace)


def _online(b: Builder, _graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    q, k, *rest = inputs
    panels = b("key_panels", k, label=node.label)
    return b("attention_online", q, panels, *rest, label=node.label, **vars(node.attrs))


ATTENTION_DIRECT = Strategy(
    "attention_direct",
    "attention as two products and a softmax",
    lambda _graph, _node: None,
    _direct_cost,
    _direct,
    ops=OPS,
)
ATTENTION_ONLINE = Strategy(
    "attention_online",
    "attention by blocks of keys, its scores never in memory",
    _rejects,
    _online_cost,
    _online,
    ops=OPS,
)


# -- in one kernel of a device ---------------------------------------------------------------------


def _fused_rejects(graph: Graph, node: Node) -> str | None:
    q, _, v, *_ = node.inputs
    if q.dtype is not FLOAT32:
        return f"it computes in {q.dtype.value}; the fused kernel is for float32"
    if (reason := _rejects(graph, node)) is not None:
        return reason
    if isinstance(v.shape[-1], int) and v.shape[-1] > WIDEST:
        return f"its values are {v.shape[-1]} wide; the most is {WIDEST}"
    constants = [graph.constant_of(value) for value in node.inputs[:3]]
    if any(constant is not None and constant.is_splat for constant in constants):
        return "an operand is one repeated number, of which nothing is copied"
    return None


def _fused_cost(_graph: Graph, node: Node, free: int) -> Cost:
    """Queries and widths in whole tiles; keys and values are read again by every block of queries,
    from the caches."""
    heads, queries, keys, depth, width = _extents(node, free)
    in_tile = FEW_QUERIES if queries <= FEW_QUERIES else FUSED_TILE
    rows = -(-queries // in_tile) * in_tile
    seen = 0.5 + 0.5 / max(rows / FUSED_TILE, 1) if node.attrs.is_causal else 1.0
    padded = -(-width // FUSED_TILE) * FUSED_TILE
    products = heads * rows * keys * seen * (depth + padded + FUSED_EXPONENTIAL)
    return Cost(float(products), bytes_moved(node, free), 0.0)


def _fused(b: Builder, _graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    return b("attention_fused", *inputs, label=node.label, **vars(node.attrs))


ATTENTION_FUSED = Strategy(
    "attention_fused",
    "attention in one kernel, its scores never in memory",
    _fused_rejects,
    _fused_cost,
    _fused,
    ops=OPS,
)
