"""Convolutions whose height and width are free dims: which strategies they take, and that one
program computes images of every size, the batch free or not. (The sweeps draw one free axis each.)
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from netloom.compiler.dim import Dim, Extent, Symbol, symbols_of
from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.passes.select_strategies import Decision, select_strategies
from netloom.compiler.strategies.strategy import IMAGE, image_numbers, nominal
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

from .convolutions import Array, Convolution, exact

HEIGHT, WIDTH = Dim.of(Symbol("H", 1)), Dim.of(Symbol("W", 1))
N = Dim.of(Symbol("N", 1))
BATCHES: tuple[tuple[str, Extent], ...] = (
    ("winograd_f4", 1),
    ("winograd_f4", 2),
    ("winograd_f4", N),
    ("winograd_f2", 1),
    ("fft_8", N),
)


def two_layers(
    batch: Extent, channels: int, weights: tuple[Array, Array], spatial: tuple[Extent, Extent]
) -> Graph:
    """3 x 3 taps, padded, twice; what the first gives is fused with no view of the second."""
    b = Builder("layers")
    y = b.input(TensorType(FLOAT32, (batch, channels, *spatial)), "x")
    for number, w in enumerate(weights):
        y = b("conv", y, b.constant(w), stride=(1, 1), dilation=(1, 1), lo=(1, 1), hi=(1, 1),
              groups=1, label=f"c{number}")  # fmt: skip
    return b.build([y], ["y"])


def _chosen(graph: Graph, override: str = "auto") -> list[str]:
    decisions: list[Decision] = []
    select_strategies(graph, decisions=decisions, override=override)
    return [decision.strategy for decision in decisions]


def _weights(channels: int, filters: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(5)
    first, second = (filters, channels, 3, 3), (filters, filters, 3, 3)
    return (
        (rng.standard_normal(first) / 9).astype(np.float32),
        (rng.standard_normal(second) / 9).astype(np.float32),
    )


def _meaning(x: Array, weights: tuple[Array, Array]) -> Array:
    ones = (1, 1)
    y = x
    for w in weights:
        case = Convolution(
            y.shape[0], y.shape[1], len(w), y.shape[2:], (3, 3), ones, ones, ones, ones
        )
        y = exact("forward", case, (y, w))
    return y


@pytest.mark.parametrize(("strategy", "batch"), BATCHES, ids=str)
def test_one_program_computes_every_size(strategy: str, batch: Extent) -> None:
    weights = _weights(17, 33)
    graph = two_layers(batch, 17, weights, (HEIGHT, WIDTH))
    assert _chosen(graph, strategy) == [strategy] * 2
    session = Session.in_process(compile_graph(graph, Options(override=strategy)).image)
    rng = np.random.default_rng(7)
    batches = (batch,) if isinstance(batch, int) else (1, 3)
    for n, (h, w) in product(batches, ((1, 1), (4, 9), (5, 3), (13, 8))):
        x = rng.standard_normal((n, 17, h, w)).astype(np.float32)
        wanted = _meaning(x, weights)
        error = np.linalg.norm(session(x) - wanted) / np.linalg.norm(wanted)
        assert error <= 2e-5, (n, h, w, error)


def test_free_images_count_as_large_ones() -> None:
    free = two_layers(1, 64, _weights(64, 64), (HEIGHT, WIDTH))
    large = two_layers(1, 64, _weights(64, 64), (IMAGE, IMAGE))
    assert _chosen(free) == _chosen(large) == ["winograd_f4"] * 2
    assert nominal(free.nodes[-1].output) == (1, 64, IMAGE, IMAGE)


def test_free_images_count_as_small_ones_too() -> None:
    """What is a little faster for large images may take several times as long for others."""
    weights = _weights(128, 128)
    large = two_layers(1, 128, weights, (IMAGE, IMAGE))
    assert _chosen(two_layers(N, 128, weights, (HEIGHT, WIDTH))) == ["winograd_f4"] * 2
    assert _chosen(large) == ["winograd_f4"] * 2


def test_heights_of_multiples_count_as_a_whole() -> None:
    """An image of 8 H lines is as large as another one: H is an eighth of its height."""
    graph = two_layers(1, 64, _weights(64, 64), (HEIGHT * 8, WIDTH))
    found = image_numbers(graph, symbols_of([HEIGHT, WIDTH]), IMAGE)
    assert {symbol.name: number for symbol, number in found.items()} == {"H": 28, "W": IMAGE}


def test_an_image_that_can_only_be_small_counts_as_that() -> None:
    short = Dim.of(Symbol("H", 1, 2))
    graph = two_layers(1, 64, _weights(64, 64), (short, short))
    assert nominal(graph.nodes[-1].output) == (1, 64, 2, 2)
    assert "winograd_f4" not in _chosen(graph)


PHASES = {
    "7 x 7 at stride 2": ("winograd_phases_6", (7, 7), (2, 2), (1, 1), (3, 3), (3, 3)),
    "5 x 5 at stride 2, not padded": ("winograd_phases_4", (5, 5), (2, 2), (1, 1), (0, 0), (0, 0)),
    "strides 3 and 2": ("winograd_phases_4", (5, 3), (3, 2), (1, 1), (1, 1), (2, 0)),
    "dilation 2": ("winograd_f4", (3, 3), (1, 1), (2, 2), (2, 2), (2, 2)),
    "dilations 3 and 2": ("winograd_f2", (3, 3), (1, 1), (3, 2), (1, 2), (4, 1)),
}


@pytest.mark.parametrize("name", PHASES)
def test_phases_of_every_size(name: str) -> None:
    """Phases of images that strides and dilations divide, and of others."""
    strategy, kernel, stride, dilation, lo, hi = PHASES[name]
    case = Convolution(2, 16, 17, (11, 11), kernel, stride, dilation, lo, hi)
    rng = np.random.default_rng(11)
    w = rng.standard_normal(case.w).astype(np.float32)
    b = Builder("phases")
    height, width = (Dim.of(Symbol(side, 11)) for side in ("H", "W"))
    x = b.input(TensorType(FLOAT32, (2, 16, height, width)), "x")
    attrs = {"stride": stride, "dilation": dilation, "lo": lo, "hi": hi, "groups": 1}
    graph = b.build([b("conv", x, b.constant(w), **attrs)], ["y"])
    assert _chosen(graph, strategy) == [strategy]
    session = Session.in_process(compile_graph(graph, Options(override=strategy)).image)
    for size in ((11, 11), (12, 13), (16, 17), (19, 14)):
        image = rng.standard_normal((2, 16, *size)).astype(np.float32)
        wanted = exact("forward", replace(case, spatial=size), (image, w))
        error = np.linalg.norm(session(image) - wanted) / np.linalg.norm(wanted)
        assert error <= 2e-5, (size, error)
