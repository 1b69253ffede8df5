"""Winograd over the phases of a stride: what a convolution becomes is the convolution, in each role,
for shapes of every kind; where it is chosen, with which tiles, and why it is not elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from math import prod

import numpy as np
import pytest

from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.select_strategies import Decision, select_strategies
from netloom.compiler.strategies import BY_NAME
from netloom.compiler.strategies.strategy import direct_products

from .convolutions import ROLES, Array, Convolution, add_node, exact, strided

NAMES = ("winograd_phases_4", "winograd_phases_6", "winograd_phases_8")
SHAPES = 40  # of each size of tiles in each role: nothing is compiled


def layer(
    channels: int, filters: int, size: int, taps: int, stride: int, padding: int, batch: int = 1
) -> Convolution:
    parts = ((e,) * 2 for e in (size, taps, stride, 1, padding, padding))
    return Convolution(batch, channels, filters, *parts)


def graph_of(case: Convolution, role: str = "forward", weights: Array | None = None) -> Graph:
    b = Builder("layer")
    return b.build([add_node(b, role, case, "x", weights=weights)])


def decided(graph: Graph, accuracy: str = "default", name: str = "auto") -> tuple[Graph, Decision]:
    """What a graph of one convolution becomes, and why."""
    decisions: list[Decision] = []
    expanded = select_strategies(graph, accuracy, name, decisions)
    return expanded, decisions[0]


def chosen(case: Convolution, accuracy: str = "default") -> str:
    """The strategy for a convolution with constant weights."""
    return decided(graph_of(case, weights=np.ones(case.w, np.float32)), accuracy)[1].strategy


def accepted(name: str, role: str) -> Iterator[Convolution]:
    """Random shapes that a strategy computes."""
    for case in strided(np.random.default_rng([NAMES.index(name), len(role)])):
        case = replace(case, free=None)
        if name in decided(graph_of(case, role), "fast")[1].seconds:
            yield case


def interpreted(name: str, role: str, case: Convolution, operands: tuple[Array, Array]) -> Array:
    """The result of a role by the meaning of the ops that the strategy makes of it."""
    is_constant = case.is_constant and role != "weight_gradient"
    graph = graph_of(case, role, operands[1] if is_constant else None)
    expanded, decision = decided(graph, "fast", name)
    assert decision.strategy == name
    feeds = {value.label: operands[i] for i, value in enumerate(graph.inputs)}
    return interpret(expanded, feeds)[0]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", NAMES)
def test_phases_are_the_convolution(name: str, role: str) -> None:
    """Strides that differ, windows that no stride divides, padding of each side, groups: exact on
    small integers with tiles of 4 inputs, within the budget on normal numbers with all."""
    rng = np.random.default_rng(5)
    for case in islice(accepted(name, role), SHAPES):
        (node,) = graph_of(case, role).nodes
        budget, accuracy = BY_NAME[name].level(node)
        first, second = (rng.standard_normal(e).astype(np.float32) for e in case.shapes(role))
        wanted = exact(role, case, (first, second))
        made = interpreted(name, role, case, (first, second))
        assert np.linalg.norm(made - wanted) <= budget * np.linalg.norm(wanted), case
        if accuracy == "strict":
            first, second = (rng.integers(-3, 4, e).astype(np.float32) for e in case.shapes(role))
            np.testing.assert_array_equal(
                interpreted(name, role, case, (first, second)),
                exact(role, case, (first, second)),
                str(case),
            )


@pytest.mark.parametrize(("case", "strategy"), [
    (layer(3, 64, 224, 7, 2, 3), "winograd_phases_6"),  # ResNet's first
    (layer(3, 96, 224, 7, 2, 1), "winograd_phases_6"),  # ZFNet's first and second
    (layer(96, 256, 54, 5, 2, 0), "winograd_phases_6"),
    (layer(3, 96, 224, 11, 4, 2), "winograd_phases_6"),  # AlexNet's first
    (layer(128, 128, 56, 3, 2, 1), "winograd_phases_6"),  # ResNet-50's
    # transformed weights are read from memory, and 14 x 14 or 7 x 7 outputs have few tiles
    (layer(256, 256, 28, 3, 2, 1), "direct"),
    (layer(512, 512, 14, 3, 2, 1), "direct"),
    # three channels are picked one by one
    (layer(3, 64, 224, 3, 2, 1), "direct"),
    (layer(3, 24, 224, 3, 2, 1), "direct"),
], ids=str)  # fmt: skip
def test_strides_of_large_windows_take_phases(case: Convolution, strategy: str) -> None:
    assert chosen(case) == strategy


def test_strict_takes_small_tiles_where_they_pay() -> None:
    assert chosen(layer(3, 96, 224, 11, 4, 2), "strict") == "winograd_phases_4"
    assert chosen(layer(3, 64, 224, 7, 2, 3), "strict") == "direct"


@pytest.mark.parametrize(("case", "name", "m", "taps", "parts"), [
    # products of 9 outputs: 4 phases of 36, not 9 * 49
    (layer(16, 16, 60, 7, 2, 3), "winograd_phases_6", (3, 3), (4, 4), (4 * 36, 9 * 49)),
    (layer(16, 16, 51, 5, 2, 0), "winograd_phases_6", (4, 4), (3, 3), (4 * 36, 16 * 25)),
    (layer(16, 16, 99, 11, 4, 2), "winograd_phases_6", (4, 4), (3, 3), (16 * 36, 16 * 121)),
    # 28 outputs are 7 tiles of 4 with 5 inputs: fewer products than 6 tiles of 5 with 6
    (layer(16, 16, 56, 3, 2, 1), "winograd_phases_6", (4, 4), (2, 2), (4 * 25, 16 * 9)),
    (layer(16, 16, 60, 3, 2, 1), "winograd_phases_6", (5, 5), (2, 2), (4 * 36, 25 * 9)),
    (layer(16, 16, 60, 3, 2, 1), "winograd_phases_4", (3, 3), (2, 2), (4 * 16, 9 * 9)),
], ids=str)  # fmt: skip
def test_tiles_make_the_fewest_products(
    case: Convolution, name: str, m: tuple[int, int], taps: tuple[int, int], parts: tuple[int, int]
) -> None:
    graph = graph_of(case, weights=np.ones(case.w, np.float32))
    expanded, _ = decided(graph, "default", name)
    (image,) = (node for node in expanded.nodes if node.op.name == "winograd_input")
    (product,) = (node for node in expanded.nodes if node.op.name == "matmul")
    assert (image.attrs.m, image.attrs.taps) == (m, taps)
    entries, groups, tiles, channels = image.output.shape
    products = prod((entries, groups, tiles, channels, product.output.shape[3]))
    (node,) = (node for node in graph.nodes if node.op.name == "conv")
    assert products * parts[1] == direct_products(node) * parts[0]


@pytest.mark.parametrize(("case", "reason"), [
    (layer(16, 16, 9, 3, 1, 1), "its stride is (1, 1), which has one phase: the image"),
    (layer(16, 16, 9, 2, 2, 0), "over its phases, its kernel is [1, 1]"),
    (replace(layer(16, 16, 9, 3, 2, 1), dilation=(2, 2)), "its dilation is (2, 2); it must be 1"),
    (replace(layer(16, 16, 9, 3, 2, 1), groups=2), "over its phases, it has 2 groups"),
    (layer(0, 16, 9, 3, 2, 1), "over its phases, its weights are none"),
    (layer(4, 4, 40, 13, 2, 0), "its phases have [7, 7] taps; a tile has 6 inputs along an axis"),
    (replace(layer(5, 16, 9, 3, 2, 1), free=3),
     "its height or width is a free dim, and its channels are no multiple of 16"),
    (Convolution(1, 4, 4, (9,), (3,), (2,), (1,), (0,), (0,)),
     "it has 1 spatial axes; tiles are for two"),
], ids=str)  # fmt: skip
def test_a_rejection_says_why(case: Convolution, reason: str) -> None:
    rejected = decided(graph_of(case))[1].rejected
    assert rejected["winograd_phases_6"].startswith(reason)
