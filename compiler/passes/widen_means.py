"""Means and norms of short floats -> of float32, rounded at the end.

A sum of float16 numbers, or of their squares, may exceed 65504 where their mean does not, and an
epsilon of 1e-12 is zero there. So the composed ops that divide by such a sum are of float32 before
they are decomposed, as their meanings in NumPy are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..graph import Graph, Node, Value
from ..rewrite import Rewriter, rewrite
from ..tensor_type import FLOAT32

MEANS: Final = frozenset(
    {"average_pool", "group_norm", "instance_norm", "layer_norm", "lrn", "reduce_mean", "rms_norm"}
)


def widen_means(graph: Graph) -> Graph:
    """The graph with means and norms of floats of 16 bits as those of float32."""
    return rewrite(graph, _widened)


def _widened(b: Rewriter, node: Node) -> Sequence[Value] | None:
    if node.op.name not in MEANS:
        return None
    dtype = node.output.dtype
    if not dtype.is_float or dtype.bytes >= FLOAT32.bytes:
        return None
    wide = [b("cast", value, dtype=FLOAT32) for value in node.inputs]
    made = b.add(node.op, wide, node.attrs, node.label).output
    return [b("cast", made, dtype=dtype)]


__all__ = ["widen_means"]
