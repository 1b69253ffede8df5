"""Updates that are added or multiplied one after another (loops/scatter.py), in a dtype that no chain
of them wears out: float64 where more than CHAIN may be added to one element, float32 for shorter
floats.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Graph, Node, Value
from ..loops.plan import CHAIN
from ..rewrite import Rewriter, rewrite
from ..tensor_type import FLOAT32, FLOAT64


def widen_scatters(graph: Graph) -> Graph:
    """The graph with such scatters between casts."""
    return rewrite(graph, _widened)


def _widened(b: Rewriter, node: Node) -> Sequence[Value] | None:
    if node.op.name != "scatter" or node.attrs.reduction not in ("add", "mul"):
        return None
    x, indices, updates = node.inputs
    count = indices.shape[node.attrs.axis]
    is_long = node.attrs.reduction == "add" and not (isinstance(count, int) and count <= CHAIN)
    wide = FLOAT64 if is_long else FLOAT32
    if not x.dtype.is_float or x.dtype.bytes >= wide.bytes:
        return None
    operands = [b("cast", value, dtype=wide) for value in (x, updates)]
    found = b("scatter", operands[0], indices, operands[1], axis=node.attrs.axis,
              reduction=node.attrs.reduction)  # fmt: skip
    return [b("cast", found, dtype=x.dtype)]
