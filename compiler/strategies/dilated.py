"""Dilated convolutions as ordinary ones: the phases of a dilation become images of the batch.

A convolution of stride 1 and dilation d meets, for every output, elements that lie d apart, so each
of the d phases of the image is convolved for itself ("space to batch"). With dilations d and e, a =
lo div (d, e), b = lo mod (d, e):

    x'[(n, p, q), c, i, j] = x[n, c, i d + p - b0, j e + q - b1]
    y[n, o, i d + p, j e + q] = sum over c, u, v of x'[(n, p, q), c, i + u - a0, j + v - a1]
                                                    w[o, c, u, v]

Nothing is rounded on the way: what computes the ordinary convolution keeps its error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

from .. import dim
from ..graph import Builder, Node, Value
from ..ops.tiles import Pair
from . import polyphase
from .strategy import geometry, nominal

# times the bytes of both images: what their phases cost, whose elements lie apart (measured)
GATHERED = 5


def has_phases(node: Node) -> bool:
    """Whether a node is a convolution of two axes, with a dilation alone."""
    attrs = node.attrs
    return (
        node.op.name == "conv"
        and len(attrs.dilation) == 2
        and attrs.stride == (1, 1)
        and _dilation(node) != (1, 1)
    )


def dense(node: Node) -> Node:
    """The node of dilation 1 over the phases of one that ``has_phases``; it is in no graph."""
    attrs, of, steps = node.attrs, geometry(node), _dilation(node)
    taps = of.w.type.static_shape[2:]
    begin = tuple(before // d for before, d in zip(attrs.lo, steps, strict=True))
    image = tuple(
        dim.ceil_div(e + b, d)
        for e, b, d in zip(of.x.shape[2:], _skipped(node), steps, strict=True)
    )
    made = tuple(dim.ceil_div(e, d) for e, d in zip(of.y.shape[2:], steps, strict=True))
    behind = tuple(
        out + k - 1 - e - a for out, k, e, a in zip(made, taps, image, begin, strict=True)
    )
    batch = of.x.shape[0] * prod(steps)
    x = Value(of.x.type.with_shape((batch, of.x.shape[1], *image)))
    y = Value(of.y.type.with_shape((batch, of.y.shape[1], *made)))
    found = replace(attrs, dilation=(1, 1), lo=begin, hi=behind)
    return Node(node.op, (x, of.w), found, (y,), node.label)


def moved(node: Node, batch: int) -> float:
    """Bytes that the passes which take the phases apart and put them together amount to."""
    images = (*dense(node).inputs[:1], *dense(node).outputs)
    return 4.0 * GATHERED * sum(prod(nominal(image, batch)) for image in images)


def expand(b: Builder, node: Node, x: Value, convolved: Callable[[Node, Value], Value]) -> Value:
    """The node by what computes its dense form from the phases of x."""
    inner, steps, output = dense(node), _dilation(node), node.output
    shape, skipped = inner.inputs[0].shape, _skipped(node)
    phases = polyphase.split(b, x, x.shape[:2], steps, skipped, shape, node.label)
    made = convolved(inner, phases)
    return polyphase.joined(b, made, output.shape[:2], steps, (0, 0), output)


def _dilation(node: Node) -> Pair:
    """Along each axis; 1 where the kernel has one tap."""
    down, across = (
        d if k != 1 else 1
        for d, k in zip(node.attrs.dilation, node.inputs[1].shape[2:], strict=True)
    )
    return down, across


def _skipped(node: Node) -> Pair:
    """Zeros before the image that its first phases begin with."""
    down, across = (before % d for before, d in zip(node.attrs.lo, _dilation(node), strict=True))
    return down, across
