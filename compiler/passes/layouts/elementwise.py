"""Layouts of ops that compute each element from those at its place: any will do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...graph import Node, Value
from ...layout import Layout
from .site import Site


def is_elementwise(node: Node) -> bool:
    """Whether a node's only result has a formula for each element."""
    return node.op.is_elementwise and len(node.outputs) == 1


def elementwise(site: Site) -> Sequence[Value]:
    """The layout of the first input that has one and the shape of the result. Where no input has
    that shape, that of what the result will meet: the inputs are read anew for each element in any.
    """
    shape = site.node.output.shape
    is_spread = is_elementwise(site.node) and all(v.shape != shape for v in site.inputs)
    alike = _beside(site) if is_spread else (v for v in site.inputs if v.shape == shape)
    layout = next((v.layout for v in alike if v.layout is not None), None)
    return site.add([_in_layout(site, value, layout) for value in site.inputs], layout)


def _in_layout(site: Site, value: Value, layout: Layout | None) -> Value:
    """A value of the result's shape in its layout; others are small, and row-major."""
    if layout is None or value.shape != site.node.output.shape:
        return site.plain(value)
    return site.reordered(value, layout)


def _beside(site: Site) -> Iterator[Value]:
    """What elementwise readers of the result meet it with, of the same shape, and already placed."""
    out = site.node.output
    for reader in site.graph.users.get(out, ()):
        if reader.op.is_elementwise:
            for value in reader.inputs:
                if value in site.placed and value.shape == out.shape:
                    yield site.placed[value]
