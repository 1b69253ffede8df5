"""What one kernel holds: every reader of a value, views made anew, and never the same work
twice.
"""

from __future__ import annotations

import numpy as np

from netloom.compiler import scalar
from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.op import OPS
from netloom.compiler.passes.fuse import _is_costly, fuse
from netloom.compiler.targets.cpu.vector_math import expand_all
from netloom.compiler.tensor_type import FLOAT32, INT32, UINT8, TensorType
from netloom.runtime.session import Session
from tests.cases import CASES
from tests.checking import graph_of


def test_all_readers_of_a_value_make_one_kernel() -> None:
    """x * sigmoid(x) behind a reduction, and a diamond of three paths."""
    b = Builder("diamond")
    x = b.input(TensorType(FLOAT32, (5, 33)), "x")
    y = b("reduce_sum", x, axes=(1,), keep=True)
    y = b("mul", y, b("sigmoid", y))
    y = b("add", b("mul", y, b("exp", b("neg", y))), y)
    assert _kernels(b.build([y])) == [["reduce_sum", "sigmoid", "mul", "neg", "exp", "mul", "add"]]


def test_a_value_read_by_two_kernels_is_stored() -> None:
    b = Builder("two")
    x = b.input(TensorType(FLOAT32, (5, 33)), "x")
    shared = b("exp", x)
    sums = b("reduce_sum", shared, axes=(0,), keep=True)
    assert _kernels(b.build([b("div", shared, sums)])) == [["exp"], ["reduce_sum"], ["div"]]


def test_a_broadcast_reader_keeps_the_value_apart() -> None:
    """The sum would be made anew for each of the 5 elements."""
    b = Builder("broadcast")
    x = b.input(TensorType(FLOAT32, (5, 33)), "x")
    sums = b("reduce_sum", x, axes=(0,), keep=True)
    assert _kernels(b.build([b("sub", b("exp", sums), b("mul", x, sums))])) == [
        ["reduce_sum"],
        ["exp"],
        ["mul", "sub"],
    ]


def test_costly_functions_do_not_follow_sums_whose_vectors_run_along_them() -> None:
    """They would be computed for one result at a time; cheap ones may."""
    for name, kernels in (("selu", [["matmul"], ["selu"]]), ("relu", [["matmul", "relu"]])):
        b = Builder("one lane")
        x, y = (b.input(TensorType(FLOAT32, (9, 33)), label) for label in "xy")
        assert _kernels(b.build([b(name, b("matmul", x, y, transpose_b=True))])) == kernels
    b = Builder("lanes")
    x, y = b.input(TensorType(FLOAT32, (9, 33)), "x"), b.input(TensorType(FLOAT32, (33, 32)), "y")
    assert _kernels(b.build([b("erf", b("matmul", x, y))])) == [["matmul", "erf"]]


def test_costly_ops_are_recognised() -> None:
    """Every elementwise op: those of which tens of vector instructions are made."""
    found, expected = set(), set()
    for case in CASES:
        if OPS[case.op].formula is None or case.op == "rem":  # remainders are a library's function
            continue
        node = next(node for node in graph_of(case).nodes if node.op.name == case.op)
        inputs = [scalar.Argument(i, value.dtype) for i, value in enumerate(node.inputs)]
        made = scalar.post_order([expand_all(node.op.formula(node.attrs, *inputs))])
        if sum(isinstance(e, scalar.Call | scalar.Cast) for e in made) >= 16:
            expected.add(str(case))
        if _is_costly(node):
            found.add(str(case))
    assert found == expected
    names = {case.partition("(")[0] for case in found}
    assert names >= {"exp", "pow", "sin", "gelu", "selu", "sinh", "asinh", "atan", "sigmoid"}
    assert not names & {"add", "div", "sqrt", "relu", "floor", "sign", "softsign", "select"}


def test_what_is_compared_with_all_others_is_made_once() -> None:
    b = Builder("order")
    x = b.input(TensorType(FLOAT32, (5, 33)), "x")
    turned = b("transpose", x, permutation=(1, 0))
    graph = b.build([b("sort_positions", b("exp", x), axis=1),
                     b("cast", b("sort_positions", turned, axis=1), dtype=FLOAT32)])  # fmt: skip
    assert _kernels(graph) == [["exp"], ["sort_positions"], ["transpose", "sort_positions", "cast"]]


def test_views_are_made_anew() -> None:
    """Both halves of a channel shuffle read the input's own memory; nobody stores the shuffled
    value.
    """
    b = Builder("shuffle")
    x = b.input(TensorType(FLOAT32, (1, 12, 3, 5)), "x")
    turned = b("transpose", b("reshape", x, shape=(1, 2, 6, 3, 5)), permutation=(0, 2, 1, 3, 4))
    shuffled = b("reshape", turned, shape=(1, 12, 3, 5))
    graph = b.build([b("relu", _half(b, shuffled, 0)), b("neg", _half(b, shuffled, 6))])
    views = ["reshape", "transpose", "reshape", "slice"]
    assert _kernels(graph) == [[*views, "relu"], [*views, "neg"]]


