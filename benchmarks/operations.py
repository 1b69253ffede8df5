"""Graphs in numbers: extents, operations as written, and bytes, at given values of the free dims.

``dims`` names values; a free dim without one has the least value of its range, but 1 at least.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from netloom.compiler import dim
from netloom.compiler.dim import Extent, Symbol
from netloom.compiler.graph import Node, Value

# the ops that a network's rate counts
PRODUCTS = ("conv", "conv_input_gradient", "conv_weight_gradient", "matmul")


def values_of(symbols: Iterable[Symbol], dims: Mapping[str, int]) -> dict[str, int]:
    """Each symbol's value by name."""
    return {symbol.name: dims.get(symbol.name, max(symbol.lo, 1)) for symbol in symbols}


def in_numbers(extent: Extent, dims: Mapping[str, int]) -> int:
    """An extent's value."""
    return dim.evaluate(extent, values_of(dim.symbols_of([extent]), dims))


def operations(
    nodes: Iterable[Node], dims: Mapping[str, int], only: Collection[str] | None = None
) -> int:
    """Operations of the nodes (of the ops named in ``only``), a multiply-add being two; ops that
    count none have none.
    """
    total = 0
    for node in nodes:
        if node.op.flops is not None and (only is None or node.op.name in only):
            types = [value.type for value in node.inputs], [value.type for value in node.outputs]
            total += in_numbers(node.op.flops(node.attrs, *types), dims)
    return total


def stored_bytes(value: Value, dims: Mapping[str, int]) -> int:
    """Bytes of a value in its layout."""
    shape = value.layout.physical_shape(value.shape) if value.layout else value.shape
    return in_numbers(dim.product(shape), dims) * value.dtype.bytes
