"""One node that is given layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...graph import Builder, Graph, Node, Value
from ...layout import Layout
from ...op import OPS


@dataclass(frozen=True)
class Site:
    """A node of the row-major ``graph``, and the builder ``b`` of the graph with layouts, which
    holds what ``placed`` has of the former one. ``free``: what free dims are taken for.
    """

    b: Builder
    graph: Graph
    node: Node
    placed: Mapping[Value, Value]
    free: int

    @cached_property
    def inputs(self) -> Sequence[Value]:
        """What the node reads, in the layouts that it came in."""
        return [self.placed[value] for value in self.node.inputs]

    def plain(self, value: Value) -> Value:
        """A value in row-major order."""
        if value.layout is None:
            return value
        return self.b("reorder", value, layout=None, label=value.label)

    def reordered(self, value: Value, layout: Layout) -> Value:
        """A value in a layout."""
        if value.layout == layout:
            return value
        record = OPS["reorder"]
        outputs = [Value(value.type, value.label, layout)]
        return self.b.add(record, [value], record.attrs(layout), value.label, outputs).output

    def add(
        self, inputs: Sequence[Value], layout: Layout | None, attrs: Any = None
    ) -> Sequence[Value]:
        """The node over these inputs, its results in a layout; ``attrs`` in place of its own."""
        node, attrs = self.node, self.node.attrs if attrs is None else attrs
        outputs = [Value(v.type, v.label, layout) for v in node.outputs]
        return self.b.add(node.op, inputs, attrs, node.label, outputs).outputs

    def row_major(self) -> Sequence[Value]:
        """The node over row-major inputs, as any op can be computed."""
        return self.add([self.plain(value) for value in self.inputs], None)
