"""conv(x, w)[part] => conv(x, w; padded for the part): places that a slice throws away are not
computed. Causal convolutions are written so: padded at both ends and cut at the last (Bai et al.
2018, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks", section 3.1).
"""

from __future__ import annotations

from dataclasses import replace

from ..graph import Graph, Node, Value
from ..rewrite import Applied, Explain, Match, PatternBuilder, Rewriter, Rule, RuleSet, apply_rules


def trim_convolutions(graph: Graph, explain: Explain | None = None) -> Graph:
    """The graph with convolutions that compute only what a slice takes of them."""
    return apply_rules(graph, _RULES, explain)


def _part(p: PatternBuilder) -> Applied:
    return p("slice", p("conv", p.x, p.w, node="whole"), node="part")


def _part_of_sum(p: PatternBuilder) -> Applied:
    return p("slice", p("add", p("conv", p.x, p.w, node="whole"), p.c, node="sum"), node="part")


def _padding(whole: Node, part: Node) -> list[tuple[int, int]] | None:
    """The zeros before and behind each axis of the image from which the convolution makes just the
    part; None if some of the image would have to go."""
    attrs, (x, w), taken = whole.attrs, whole.inputs, part.attrs
    found = []
    for axis in range(len(attrs.lo)):
        place = axis + 2
        extent, kernel, output = x.shape[place], w.shape[place], whole.output.shape[place]
        start, size = taken.start[place], taken.size[place]
        if size == output:
            found.append((attrs.lo[axis], attrs.hi[axis]))
            continue
        if not all(isinstance(number, int) for number in (extent, kernel, start, size)):
            return None
        before = attrs.lo[axis] - start * attrs.stride[axis]
        window = (size - 1) * attrs.stride[axis] + attrs.dilation[axis] * (kernel - 1) + 1
        behind = window - before - extent
        if not size or before < 0 or behind < 0:
            return None
        found.append((before, behind))
    return found


def _can_trim(m: Match) -> bool | str:
    taken, y = m.part.attrs, m.whole.output
    if any(step != 1 for step in taken.step) or taken.size[:2] != y.shape[:2]:
        return "the part is not one of the image's places"
    if not m.is_only_use(*(m.bound[name].output for name in ("whole", "sum") if name in m.bound)):
        return "something else reads the convolution"
    if "c" in m.bound and m.sum.output.shape != y.shape:
        return "what is added makes more of it"
    if "c" in m.bound and any(extent != 1 for extent in m.c.shape[2 - y.type.rank :]):
        return "what is added differs from place to place"
    return _padding(m.whole, m.part) is not None or "some of the image would have to go"


def _trimmed(b: Rewriter, m: Match) -> Value:
    padding = _padding(m.whole, m.part)
    assert padding is not None
    lo, hi = zip(*padding, strict=True)
    attrs = replace(m.whole.attrs, lo=lo, hi=hi)
    made = b.add(m.whole.op, [m.x, m.w], attrs, m.whole.label).output
    return b("add", made, m.c) if "c" in m.bound else made


_RULES = RuleSet([
    Rule("conv(x, w)[part] => conv(x, w; padded for the part)", _part, _trimmed, _can_trim),
    Rule("(conv(x, w) + c)[part] => conv(x, w; padded for the part) + c",
         _part_of_sum, _trimmed, _can_trim),
])  # fmt: skip
