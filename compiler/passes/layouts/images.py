"""Ops that leave an image in blocks of channels: pools, padding, views, concats, gathers, and
reductions, which read one. Each where it moves or reads whole blocks; row-major else.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...graph import Node, Value
from ...layout import BLOCK, channel_blocked, fills_blocks
from ...loops.strides import MOST_STEP
from .blocked_views import blocked_view
from .image_readers import meets_blocks
from .site import Site


def pool(site: Site) -> Sequence[Value]:
    """Blocks where it finds them; else where it would read its rows with large gaps."""
    (x,) = site.inputs
    if x.layout is None and not _has_gaps(site.node, x):
        return site.row_major()
    blocked = channel_blocked(x.type.rank)
    return site.add([site.reordered(x, blocked)], blocked)


def pad(site: Site) -> Sequence[Value]:
    """Any layout, where it adds no channels."""
    attrs, layout = site.node.attrs, site.inputs[0].layout
    if layout is None or attrs.lo[1] or attrs.hi[1]:
        return site.row_major()
    return site.add(site.inputs, layout)


def view(site: Site) -> Sequence[Value]:
    """Blocks that are moved as wholes."""
    layout = blocked_view(site.graph, site.node, site.inputs[0])
    return site.row_major() if layout is None else site.add(site.inputs, layout)


def concat(site: Site) -> Sequence[Value]:
    """Whole blocks of channels behind each other."""
    layout = site.inputs[0].layout
    if (
        layout is None
        or site.node.attrs.axis != 1
        or any(v.layout != layout or v.shape[1] % BLOCK != 0 for v in site.inputs)
    ):
        return site.row_major()
    return site.add(site.inputs, layout)


def gather(site: Site) -> Sequence[Value]:
    """Rows or columns that are picked of an image (an image resized), for a reader of blocks: a
    vector has channels of one place then, where it would be gathered lane by lane."""
    x, places = site.inputs
    is_line = places.type.rank == 1 and site.node.attrs.axis > 1
    is_image = x.layout is not None and x.layout == channel_blocked(x.type.rank)
    if is_line and is_image and meets_blocks(site.graph, site.node):
        return site.add([x, site.plain(places)], x.layout)
    return site.row_major()


def reduction(site: Site) -> Sequence[Value]:
    """Blocks are read as they are: over positions of an image, or over channels that fill them
    (padding lanes hold zeros, which would take part in a maximum). The result is row-major."""
    x, axes = site.inputs[0], set(site.node.attrs.axes)
    if x.layout is None:
        return site.row_major()
    reads_blocks = _has_whole_blocks(x) if axes == {1} else not {0, 1} & axes
    return site.add(site.inputs, None) if reads_blocks else site.row_major()


def _has_gaps(node: Node, x: Value) -> bool:
    """Whether a pool would skip much of each row, where blocks have vectors of channels."""
    channels = x.shape[1]
    is_far = node.attrs.stride[-1] > MOST_STEP
    return is_far and isinstance(channels, int) and fills_blocks(channels)


def _has_whole_blocks(x: Value) -> bool:
    channels = x.shape[1]
    return isinstance(channels, int) and channels % BLOCK == 0
