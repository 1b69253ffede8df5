"""Views that move whole blocks of channels -> the layouts in which their results stay blocked.

Pixel shuffles, and the phases of strided convolutions, are a transpose between two reshapes that
take channels apart and put them together; repeated elements (nearest neighbours) are a broadcast
between two reshapes, and parts of the channels are slices. Where only whole blocks of 16 channels
move, each of the views has a blocked layout, and what computes them copies vectors instead of
turning the image to row-major and back. Views whose results are wanted otherwise (a flatten, or
channels behind the places) are left row-major.
"""

from __future__ import annotations

from ...graph import Graph, Node, Value
from ...layout import BLOCK, Layout, channel_blocked
from ...ops.views import axis_groups

VIEWS = frozenset({"reshape", "transpose", "broadcast", "slice"})
LEAST_RANK = 3  # of an image: n c w


def blocked_view(graph: Graph, node: Node, x: Value) -> Layout | None:
    """The layout of a view's result that keeps blocks of an image together, over an input in its
    own layout; None where there is no such layout, or no use for one."""
    axis = _blocked_axis(x)
    if axis is None or 0 in node.inputs[0].shape:
        return None
    if node.op.name in ("reshape", "transpose") and not _ends_as_image(graph, node, axis):
        return None
    moved = _moved(node, axis)
    return None if moved is None else channel_blocked(node.output.type.rank, moved)


def _blocked_axis(x: Value) -> int | None:
    """The axis that a value's layout has in blocks, if it has one and nothing else."""
    if x.layout is None:
        return None
    axis = x.layout.parts[-1].axis
    return axis if x.layout == channel_blocked(x.type.rank, axis) else None


def _moved(node: Node, axis: int) -> int | None:
    """Where a view puts the axis that is in blocks; None if it takes blocks apart."""
    shape = node.inputs[0].shape
    match node.op.name:
        case "reshape":
            left, right = next(
                group for group in axis_groups(shape, node.attrs.shape) if axis in group[0]
            )
            if left == [axis] and len(right) == 1:
                return right[0]
            ends = shape[left[-1]], node.attrs.shape[right[-1]] if right else 1
            return right[-1] if left[-1] == axis and all(e % BLOCK == 0 for e in ends) else None
        case "transpose":
            place: int = node.attrs.permutation.index(axis)
            return place
        case "broadcast":
            is_kept = len(shape) == node.output.type.rank and node.output.shape[axis] == shape[axis]
            return axis if is_kept else None
        case "slice":
            start, size = node.attrs.start[axis], node.attrs.size[axis]
            is_in_blocks = size == shape[axis] or (start % BLOCK == 0 and size % BLOCK == 0)
            return axis if is_in_blocks and node.attrs.step[axis] == 1 else None
    return None


def _ends_as_image(graph: Graph, node: Node, axis: int) -> bool:
    """Whether views of each other, from this one on, move whole blocks of channels, and these are
    an image's in the end. Channels that become the last axis (tokens) are rows, for norms and
    products."""
    while (moved := _moved(node, axis)) is not None:
        axis, output = moved, node.output
        users = graph.users.get(output, ())
        if len(users) != 1 or users[0].op.name not in VIEWS:
            return axis == 1 and output.type.rank >= LEAST_RANK
        node = users[0]
    return False


__all__ = ["blocked_view"]
