"""Products of bytes in int32 whose sum becomes float32 at once -> products of float32, for targets
without code that adds up bytes.

cast(sum (x - z) w) => sum cast(x - z) cast(w): the factors have 9 bits at most, which float32 and
the shorter formats of matrix units hold, and so has float32 their products. Sums below 2^24 are the
same; longer ones are rounded as sums of floats are, where before their total was.
"""

from __future__ import annotations

import numpy as np

from ..constant import Constant
from ..graph import Graph, Node, Value
from ..rewrite import Rewriter, rewrite
from ..tensor_type import FLOAT32, INT32
from .multiply_bytes import centred, integers_of

LARGEST = 255  # of the differences of two bytes


def multiply_floats(graph: Graph) -> Graph:
    """The graph with int32 products of bytes by small constants (bytes less a zero point), where they are read as
    float32 only, as products of float32."""
    return rewrite(graph, _multiplied)


def _multiplied(b: Rewriter, node: Node) -> list[Value] | None:
    if node.op.name != "cast" or node.output.dtype is not FLOAT32 or b.uses(node.inputs[0]) != 1:
        return None
    product = b.producers.get(node.inputs[0])
    if product is None or product.op.name not in ("conv", "matmul"):
        return None
    x, w = product.inputs
    is_of_bytes = x.dtype is INT32 and w.type.is_static and centred(b, x) is not None
    weights = integers_of(b, w) if is_of_bytes else None
    if weights is None or np.abs(weights.astype(np.int64)).max() > LARGEST:
        return None
    factors = [b("cast", x, dtype=FLOAT32), b.constant(Constant(weights.astype(np.float32)))]
    return list(b.add(product.op, factors, product.attrs, product.label).outputs)


__all__ = ["multiply_floats"]