def _dequantized(b: Builder, x: Value) -> Value:
    return b("mul", b("cast", b("sub", b("cast", x, dtype=INT32), 3), dtype=FLOAT32), 0.5)


def test_bytes_are_what_lies_between_kernels() -> None:
    """The wide numbers that are made of them are made by each reader, not by who made the bytes."""
    b = Builder("bytes")
    x = b.input(TensorType(FLOAT32, (5, 33)), "x")
    sums = b("cast", b("reduce_sum", x, axes=(1,), keep=True), dtype=UINT8)
    y, z = _dequantized(b, sums), b.input(TensorType(FLOAT32, (5, 1)), "z")
    graph = b.build([b("exp", y), b("reduce_max", b("mul", y, z), axes=(0,), keep=True)])
    chain = ["cast", "sub", "cast", "mul"]
    assert _kernels(graph) == [
        ["reduce_sum", "cast"],
        [*chain, "exp"],
        [*chain, "mul", "reduce_max"],
    ]


def test_wide_numbers_that_are_stored_are_made_with_the_bytes() -> None:
    """A product reads each of them often."""
    b = Builder("stored")
    x = b.input(TensorType(FLOAT32, (5, 33)), "x")
    w = b.input(TensorType(FLOAT32, (33, 16)), "w")
    narrow = b("cast", b("exp", x), dtype=UINT8)
    graph = b.build([b("matmul", _dequantized(b, narrow), w)])
    assert _kernels(graph) == [["exp", "cast", "cast", "sub", "cast", "mul"], ["matmul"]]


def test_a_concat_is_made_once() -> None:
    """It is no view: reading it chooses between its parts."""
    b = Builder("concat")
    x = b.input(TensorType(FLOAT32, (1, 6, 3, 5)), "x")
    y = b.input(TensorType(FLOAT32, (1, 6, 3, 5)), "y")
    both = b("transpose", b("concat", x, y, axis=1), permutation=(0, 1, 3, 2))
    graph = b.build([b("exp", both), b("neg", both)])
    assert _kernels(graph) == [["concat", "transpose"], ["exp"], ["neg"]]


def test_a_view_within_a_view_survives_its_owner() -> None:
    """The inner view is part of the outer one, which two kernels make anew, and one of these
    joins a third.
    """
    b = Builder("nested")
    x = b.input(TensorType(FLOAT32, (4, 6)), "x")
    square = b("exp", x)
    view = b(
        "slice", b("transpose", square, permutation=(1, 0)), start=(1, 0), size=(5, 4), step=(1, 1)
    )
    total = b("reduce_sum", b("neg", view), axes=(0,))
    graph = b.build([b("relu", view), b("reduce_max", view, axes=(1,)), total])
    _kernels(graph)


def test_what_a_scatter_takes_once_is_made_there() -> None:
    """Rows are added at one index each, which no kernel writes out for every column."""
    b = Builder("rows")
    x = b.input(TensorType(FLOAT32, (7, 5)), "x")
    index = b.input(TensorType(INT32, (4,)), "i")
    updates = b.input(TensorType(UINT8, (4, 5)), "u")
    column = b("broadcast", b("reshape", index, shape=(4, 1)), shape=(4, 5))
    wide = b("cast", updates, dtype=FLOAT32)
    graph = b.build([b("scatter", x, column, wide, axis=0, reduction="add")])
    assert _ops(graph) == [["cast", "reshape", "broadcast", "scatter"]]
    rng = np.random.default_rng(0)
    given = rng.standard_normal((7, 5)).astype(np.float32)
    at, rows = np.array([6, 0, 6, -2], np.int32), rng.integers(0, 99, (4, 5)).astype(np.uint8)
    expected = given.astype(np.float64)
    np.add.at(expected, at, rows.astype(np.float64))
    found = Session.in_process(compile_graph(graph).image)(given, at, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(
        interpret(graph, {"x": given, "i": at, "u": rows})[0], expected, 1e-6
    )


def _half(b: Builder, x: Value, start: int) -> Value:
    return b("slice", x, start=(0, start, 0, 0), size=(1, 6, 3, 5), step=(1, 1, 1, 1))


def _kernels(graph: Graph) -> list[list[str]]:
    """The ops of each kernel, in order; the compiled program gives what the interpreter gives."""
    rng = np.random.default_rng(0)
    feeds = {
        v.label: rng.standard_normal(v.type.static_shape).astype(np.float32) for v in graph.inputs
    }
    session = Session.in_process(compile_graph(graph).image)
    for got, wanted in zip(session.run(None, feeds), interpret(graph, feeds), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=2e-6)
    return _ops(graph)


def _ops(graph: Graph) -> list[list[str]]:
    bodies = [node.attrs.body for node in fuse(graph).nodes if node.op.name == "kernel"]
    return [[node.op.name for node in body.nodes if node.op.name != "constant"] for body in bodies]
