"""The formulas of a kernel's elements on a device: those of loops/elements.py over row-major
values.

A kernel's term comes in the dtype that it adds up in, and ``Argument(SUM)`` stands for the finished
sum in the stored value.
"""

from __future__ import annotations

from ...dim import Extent
from ...graph import Graph
from ...loops.build import anchor_of
from ...loops.elements import Elements, accumulated_in, widened
from ...scalar import Argument, Expr
from ...tensor_type import DType

SUM = 0  # the position of the argument that stands for the anchor's sum


def device_elements(graph: Graph) -> Elements:
    """The formulas of a fused graph."""
    assert all(v.layout is None for v in (*graph.inputs, *graph.outputs)), (
        "values on a GPU are row-major"
    )
    return Elements(graph, anchor_of(graph))


def summed(elements: Elements, index: tuple[Extent, ...], reduce: tuple[Extent, ...]) -> Expr:
    """What the anchor combines, in the dtype that it accumulates in."""
    term = elements.term(index, reduce)
    return widened(term, accumulated_in(term.dtype))


def stored(elements: Elements, index: tuple[Extent, ...], sum_dtype: DType | None) -> Expr:
    """The output's element; ``Argument(SUM, sum_dtype)`` is the anchor's sum, if it sums."""
    return elements.final(
        index, None if sum_dtype is None else elements.finished(index, Argument(SUM, sum_dtype))
    )


__all__ = ["SUM", "device_elements", "stored", "summed"]
