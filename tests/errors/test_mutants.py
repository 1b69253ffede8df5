"""Random changes to sound models: whatever comes out imports, or gives one typed error; and what
imports compiles, and computes what the graph means. ``--shapes N`` tries more of them.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.op import Array
from netloom.errors import NetloomError
from netloom.frontends.onnx import from_onnx
from netloom.runtime.session import Session

from .mutation import mutate, mutate_bytes

# a mutant may say a wrong shape
pytestmark = pytest.mark.filterwarnings("ignore::netloom.errors.ModelWarning")
MUTANTS = 3  # of each model, for each of the shapes that are asked for
SECONDS = 20  # that one mutant may take
ELEMENTS = 200_000  # of all values of a mutant that is run
BATCH = 2  # what free dims are then


def constant(name: str, *shape: int, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def vector(name: str, *numbers: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def wrap(
    nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto], shape: list[Any]
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
                              [onnx.ValueInfoProto(name="y")], initializers)  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


N = helper.make_node


def classifier() -> onnx.ModelProto:
    nodes = [
        N("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2], group=1),
        N("Relu", ["c"], ["r"]),
        N("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        N("Flatten", ["p"], ["f"]),
        N("Gemm", ["f", "v"], ["g"], transB=1, alpha=0.5),
        N("Softmax", ["g"], ["y"], axis=-1),
    ]
    return wrap(
        nodes, [constant("w", 4, 2, 3, 3), constant("b", 4), constant("v", 5, 16)], [1, 2, 8, 8]
    )


def shape_ops() -> onnx.ModelProto:
    nodes = [N("Shape", ["x"], ["s"]), N("Gather", ["s", "i"], ["n"]), N("Concat", ["n", "rest"], ["t"], axis=0),
             N("Reshape", ["x", "t"], ["r"]), N("Slice", ["r", "a", "b", "c", "d"], ["q"]), N("Pad", ["q", "p"], ["z"]),
             N("Transpose", ["z"], ["u"], perm=[1, 0]), N("Tile", ["u", "m"], ["y"])]  # fmt: skip
    vectors = {
        "i": [0],
        "rest": [-1],
        "a": [1],
        "b": [9],
        "c": [1],
        "d": [2],
        "p": [0, 1, 0, 2],
        "m": [2, 1],
    }
    return wrap(nodes, [vector(name, *numbers) for name, numbers in vectors.items()], ["N", 4, 6])


def windows() -> onnx.ModelProto:
    nodes = [
        N("ConvTranspose", ["x", "w"], ["c"], strides=[2, 2], output_padding=[1, 1]),
        N("Expand", ["one", "s"], ["e"]),
        N("BatchNormalization", ["c", "k", "k", "k", "k"], ["n"]),
        N("Concat", ["n", "n"], ["d"], axis=1),
        N("AveragePool", ["d"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        N("Split", ["a"], ["f", "h"], axis=1, num_outputs=2),
        N("Mul", ["f", "e"], ["j"]),
        N("ReduceMean", ["j", "axes"], ["y"], keepdims=0),
    ]
    return wrap(
        nodes,
        [
            constant("w", 2, 4, 3, 3),
            constant("one", 1),
            constant("k", 4),
            vector("s", 1, 1, 1, 1),
            vector("axes", 2, 3),
        ],
        [1, 2, 5, 5],
    )


def recurrent() -> onnx.ModelProto:
    nodes = [
        N("LSTM", ["x", "w", "r", "b"], ["h"], hidden_size=3, direction="bidirectional"),
        N("Einsum", ["h", "h"], ["e"], equation="tdbh,tdbk->bhk"),
        N("CumSum", ["e", "axis"], ["f"]),
        N("Resize", ["f", "", "scales"], ["g"], mode="linear"),
        N("TopK", ["g", "k"], ["v", "i"], axis=1),
        N("GatherElements", ["g", "i"], ["j"], axis=1),
        N("Add", ["j", "v"], ["y"]),
    ]
    scales = numpy_helper.from_array(np.array([1, 2, 1], np.float32), "scales")
    initializers = [constant("w", 2, 12, 4), constant("r", 2, 12, 3), constant("b", 2, 24), scales,
                    vector("axis", 1), vector("k", 2)]  # fmt: skip
    return wrap(nodes, initializers, [3, 2, 4])


def branches() -> onnx.ModelProto:
    """An If over a constant, a Loop of three steps, a scatter and a quantized product."""
    body = helper.make_graph(
        [N("Neg", ["a"], ["b"]), N("Identity", ["cond"], ["go"]), N("Abs", ["b"], ["part"])],
        "body",
        [helper.make_tensor_value_info("step", TensorProto.INT64, []),
         helper.make_tensor_value_info("cond", TensorProto.BOOL, []),
         helper.make_tensor_value_info("a", TensorProto.FLOAT, [2, 4])],
        [onnx.ValueInfoProto(name=name) for name in ("go", "b", "part")],
    )  # fmt: skip
    sides = [
        helper.make_graph([N(op, ["x"], [op])], op, [], [onnx.ValueInfoProto(name=op)])
        for op in ("Sin", "Cos")
    ]
    nodes = [
        N("If", ["yes"], ["s"], then_branch=sides[0], else_branch=sides[1]),
        N("Loop", ["count", "yes", "s"], ["l", "parts"], body=body),
        N("ReduceSum", ["parts", "zero"], ["p"], keepdims=0),
        N("ScatterElements", ["p", "at", "l"], ["q"], axis=1, reduction="add"),
        N("QuantizeLinear", ["q", "scale", "point"], ["u"]),
        N("DequantizeLinear", ["u", "scale", "point"], ["y"]),
    ]
    initializers = [
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.array(3), "count"),
        vector("zero", 0),
        numpy_helper.from_array(np.array([[0, 3, 1, 1], [2, 2, 0, -1]]), "at"),
        numpy_helper.from_array(np.float32(0.125), "scale"),
        numpy_helper.from_array(np.uint8(128), "point"),
    ]
    return wrap(nodes, initializers, [2, 4])


def scores() -> onnx.ModelProto:
    """Attention by hand, with a mask, and a normalization."""
    nodes = [
        N("LayerNormalization", ["x", "g", "g"], ["n"], axis=-1),
        N("MatMul", ["n", "w"], ["q"]),
        N("Transpose", ["x"], ["k"], perm=[0, 2, 1]),
        N("MatMul", ["q", "k"], ["s"]),
        N("Trilu", ["s"], ["t"], upper=0),
        N("Where", ["m", "t", "low"], ["o"]),
        N("Softmax", ["o"], ["p"], axis=-1),
        N("MatMul", ["p", "x"], ["y"]),
    ]
    mask = numpy_helper.from_array(np.tril(np.ones((5, 5), np.bool_)), "m")
    low = numpy_helper.from_array(np.float32(-1e9), "low")
    return wrap(nodes, [constant("g", 4), constant("w", 4, 4), mask, low], ["N", 5, 4])


MODELS = {
    "classifier": classifier,
    "shapes": shape_ops,
    "windows": windows,
    "recurrent": recurrent,
    "branches": branches,
    "scores": scores,
}
each_model = pytest.mark.parametrize("name", MODELS)


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """A mutant that takes longer fails the test."""

    def late(_number: int, _frame: Any) -> None:
        raise AssertionError(f"a mutant took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def imported(source: onnx.ModelProto | bytes) -> Graph | None:
    """The graph, or None if a typed error comes back; any other exception fails the test."""
    try:
        with limited(SECONDS):
            return from_onnx(source)
    except NetloomError as error:
        text = str(error)
        assert error.exit_code in (2, 3), text
        assert all(map(str.isprintable, text.split("\n"))) and 0 < len(text) < 3000
        return None


def mutant_of(name: str, rng: random.Random) -> onnx.ModelProto:
    mutant = MODELS[name]()
    for _ in range(rng.choice([1, 1, 2, 4])):
        mutate(mutant, rng)
    return mutant


@each_model
def test_control(name: str) -> None:
    graph = from_onnx(MODELS[name]())
    assert is_right(graph)


@each_model
def test_mutants(name: str, shapes: int) -> None:
    rng = random.Random(name)
    count = MUTANTS * shapes
    refused = sum(imported(mutant_of(name, rng)) is None for _ in range(count))
    assert count // 6 < refused < count  # the mutants are neither all sound nor all broken


@each_model
def test_changed_bytes(name: str, shapes: int) -> None:
    rng = random.Random(name)
    data = MODELS[name]().SerializeToString()
    for _ in range(MUTANTS * shapes):
        imported(mutate_bytes(data, rng))


# -- what imports, runs ----------------------------------------------------------------------------


def inputs_of(graph: Graph) -> dict[str, Array] | None:
    """Data for the graph's inputs; None if it is too large to be run here."""
    dims = {symbol.name: max(symbol.lo, BATCH) for symbol in graph.symbols}
    values = [*graph.inputs, *(value for node in graph.nodes for value in node.outputs)]
    if sum(_elements(value.type.evaluate(dims)) for value in values) > ELEMENTS:
        return None
    rng = np.random.default_rng(0)
    return {
        value.label: _data(rng, value.type.evaluate(dims), value.dtype.numpy)
        for value in graph.inputs
    }


