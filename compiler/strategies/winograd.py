"""winograd_f2, winograd_f4, winograd_f6: Winograd's minimal filtering at stride 1
(ops/winograd.py).

``WINOGRAD_F2_FUSED`` is F(2 x 2, 3 x 3) with its three stages in one kernel, for machines that name
it (Rates.own).

Tiles have m outputs along every axis on which the kernel has more than one tap. For 3 x 3 taps m =
2 needs 16 products for 4 outputs instead of 36, m = 4 needs 36 for 16 instead of 144, m = 6 needs
64 for 36 instead of 324; 5 x 5, 7 x 7, 1 x n and n x 1 taps have the same forms, as far as a tile
has at most 8 inputs along an axis. The more inputs, the larger the coefficients and the error: up
to 4 belong to every accuracy, up to 6 to the default one, 7 and 8 to fast. A NaN or infinity in
the input spreads over its tile. Dilated convolutions go by their phases (dilated.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from ..graph import Builder, Graph, Node, Value
from ..loops.bands import Stages
from ..ops.tiles import TileAttrs
from ..ops.winograd import LARGEST, FusedAttrs, entries
from ..tensor_type import FLOAT32
from . import dilated, tiles
from .strategy import Cost, Strategy, geometry, image_dims, nominal

FUSED = TileAttrs((2, 2), (3, 3))
# products that a fused kernel's time amounts to, for each that it makes: it transforms in between
TRANSFORMING = 1.1
# most inputs of a tile, error, accuracy
BUDGETS = ((4, 2e-6, "strict"), (6, 1e-5, "default"), (LARGEST, 2e-5, "fast"))


def _form(m: int, node: Node) -> TileAttrs:
    down, across = geometry(node).w.type.static_shape[2:]
    return TileAttrs((m if down > 1 else 1, m if across > 1 else 1), (down, across))


def _rejects(m: int, _graph: Graph, node: Node) -> str | None:
    if dilated.has_phases(node):
        node = dilated.dense(node)
    reason = tiles.rejects(node)
    if reason is None and max(_form(m, node).inputs) > LARGEST:
        kernel = list(geometry(node).w.shape[2:])
        return f"its kernel is {kernel}: a tile would have more than {LARGEST} inputs along an axis"
    return reason


def cost(form: TileAttrs, node: Node, batch: int, is_constant: bool) -> Cost:
    """The cost of a node of stride 1 in tiles of that form."""
    # The sums of the transforms count for nothing: they hide behind what they load and store
    # (measured: benchmarks/choices.py).
    found = tiles.cost(form, entries(form), 0.0, node, batch, is_constant)
    channels, (images, filters, *_) = nominal(node.inputs[0])[1], nominal(node.output, batch)
    count = tiles.count(form, node, batch)
    stages = Stages(entries(form), images, count, channels, filters)
    has_bands = stages.reason_against_bands(node.attrs.groups, not image_dims(node)) is None
    if not has_bands or node.op.name == "conv_weight_gradient":
        return found
    return replace(found, band=stages.sharing)


def level(inputs: int) -> tuple[float, str]:
    """The error budget and the accuracy of tiles with so many inputs along an axis."""
    return next((budget, accuracy) for most, budget, accuracy in BUDGETS if inputs <= most)


def _cost(m: int, graph: Graph, node: Node, batch: int) -> Cost:
    is_constant = tiles.has_constant_weights(graph, node)
    if not dilated.has_phases(node):
        return cost(_form(m, node), node, batch, is_constant)
    found = cost(_form(m, node), dilated.dense(node), batch, is_constant)
    return replace(found, bytes=found.bytes + dilated.moved(node, batch))


def _expand(m: int, b: Builder, graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    def expanded(node: Node, x: Value) -> Value:
        return tiles.expand("winograd", _form(m, node), b, node, (x, inputs[1]), constant)

    constant = graph.constant_of(node.inputs[1])
    if dilated.has_phases(node):
        return dilated.expand(b, node, inputs[0], expanded)
    return expanded(node, inputs[0])


def _strategy(m: int) -> Strategy:
    return Strategy(
        f"winograd_f{m}", f"Winograd's minimal filtering in tiles of {m} x {m}",
        lambda graph, node: _rejects(m, graph, node),
        lambda graph, node, batch: _cost(m, graph, node, batch),
        lambda b, graph, node, inputs: _expand(m, b, graph, node, inputs),
        lambda node: level(max(_form(m, node).inputs)),
    )  # fmt: skip


WINOGRAD_F2, WINOGRAD_F4, WINOGRAD_F6 = map(_strategy, (2, 4, 6))


# -- the three stages in one kernel ----------------------------------------------------------------


def _fused_rejects(graph: Graph, node: Node) -> str | None:
    of = geometry(node)
    if node.op.name == "conv_weight_gradient":
        return "it sums over positions, not over channels"
    if (reason := tiles.rejects(node)) is not None:
        return reason
    if of.w.shape[2:] != (3, 3):
        return f"its kernel is {list(of.w.shape[2:])}; the fused kernel is for [3, 3]"
    if node.attrs.groups != 1:
        return f"it has {node.attrs.groups} groups; the fused kernel is for one"
    if node.output.dtype is not FLOAT32:
        return f"it computes in {node.output.dtype.value}; the fused kernel is for float32"
    if not all(isinstance(extent, int) for extent in (*of.x.shape[1:], *of.y.shape[1:])):
        return "its channels, its height or its width are a free dim"
    return None


def _fused_cost(graph: Graph, node: Node, batch: int) -> Cost:
    """Nothing but x, y and U moves between kernels."""
    of = geometry(node)
    filters = float(entries(FUSED) * nominal(of.x)[1] * nominal(of.y)[1])
    products = TRANSFORMING * tiles.count(FUSED, node, batch) * filters
    is_constant = graph.constant_of(node.inputs[1]) is not None
    moved = 4.0 * (
        prod(nominal(of.x, batch))
        + prod(nominal(of.y, batch))
        + (1 if is_constant else 3) * filters
    )
    return Cost(products, moved, 0.0)


def _fused_expand(b: Builder, graph: Graph, node: Node, inputs: Sequence[Value]) -> Value:
    u = tiles.filters("winograd", FUSED, b, node, inputs[1], graph.constant_of(node.inputs[1]))
    attrs = FusedAttrs(FUSED.m, FUSED.taps, tiles.before(FUSED, node), node.output.shape)
    return b(
        "winograd_fused",
        inputs[0],
        u,
        m=attrs.m,
        taps=attrs.taps,
        lo=attrs.lo,
        shape=attrs.shape,
        label=node.label,
    )


WINOGRAD_F2_FUSED = Strategy(
    "winograd_f2_fused", "Winograd's minimal filtering in tiles of 2 x 2, in one kernel",
    _fused_rejects, _fused_cost, _fused_expand,
)  # fmt: skip
