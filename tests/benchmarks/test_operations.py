"""Counts of graphs: operations, bytes and extents at given dims; single results in float64."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

import netloom as nl
from netloom.benchmarks import exact, operations
from netloom.compiler.dim import Symbol, symbol
from netloom.compiler.graph import Builder
from netloom.compiler.tensor_type import FLOAT32, TensorType

NESTED = """<ir_version: 9, opset_import: ["" : 17]>
nested (float[n, k, 3] x, float[3, 3] h) => (float[3, 3] last)
<float[3, 3] w = {1, 0.5, -1, 2, 0.25, -0.5, 1, 0.125, -2}>
{
  last = Scan <num_scan_inputs = 1, body = step (float[3, 3] before, float[k, 3] rows)
      => (float[3, 3] after) {
    outer = MatMul(before, before)
    after = Scan <num_scan_inputs = 1, body = substep (float[3, 3] kept, float[3] row)
        => (float[3, 3] next) {
      inner = MatMul(kept, w)
      next = Add(inner, row)
    }> (outer, rows)
  }> (h, x)
}"""


def test_free_dims_have_their_least_value_but_one_at_least() -> None:
    n, m = symbol("N", 3), symbol("M", 0)
    assert operations.in_numbers(n * 2 + m, {}) == 7
    assert operations.in_numbers(n * 2 + m, {"N": 5}) == 11
    assert operations.in_numbers(4, {}) == 4
    assert operations.values_of([Symbol("K", 0, 9)], {"K": 0}) == {"K": 0}


def test_operations_and_bytes() -> None:
    b = Builder("g")
    x = b.input(TensorType(FLOAT32, (symbol("N", 1), 8)), "x")
    y = b("relu", b("matmul", x, b.constant(np.ones((8, 4), np.float32))))
    graph = b.build([y], ["y"])
    assert operations.operations(graph.nodes, {"N": 3}, operations.PRODUCTS) == 2 * 3 * 8 * 4
    assert operations.operations(graph.nodes, {}, ("conv",)) == 0
    assert operations.stored_bytes(y, {"N": 5}) == 4 * 5 * 4


def test_launches_tell_what_they_compute() -> None:
    from netloom.benchmarks.launches import launch_costs
    from netloom.compiler.driver import Options, compile_graph

    costs = launch_costs(compile_graph(nl.zoo.lenet5(), Options(threads=1)), runs=1, dims={"N": 2})
    families = [cost.family for cost in costs]
    assert (
        families.count("matmul") == 3
        and families.count("max_pool") == 2
        and "direct 5x5" in families
    )
    assert all(cost.seconds > 0 and cost.bytes >= cost.weight_bytes for cost in costs)
    dense = next(cost for cost in costs if cost.node == "dense3")
    assert (dense.ops[0], dense.operations) == (
        "matmul",
        2 * 2 * 84 * 10,
    ) and dense.weight_bytes >= 4 * 84 * 10


def test_launches_of_turns() -> None:
    """Those of a body, and of a body in a body, have the nodes that they run; each counts once."""
    from netloom.benchmarks.launches import launch_costs
    from netloom.compiler.driver import Options, compile_graph

    graph = nl.from_onnx(parser.parse_model(NESTED))
    costs = launch_costs(compile_graph(graph, Options(threads=1)), runs=1, dims={"n": 6})
    products = [
        (cost.node, cost.ops, cost.operations, cost.weight_bytes)
        for cost in costs
        if cost.family == "matmul"
    ]
    assert products == [
        ("outer", ("matmul",), 2 * 3 * 3 * 3, 0),
        ("inner", ("matmul", "add"), 2 * 3 * 3 * 3 + 3 * 3, 4 * 3 * 3),
    ]


@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (2, 1), (1, 2)])
def test_single_results(stride: int, pad: int) -> None:
    rng = np.random.default_rng(0)
    x, w = (
        rng.standard_normal((2, 3, 7, 6)).astype(np.float32),
        rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
    )
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[
        :, :, ::stride, ::stride
    ]
    y = np.einsum("ncyxij,ocij->noyx", windows, w)
    assert exact.sampled_error(y, lambda place: exact.convolution(x, w, stride, pad, place)) < 1e-14
    assert exact.sampled_error(
        1.01 * y, lambda place: exact.convolution(x, w, stride, pad, place)
    ) == pytest.approx(0.01)
    a, b = x[0, 0], x[1, 0].T
    product = a.astype(np.float64) @ b
    assert exact.sampled_error(product, lambda place: exact.product(a, b, place)) < 1e-14
