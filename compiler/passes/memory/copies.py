"""Graphs of kernels that only copy: where a value must lie in a second place, or as other bytes."""

from __future__ import annotations

from ...graph import Builder, Graph, Value
from ...layout import Layout
from ...op import OPS


def copy_of(value: Value, layout: Layout | None) -> Graph:
    """A copy of a value in a layout."""
    b = Builder("copy")
    x = Value(value.type, "x0", value.layout)
    b.inputs.append(x)
    record = OPS["reorder"]
    copied = Value(value.type, "", layout)
    return b.build([b.add(record, [x], record.attrs(layout), "", [copied]).output])


def flat_copy(value: Value) -> Graph:
    """A copy of all elements of a row-major value in their order."""
    return copy_of(Value(value.type.with_shape((value.type.elements,)), value.label), None)


__all__ = ["copy_of", "flat_copy"]
