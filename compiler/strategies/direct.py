"""direct: the convolution's own loops, tiled for registers over channel blocks. Applies to every
convolution.

The gradient of the input at a stride, a transposed convolution, has loops over the phases of its
result: each meets its own taps alone (ops/input_axis.py), so it makes the products of the
convolution and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..graph import Builder, Graph, Node, Value
from ..layout import BLOCK
from .strategy import Cost, Strategy, direct_products, geometry, nominal


def _rejects(_graph: Graph, _node: Node) -> str | None:
    return None


def _cost(_graph: Graph, node: Node, batch: int) -> Cost:
    of = geometry(node)
    moved = 4.0 * sum(prod(nominal(value, batch)) for value in (of.x, of.w, of.y))
    return Cost(_padding(node) * direct_products(node, batch), moved, 0.0)


def _padding(node: Node) -> float:
    """Products that a transposed convolution makes, for each that counts: where channels, and then
    filters too, nearly fill blocks, those of the padding are made with them."""
    if node.op.name != "conv_input_gradient" or node.attrs.groups != 1:
        return 1.0
    filled = 1.0
    for extent in (nominal(value)[1] for value in (node.output, node.inputs[0])):
        whole = -(-extent // BLOCK) * BLOCK
        if 2 * extent <= whole:
            break
        filled *= whole / extent
    return filled


def _expand(b: Builder, _graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    return b.copy(node, inputs)[0]


DIRECT = Strategy(
    "direct", "the convolution's own loops in register tiles", _rejects, _cost, _expand
)
