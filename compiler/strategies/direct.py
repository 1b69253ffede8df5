"""direct: the convolution's own loops, tiled for registers over channel blocks. Applies to every
convolution.

The gradient of the input at a stride, a transposed convolution, has loops over the phases of its
result: each meets its own taps alone (ops/input_axis.py), so it makes the products of the
convolution and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from ..graph import Builder, Graph, Node, Value
from ..layout import BLOCK
from .strategy import Cost, Strategy, direct_products, geometry, nominal

MANY_FILTERS = 8 * BLOCK


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
    if not _skips_places(node):
        return b.copy(node, inputs)[0]
    (x, w), attrs = inputs, node.attrs
    zeros, steps = (0,) * len(attrs.stride), (1, 1, *attrs.stride)
    read = b(
        "slice", x, start=(0,) * len(steps), size=(*x.shape[:2], *node.output.shape[2:]), step=steps,
        label=node.label,
    )  # fmt: skip
    ones = (1,) * len(attrs.stride)
    same = replace(attrs, stride=ones, lo=zeros, hi=zeros)
    return b.add(node.op, [read, w], same, node.label).output


def _skips_places(node: Node) -> bool:
    """Whether a convolution of one tap reads, again for each block of many filters, every other
    place of an image only: taken out once, they lie behind each other."""
    attrs, w = node.attrs, node.inputs[1]
    if node.op.name != "conv" or attrs.groups != 1 or set(attrs.stride) == {1}:
        return False
    is_one_tap = all(extent == 1 for extent in w.shape[2:])
    is_known = all(isinstance(extent, int) for extent in node.output.shape[1:])
    return is_one_tap and is_known and not any(attrs.lo) and nominal(w)[0] >= MANY_FILTERS


DIRECT = Strategy(
    "direct", "the convolution's own loops in register tiles", _rejects, _cost, _expand
)
