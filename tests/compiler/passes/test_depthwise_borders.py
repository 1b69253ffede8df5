"""A depthwise convolution of few taps tests the borders of its image; of many, it reads zeros around it."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.dim import Extent, symbol
from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.choose_layout import choose_layout
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

RNG = np.random.default_rng(3)
N, H = symbol("N"), symbol("H", 2)


def between_others(shape: tuple[Extent, ...], taps: tuple[int, ...], stride: int) -> Graph:
    """A depthwise convolution between two of 1 x 1, whose values lie in blocks of channels."""
    b = Builder("depthwise")
    x = b.input(TensorType(FLOAT32, shape), "x")
    channels = shape[1]
    assert isinstance(channels, int)
    ones = (1,) * len(taps)

    def filters(inner: int, extents: tuple[int, ...]) -> np.ndarray:  # type: ignore[type-arg]
        return RNG.standard_normal((channels, inner, *extents)).astype(np.float32)

    zeros = tuple(0 for _ in taps)
    around = {"stride": ones, "dilation": ones, "lo": zeros, "hi": zeros, "groups": 1}
    deep = {"stride": (stride,) * len(taps), "dilation": ones, "groups": channels,
            "lo": tuple(t // 2 for t in taps), "hi": tuple((t - 1) // 2 for t in taps)}  # fmt: skip
    y = b("conv", x, b.constant(filters(channels, ones) / channels), **around)
    y = b("relu", b("conv", y, b.constant(filters(1, taps)), **deep))
    return b.build([b("conv", y, b.constant(filters(channels, ones) / channels), **around)])


@pytest.mark.parametrize(
    ("shape", "taps", "stride", "pads"),
    [((2, 32, 7, 9), (3, 3), 1, 0), ((1, 48, 8, 15), (5, 5), 2, 0), ((1, 20, 11, 1), (3, 1), 1, 0),
     ((1, 16, 9, 9), (7, 7), 1, 1), ((N, 32, H, 6), (3, 3), 1, 0), ((1, 32, 3, 4, 5), (3, 3, 3), 1, 1)],
)  # fmt: skip
def test_who_tests_borders(
    shape: tuple[Extent, ...], taps: tuple[int, ...], stride: int, pads: int
) -> None:
    graph = between_others(shape, taps, stride)
    laid = choose_layout(graph)
    assert sum(node.op.name == "pad" for node in laid.nodes) == pads
    deep = next(n for n in laid.nodes if n.op.name == "conv" and n.attrs.groups > 1)
    assert deep.output.layout is not None  # the control: it is in blocks
    x = RNG.standard_normal([n if isinstance(n, int) else 5 for n in shape]).astype(np.float32)
    (expected,) = interpret(graph, {"x": x})
    program = compile_graph(graph, Options(threads=1, override="direct"))
    found = Session.in_process(program.image, threads=1)(x)
    assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()
