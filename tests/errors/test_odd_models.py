"""Models that look hostile and are sound: they import, quickly and in little memory. See
README.md in this folder.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from netloom.compiler.interpret import interpret
from netloom.errors import ModelError, NetloomError
from netloom.frontends.onnx import from_onnx, to_onnx

F = TensorProto.FLOAT


def model(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[Any] = (4,), initializers: Sequence[onnx.TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (), x: str = "x", y: str = "y",
) -> onnx.ModelProto:  # fmt: skip
    graph = helper.make_graph(list(nodes), "g", [helper.make_tensor_value_info(x, F, list(shape))],
                              [onnx.ValueInfoProto(name=y)], list(initializers))  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions))


def run(source: onnx.ModelProto, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    graph = from_onnx(source)
    return interpret(graph, {graph.inputs[0].label: x})[0]


X = np.array([-2, -1, 1, 2], np.float32)


def chain(length: int) -> list[onnx.NodeProto]:
    names = ["x", *(f"t{i}" for i in range(length - 1)), "y"]
    return [helper.make_node("Neg", [names[i]], [names[i + 1]]) for i in range(length)]


def test_chain_of_20000_nodes() -> None:
    graph = from_onnx(model(chain(20_000)))
    assert len(graph.nodes) == 20_000


def test_chain_of_20000_nodes_backwards() -> None:
    """Nodes in the wrong order are sorted."""
    nodes = chain(20_000)
    assert len(from_onnx(model(nodes[::-1])).nodes) == 20_000


def test_long_chain_keeps_its_meaning() -> None:
    np.testing.assert_array_equal(run(model(chain(301)[::-1]), X), -X)


def nested(depth: int) -> onnx.ModelProto:
    """y = Neg(x) inside ``depth`` nested branches, built in place (protobuf copies no more than
    100 levels).
    """
    result = model([], initializers=[numpy_helper.from_array(np.array(True), "c")])
    graph, name = result.graph, "y"
    for level in range(depth):
        choice = graph.node.add(op_type="If", input=["c"], output=[name])
        name = f"z{level}"
        other = choice.attribute.add(name="else_branch", type=onnx.AttributeProto.GRAPH)
        other.g.node.add(op_type="Relu", input=["x"], output=[f"o{level}"])
        other.g.output.add(name=f"o{level}")
        chosen = choice.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
        chosen.g.output.add(name=name)
        graph = chosen.g
    graph.node.add(op_type="Neg", input=["x"], output=[name])
    return result


def test_nested_graphs() -> None:
    np.testing.assert_array_equal(run(nested(10), X), -X)


def test_200_nested_graphs_as_an_object() -> None:
    np.testing.assert_array_equal(run(nested(200), X), -X)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    length, size = len(content), b""
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def test_200_nested_graphs_as_bytes_are_refused_clearly() -> None:
    """protobuf reads no more than 100 levels."""
    graph = b""
    for _ in range(200):  # graph.node = 1, node.attribute = 5, attribute.g = 6
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(ModelError, match="too deeply"):
        from_onnx(bytes([8, 8]) + field(7, graph))


def test_1000_nested_functions() -> None:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    bodies = [helper.make_node("Neg", ["a"], ["b"])]
    bodies += [helper.make_node(f"f{i}", ["a"], ["b"], domain="local") for i in range(999)]
    functions = [
        helper.make_function("local", f"f{i}", ["a"], ["b"], [body], imports)
        for i, body in enumerate(bodies)
    ]
    call = helper.make_node("f999", ["x"], ["y"], domain="local")
    np.testing.assert_array_equal(run(model([call], functions=functions), X), -X)


def test_function_attributes_and_defaults() -> None:
    body = helper.make_node("LeakyRelu", ["a"], ["b"])
    body.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    function = helper.make_function(
        "local",
        "f",
        ["a"],
        ["b"],
        [body],
        [helper.make_opsetid("", 17)],
        attribute_protos=[helper.make_attribute("slope", 0.5)],
    )
    default = helper.make_node("f", ["x"], ["y"], domain="local")
    given = helper.make_node("f", ["x"], ["y"], domain="local", slope=0.25)
    np.testing.assert_array_equal(run(model([default], functions=[function]), X), [-1, -0.5, 1, 2])
    np.testing.assert_array_equal(run(model([given], functions=[function]), X), [-0.5, -0.25, 1, 2])


HOSTILE = {
    "quotes": "a\"b'c`",
    "newline": "a\nb\r\n",
    "format": "%s%n{0}{x!r}",
    "nul": "a\0b",
    "long": "n" * 10_000,
    "malloc": "malloc",
    "assembly": '"; .globl evil; "',
    "shell": "$(reboot); `reboot`",
    "unicode": "\u202e\U0001f600\u0000é",
    "python": "__import__('os')",
    "path": "../../etc/passwd",
    "keyword": "v1",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_data(name: str) -> None:
    text = HOSTILE[name]
    nodes = [
        helper.make_node("Neg", [text], [text + "h"], name=text),
        helper.make_node("Neg", [text + "h"], [text + "y"]),
    ]
    source = model(nodes, shape=[4], x=text, y=text + "y")
    source.graph.name = text
    graph = from_onnx(source)
    assert graph.inputs[0].label == text
    assert graph.output_names == (text + "y",)
    np.testing.assert_array_equal(run(source, X), X)
    assert all(node.label.isprintable() and len(node.label) <= 100 for node in graph.nodes)
    again = from_onnx(to_onnx(graph))
    assert (again.inputs[0].label, again.output_names) == (text, (text + "y",))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_in_errors(name: str) -> None:
    """One printable line of bounded length."""
    bad = helper.make_node("Softmax", ["x"], ["y"], name=HOSTILE[name], axis=7)
    with pytest.raises(NetloomError) as caught:
        from_onnx(model([bad]))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_dim_names(name: str) -> None:
    graph = from_onnx(
        model([helper.make_node("Neg", ["x"], ["y"])], shape=[HOSTILE[name], HOSTILE[name] + "2"])
    )
    (first, second) = graph.symbols
    assert first.name.isidentifier()
    assert second.name.isidentifier()
    assert first.name != second.name


def test_bool_bytes_are_masked() -> None:
    """A bool is one byte; any but 0 means true."""
    mask = onnx.TensorProto(
        name="m", data_type=TensorProto.BOOL, dims=[4], raw_data=bytes([0, 1, 2, 255])
    )
    nodes = [
        helper.make_node("Neg", ["x"], ["n"]),
        helper.make_node("Where", ["m", "x", "n"], ["y"]),
    ]
    np.testing.assert_array_equal(run(model(nodes, initializers=[mask]), X), [2, -1, 1, 2])


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5)])
def test_zero_extents_run(shape: tuple[int, ...]) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("Concat", ["h", "x"], ["y"], axis=0),
    ]
    result = run(model(nodes, shape=shape), np.zeros(shape, np.float32))
    assert result.shape == (2 * shape[0], *shape[1:])


def test_empty_reductions_and_products_run() -> None:
    x = np.zeros((3, 0), np.float32)
    total = run(model([helper.make_node("ReduceSum", ["x"], ["y"])], shape=(3, 0)), x)
    np.testing.assert_array_equal(total, [[0]])
    w = numpy_helper.from_array(np.zeros((0, 2), np.float32), "w")
    product = run(
        model([helper.make_node("MatMul", ["x", "w"], ["y"])], shape=(3, 0), initializers=[w]), x
    )
    np.testing.assert_array_equal(product, np.zeros((3, 2)))


def test_splats_stay_splats() -> None:
    """2^34 ones (64 GB as an array) take no memory."""
    shape = numpy_helper.from_array(np.array([1 << 17, 1 << 17], np.int64), "s")
    one = helper.make_tensor("v", F, [1], [1.0])
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["w"], value=one),
        helper.make_node("Gather", ["w", "i"], ["r"]),
        helper.make_node("ReduceSum", ["r"], ["t"]),
        helper.make_node("Add", ["x", "t"], ["y"]),
    ]
    index = numpy_helper.from_array(np.array([5], np.int64), "i")
    tracemalloc.start()
    graph = from_onnx(model(nodes, initializers=[shape, index]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6
    assert any(node.op.name == "constant" and node.attrs.value.is_splat for node in graph.nodes)
