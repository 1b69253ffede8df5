"""Positions of a kernel that meet only padding are cut, those that meet the image once are kept,
and the result is the same.
"""

from __future__ import annotations

import numpy as np
import pytest

import netloom as nl
from netloom.compiler.dim import Extent, symbol
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.ops.convolution import ConvAttrs
from netloom.compiler.passes.trim_kernels import dead_positions, trim_kernels
from netloom.compiler.pipeline import GRAPH_PASSES, Pipeline
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.compiler.verify import verify

# (image, kernel, stride, dilation, lo, hi), the kernel that is left
CASES = {
    "far_dilated": (((33, 33), (3, 3), 1, 36, (36, 36), (36, 36)), (1, 1)),
    "one_axis": (((4, 6), (3, 3), 1, 5, (5, 5), (5, 5)), (1, 3)),
    "meets_the_border": (((5, 5), (3, 3), 1, 4, (4, 4), (4, 4)), (3, 3)),
    "misses_by_one": (((4, 4), (3, 3), 1, 4, (4, 4), (4, 4)), (1, 1)),
    "one_element": (((1, 1), (3, 3), 1, 1, (1, 1), (1, 1)), (1, 1)),
    "two_elements": (((2, 2), (5, 5), 1, 1, (2, 2), (2, 2)), (3, 3)),
    "strided": (((3, 3), (7, 7), 2, 1, (3, 3), (3, 3)), (5, 5)),
    "padding_of_half_a_step_stays": (((4, 4), (3, 3), 1, 6, (4, 6), (8, 6)), (2, 1)),
    "from_the_start_only": (((2, 3), (3, 1), 1, 9, (18, 0), (0, 0)), (1, 1)),
}  # fmt: skip


def convolution(
    image: tuple[Extent, ...],
    kernel: tuple[int, ...],
    stride: int,
    dilation: int,
    lo: tuple[int, ...],
    hi: tuple[int, ...],
    weight: float = 0.0,
) -> Graph:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((4, 2, *kernel)).astype(np.float32)
    if weight:
        values[0, 0, 0, 0] = weight
    b = Builder("trimmed")
    x = b.input(TensorType(FLOAT32, (2, 2, *image)), "x")
    y = b("conv", x, b.constant(values), stride=(stride,) * 2, dilation=(dilation,) * 2,
          lo=lo, hi=hi, groups=1)  # fmt: skip
    return b.build([y])


def kernel_of(graph: Graph) -> tuple[Extent, ...]:
    node = next(node for node in graph.nodes if node.op.name == "conv")
    return node.inputs[1].shape[2:]


@pytest.mark.parametrize("case", CASES)
def test_what_is_left(case: str) -> None:
    shapes, left = CASES[case]
    graph = convolution(*shapes)
    new = trim_kernels(graph)
    verify(new)
    assert kernel_of(new) == left
    x = np.random.default_rng(1).standard_normal((2, 2, *shapes[0])).astype(np.float32)
    (wanted,), (found,) = interpret(graph, {"x": x}), interpret(new, {"x": x})
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_cut_positions_are_exactly_the_dead_ones() -> None:
    """Over a grid of small cases: a position is dead if no output of it lies in the image."""
    seen = 0
    grid = [(e, k, s, d, lo, hi) for e in (1, 2, 5) for k in (2, 3, 5) for s in (1, 2)
            for d in (1, 2, 4) for lo in range(0, 9, d) for hi in range(0, 9, d)]  # fmt: skip
    for e, k, s, d, lo, hi in grid:
        room = e + lo + hi - (k - 1) * d - 1
        if room < 0:
            continue
        out = room // s + 1
        meets = [any(0 <= o * s + t * d - lo < e for o in range(out)) for t in range(k)]
        start, end = dead_positions(ConvAttrs((s,), (d,), (lo,), (hi,)), 0, e, k, out)
        assert not any(meets[:start]) and not any(meets[k - end :])
        if s == 1 and any(meets):
            assert (start, end) == (meets.index(True), meets[::-1].index(True)), (e, k, d, lo, hi)
            seen += start + end > 0
    assert seen > 100


def test_kernels_of_infinite_weights_stay() -> None:
    graph = convolution((1, 1), (3, 3), 1, 1, (1, 1), (1, 1), weight=np.inf)
    assert trim_kernels(graph) is graph


def test_weights_that_are_inputs_stay() -> None:
    b = Builder("inputs")
    x = b.input(TensorType(FLOAT32, (1, 1, 1, 1)), "x")
    w = b.input(TensorType(FLOAT32, (1, 1, 3, 3)), "w")
    y = b("conv", x, w, stride=(1, 1), dilation=(1, 1), lo=(1, 1), hi=(1, 1), groups=1)
    graph = b.build([y])
    assert trim_kernels(graph) is graph


def test_free_extents_are_cut_where_their_range_proves_it() -> None:
    assert kernel_of(trim_kernels(free(7))) == (1, 3)
    assert kernel_of(trim_kernels(free(8))) == (3, 3)


def free(highest: int) -> Graph:
    extent = symbol("h", 1, highest)
    return convolution((extent, 20), (3, 3), 1, 7, (7, 7), (7, 7))


def test_the_pipeline_trims() -> None:
    graph = convolution((6, 6), (3, 3), 1, 12, (12, 12), (12, 12))
    new, _ = Pipeline(GRAPH_PASSES).run(graph)
    assert kernel_of(new) == (1, 1)
    x = np.random.default_rng(1).standard_normal((2, 2, 6, 6)).astype(np.float32)
    (found,) = nl.compile(graph, threads=1).session.run(None, {"x": x})
    np.testing.assert_allclose(found, interpret(graph, {"x": x})[0], rtol=1e-5, atol=1e-5)
