"""The polyphase decomposition of the last two axes, and its inverse, as views of the graph.

With steps s and t, phase (p, q) has every s-th row and every t-th column, from row p and column q
on. Phases go before the axis in front of the two:

    [..., c, (h, p), (w, q)] and [..., p, q, c, h, w]

Merged with the batch this is "space to batch", with the channels "space to depth"; taps of weights
are taken apart in the same way. Elements move and none is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ..dim import Extent
from ..graph import Builder, Value
from ..ops.tiles import Pair

Shape: TypeAlias = Sequence[Extent]


def split(
    b: Builder, x: Value, leading: Shape, steps: Pair, skipped: Pair, shape: Shape, label: str
) -> Value:
    """The phases of x, as ``shape``, whose last two extents are a phase's.

    ``leading``: the axes before the last two, whatever x has them merged to; phases go before the
    last of them. ``skipped``: zeros before x that the first phases begin with; behind x there are
    as many as fill the phases."""
    (s, t), (h, w) = steps, shape[-2:]
    outer, whole = tuple(x.shape[:-2]), (h * s, w * t)
    before = (*(0 for _ in outer), *skipped)
    missing = (
        filled - zeros - extent
        for filled, zeros, extent in zip(whole, skipped, x.shape[-2:], strict=True)
    )
    # of a free dim, as many as may be missing, and then without those that are not
    most = (
        extent if isinstance(extent, int) else step - 1
        for extent, step in zip(missing, steps, strict=True)
    )
    behind = (*(0 for _ in outer), *most)
    if any((*before, *behind)):
        x = b("pad", x, lo=before, hi=behind, value=0.0)
    if x.shape[-2:] != whole:
        x = b("slice", x, start=(0,) * x.type.rank, size=(*outer, *whole), step=(1,) * x.type.rank)
    apart = b("reshape", x, shape=(*leading, h, s, w, t))
    c = len(leading) - 1
    order = (*range(c), c + 2, c + 4, c, c + 1, c + 3)
    return b("reshape", b("transpose", apart, permutation=order), shape=tuple(shape), label=label)


def joined(
    b: Builder, phases: Value, leading: Shape, steps: Pair, skipped: Pair, output: Value
) -> Value:
    """What ``split`` makes phases of, with the shape of ``output``: without what lies before and
    behind it."""
    (s, t), (h, w) = steps, phases.shape[-2:]
    *outer, inner = leading
    apart = b("reshape", phases, shape=(*outer, s, t, inner, h, w))
    c = len(outer)
    order = (*range(c), c + 2, c + 3, c, c + 4, c + 1)
    together = b("transpose", apart, permutation=order)
    whole = b("reshape", together, shape=(*output.shape[:-2], h * s, w * t), label=output.label)
    if whole.shape == output.shape:
        return whole
    start = (*(0 for _ in output.shape[:-2]), *skipped)
    step = (1,) * len(start)
    return b("slice", whole, start=start, size=output.shape, step=step, label=output.label)


__all__ = ["joined", "split"]
