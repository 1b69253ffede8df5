"""Transposed convolutions (gradients of inputs, with strides): the pairs of positions and taps that
their loops meet are all there are, results are exact on integers for awkward shapes, and which
strategy is chosen.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod

import numpy as np
import pytest

from netloom.compiler.dim import Extent
from netloom.compiler.driver import Options, plan_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.loops.elements import compute_of
from netloom.compiler.ops.input_axis import InputAxis
from netloom.compiler.passes.select_strategies import Decision, select_strategies

from .convolutions import ROLES, Convolution, add_node
from .sweeps import SweepProgram

ROLE = "input_gradient"
AXES = [
    InputAxis(stride, dilation, lo, taps, length)
    for stride, dilation, lo, taps, length in product(
        (1, 2, 3, 4), (1, 2, 3), (0, 1, 2, 5), (1, 2, 3, 4, 7), (1, 2, 4)
    )
]


def layer(
    channels: int, filters: int, size: int, taps: int, stride: int, lo: int, hi: int | None = None
) -> Convolution:
    """The convolution whose input's gradient has so many channels and a square of positions."""
    edges = (lo,) * 2, (lo if hi is None else hi,) * 2
    parts = ((e,) * 2 for e in (size, taps, stride, 1))
    return Convolution(1, channels, filters, *parts, *edges)


def graph_of(case: Convolution) -> Graph:
    b = Builder("layer")
    return b.build([add_node(b, ROLE, case, "x", weights=np.ones(case.w, np.float32))])


def summed(case: Convolution) -> tuple[Extent, ...]:
    """The extents of an element's sum: filters and taps."""
    (node,) = (node for node in graph_of(case).nodes if node.op.name == ROLES[ROLE])
    return compute_of(node).reduce


def decided(case: Convolution) -> Decision:
    decisions: list[Decision] = []
    select_strategies(graph_of(case), decisions=decisions)
    return decisions[0]


# -- pairs of positions and taps -------------------------------------------------------------------


def extents(axis: InputAxis) -> range:
    """Those of dx for which dy has its positions, without zeros behind and with some."""
    reach = (axis.taps - 1) * axis.dilation
    least = (axis.length - 1) * axis.stride + reach + 1 - axis.lo
    return range(max(least - reach, 1), least + axis.stride)


def test_every_pair_is_met_once_and_no_other() -> None:
    for axis in AXES:
        for q in range(extents(axis).stop - 1):
            terms = [axis.met(q, number) for number in range(axis.terms)]
            met = [(p, k) for p, k, held in terms if held == 0 and p in range(axis.length)
                   and k in range(axis.taps)]  # fmt: skip
            wanted = [
                (p, k)
                for p, k in product(range(axis.length), range(axis.taps))
                if p * axis.stride + k * axis.dilation == q + axis.lo
            ]
            assert sorted(met) == wanted, axis


def test_padding_holds_every_position_that_is_read() -> None:
    for axis in AXES:
        for extent in extents(axis):
            reach = (axis.taps - 1) * axis.dilation
            hi = (axis.length - 1) * axis.stride + reach + 1 - axis.lo - extent
            if hi < 0:
                continue
            before, behind = axis.padding(extent, hi)
            for q, number in product(range(extent), range(axis.terms)):
                p, _, held = axis.met(q, number)
                if held == 0:
                    assert -before <= p < axis.length + behind, (axis, extent)


@pytest.mark.parametrize(("taps", "stride", "terms"), [
    (4, 2, 2), (2, 2, 1), (3, 2, 2), (5, 2, 3), (6, 3, 2), (2, 4, 1), (3, 1, 3),
])  # fmt: skip
def test_sums_have_the_taps_of_one_phase(taps: int, stride: int, terms: int) -> None:
    assert summed(layer(3, 5, 24, taps, stride, 0)) == (5, terms, terms)


def test_one_position_meets_one_tap() -> None:
    """The first layer of a generator: 4 x 4 results of one element."""
    assert summed(layer(64, 100, 4, 4, 1, 0)) == (100, 1, 1)


# -- results ---------------------------------------------------------------------------------------

SHAPES = [
    layer(16, 20, 12, 4, 2, 1),
    layer(33, 16, 10, 2, 2, 0),
    replace(layer(32, 16, 11, 3, 2, 1), is_constant=False),  # the last group lacks a position
    layer(17, 35, 13, 5, 2, 2, 1),
    layer(3, 16, 23, 3, 2, 1, 0),  # lanes along the width
    layer(16, 16, 4, 4, 1, 0),  # one position
    layer(20, 5, 11, 3, 4, 0),  # positions that no tap meets
    replace(layer(16, 17, 15, 4, 3, 1), batch=2),
    replace(layer(16, 8, 14, 3, 2, 1), dilation=(3, 1)),  # 3 mod 2 is 1
    replace(layer(16, 8, 14, 3, 2, 1), dilation=(2, 3)),  # 2 mod 2 is not
    replace(layer(32, 32, 9, 3, 2, 1), groups=2),
    replace(layer(16, 16, 12, 4, 2, 1), free=0, batch=3),
    replace(layer(16, 16, 12, 4, 2, 1), free=3),
    Convolution(2, 16, 5, (21,), (4,), (2,), (1,), (1,), (0,)),
    Convolution(1, 5, 16, (6, 5, 7), (2, 3, 3), (2, 2, 1), (1, 1, 1), (0, 1, 1), (0, 0, 1)),
]


def test_awkward_shapes_are_right() -> None:
    """Integers are equal, normal numbers within the budget."""
    outcomes = list(SweepProgram("direct", ROLE, [[case] for case in SHAPES], "host").outcomes())
    assert len(outcomes) == len(SHAPES)
    for outcome in outcomes:
        assert outcome.is_exact and not outcome.differing, outcome
        assert outcome.error <= outcome.budget, outcome


# -- the choice ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "strategy"), [
    (layer(128, 256, 32, 4, 2, 1), "winograd_phases_4"),  # a generator's
    (layer(64, 128, 64, 5, 2, 2, 1), "winograd_phases_6"),
    (layer(3, 64, 128, 4, 2, 1), "winograd_phases_6"),
    (layer(64, 128, 128, 2, 2, 0), "direct"),  # a U-Net's: one tap for each phase
    (layer(64, 100, 4, 4, 1, 0), "direct"),
    (layer(32, 64, 8, 4, 2, 1), "direct"),  # few tiles
    (layer(21, 21, 64, 4, 2, 1), "winograd_phases_6"),  # of each 32 products 21 count, twice over
], ids=str)  # fmt: skip
@pytest.mark.parametrize("free", [None, 0])
def test_large_kernels_take_phases_in_tiles(
    case: Convolution, strategy: str, free: int | None
) -> None:
    """For a free batch too; what is not chosen says why."""
    decision = decided(replace(case, free=free))
    assert decision.strategy == strategy
    if strategy == "direct" and prod(case.stride) > 1 and case.kernel == case.stride:
        assert decision.rejected["winograd_phases_6"].startswith("over its phases, its kernel is")


def test_no_zeros_are_put_around_what_taps_of_one_phase_read() -> None:
    """2 x 2 taps at stride 2 read each element for four results: the image is not copied."""
    program = plan_graph(graph_of(layer(32, 64, 32, 2, 2, 0)), Options(override="direct")).program
    assert not [name for name in program.kernels if "pad" in name]
