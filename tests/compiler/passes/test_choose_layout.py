"""Right operands that a product reads transposed lie in panels of columns: constants, where that
neither wastes lanes nor stores one twice; others where so many rows meet them that it pays.
"""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.dim import Extent, symbol
from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.loops.text import print_kernel
from netloom.compiler.passes.choose_layout import choose_layout
from netloom.compiler.tensor_type import FLOAT32, INT64, TensorType
from netloom.runtime.session import Session

RNG = np.random.default_rng(7)


def linear(left: tuple[int, ...], right: tuple[int, ...], activation: str = "") -> Graph:
    b = Builder("linear")
    x = b.input(TensorType(FLOAT32, left), "x")
    weights = RNG.standard_normal(right) / np.sqrt(right[-1])  # tanh of the sums is not flat
    w = b.constant(weights.astype(np.float32))
    y = b("matmul", x, w, transpose_b=True)
    return b.build([b(activation, y) if activation else y])


def layout_of(graph: Graph, batch: int | None = None) -> str:
    """Of the right operand of the first product."""
    node = next(node for node in choose_layout(graph, batch).nodes if node.op.name == "matmul")
    return str(node.inputs[1].layout)


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize(("terms", "columns"), [(5, 16), (21, 30), (64, 100), (1030, 45)])
@pytest.mark.parametrize("activation", ["", "tanh"])
def test_panels(rows: int, terms: int, columns: int, activation: str) -> None:
    graph = linear((rows, terms), (columns, terms), activation)
    assert layout_of(graph) == "0/16 1 0%16"
    assert_right(graph, (rows, terms))


def test_batches_of_right_operands() -> None:
    graph = linear((2, 3, 17), (2, 31, 17))
    assert layout_of(graph) == "0 1/16 2 1%16"
    assert_right(graph, (2, 3, 17))


@pytest.mark.parametrize("columns", [1, 4, 12, 17, 20, 24])
def test_few_columns_leave_lanes_to_the_sum(columns: int) -> None:
    graph = linear((3, 64), (columns, 64))
    assert layout_of(graph) == "None"
    assert_right(graph, (3, 64))


def test_a_constant_with_other_readers_is_not_stored_twice() -> None:
    """An embedding whose table is the last layer's weights too."""
    b = Builder("tied")
    tokens = b.input(TensorType(INT64, (4,)), "tokens")
    table = b.constant(RNG.standard_normal((48, 20)).astype(np.float32))
    rows = b("gather", table, tokens, axis=0)
    graph = b.build([b("matmul", rows, table, transpose_b=True)])
    assert layout_of(graph) == "None"
    b = Builder("squared")
    table = b.constant(RNG.standard_normal((48, 20)).astype(np.float32))
    assert layout_of(b.build([b("matmul", table, table, transpose_b=True)])) == "None"


def test_an_activation_behind_a_product_has_lanes() -> None:
    compiled = compile_graph(linear((8, 64), (96, 64), "sigmoid"))
    (kernel,) = compiled.kernels.values()
    text = print_kernel(kernel)
    assert "exp" in text and "fold_add" not in text


# -- right operands that are no constants ----------------------------------------------------------


def of_inputs(left: tuple[Extent, ...], right: tuple[Extent, ...]) -> Graph:
    b = Builder("products")
    x, y = b.input(TensorType(FLOAT32, left), "x"), b.input(TensorType(FLOAT32, right), "y")
    return b.build([b("matmul", x, y, transpose_b=True)])


@pytest.mark.parametrize(
    ("left", "right", "layout"),
    [
        ((32, 64), (48, 64), "0/16 1 0%16"),
        ((31, 64), (48, 64), "None"),
        ((8, 4, 64), (48, 64), "0/16 1 0%16"),  # all rows of all batches meet it
        ((2, 3, 32, 40), (2, 3, 64, 40), "0 1 2/16 3 2%16"),
        ((2, 3, 16, 40), (2, 3, 64, 40), "None"),
        ((32, 64), (17, 64), "None"),  # half of the lanes of two panels
    ],
)
def test_panels_are_made_where_enough_rows_meet_them(
    left: tuple[int, ...], right: tuple[int, ...], layout: str
) -> None:
    assert layout_of(of_inputs(left, right)) == layout


