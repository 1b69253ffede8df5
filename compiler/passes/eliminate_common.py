"""Nodes that compute the same thing become one node; the first stays.

All ops are pure (random numbers are a function of their key), so equal op, inputs, attributes and
layouts mean equal results. The two inputs of a commutative op may stand in either order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

from ..graph import Graph, Node, Value
from ..rewrite import Rewriter, rewrite


def eliminate_common(graph: Graph) -> Graph:
    """The graph with equal nodes joined; results are equal bit for bit (but for the payload of
    NaNs).
    """
    seen: dict[Hashable, Node] = {}

    def replace(_: Rewriter, node: Node) -> Sequence[Value] | None:
        first = seen.setdefault(_key(node), node)
        return None if first is node else first.outputs

    return rewrite(graph, replace)


def _key(node: Node) -> Hashable:
    inputs: Hashable = node.inputs
    if node.op.commutative and len(node.inputs) == 2:
        inputs = frozenset(node.inputs)
    return node.op, inputs, exact_key(node.attrs), tuple(value.layout for value in node.outputs)


def exact_key(item: Any) -> Hashable:
    """A key that tells 0.0 from -0.0 and 1 from 1.0, through tuples and dataclasses."""
    match item:
        case tuple():
            return tuple(map(exact_key, item))
        case float():
            return "float", item.hex()
        case _ if dataclasses.is_dataclass(item) and not isinstance(item, type) and _has_eq(item):
            return type(item), tuple(
                exact_key(getattr(item, field.name)) for field in dataclasses.fields(item)
            )
        case _:
            return type(item), item


def _has_eq(item: Any) -> bool:
    """Whether a dataclass compares by its fields."""
    return bool(item.__dataclass_params__.eq)
