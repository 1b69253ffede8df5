"""Direct convolutions of one tap with strides: what they skip is left out once where many filters
read the rest."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.driver import Options, compile_graph, plan_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

DIRECT = Options(override="direct")


def graph_of(
    filters: int, stride: tuple[int, int], lo: int = 0, groups: int = 1, taps: int = 1
) -> Graph:
    b = Builder("layer")
    x = b.input(TensorType(FLOAT32, (2, 32, 9, 12)), "x")
    rng = np.random.default_rng(3)
    weights = rng.integers(-3, 4, (filters, 32 // groups, taps, taps)).astype(np.float32)
    window = {"stride": stride, "dilation": (1, 1), "lo": (lo, lo), "hi": (0, 0), "groups": groups}
    return b.build([b("relu", b("conv", x, b.constant(weights), **window))], ["y"])


def meaning(graph: Graph, x: np.ndarray) -> np.ndarray:
    """Of one tap: a product for each place that is read."""
    (node,) = (node for node in graph.nodes if node.op.name == "conv")
    (lo, _), (s, t) = node.attrs.lo, node.attrs.stride
    weights = graph.constant_of(node.inputs[1])
    assert weights is not None
    padded = np.pad(x, ((0, 0), (0, 0), (lo, 0), (lo, 0)))[:, :, ::s, ::t]
    grouped = padded.reshape(2, node.attrs.groups, -1, *padded.shape[2:])
    w = weights.array[..., 0, 0].reshape(node.attrs.groups, -1, weights.array.shape[1])
    y = np.einsum("goc,ngchw->ngohw", w.astype(float), grouped)
    return np.maximum(y.reshape(2, -1, *padded.shape[2:]), 0)


@pytest.mark.parametrize(
    ("filters", "stride", "lo", "groups", "is_cut"),
    [
        (128, (2, 2), 0, 1, True),
        (160, (1, 3), 0, 1, True),
        (112, (2, 2), 0, 1, False),  # few filters read it again
        (128, (1, 1), 0, 1, False),
        (128, (2, 2), 1, 1, False),  # a border, which is made first
        (128, (2, 2), 0, 2, False),
    ],
)
def test_what_a_stride_skips_is_left_out_once(
    filters: int, stride: tuple[int, int], lo: int, groups: int, is_cut: bool
) -> None:
    graph = graph_of(filters, stride, lo, groups)
    kernels = plan_graph(graph, DIRECT).graphs["run"].nodes
    ops = [{n.op.name for n in k.attrs.body.nodes} for k in kernels if k.op.name == "kernel"]
    cuts = [names for names in ops if "slice" in names]
    assert bool(cuts) == is_cut and not any("conv" in names for names in cuts)
    x = np.random.default_rng(5).integers(-3, 4, (2, 32, 9, 12)).astype(np.float32)
    session = Session.in_process(compile_graph(graph, DIRECT).image, threads=1)
    np.testing.assert_array_equal(session(x), meaning(graph, x))


def test_several_taps_read_nearly_every_place() -> None:
    kernels = plan_graph(graph_of(128, (2, 2), taps=2), DIRECT).graphs["run"].nodes
    bodies = [k.attrs.body.nodes for k in kernels if k.op.name == "kernel"]
    assert not any(n.op.name == "slice" for nodes in bodies for n in nodes)
