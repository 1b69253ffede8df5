"""direct: the convolution's own loops, tiled for registers over channel blocks. Applies to every convolution."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..graph import Builder, Graph, Node, Value
from .strategy import Cost, Strategy, nominal


def _rejects(_graph: Graph, _node: Node) -> str | None:
    return None


def direct_products(node: Node) -> float:
    """Multiply-adds of the convolution as written."""
    return float(prod(nominal(node.output)) * prod(nominal(node.inputs[1])[1:]))


def _cost(node: Node) -> Cost:
    moved = 4.0 * (prod(nominal(node.inputs[0])) + prod(nominal(node.inputs[1])) + prod(nominal(node.output)))
    return Cost(direct_products(node), moved, 0.0)


def _expand(b: Builder, _graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    return b.copy(node, inputs)[0]


DIRECT = Strategy("direct", "the convolution's own loops in register tiles", _rejects, _cost, _expand)
