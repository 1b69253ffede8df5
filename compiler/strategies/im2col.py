"""im2col: the windows of the input as the rows of a matrix, then one matmul (Chellapilla, Puri, Simard 2006)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from .. import dim
from ..graph import Builder, Graph, Node, Value
from .direct import direct_products
from .strategy import Cost, Strategy, nominal


def _rejects(_graph: Graph, node: Node) -> str | None:
    if node.attrs.groups != 1:
        return f"it has {node.attrs.groups} groups; im2col is one matrix product"
    if not all(isinstance(extent, int) for extent in node.output.shape[3:]):
        return "a spatial axis behind the first is a free dim; the matrix's columns cannot be taken apart by it"
    return None


def _cost(node: Node) -> Cost:
    n, _, *out = nominal(node.output)
    matrix = 4.0 * n * prod(out) * prod(nominal(node.inputs[1])[1:])
    moved = 4.0 * (prod(nominal(node.inputs[0])) + prod(nominal(node.inputs[1])) + 2 * prod(nominal(node.output)))
    return Cost(direct_products(node), moved + 2 * matrix, matrix)


def _expand(b: Builder, _graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    """[n, c k.., out] columns by slices of the padded input, then w [o, c k..] times them."""
    x, w = inputs
    attrs = node.attrs
    rank = x.type.rank
    if any((*attrs.lo, *attrs.hi)):
        x = b("pad", x, lo=(0, 0, *attrs.lo), hi=(0, 0, *attrs.hi), value=0.0)
    columns = b("windows", x, kernel=w.shape[2:], stride=attrs.stride, dilation=attrs.dilation)
    n, o = x.shape[0], w.shape[0]
    depth, positions = dim.product(w.shape[1:]), dim.product(node.output.shape[2:])
    matrix = b("reshape", columns, shape=(n, depth, positions))
    product = b("matmul", b("reshape", w, shape=(o, depth)), matrix)
    assert rank == len(node.output.shape)
    return b("reshape", product, shape=node.output.shape, label=node.label)


IM2COL = Strategy("im2col", "windows as a matrix, then a matmul", _rejects, _cost, _expand)
