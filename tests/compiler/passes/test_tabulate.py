"""Costly functions of one byte become tables; results are those of the nodes."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.dim import Extent, symbol
from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.tabulate import tabulate
from netloom.compiler.tensor_type import FLOAT32, INT8, INT32, UINT8, DType, TensorType
from netloom.runtime.session import Session

LARGE = (1, 20, 16, 16)


def _real(b: Builder, x: Value, zero: int, scale: float) -> Value:
    return b("mul", b("cast", b("sub", b("cast", x, dtype=INT32), zero), dtype=FLOAT32), scale)


def _quantized(b: Builder, x: Value, scale: float, dtype: DType) -> Value:
    lo, hi = np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max
    return b(
        "cast", b("clip", b("round", b("div", x, scale)), lo=float(lo), hi=float(hi)), dtype=dtype
    )


def swish(dtype: DType, shape: tuple[Extent, ...] = LARGE) -> Graph:
    """x sigmoid(x), where the sigmoid is a byte too."""
    b = Builder("swish")
    real = _real(b, b.input(TensorType(dtype, shape), "x"), 5, 0.05)
    gate = _real(b, _quantized(b, b("sigmoid", real), 1 / 255, UINT8), 0, 1 / 255)
    return b.build([_quantized(b, b("mul", real, gate), 0.03, dtype)], ["y"])


def ops_of(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


@pytest.mark.parametrize("dtype", [UINT8, INT8], ids=["unsigned", "signed"])
@pytest.mark.parametrize("shape", [LARGE, (symbol("N", 1), 16, 7)], ids=["static", "free"])
def test_each_byte_has_the_result_of_the_nodes(dtype: DType, shape: tuple[Extent, ...]) -> None:
    graph = swish(dtype, shape)
    made = tabulate(graph)
    assert sorted(ops_of(made)) == ["cast", "constant", "look_up"]
    info = np.iinfo(dtype.numpy)
    sizes = [e if isinstance(e, int) else 5 for e in shape]
    x = np.resize(np.arange(info.min, info.max + 1), sizes).astype(dtype.numpy)
    (expected,) = interpret(graph, {"x": x})
    np.testing.assert_array_equal(interpret(made, {"x": x})[0], expected)
    found = Session.in_process(compile_graph(graph).image, threads=1).run(None, {"x": x})[0]
    np.testing.assert_array_equal(found, expected)


def test_quick_functions_and_functions_of_two_bytes_stay() -> None:
    b = Builder("stays")
    x, y = (b.input(TensorType(UINT8, LARGE), name) for name in "xy")
    quick = _quantized(b, _real(b, x, 3, 0.5), 0.25, UINT8)
    both = b("sigmoid", b("add", _real(b, x, 0, 0.1), _real(b, y, 0, 0.2)))
    graph = b.build([quick, both])
    assert ops_of(tabulate(graph)) == ops_of(graph)


def test_a_few_elements_stay() -> None:
    graph = swish(UINT8, (4, 16))
    assert tabulate(graph) is graph
