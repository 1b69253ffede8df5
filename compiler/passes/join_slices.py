"""concat(..., x[a:b], x[b:c], ...) => concat(..., x[a:c], ...): parts of a value that are put behind
each other as they were are one part. Where that is the whole value, whoever makes it writes right
into the concat (the blocks of networks that split their channels and join all that they compute
from a part: CSP, C2f).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Graph, Node, Value
from ..rewrite import Rewriter, rewrite


def join_slices(graph: Graph) -> Graph:
    """The graph with neighbouring slices in concats joined."""
    return rewrite(graph, _joined)


def _joined(b: Rewriter, node: Node) -> Sequence[Value] | None:
    if node.op.name != "concat":
        return None
    axis, parts = node.attrs.axis, list(node.inputs[:1])
    for value in node.inputs[1:]:
        both = _both(b, parts[-1], value, axis)
        parts = [*parts, value] if both is None else [*parts[:-1], both]
    if len(parts) == len(node.inputs):
        return None
    return [parts[0] if len(parts) == 1 else b("concat", *parts, axis=axis)]


def _both(b: Rewriter, left: Value, right: Value, axis: int) -> Value | None:
    """Two slices of one value as one, if the second begins where the first ends."""
    first, second = b.producers.get(left), b.producers.get(right)
    if first is None or second is None or {first.op.name, second.op.name} != {"slice"}:
        return None
    (x,), before, behind = first.inputs, first.attrs, second.attrs
    if second.inputs[0] is not x or before.step != behind.step or before.step[axis] != 1:
        return None
    start = list(before.start)
    start[axis] = start[axis] + before.size[axis]
    if tuple(start) != tuple(behind.start):
        return None
    size = list(before.size)
    size[axis] = size[axis] + behind.size[axis]
    if tuple(size) == x.shape and all(step == 1 for step in before.step):
        return x
    return b("slice", x, start=before.start, size=tuple(size), step=before.step)


__all__ = ["join_slices"]
