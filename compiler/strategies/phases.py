"""winograd_phases_4, _6, _8: strided convolutions by Winograd's minimal filtering, with tiles of at
most so many inputs along an axis.

A convolution of stride s is one of stride 1 over the phases of its image, which become channels
(the idea of Yepez and Ko, "Stride 2 1-D, 2-D, and 3-D Winograd for Convolutional Neural Networks",
IEEE TVLSI 28, 2020). With strides s and t, a = lo div (s, t), b = lo mod (s, t) and k x l taps:

    x'[n, (g, p, q, c), i, j] = x[n, (g, c), i s + p - b0, j t + q - b1]
    w'[o, (p, q, c), i, j] = w[o, c, i s + p, j t + q], zero behind the last tap
    y[n, o, i, j] = sum over c', u, v of x'[n, c', i + u - a0, j + v - a1] w'[o, c', u, v]

so w' has s t times the channels and ceil(k / s) x ceil(l / t) taps. 7 x 7 taps at stride 2 are 4
phases of 4 x 4 taps, and need 4 * 36 products for 9 outputs instead of 9 * 49; 5 x 5 taps 4 * 36
for 16 instead of 16 * 25; 11 x 11 taps at stride 4 16 * 36 for 16 instead of 16 * 121. Both
gradients are those of the convolution of stride 1, of which the phases are put back in place.

Along each axis a tile has as many outputs as make the fewest products in all. Errors are those of
Winograd's tiles with as many inputs: zero taps and phases change the length of sums alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from .. import dim
from ..constant import Constant
from ..dim import Extent
from ..graph import Builder, Graph, Node, Value
from ..op import Array
from ..ops.tiles import Pair, TileAttrs
from . import polyphase, tiles, winograd
from .strategy import Cost, Strategy, geometry, image_dims, nominal

# times the phases' bytes: what picking channels one by one costs, where no vector has them together
# (measured: the first layers of six networks)
GATHERED = 6


@dataclass(frozen=True)
class _Phases:
    """A strided convolution's node, and the node of stride 1 over its phases, which is in no
    graph."""

    node: Node
    inner: Node
    skipped: Pair  # zeros before the image that the first phases begin with

    @property
    def stride(self) -> Pair:
        stride: Pair = self.node.attrs.stride
        return stride


def _phases(node: Node) -> _Phases:
    attrs, of = node.attrs, geometry(node)
    strides, lo = attrs.stride, attrs.lo
    taps = tuple(-(-k // s) for k, s in zip(of.w.type.static_shape[2:], strides, strict=True))
    begin = tuple(before // s for before, s in zip(lo, strides, strict=True))
    skipped = lo[0] % strides[0], lo[1] % strides[1]
    spatial = tuple(
        dim.ceil_div(e + b, s) for e, b, s in zip(of.x.shape[2:], skipped, strides, strict=True)
    )
    behind = tuple(
        out + k - 1 - e - a
        for out, k, e, a in zip(of.y.shape[2:], taps, spatial, begin, strict=True)
    )
    count = prod(strides)
    x = Value(of.x.type.with_shape((of.x.shape[0], of.x.shape[1] * count, *spatial)))
    w = Value(of.w.type.with_shape((of.w.shape[0], of.w.shape[1] * count, *taps)))
    found = replace(attrs, stride=(1, 1), lo=begin, hi=behind)
    match node.op.name:
        case "conv":
            values, output = (x, w), of.y
        case "conv_input_gradient":
            found, values, output = replace(found, spatial=spatial), (of.y, w), x
        case _:
            found, values, output = replace(found, kernel=taps), (x, of.y), w
    return _Phases(node, Node(node.op, values, found, (output,), node.label), skipped)


def _rejects(most: int, _graph: Graph, node: Node) -> str | None:
    attrs = node.attrs
    if len(attrs.stride) != 2:
        return f"it has {len(attrs.stride)} spatial axes; tiles are for two"
    if attrs.stride == (1, 1):
        return "its stride is (1, 1), which has one phase: the image"
    if attrs.dilation != (1, 1):
        return f"its dilation is {attrs.dilation}; it must be 1"
    if image_dims(node):
        if node.op.name != "conv":
            return "its height or width is a free dim"
        if _are_gathered(node):
            return f"its height or width is a free dim, and its channels are no multiple of {tiles.BLOCK}"
    inner = _phases(node).inner
    taps = geometry(inner).w.type.static_shape[2:]
    if max(taps) > most:
        return f"its phases have {list(taps)} taps; a tile has {most} inputs along an axis"
    reason = tiles.rejects(inner)
    return None if reason is None else f"over its phases, {reason}"


def _are_gathered(node: Node) -> bool:
    """Whether the channels of a phase are picked one by one: no vector has them together."""
    groups: int = node.attrs.groups
    return nominal(geometry(node).x)[1] // groups % tiles.BLOCK != 0


def _form(most: int, inner: Node) -> TileAttrs:
    """The tiles that make the fewest products of all outputs."""
    of = geometry(inner)
    made = of.x if inner.op.name == "conv_input_gradient" else of.y
    extents, taps = nominal(made)[2:], of.w.type.static_shape[2:]
    down, across = (_outputs(most, e, k) for e, k in zip(extents, taps, strict=True))
    return TileAttrs((down, across), (taps[0], taps[1]))


def _outputs(most: int, extent: int, taps: int) -> int:
    """Outputs of a tile along an axis."""

    def products(m: int) -> int:
        return -(-extent // m) * (m + taps - 1)

    return min(range(1, most - taps + 2), key=products) if taps > 1 else 1


def _cost(most: int, graph: Graph, node: Node, batch: int) -> Cost:
    """That of the convolution of stride 1, and of the passes that make the phases or put them
    back."""
    inner, is_constant = _phases(node).inner, tiles.has_constant_weights(graph, node)
    found = winograd.cost(_form(most, inner), inner, batch, is_constant)
    moved = 0.0
    for part in map(geometry, (node, inner)):
        moved += prod(nominal(part.x, batch)) + (0 if is_constant else prod(nominal(part.w)))
    if _are_gathered(node):
        moved += GATHERED * prod(nominal(geometry(inner).x, batch))
    return replace(found, bytes=found.bytes + 4.0 * moved)


def _expand(most: int, b: Builder, graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    phases = _phases(node)
    form, (first, second) = _form(most, phases.inner), inputs

    def expanded(*operands: Value, constant: Constant | None = None) -> Value:
        return tiles.expand("winograd", form, b, phases.inner, operands, constant)

    if node.op.name == "conv_weight_gradient":
        return _joined_weights(b, phases, expanded(_split_image(b, phases, first), second))
    constant = graph.constant_of(node.inputs[1])
    if constant is None:
        second = _split_weights(b, phases, second)
    else:
        constant = Constant(_split_constant(phases, constant.array))
    if node.op.name == "conv_input_gradient":
        return _joined_image(b, phases, expanded(first, second, constant=constant))
    return expanded(_split_image(b, phases, first), second, constant=constant)


# -- the image: [n, (g, c), (h, p), (w, q)] and [n, (g, p, q, c), h, w] ----------------------------


def _channels(phases: _Phases, x: Value) -> tuple[Extent, ...]:
    """The batch, the groups and the channels of a group of the image x."""
    groups = phases.node.attrs.groups
    return x.shape[0], groups, x.shape[1] // groups


def _split_image(b: Builder, phases: _Phases, x: Value) -> Value:
    shape, channels = geometry(phases.inner).x.shape, _channels(phases, x)
    stride, skipped, label = phases.stride, phases.skipped, phases.node.label
    return polyphase.split(b, x, channels, stride, skipped, shape, label)


def _joined_image(b: Builder, phases: _Phases, made: Value) -> Value:
    output = phases.node.output
    channels = _channels(phases, output)
    return polyphase.joined(b, made, channels, phases.stride, phases.skipped, output)


# -- the weights: [o, c, (k, p), (l, q)] and [o, (p, q, c), k, l] ----------------------------------


def _split_constant(phases: _Phases, w: Array) -> Array:
    o, c, *kernel = w.shape
    (s, t), taps = phases.stride, geometry(phases.inner).w.type.static_shape[2:]
    more = taps[0] * s - kernel[0], taps[1] * t - kernel[1]
    padded = np.pad(w, [(0, 0), (0, 0), *((0, zeros) for zeros in more)])
    split = padded.reshape(o, c, taps[0], s, taps[1], t).transpose(0, 3, 5, 1, 2, 4)
    return split.reshape(o, s * t * c, *taps)


def _split_weights(b: Builder, phases: _Phases, w: Value) -> Value:
    """Zero taps behind the last ones give every phase as many."""
    shape, label = geometry(phases.inner).w.shape, phases.node.label
    return polyphase.split(b, w, w.shape[:2], phases.stride, (0, 0), shape, label)


def _joined_weights(b: Builder, phases: _Phases, made: Value) -> Value:
    output = phases.node.output
    return polyphase.joined(b, made, output.shape[:2], phases.stride, (0, 0), output)


def _strategy(most: int) -> Strategy:
    return Strategy(
        f"winograd_phases_{most}",
        f"Winograd's minimal filtering over the phases of a stride, tiles of at most {most} inputs",
        lambda graph, node: _rejects(most, graph, node),
        lambda graph, node, batch: _cost(most, graph, node, batch),
        lambda b, graph, node, inputs: _expand(most, b, graph, node, inputs),
        lambda _node: winograd.level(most),
    )


WINOGRAD_PHASES_4, WINOGRAD_PHASES_6, WINOGRAD_PHASES_8 = map(_strategy, (4, 6, 8))
