"""Sums of products of bytes that become float32 at once are sums of floats on CUDA; others stay."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.multiply_floats import multiply_floats
from netloom.compiler.targets.cuda.driver import PIPELINE, CudaOptions
from netloom.compiler.tensor_type import FLOAT32, INT32, UINT8, TensorType
from netloom.compiler.verify import verify


def product(kind: str) -> Graph:
    """(x - 5) by weights as float32; ``kind``: what is different."""
    b = Builder("product")
    x = b("cast", b.input(TensorType(UINT8, (6, 24)), "x"), dtype=INT32)
    numbers = np.random.default_rng(0).integers(-128, 128, (24, 20)).astype(np.int32)
    w = b.constant(numbers * 2 if kind == "wide" else numbers)
    total = b("matmul", b("sub", x, 5), w)
    between = b("add", total, 1) if kind == "between" else total
    results = [b("cast", between, dtype=FLOAT32)]
    return b.build([*results, total] if kind == "read twice" else results)


def dtypes(graph: Graph) -> set[str]:
    return {
        value.dtype.value
        for node in graph.nodes
        if node.op.name == "matmul"
        for value in (*node.inputs, node.output)
    }


def test_small_sums_are_the_same() -> None:
    graph = product("plain")
    made = multiply_floats(graph)
    verify(made)
    assert dtypes(made) == {"float32"}
    x = {"x": np.random.default_rng(1).integers(0, 256, (6, 24)).astype(np.uint8)}
    np.testing.assert_array_equal(interpret(made, x)[0], interpret(graph, x)[0])


@pytest.mark.parametrize("kind", ["wide", "between", "read twice"])
def test_others_stay(kind: str) -> None:
    assert dtypes(multiply_floats(product(kind))) == {"int32"}


def test_programs_for_cuda_multiply_floats() -> None:
    graph, _ = PIPELINE.run(product("plain"), CudaOptions())
    bodies = [node.attrs.body for node in graph.nodes if node.op.name == "kernel"]
    assert set().union(*map(dtypes, bodies)) == {"float32"}
