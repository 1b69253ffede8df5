"""Layouts of convolutions and their gradients: blocks of 16 channels where blocks are filled.

In a dense convolution both sides choose for themselves: results come in blocks if they fill them,
images are read in blocks if they fill them (the three channels of a photograph are read as they
are). In a grouped one, blocks may not reach across groups. Zeros around an image are a node of their
own, so that the convolution's loops test no borders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ... import dim
from ...dim import Extent
from ...graph import Node, Value
from ...layout import BLOCK, channel_blocked, fills_blocks
from ...loops.items import FEW_TERMS
from ...op import OPS
from ...ops.convolution import is_depthwise, padding_of_output_gradient
from .image_readers import becomes_results
from .packed_layouts import packed_bytes, packed_filters
from .right_operands import multiplies_bytes
from .site import Site

# A depthwise convolution of up to so many taps tests the borders itself: zeros around its input would
# be written and read once more, which takes longer than the convolution. With 49 taps tests do.
TESTED_TAPS = 25
FEW_TAPS = 24  # whose conditions, along rows, cost less than a change of layout


def convolution(site: Site) -> Sequence[Value]:
    """y = x * w over images x [n, c, h..] and filters w [o, c / groups, kh..]."""
    x, w = site.inputs
    filters, channels, groups = _known(w.shape[0]), _known(w.shape[1]), site.node.attrs.groups
    if groups == 1:
        has_blocks = fills_blocks(channels)
        is_row_major = not fills_blocks(filters) or (not has_blocks and _stays_in_rows(site, x))
        return _row_major(site) if is_row_major else _in_blocks(site, has_blocks)
    if channels % BLOCK == 0 and (filters // groups) % BLOCK == 0:
        return _in_blocks(site, has_blocks=True)
    if is_depthwise(w.type, groups) and fills_blocks(filters) and not _walks_rows(site.node, x):
        return _depthwise(site)
    return site.row_major()


def _row_major(site: Site) -> Sequence[Value]:
    x, w = site.inputs
    padded = _padded(site, site.plain(x))
    return site.add([padded, site.plain(w)], None, _without_padding(site.node))


def _in_blocks(site: Site, has_blocks: bool) -> Sequence[Value]:
    """Blocks of filters; ``has_blocks``: of channels too."""
    x, w = site.inputs
    rank = x.type.rank
    blocked = channel_blocked(rank)
    x = site.reordered(x, blocked) if has_blocks else site.plain(x)
    is_of_bytes = has_blocks and multiplies_bytes(site.node)
    packed = packed_bytes(rank) if is_of_bytes else packed_filters(rank, has_blocks)
    w = site.reordered(site.plain(w), packed)
    return site.add([_padded(site, x), w], blocked, _without_padding(site.node))


def _depthwise(site: Site) -> Sequence[Value]:
    """The channels are lanes: a filter for each."""
    x, w = site.inputs
    blocked = channel_blocked(x.type.rank)
    x = site.reordered(x, blocked)
    w = site.reordered(site.plain(w), packed_filters(x.type.rank, blocks=False))
    if _has_at_most(TESTED_TAPS, w):
        return site.add([x, w], blocked)
    return site.add([_padded(site, x), w], blocked, _without_padding(site.node))


def input_gradient(site: Site) -> Sequence[Value]:
    """Blocks of channels; the output's gradient is padded so that every kernel position finds an
    element.
    """
    dy, w = site.inputs
    attrs, rank = site.node.attrs, dy.type.rank
    filters, channels = _known(dy.shape[1]), _known(site.node.output.shape[1])
    if attrs.groups != 1:
        return site.row_major()
    is_blocked = fills_blocks(channels)
    has_blocks = is_blocked and fills_blocks(filters)
    dy = site.reordered(dy, channel_blocked(rank)) if has_blocks else site.plain(dy)
    w = site.plain(w)
    if is_blocked:
        w = site.reordered(w, packed_filters(rank, has_blocks, lanes=1))
    before, behind = padding_of_output_gradient(attrs, dy.type, w.type)
    lo = tuple(p + n * s for p, n, s in zip(attrs.lo, before, attrs.stride, strict=True))
    hi = tuple(p + n * s for p, n, s in zip(attrs.hi, behind, attrs.stride, strict=True))
    dy = _with_zeros(site, dy, before, behind)
    layout = channel_blocked(rank) if is_blocked else None
    return site.add([dy, w], layout, replace(attrs, lo=lo, hi=hi))


def weight_gradient(site: Site) -> Sequence[Value]:
    """Blocks of filters, and of channels if they fill blocks; what comes out is row-major, as
    states are.
    """
    x, dy = site.inputs
    rank = x.type.rank
    channels, filters = _known(x.shape[1]), _known(dy.shape[1])
    if site.node.attrs.groups != 1:
        return site.row_major()
    is_blocked = fills_blocks(filters)
    has_blocks = is_blocked and fills_blocks(channels)
    x = site.reordered(x, channel_blocked(rank)) if has_blocks else site.plain(x)
    dy = site.reordered(dy, channel_blocked(rank)) if is_blocked else site.plain(dy)
    layout = packed_filters(rank, has_blocks) if is_blocked else None
    (dw,) = site.add([_padded(site, x), dy], layout, _without_padding(site.node))
    return [site.plain(dw)]


def _known(extent: Extent) -> int:
    """Channels and filters are no free dims: their blocks are counted here."""
    assert isinstance(extent, int)
    return extent


def _walks_rows(node: Node, x: Value) -> bool:
    """Whether a row-major input may stay so: its rows are read element after element, and for a few
    taps."""
    is_small = _has_at_most(FEW_TAPS, node.inputs[1])
    return x.layout is None and node.attrs.stride[-1] == 1 and is_small


def _stays_in_rows(site: Site, x: Value) -> bool:
    """Whether a convolution of few terms computes a row-major result of free rows at once: it takes
    no longer than one in blocks, which another kernel would turn."""
    terms = dim.product(site.node.inputs[1].shape[1:])
    is_small = isinstance(terms, int) and terms <= FEW_TERMS
    is_free = isinstance(x.shape[-1], dim.Dim) and site.node.attrs.stride[-1] == 1
    return is_small and x.layout is None and is_free and becomes_results(site.graph, site.node)


def _has_at_most(taps: int, filters: Value) -> bool:
    found = dim.product(filters.shape[2:])
    return isinstance(found, int) and found <= taps


def _padded(site: Site, x: Value) -> Value:
    return _with_zeros(site, x, site.node.attrs.lo, site.node.attrs.hi)


def _with_zeros(site: Site, x: Value, lo: tuple[int, ...], hi: tuple[int, ...]) -> Value:
    """Zeros around the images of x [n, c, h..], in its layout."""
    if not any((*lo, *hi)):
        return x
    record, label = OPS["pad"], site.node.label
    attrs = record.attrs(lo=(0, 0, *lo), hi=(0, 0, *hi))
    ends = zip(x.shape, attrs.lo, attrs.hi, strict=True)
    shape = tuple(extent + before + behind for extent, before, behind in ends)
    outputs = [Value(x.type.with_shape(shape), label, x.layout)]
    return site.b.add(record, [x], attrs, label, outputs).output


def _without_padding(node: Node) -> Any:
    zeros = (0,) * len(node.attrs.lo)
    return replace(node.attrs, lo=zeros, hi=zeros)
