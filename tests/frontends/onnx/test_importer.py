"""Whole models: dims and shapes, shape arithmetic, weights, and the networks of the onnx
package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import TensorProto, helper, numpy_helper

from netloom.benchmarks.models import light_models, with_random_weights
from netloom.compiler.graph import Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.verify import verify
from netloom.errors import ModelWarning, ShapeError, UnsupportedOpError, UsageError
from netloom.frontends.onnx import check, from_onnx

Array = npt.NDArray[Any]
F = TensorProto.FLOAT


def model(
    nodes: list[onnx.NodeProto],
    shape: list[int | str | None],
    constants: dict[str, Any] | None = None,
    opset: int = 17,
    name: str = "x",
    output: onnx.ValueInfoProto | None = None,
) -> onnx.ModelProto:
    initializers = [
        numpy_helper.from_array(np.asarray(value), key) for key, value in (constants or {}).items()
    ]
    result = output or onnx.ValueInfoProto(name=nodes[-1].output[0])
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(name, F, shape)], [result], initializers
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def ops(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


N = helper.make_node
X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
RELU = [N("Relu", ["x"], ["y"])]

# -- dims and shapes -------------------------------------------------------------------------------


def test_free_dims_stay_free() -> None:
    graph = from_onnx(model(RELU, ["batch size", 3, None]))
    assert [str(e) for e in graph.inputs[0].shape] == ["batch_size", "3", "x_2"]
    assert [(s.name, s.lo) for s in graph.symbols] == [("batch_size", 1), ("x_2", 1)]


def test_equal_names_are_equal_dims() -> None:
    graph = from_onnx(model([N("Add", ["x", "x"], ["y"])], ["N", "N"]))
    assert graph.inputs[0].shape[0] == graph.inputs[0].shape[1]


def test_names_that_look_alike_stay_apart() -> None:
    graph = from_onnx(model(RELU, ["a b", "a.b", "a_b"]))
    assert len({s.name for s in graph.symbols}) == 3


def test_dims_fix_or_bound() -> None:
    source = model(RELU, ["N", "M"])
    graph = from_onnx(source, dims={"N": 4, "M": range(2, 65)})
    assert graph.inputs[0].shape[0] == 4
    (symbol,) = graph.symbols
    assert (symbol.name, symbol.lo, symbol.hi) == ("M", 2, 64)


def test_shapes_replace() -> None:
    graph = from_onnx(model(RELU, [1, 3]), shapes={"x": ["N", 5]})
    assert [str(e) for e in graph.inputs[0].shape] == ["N", "5"]
    assert graph.outputs[0].shape == graph.inputs[0].shape


def test_shapes_and_dims_together() -> None:
    graph = from_onnx(model(RELU, [1, 3]), shapes={"x": ["N", 5]}, dims={"N": 7})
    assert graph.inputs[0].shape == (7, 5)


def test_annotations_yield_to_the_caller() -> None:
    """A model saved with batch 1 says so everywhere; another batch contradicts nothing."""
    source = model(RELU, [1, 3], output=helper.make_tensor_value_info("y", F, [1, 3]))
    assert from_onnx(source, shapes={"x": [8, 3]}).outputs[0].shape == (8, 3)
    with pytest.warns(ModelWarning, match="but it is"):  # a rank is none of the caller's
        from_onnx(
            model(RELU, [1, 3], output=helper.make_tensor_value_info("y", F, [1])),
            shapes={"x": [8, 3]},
        )


@pytest.mark.parametrize(("wishes", "words"), [
    ({"dims": {"M": 3}}, "no free dim 'M'. It has N"), ({"shapes": {"z": [1]}}, "no input 'z'. It has 'x'"),
    ({"dims": {"N": -1}}, "cannot be -1"), ({"dims": {"N": range(5, 5)}}, "cannot lie in"),
])  # fmt: skip
def test_mistakes_of_the_caller(wishes: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_onnx(model(RELU, ["N", 3]), **wishes)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_shape_of_wrong_rank() -> None:
    with pytest.raises(ShapeError, match="rank 2"):
        from_onnx(model(RELU, ["N", 3]), shapes={"x": [1, 2, 3]})


def test_minus_one_is_a_free_dim() -> None:
    assert [str(e) for e in from_onnx(model(RELU, [-1, 3])).inputs[0].shape] == ["x_0", "3"]


# -- weights ---------------------------------------------------------------------------------------


def test_initializers_that_are_inputs_are_weights() -> None:
    """As models of IR version 3 have them."""
    source = model([N("Add", ["x", "t"], ["y"])], [3], {"t": np.ones(3, np.float32)})
    source.graph.input.append(helper.make_tensor_value_info("t", F, [3]))
    assert [value.label for value in from_onnx(source).inputs] == ["x"]


def test_constant_of_shape_is_a_splat() -> None:
    value = helper.make_tensor("v", F, [1], [0.5])
    nodes = [N("ConstantOfShape", ["s"], ["t"], value=value), N("Add", ["x", "t"], ["y"])]
    graph = from_onnx(model(nodes, [3, 1 << 20], {"s": np.array([3, 1 << 20])}))
    (constant,) = (node.attrs.value for node in graph.nodes if node.op.name == "constant")
    assert constant.is_splat
    assert constant.splat_value == np.float32(0.5)


def test_dead_nodes_are_swept() -> None:
    nodes = [N("Neg", ["x"], ["unused"]), N("Relu", ["x"], ["y"])]
    assert ops(from_onnx(model(nodes[:1] + nodes[1:], [3]))) == ["relu"]


def test_an_input_or_a_constant_may_be_an_output() -> None:
    source = model(RELU, [3], {"t": np.ones(2, np.float32)})
    source.graph.output.add(name="x")
    source.graph.output.add(name="t")
    x = np.array([-1, 0, 1], np.float32)
    y, same, t = interpret(from_onnx(source), {"x": x})
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(t, [1, 1])
    np.testing.assert_array_equal(y, [0, 0, 1])


# -- shape arithmetic ------------------------------------------------------------------------------


def flattened() -> list[onnx.NodeProto]:
    """reshape(x, [shape(x)[0], -1]) as PyTorch writes it."""
    return [
        N("Shape", ["x"], ["s"]),
        N("Gather", ["s", "zero"], ["n"], axis=0),
        N("Unsqueeze", ["n", "axes"], ["n1"]),
        N("Concat", ["n1", "rest"], ["t"], axis=0),
        N("Reshape", ["x", "t"], ["y"]),
    ]


FLATTENING = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}


def test_shape_arithmetic_is_folded() -> None:
    graph = from_onnx(model(flattened(), ["N", 3, 4], FLATTENING))
    assert ops(graph) == ["reshape"]
    assert [str(e) for e in graph.outputs[0].shape] == ["N", "12"]
    np.testing.assert_array_equal(interpret(graph, {"x": X})[0], X.reshape(2, 12))


def test_shape_arithmetic_with_numbers() -> None:
    """[N * C / 2, C - C % 3 + 1 * W / 2 ...]: products, quotients and sums of extents."""
    nodes = [
        N("Shape", ["x"], ["s"]),
        N("Split", ["s"], ["n", "c", "w"], axis=0),
        N("Mul", ["n", "c"], ["nc"]),
        N("Mul", ["w", "two"], ["w2"]),
        N("Div", ["w2", "two"], ["half"]),
        N("Cast", ["half"], ["h32"], to=TensorProto.INT32),
        N("Cast", ["h32"], ["h64"], to=TensorProto.INT64),
        N("Add", ["nc", "two"], ["sum"]),
        N("Sub", ["sum", "two"], ["back"]),
        N("Concat", ["back", "h64"], ["t"], axis=0),
        N("Reshape", ["x", "t"], ["y"]),
    ]
    graph = from_onnx(model(nodes, ["N", 3, "W"], {"two": np.array([2])}))
    assert ops(graph) == ["reshape"]
    assert [str(e) for e in graph.outputs[0].shape] == ["3*N", "W"]
    np.testing.assert_array_equal(interpret(graph, {"x": X})[0], X.reshape(6, 4))


def test_shape_slices_tiles_and_wheres() -> None:
    nodes = [
        N("Shape", ["x"], ["s"]), N("Slice", ["s", "zero", "one"], ["n"]), N("ReduceProd", ["s"], ["p"], keepdims=0),
        N("Size", ["x"], ["size"]), N("Equal", ["p", "size"], ["same"]), N("Where", ["same", "n", "one"], ["n1"]),
        N("Concat", ["n1", "minus"], ["t"], axis=0), N("Reshape", ["x", "t"], ["y"]),
    ]  # fmt: skip
    graph = from_onnx(
        model(
            nodes,
            ["N", 3, 4],
            {"zero": np.array([0]), "one": np.array([1]), "minus": np.array([-1])},
        )
    )
    assert ops(graph) == ["reshape"]
    assert [str(e) for e in graph.outputs[0].shape] == ["N", "12"]


def test_expanded_to_a_computed_shape() -> None:
    nodes = [
        N("Shape", ["x"], ["s"]),
        N("Expand", ["one", "s"], ["e"]),
        N("Add", ["x", "e"], ["y"]),
    ]
    graph = from_onnx(model(nodes, ["N", 3, "W"], {"one": np.array([1], np.float32)}))
    np.testing.assert_array_equal(interpret(graph, {"x": X})[0], X + 1)


def test_constant_of_a_computed_shape() -> None:
    nodes = [
        N("Shape", ["x"], ["s"]),
        N("ConstantOfShape", ["s"], ["z"]),
        N("Concat", ["x", "z"], ["y"], axis=2),
    ]
    graph = from_onnx(model(nodes, ["N", 3, "W"]))
    np.testing.assert_array_equal(interpret(graph, {"x": X})[0], np.concatenate([X, 0 * X], 2))


def test_range_over_a_free_dim() -> None:
    nodes = [N("Shape", ["x"], ["s"]), N("Gather", ["s", "axis"], ["w"]), N("Range", ["zero", "w", "one"], ["i"]),
             N("Cast", ["i"], ["f"], to=F), N("Add", ["x", "f"], ["y"])]  # fmt: skip
    graph = from_onnx(
        model(nodes, ["N", 3, "W"], {"axis": np.array(2), "zero": np.array(0), "one": np.array(1)})
    )
    np.testing.assert_array_equal(interpret(graph, {"x": X})[0], X + np.arange(4, dtype=np.float32))


def test_a_shape_may_be_data() -> None:
    """A free dim that is used as a number is computed when the program runs."""
    nodes = [N("Shape", ["x"], ["s"]), N("Cast", ["s"], ["f"], to=F), N("ReduceSum", ["f"], ["t"], keepdims=0),
             N("Mul", ["x", "t"], ["y"])]  # fmt: skip
    graph = from_onnx(model(nodes, ["N", 3, "W"]))
    np.testing.assert_array_equal(interpret(graph, {"x": X})[0], X * 9)


def test_dims_that_cannot_be_divided_are_named() -> None:
    halved = model([N("Reshape", ["x", "s"], ["y"])], ["N", 3], {"s": np.array([2, -1])})
    with pytest.raises(UnsupportedOpError, match="a multiple of 2") as caught:
        from_onnx(halved, dims={"N": range(1, 9)})
    assert "float32[N, 3]" in str(caught.value)
    assert from_onnx(halved, dims={"N": 4})
    either = model([N("Reshape", ["x", "s"], ["y"])], ["N", "M"], {"s": np.array([2, -1])})
    with pytest.raises(UnsupportedOpError, match="free dims"):
        from_onnx(either)


def test_known_conditions_choose_branches() -> None:
    def branch(op: str) -> onnx.GraphProto:
        return helper.make_graph([N(op, ["x"], ["z"])], op, [], [onnx.ValueInfoProto(name="z")])

    nodes = [
        N("Shape", ["x"], ["s"]),
        N("Size", ["s"], ["rank"]),
        N("Equal", ["rank", "three"], ["c"]),
        N("If", ["c"], ["y"], then_branch=branch("Neg"), else_branch=branch("Relu")),
    ]
    assert ops(from_onnx(model(nodes, ["N", 3, 4], {"three": np.array(3)}))) == ["neg"]
    assert ops(from_onnx(model(nodes, ["N", 3], {"three": np.array(3)}))) == ["relu"]


def test_annotations_of_branches_are_not_assertions() -> None:
    """PyTorch says of both branches what holds in the one that it never takes."""
    wrong = helper.make_tensor_value_info("z", F, ["any"])
    branch = helper.make_graph([N("Neg", ["x"], ["z"])], "g", [], [wrong])
    nodes = [N("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    assert ops(from_onnx(model(nodes, [2, 3], {"c": np.array(True)}))) == ["neg"]


# -- check -----------------------------------------------------------------------------------------


def test_check_reports_everything() -> None:
    report = check(
        model(
            [
                N("Relu", ["x"], ["a"], name="first"),
                N("Relu", ["a"], ["b"]),
                N("TfIdfVectorizer", ["b"], ["y"]),
            ],
            [3],
        )
    )
    assert [(row.name, row.opset, row.count, row.is_supported) for row in report.rows] == [
        ("TfIdfVectorizer", 17, 1, False), ("Relu", 17, 2, True)]  # fmt: skip
    assert not report.is_supported
    assert report.missing[0].remedy
    assert report.rows[1].nodes == ("first", "b")
    assert report.as_json()[1]["supported"]
    assert "TfIdfVectorizer (opset 17) x 1: not supported" in str(report)


def test_functions_that_nothing_calls_need_no_support() -> None:
    unused = helper.make_function(
        "local",
        "f",
        ["a"],
        ["b"],
        [N("StringSplit", ["a"], ["b", ""])],
        [helper.make_opsetid("", 20)],
    )
    source = model([N("Relu", ["x"], ["y"])], [3])
    source.functions.append(unused)
    assert ops(from_onnx(source)) == ["relu"]


# -- networks --------------------------------------------------------------------------------------

LIGHT = light_models()
CONVOLUTIONS = {"bvlc_alexnet": 5, "densenet121": 121, "inception_v1": 57, "inception_v2": 69, "resnet50": 53,
                "shufflenet": 49, "squeezenet": 26, "vgg19": 16, "zfnet512": 5}  # fmt: skip


@pytest.mark.parametrize("name", LIGHT)
def test_light_model_is_read(name: str) -> None:
    assert check(LIGHT[name]).is_supported
    graph = from_onnx(LIGHT[name])
    verify(graph)
    assert ops(graph).count("conv") == CONVOLUTIONS[name]
    assert [str(value.type) for value in graph.inputs] == ["float32[1, 3, 224, 224]"]
    assert graph.outputs[0].type.elements == 1000
    large = [
        n.attrs.value
        for n in graph.nodes
        if n.op.name == "constant" and n.attrs.value.array.size > 64
    ]
    assert len(large) >= 5
    assert all(constant.is_splat for constant in large)


def relative_error(actual: Array, expected: Array) -> float:
    return float(
        np.linalg.norm(actual.astype(np.float64) - expected)
        / np.linalg.norm(expected.astype(np.float64))
    )


def test_squeezenet_with_random_weights() -> None:
    source = with_random_weights(onnx.load(LIGHT["squeezenet"]), seed=0)
    x = np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)
    graph = from_onnx(source)
    session = onnxruntime.InferenceSession(
        source.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run(None, {graph.inputs[0].label: x})
    (actual,) = interpret(graph, {graph.inputs[0].label: x})
    assert relative_error(actual, expected) < 1e-5
    assert np.ptp(expected) > 0.01  # the weights make a difference


@pytest.mark.parametrize("name", ["squeezenet", "densenet121"])
def test_random_weights_are_repeatable(name: str) -> None:
    source = onnx.load(LIGHT[name])
    before = source.SerializeToString(deterministic=True)
    first, second, third = (with_random_weights(source, seed) for seed in (0, 0, 1))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )
    assert first.SerializeToString(deterministic=True) != third.SerializeToString(
        deterministic=True
    )
    assert source.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(first)
    assert not any(node.op_type == "ConstantOfShape" for node in first.graph.node)
    filters = [
        numpy_helper.to_array(t)
        for t in first.graph.initializer
        if len(t.dims) == 4 and t.dims[0] > 100
    ]
    for w in filters[:5]:
        assert abs(w.std() * np.sqrt(w[0].size / 2) - 1) < 0.1
