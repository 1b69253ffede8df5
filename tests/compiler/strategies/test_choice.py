"""Which strategy the estimated time chooses: Fourier transforms for large kernels, the whole
matrix never.
"""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.graph import Builder, Graph
from netloom.compiler.passes.select_strategies import Decision, select_strategies
from netloom.compiler.strategies import BY_NAME
from netloom.compiler.strategies.strategy import geometry
from netloom.compiler.tensor_type import FLOAT32, TensorType

from .convolutions import ROLES, Convolution, add_node, drawn


def layer(channels: int, size: int, taps: int, batch: int = 1) -> Graph:
    """A convolution that keeps its extents, with constant weights."""
    case = Convolution(
        batch,
        channels,
        channels,
        (size,) * 2,
        (taps,) * 2,
        (1, 1),
        (1, 1),
        (taps // 2,) * 2,
        (taps // 2,) * 2,
    )
    b = Builder("layer")
    return b.build([add_node(b, "forward", case, "conv", weights=np.ones(case.w, np.float32))])


def decided(graph: Graph, accuracy: str = "default", override: str = "auto") -> Decision:
    decisions: list[Decision] = []
    select_strategies(graph, accuracy, override, decisions)
    (decision,) = decisions
    return decision


@pytest.mark.parametrize(("channels", "size", "taps", "strategy"), [
    (64, 56, 7, "fft_16"), (128, 28, 7, "fft_16"), (32, 112, 11, "fft_32"), (64, 56, 9, "fft_16"),
    (64, 56, 5, "fft_16"),
    (64, 112, 3, "winograd_f4"), (64, 56, 3, "winograd_f4"), (256, 28, 3, "winograd_f4"),
    (512, 14, 3, "winograd_f4"),
    (64, 56, 1, "direct"),
])  # fmt: skip
def test_large_kernels_take_fourier_transforms(
    channels: int, size: int, taps: int, strategy: str
) -> None:
    assert decided(layer(channels, size, taps)).strategy == strategy


def test_accuracy_strict_and_a_name_decide_first() -> None:
    graph = layer(64, 56, 7)
    strict = decided(graph, "strict")
    assert strict.rejected[
        "fft_16"
    ] == "its error budget of 2e-06 needs --accuracy default" and not strict.strategy.startswith(
        "fft"
    )
    for name in ("fft_16", "fft_32", "direct"):
        assert decided(graph, override=name).strategy == name


def test_a_kernel_wider_than_the_tile_is_refused() -> None:
    assert (
        decided(layer(4, 12, 9)).rejected["fft_8"]
        == "its kernel is [9, 9]; a tile has 8 inputs along an axis"
    )
    assert "fft_8" in decided(layer(4, 12, 7)).seconds


@pytest.mark.parametrize("role", ROLES)
def test_the_whole_matrix_is_never_the_cheapest(role: str) -> None:
    """On random shapes, awkward ones too (all padding, one position), it costs more than direct."""
    found = 0
    for case, _ in zip(drawn(np.random.default_rng(5)), range(200), strict=False):
        b = Builder("one")
        decision = decided(b.build([add_node(b, role, case, "x")]))
        if "toeplitz" in decision.seconds:
            found += 1
            assert (
                decision.seconds["toeplitz"] > decision.seconds["direct"]
                and decision.strategy != "toeplitz"
            )
    assert found >= 20


def test_a_large_matrix_is_refused() -> None:
    assert decided(layer(64, 56, 3)).rejected["toeplitz"].startswith("its matrix would have ")


def test_a_budget_is_a_promise_for_every_node() -> None:
    b = Builder("one")
    x, w = (
        b.input(TensorType(FLOAT32, shape), name)
        for name, shape in (("x", (1, 3, 9, 9)), ("w", (2, 3, 7, 7)))
    )
    graph = b.build(
        [b("conv", x, w, stride=(1, 1), dilation=(1, 1), lo=(3, 3), hi=(3, 3), groups=1)]
    )
    (node,) = graph.nodes
    assert geometry(node).w.shape == (2, 3, 7, 7)
    assert {BY_NAME[name].level(node) for name in ("fft_8", "fft_16", "fft_32")} == {
        (2e-6, "default")
    }
    assert BY_NAME["toeplitz"].level(node) == (2e-6, "strict")
