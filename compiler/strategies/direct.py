"""direct: the convolution's own loops, tiled for registers over channel blocks. Applies to every
convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..graph import Builder, Graph, Node, Value
from .strategy import Cost, Strategy, direct_products, geometry, nominal


def _rejects(_graph: Graph, _node: Node) -> str | None:
    return None


def _cost(_graph: Graph, node: Node, batch: int) -> Cost:
    of = geometry(node)
    moved = 4.0 * sum(prod(nominal(value, batch)) for value in (of.x, of.w, of.y))
    return Cost(direct_products(node, batch), moved, 0.0)


def _expand(b: Builder, _graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    return b.copy(node, inputs)[0]


DIRECT = Strategy(
    "direct", "the convolution's own loops in register tiles", _rejects, _cost, _expand
)