def _elements(shape: tuple[int, ...]) -> float:
    return float(np.prod(np.array(shape, np.float64)))


def _data(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    is_whole = dtype.kind in "iub"
    return np.asarray(rng.integers(0, 2, shape) if is_whole else rng.standard_normal(shape)).astype(
        dtype
    )


def is_right(graph: Graph) -> bool:
    """Whether the compiled program gives what the graph means. Numbers that a mutant makes huge
    or infinite say nothing about a sum's rounding, and are left out.
    """
    inputs = inputs_of(graph)
    if inputs is None:
        return True
    with np.errstate(all="ignore"):
        expected = interpret(graph, inputs)
        found = Session.in_process(compile_graph(graph, Options(workers=1)).image, threads=1).run(
            None, inputs
        )
        return all(map(_is_equal, found, expected))


def _is_equal(found: Array, expected: Array) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if found.dtype.kind in "iub":
        return np.array_equal(found, expected)
    own, other = found.astype(np.float64), expected.astype(np.float64)
    if not np.isfinite(other).all() or np.abs(other).max(initial=0) > 1e6:
        return True
    return bool(np.abs(own - other).max(initial=0) <= 1e-4 * max(1, np.abs(other).max(initial=0)))


@each_model
def test_sound_mutants_run(name: str, shapes: int) -> None:
    """Compiling may still refuse, with a typed error: memory, a free dim that no input tells."""
    rng = random.Random(f"run {name}")
    wanted = max(1, shapes // 20)
    while wanted:
        graph = imported(mutant_of(name, rng))
        if graph is None:
            continue
        wanted -= 1
        try:
            with limited(SECONDS):
                assert is_right(graph), str(graph)
        except NetloomError as error:
            assert error.exit_code in (3, 5), str(error)
