"""Layouts of what algorithms compute tile by tile (ops/tiles.py): images in channel blocks, entries
of tiles in panels, weights row-major.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...graph import Node, Value
from ...layout import channel_blocked
from .packed_layouts import panels
from .site import Site

ALGORITHMS = ("winograd", "fft")  # the names that the ops begin with
IMAGE = channel_blocked(4)


def computes_tiles(node: Node) -> bool:
    """Whether a node is a stage of one of the algorithms."""
    return node.op.name.partition("_")[0] in ALGORITHMS


def reads_entries(node: Node) -> bool:
    """Whether a node reads vectors of the last axis of a product, wherever they lie."""
    return computes_tiles(node) and node.op.name.endswith(("_output", "_filter_gradient"))


def to_entries(site: Site) -> Sequence[Value]:
    """The transform of an image, or of the gradient of one."""
    return site.add([site.reordered(site.inputs[0], IMAGE)], panels(site.node.output))


def to_image(site: Site) -> Sequence[Value]:
    """The transform of entries, which are read as they are."""
    return site.add(site.inputs, IMAGE)


def from_filter(site: Site) -> Sequence[Value]:
    """The transform of weights, which become right operands of products."""
    return site.add([site.plain(site.inputs[0])], panels(site.node.output))


def to_filter(site: Site) -> Sequence[Value]:
    """The gradient of weights, row-major as states are, of entries as they are."""
    return site.add(site.inputs, None)


def from_image_to_image(site: Site) -> Sequence[Value]:
    """All stages at once, over transformed weights."""
    x, u = site.inputs
    return site.add([site.reordered(x, IMAGE), in_panels(site, u)], IMAGE)


def in_panels(site: Site, value: Value) -> Value:
    """A right operand in panels of 16 columns, each k x 16, where it fills one: a tile of the
    product reads it front to back.
    """
    layout = panels(value)
    return site.plain(value) if layout is None else site.reordered(value, layout)
