"""winograd_f2, winograd_f4, winograd_f6: Winograd's minimal filtering at stride 1 (ops/winograd.py).

Tiles have m outputs along every axis on which the kernel has more than one tap. For 3 x 3 taps m = 2 needs 16 products for
4 outputs instead of 36, m = 4 needs 36 for 16 instead of 144, m = 6 needs 64 for 36 instead of 324; 5 x 5, 7 x 7, 1 x n and
n x 1 taps have the same forms, as far as a tile has at most 8 inputs along an axis. The more inputs, the larger the
coefficients and the error: up to 4 belong to every accuracy, up to 6 to the default one, 7 and 8 to fast. A NaN or infinity in
the input spreads over its tile.
"""

from __future__ import annotations

from ..graph import Graph, Node
from ..ops.tiles import TileAttrs
from ..ops.winograd import LARGEST, entries
from . import tiles
from .strategy import Cost, Strategy, geometry

BUDGETS = ((4, 2e-6, "strict"), (6, 1e-5, "default"), (LARGEST, 2e-5, "fast"))  # most inputs of a tile, error, accuracy


def _form(m: int, node: Node) -> TileAttrs:
    down, across = geometry(node).w.type.static_shape[2:]
    return TileAttrs((m if down > 1 else 1, m if across > 1 else 1), (down, across))


def _rejects(m: int, _graph: Graph, node: Node) -> str | None:
    reason = tiles.rejects(node)
    if reason is None and max(_form(m, node).inputs) > LARGEST:
        return f"its kernel is {list(geometry(node).w.shape[2:])}: a tile would have more than {LARGEST} inputs along an axis"
    return reason


def _cost(m: int, graph: Graph, node: Node, batch: int) -> Cost:
    form = _form(m, node)
    # The sums of the transforms count for nothing: they hide behind what they load and store (measured: benchmarks/choices.py).
    return tiles.cost(form, entries(form), 0.0, graph, node, batch)


def _level(m: int, node: Node) -> tuple[float, str]:
    most = max(_form(m, node).inputs)
    return next((budget, accuracy) for inputs, budget, accuracy in BUDGETS if most <= inputs)


def _strategy(m: int) -> Strategy:
    return Strategy(
        f"winograd_f{m}", f"Winograd's minimal filtering in tiles of {m} x {m}",
        lambda graph, node: _rejects(m, graph, node),
        lambda graph, node, batch: _cost(m, graph, node, batch),
        lambda b, graph, node, inputs: tiles.expand("winograd", _form(m, node), b, graph, node, inputs),
        lambda node: _level(m, node),
    )  # fmt: skip


WINOGRAD_F2, WINOGRAD_F4, WINOGRAD_F6 = map(_strategy, (2, 4, 6))