def test_free_rows_are_taken_for_the_typical_batch() -> None:
    graph = of_inputs((symbol("N", 1), 64), (48, 64))
    assert layout_of(graph) == "None" and layout_of(graph, 32) == "0/16 1 0%16"


def test_products_with_panels_that_a_run_makes() -> None:
    x, y = (RNG.standard_normal((2, 3, n, 21)).astype(np.float32) for n in (20, 30))
    graph = of_inputs((2, symbol("H", 1), 20, 21), (2, symbol("H", 1), 30, 21))
    assert layout_of(graph) == "0 1 2/16 3 2%16"
    (found,) = Session.in_process(compile_graph(graph).image).run(None, {"x": x, "y": y})
    exact = x.astype(np.float64) @ np.swapaxes(y, -1, -2)
    assert np.linalg.norm(found - exact) <= 1e-6 * np.linalg.norm(exact)


def assert_right(graph: Graph, shape: tuple[int, ...]) -> None:
    weights = next(n.attrs.value.array for n in graph.nodes if n.op.name == "constant")
    x = RNG.standard_normal(shape).astype(np.float32)
    exact = x.astype(np.float64) @ np.swapaxes(weights.astype(np.float64), -1, -2)
    if any(node.op.name == "tanh" for node in graph.nodes):
        exact = np.tanh(exact)
    (found,) = Session.in_process(compile_graph(graph).image).run(None, {"x": x})
    assert np.linalg.norm(found - exact) <= 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize(("size", "is_blocked"), [(3, False), (5, True), (7, True)])
def test_depthwise_filters_of_many_positions_take_blocks(size: int, is_blocked: bool) -> None:
    """Alone between row-major values, where each position of a row's filter has its conditions."""
    b = Builder("conv")
    x = b.input(TensorType(FLOAT32, (1, 32, 9, 20)), "x")
    w = b.input(TensorType(FLOAT32, (32, 1, size, size)), "w")
    y = b("conv", x, w, stride=(1, 1), dilation=(1, 1), lo=(size // 2,) * 2, hi=(size // 2,) * 2,
          groups=32)  # fmt: skip
    graph = choose_layout(b.build([y]))
    (conv,) = (node for node in graph.nodes if node.op.name == "conv")
    assert (conv.output.layout is not None) == is_blocked
    rng = np.random.default_rng(0)
    arrays = {v.label: rng.integers(-3, 3, v.type.static_shape).astype(np.float32)
              for v in graph.inputs}  # fmt: skip
    (found,) = interpret(graph, arrays)
    padded = np.pad(arrays["x"], ((0, 0), (0, 0), *[(size // 2,) * 2] * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))
    expected = np.einsum("nchwij,cij->nchw", windows, arrays["w"][:, 0])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("channels", "is_blocked"), [(32, True), (40, False)])
def test_sums_over_channels_read_whole_blocks(channels: int, is_blocked: bool) -> None:
    """What stands in the padding of the last block is no zero: the sigmoid of one."""
    b = Builder("sums")
    x = b.input(TensorType(FLOAT32, (2, 16, 3, 5)), "x")
    w = b.constant(RNG.standard_normal((channels, 16, 1, 1)).astype(np.float32))
    attrs = {"stride": (1, 1), "dilation": (1, 1), "lo": (0, 0), "hi": (0, 0), "groups": 1}
    y = b("sigmoid", b("conv", x, w, **attrs))
    graph = b.build([b("reduce_sum", y, axes=(1,), keep=True)])
    placed = choose_layout(graph)
    node = next(node for node in placed.nodes if node.op.name == "reduce_sum")
    assert (node.inputs[0].layout is not None) == is_blocked
    image = RNG.standard_normal((2, 16, 3, 5)).astype(np.float32)
    weights = next(n.attrs.value.array for n in graph.nodes if n.op.name == "constant")
    exact = np.einsum("oc,nchw->nohw", *(a.astype(float) for a in (weights[:, :, 0, 0], image)))
    expected = (1 / (1 + np.exp(-exact))).sum(1, keepdims=True)
    (found,) = Session.in_process(compile_graph(graph).image).run(None, {"x": image})
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_sums_of_vectors_stay() -> None:
    b = Builder("sum")
    x = b.input(TensorType(FLOAT32, (5,)), "x")
    assert choose_layout(b.build([b("reduce_sum", x, axes=(0,))])).outputs[0].layout is None
