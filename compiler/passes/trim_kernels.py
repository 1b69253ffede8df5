"""Kernel positions that meet nothing but padding leave their convolution.

Dilated convolutions of small images have them: at dilation 36 an image of 33 x 33 meets the middle
position of a 3 x 3 kernel only (Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image
Segmentation", section 3.3.1), and so does any 3 x 3 kernel over an image of one element. What is
left has the same output: the terms left out are zeros, since only constant and finite weights are
trimmed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .. import dim
from ..dim import Extent
from ..graph import Graph, Value
from ..ops.convolution import ConvAttrs
from ..rewrite import Explain, Match, Rewriter, Rule, RuleSet, apply_rules


def trim_kernels(graph: Graph, explain: Explain | None = None) -> Graph:
    """The graph with every constant kernel cut to the positions that meet the image."""
    return apply_rules(graph, _RULES, explain)


def dead_positions(
    attrs: ConvAttrs, axis: int, image: Extent, kernel: int, output: Extent
) -> tuple[int, int]:
    """How many positions at the start and the end of a kernel's axis are proved to meet padding
    alone and can be cut together with it; one position is always left."""
    step, before, behind = attrs.dilation[axis], attrs.lo[axis], attrs.hi[axis]
    reach = (output - 1) * attrs.stride[axis]  # from the first output's position to the last's
    start = end = 0
    while start < min(before // step, kernel - 1):
        last = dim.bounds(start * step - before + reach)[1]
        if last is None or last >= 0:
            break
        start += 1
    while end < min(behind // step, kernel - 1 - start):
        first = dim.bounds((kernel - 1 - end) * step - before - image)[0]
        if first is None or first < 0:
            break
        end += 1
    return start, end


def _cuts(m: Match) -> list[tuple[int, int]]:
    attrs, x, w, y = m.root.attrs, m.x.shape, m.w.type.static_shape, m.root.output.shape
    return [
        dead_positions(attrs, axis, x[axis + 2], w[axis + 2], y[axis + 2])
        for axis in range(len(attrs.lo))
    ]


def _can_trim(m: Match) -> bool | str:
    weights = m.rewriter.constant_of(m.w)
    if weights is None:
        return "w must be a constant"
    if not any(map(any, _cuts(m))):
        return "every position meets the image"
    return bool(np.isfinite(weights.array).all()) or "w is not finite, and 0 * inf is no zero"


def _trimmed(b: Rewriter, m: Match) -> Value:
    attrs, shape, cuts = m.root.attrs, m.w.type.static_shape, _cuts(m)
    size = [extent - sum(cut) for extent, cut in zip(shape[2:], cuts, strict=True)]
    weights = b(
        "slice",
        m.w,
        start=(0, 0, *(start for start, _ in cuts)),
        size=(*shape[:2], *size),
        step=(1,) * len(shape),
    )
    steps = attrs.dilation
    changed = replace(
        attrs,
        dilation=tuple(d if k > 1 else 1 for d, k in zip(steps, size, strict=True)),
        lo=tuple(p - cut[0] * d for p, cut, d in zip(attrs.lo, cuts, steps, strict=True)),
        hi=tuple(p - cut[1] * d for p, cut, d in zip(attrs.hi, cuts, steps, strict=True)),
    )
    return b.add(m.root.op, [m.x, weights], changed, m.root.label).output


_RULES = RuleSet([
    Rule("conv(x, w) => conv(x, w without positions over padding)",
         lambda p: p("conv", p.x, p.w), _trimmed, _can_trim),
])  # fmt: skip
