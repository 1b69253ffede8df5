"""fft_8, fft_16, fft_32: overlap-save with Fourier transforms of n x n tiles at stride 1
(ops/fft.py, fourier.py).

A tile has n - taps + 1 outputs along every axis on which the kernel has more than one tap, and 3/2
n^2 - 2 products: for 7 x 7 taps n = 16 needs 382 products for 100 outputs instead of 4900, n = 32
needs 1534 for 676 instead of 33124.

Error: a transform of N numbers adds a relative L2 error of at most about 7 u log2(N) (Higham,
Accuracy and Stability of Numerical Algorithms, theorem 24.2, with rounded factors), and with
roundings that are not correlated about u sqrt(log2 N) (Gentleman and Sande, "Fast Fourier
Transforms: for fun and profit", AFIPS 1966; Schatzman, SIAM Journal on Scientific Computing 17,
1996). On random operands three transforms of at most 1024 numbers, 3.2 u each, Gauss's products,
which at most triple the rounding of a product's parts (Higham, SIAM Journal on Matrix Analysis 13,
1992), and sums like those of direct, 10 u at most, stay below 20 u = 1.2e-6. The error is
relative to the whole tile: an output that is small beside those of its tile has the tile's. A NaN
or infinity spreads over its tile. Integers are not exact.
"""

from __future__ import annotations

from ..fourier import complex_, real
from ..graph import Graph, Node
from ..ops.fft import entries
from ..ops.tiles import Pair, TileAttrs
from . import tiles
from .strategy import Cost, Strategy, geometry, nominal

BUDGET = 2e-6
# multiply-adds that a step of a transform costs: it also loads and stores (measured on 3 x 3 to 11
# x 11 taps)
STEP = 2.5


def _form(n: int, node: Node) -> TileAttrs:
    down, across = geometry(node).w.type.static_shape[2:]
    return TileAttrs(
        (n - down + 1 if down > 1 else 1, n - across + 1 if across > 1 else 1), (down, across)
    )


def _rejects(n: int, _graph: Graph, node: Node) -> str | None:
    reason = tiles.rejects(node)
    if reason is None and max(geometry(node).w.type.static_shape[2:]) > n:
        return (
            f"its kernel is {list(geometry(node).w.shape[2:])}; a tile has {n} inputs along an axis"
        )
    return reason


def steps(n: Pair, present: Pair) -> int:
    """Steps of the transform of a tile of n numbers, of which the first ``present`` are not
    zero.
    """
    columns = present[1] * len(real(n[0], present[0]).steps)
    rows = max(n[0] // 2 - 1, 0) * len(complex_(n[1], present[1]).steps)
    return columns + rows + min(n[0], 2) * len(real(n[1], present[1]).steps)


def _cost(n: int, graph: Graph, node: Node, batch: int) -> Cost:
    of, form = geometry(node), _form(n, node)
    there = steps(form.inputs, form.inputs) + entries(form) // 3
    back = steps(form.inputs, form.m) + 2 * entries(form) // 3
    a_tile = nominal(of.x)[1] * there + nominal(of.y)[1] * back
    transforms = STEP * tiles.count(form, node, batch) * a_tile
    is_constant = tiles.has_constant_weights(graph, node)
    return tiles.cost(form, entries(form), transforms, node, batch, is_constant)


def _strategy(n: int) -> Strategy:
    return Strategy(
        f"fft_{n}", f"Fourier transforms of tiles of {n} x {n}",
        lambda graph, node: _rejects(n, graph, node),
        lambda graph, node, batch: _cost(n, graph, node, batch),
        lambda b, graph, node, inputs: tiles.expand(
            "fft", _form(n, node), b, node, inputs, graph.constant_of(node.inputs[1])
        ),
        lambda _node: (BUDGET, "default"),
    )  # fmt: skip


FFT_8, FFT_16, FFT_32 = map(_strategy, (8, 16, 32))
