"""Convolutions and products of short floats are those of float32, rounded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from netloom.compiler.dim import Extent, symbol
from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.widen_products import widen_products
from netloom.compiler.tensor_type import BFLOAT16, FLOAT16, FLOAT32, DType, TensorType
from netloom.runtime.session import Session

ATTRS = {"stride": (1, 1), "dilation": (1, 1), "lo": (1, 1), "hi": (1, 1)}


@dataclass(frozen=True)
class Case:
    op: str
    x: tuple[Extent, ...]
    w: tuple[int, ...]
    attrs: Mapping[str, Any]

    def graph(self, dtype: DType) -> Graph:
        b = Builder("short")
        w = np.random.default_rng(2).standard_normal(self.w).astype(dtype.numpy)
        y = b(self.op, b.input(TensorType(dtype, self.x), "x"), b.constant(w), **self.attrs)
        return b.build([b("relu", y)], ["y"])


CASES = {
    "conv": Case("conv", (1, 20, 9, 8), (32, 20, 3, 3), ATTRS),
    "product": Case("matmul", (9, 33), (33, 20), {}),
    "rows": Case("matmul", (symbol("N", 1), 8, 16), (16, 20), {}),
}


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_float32_is_added_up(case: Case, dtype: DType) -> None:
    graph = case.graph(dtype)
    widened = widen_products(graph)
    (node,) = (node for node in widened.nodes if node.op.name == case.op)
    assert {value.dtype for value in (*node.inputs, node.output)} == {FLOAT32}
    shape = tuple(e if isinstance(e, int) else 2 for e in case.x)
    x = np.random.default_rng(3).standard_normal(shape).astype(dtype.numpy)
    found = Session.in_process(compile_graph(graph).image, threads=1).run(None, {"x": x})[0]
    (exact,) = interpret(graph, {"x": x})
    np.testing.assert_array_equal(interpret(widened, {"x": x})[0], exact)
    unit = 2.0 ** (-8 if dtype is BFLOAT16 else -11)
    difference = np.abs(found.astype(np.float64) - exact.astype(np.float64))
    assert (difference <= 2 * unit * np.abs(exact.astype(np.float64)) + 1e-5).all()


def test_a_product_of_one_row_reads_short_weights() -> None:
    graph = Case("matmul", (1, 64), (64, 32), {}).graph(FLOAT16)
    assert widen_products(graph) is graph


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=["float16", "bfloat16"])
def test_attention_is_rounded_once(dtype: DType) -> None:
    """As near to float64 as one rounding of the result; scores are not rounded in between."""
    b, rng = Builder("short"), np.random.default_rng(1)
    q, k, v = (b.input(TensorType(dtype, (2, 40, 16)), name) for name in "qkv")
    graph = b.build([b("attention", q, k, v, scale=0.25)], ["y"])
    assert {n.output.dtype for n in widen_products(graph).nodes if n.op.name == "attention"} == {
        FLOAT32
    }
    given = {name: (3 * rng.standard_normal((2, 40, 16))).astype(dtype.numpy) for name in "qkv"}
    found = Session.in_process(compile_graph(graph).image, threads=1).run(None, given)[0]
    queries, keys, values = (given[name].astype(np.float64) for name in "qkv")
    scores = 0.25 * queries @ keys.transpose(0, 2, 1)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    exact = weights @ values / weights.sum(-1, keepdims=True)
    unit = 2.0 ** (-8 if dtype is BFLOAT16 else -11)
    np.testing.assert_allclose(found.astype(np.float64), exact, rtol=1.01 * unit, atol=1e-6)
