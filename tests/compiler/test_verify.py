"""Every rule of the verifier is broken once, and the message names the node."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytest

import netloom.compiler.verify as module
from netloom.compiler.constant import Constant
from netloom.compiler.dim import symbol
from netloom.compiler.graph import Builder, Graph, Node, Value
from netloom.compiler.layout import Layout, Part
from netloom.compiler.op import OPS
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, TensorType
from netloom.compiler.text import parse_graph
from netloom.compiler.verify import Verified, verify
from netloom.errors import VerificationError

from .nested import NESTED, BodyAttrs, nested

N = symbol("N", 1, 8)
TYPE = TensorType(FLOAT32, (N, 4))


def good() -> Graph:
    b = Builder("good")
    x = b.input(TYPE, "x")
    w = b.state("w", Constant(np.ones(4, np.float32)))
    y = b("mul", x, w, label="product")
    b.update_state(w, b("add", w, 1.0, label="next"))
    return b.build([b("relu", y, label="relu")], ["y"])


def replaced(position: int, **changes: Any) -> Callable[[Graph], Graph]:
    def change(graph: Graph) -> Graph:
        nodes = list(graph.nodes)
        nodes[position] = dataclasses.replace(nodes[position], **changes)
        return dataclasses.replace(graph, nodes=tuple(nodes))

    return change


def reversed_nodes(graph: Graph) -> Graph:
    return dataclasses.replace(graph, nodes=graph.nodes[::-1])


def doubled_node(graph: Graph) -> Graph:
    return dataclasses.replace(graph, nodes=(*graph.nodes, graph.nodes[0]))


def doubled_input(graph: Graph) -> Graph:
    return dataclasses.replace(graph, inputs=graph.inputs * 2)


def two_inputs_of_one_name(graph: Graph) -> Graph:
    return dataclasses.replace(graph, inputs=(*graph.inputs, Value(TYPE, "x")))


def two_outputs_of_one_name(graph: Graph) -> Graph:
    return dataclasses.replace(graph, outputs=graph.outputs * 2, output_names=("y", "y"))


def missing_output_name(graph: Graph) -> Graph:
    return dataclasses.replace(graph, output_names=())


def undefined_output(graph: Graph) -> Graph:
    return dataclasses.replace(graph, outputs=(Value(TYPE),))


def state_of_other_type(graph: Graph) -> Graph:
    state = dataclasses.replace(graph.states[0], initial=Constant(np.ones(4)))
    return dataclasses.replace(graph, states=(state,))


def state_twice(graph: Graph) -> Graph:
    other = dataclasses.replace(graph.states[0], input=Value(graph.states[0].input.type))
    return dataclasses.replace(graph, states=(*graph.states, other))


def wrong_type(graph: Graph) -> Graph:
    return replaced(0, outputs=(Value(TYPE.with_dtype(FLOAT64)),))(graph)


def foreign_symbol(graph: Graph) -> Graph:
    b = Builder(graph.name)
    b.inputs, b.states, b.nodes = list(graph.inputs), list(graph.states), list(graph.nodes)
    y = b("broadcast", b.number(1.0, FLOAT32), shape=(symbol("K"),), label="filled")
    return b.build([y])


def two_ranges(graph: Graph) -> Graph:
    other = Value(TensorType(FLOAT32, (symbol("N", 2, 8),)), "other")
    return dataclasses.replace(graph, inputs=(*graph.inputs, other))


def bad_layout(graph: Graph) -> Graph:
    layout = Layout((Part(0), Part(2)))
    old = graph.nodes[0]
    return replaced(0, outputs=(dataclasses.replace(old.output, layout=layout),))(graph)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (reversed_nodes, "relu: relu uses a value before it is defined"),
        (doubled_node, "product: mul defines a value that is defined already"),
        (doubled_input, "good: a value is two inputs or states at once"),
        (two_inputs_of_one_name, "good: two inputs have one name"),
        (two_outputs_of_one_name, "good: two outputs have one name"),
        (missing_output_name, "good: outputs and output names differ in number"),
        (undefined_output, "y: the result is not defined"),
        (
            state_of_other_type,
            r"w: the state reads float32\[4\], becomes float32\[4\] and starts as float64\[4\]",
        ),
        (state_twice, "good: two states have one name"),
        (wrong_type, r"product: mul is float64\[N, 4\], but infers float32\[N, 4\]"),
        (
            replaced(0, attrs=OPS["cast"].attrs(FLOAT32)),
            "product: mul takes NoAttrs, not .*float32",
        ),
        (foreign_symbol, r"filled: no source has the dims \['K'\]"),
        (two_ranges, r"good: the dims \['N'\] have two ranges"),
        (bad_layout, r"product: layout 0 2 does not fit float32\[N, 4\]"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_broken_rules(change: Callable[[Graph], Graph], message: str) -> None:
    verify(good())
    with pytest.raises(VerificationError, match=message):
        verify(change(good()))


def test_inputs_that_the_op_refuses() -> None:
    text = 'graph "g" {\ninput %0: float32[3] "x"\ninput %1: float32[4] "y"\n%2: float32[4] = add(%0, %1) "sum"\n}'
    with pytest.raises(VerificationError, match=r"sum: add: .*broadcast"):
        verify(parse_graph(text))


def test_a_node_without_label_is_named_by_its_place() -> None:
    text = 'graph "g" {\ninput %0: float32[3] "x"\n%1: float32[4] = neg(%0)\n}'
    with pytest.raises(VerificationError, match=r"node 0 \(neg\): neg is float32\[4\]"):
        verify(parse_graph(text))


def test_constants_agree_with_their_type() -> None:
    b = Builder("g")
    node = b.add(OPS["constant"], [], OPS["constant"].attrs(Constant(np.ones(2))), "number")
    other = Node(node.op, (), node.attrs, (Value(TensorType(FLOAT32, (2,))),), "number")
    with pytest.raises(VerificationError, match="number"):
        verify(Graph("g", (), (other,), other.outputs, ("y",)))


def test_nested_graphs_are_verified() -> None:
    graph = nested(3)
    verify(graph)
    bad = dataclasses.replace(nested(0), outputs=(Value(TensorType(FLOAT32, (2,))),))
    node = dataclasses.replace(graph.nodes[0], op=NESTED, attrs=BodyAttrs("bad", bad))
    with pytest.raises(VerificationError, match="output0: the result is not defined"):
        verify(dataclasses.replace(graph, nodes=(node,), outputs=node.outputs))


def test_nested_graphs_use_the_dims_around_them() -> None:
    b = Builder("body")
    body = b.build([b("broadcast", b.number(1.0, FLOAT32), shape=(N,))])
    with pytest.raises(VerificationError, match="no source has"):
        verify(body)
    b = Builder("outer")
    b.input(TensorType(FLOAT32, (N,)), "x")
    verify(b.build(b.add(NESTED, [], BodyAttrs("body", body)).outputs))


def test_a_node_is_looked_at_once_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Node] = []
    monkeypatch.setattr(module, "_verify_node", lambda node, where: looked.append(node))
    verified: Verified = WeakKeyDictionary()
    graph = good()
    verify(graph, verified)
    verify(dataclasses.replace(graph, name="another"), verified)
    assert looked == list(graph.nodes)
    looked.clear()
    watched = weakref.ref(graph.nodes[0])
    assert len(verified) == len(graph.nodes)
    del graph
    gc.collect()
    assert watched() is None and not verified
