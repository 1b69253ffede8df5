"""Rules match what their pattern says, and the rewriter keeps types, names and order."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.constant import Constant
from netloom.compiler.dim import symbol
from netloom.compiler.graph import Builder, Graph, Node, Value
from netloom.compiler.rewrite import Rewriter, Rule, apply_rules, rewrite
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, TensorType
from netloom.compiler.text import is_identical
from netloom.compiler.verify import verify
from netloom.errors import VerificationError

TYPE = TensorType(FLOAT32, (symbol("N", 1, 8), 4))

DOUBLE_NEGATION = Rule("-(-x) => x", lambda p: p("neg", p("neg", p.x)), lambda b, m: m.x)
PLUS_ZERO = Rule(
    "x + 0 => x",
    lambda p: p("add", p.x, 0.0),
    lambda b, m: m.x,
    lambda m: m.x.type == m.root.output.type,
)
SQUARE = Rule("x * x => square(x)", lambda p: p("mul", p.x, p.x), lambda b, m: b("square", m.x))


def names(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


def start() -> tuple[Builder, Value]:
    b = Builder("g")
    return b, b.input(TYPE, "x")


def test_a_rule_is_applied_until_nothing_changes() -> None:
    b, x = start()
    y = x
    for _ in range(7):
        y = b("neg", y)
    graph = apply_rules(b.build([y]), [DOUBLE_NEGATION])
    assert names(graph) == ["neg"]
    assert graph.nodes[0].inputs == (x,)


def test_commutative_ops_match_both_ways() -> None:
    b, x = start()
    graph = b.build([b("tanh", b("add", 0.0, b("add", x, 0.0)))])
    assert names(apply_rules(graph, [PLUS_ZERO])) == ["tanh"]


def test_non_commutative_ops_match_one_way() -> None:
    b, x = start()
    rule = Rule("x - 0 => x", lambda p: p("sub", p.x, 0.0), lambda b, m: m.x)
    graph = b.build([b("sub", 0.0, x)])
    assert apply_rules(graph, [rule]) is graph


def test_a_variable_stands_for_one_value() -> None:
    b, x = start()
    other = b.input(TYPE, "y")
    graph = apply_rules(b.build([b("mul", x, other), b("mul", x, x)]), [SQUARE])
    assert names(graph) == ["mul", "square"]


def test_attributes_are_matched_and_bound() -> None:
    b, x = start()
    rule = Rule(
        "kept sum => broadcast max",
        lambda p: p("reduce_sum", p.x, axes=p.axes, keep=True),
        lambda b, m: b(
            "broadcast", b("reduce_max", m.x, axes=m.axes, keep=True), shape=m.root.output.shape
        ),
    )
    graph = b.build(
        [b("reduce_sum", x, axes=(1,), keep=True), b("reduce_sum", x, axes=(1,), keep=False)]
    )
    assert names(apply_rules(graph, [rule])) == ["reduce_max", "broadcast", "reduce_sum"]


def test_a_refusal_gives_its_reason() -> None:
    b, x = start()
    rule = Rule(
        "tanh(x) => x", lambda p: p("tanh", p.x), lambda b, m: m.x, lambda m: "tanh matters"
    )
    graph = b.build([b("tanh", x, label="act")])
    seen: list[tuple[str, str, str]] = []
    assert (
        apply_rules(
            graph, [rule], lambda name, node, verdict: seen.append((name, node.label, verdict))
        )
        is graph
    )
    assert seen == [("tanh(x) => x", "act", "tanh matters")]


def test_new_nodes_get_the_label_of_the_old() -> None:
    b, x = start()
    graph = apply_rules(b.build([b("mul", x, x, label="squared")]), [SQUARE])
    assert [(node.label, node.output.label) for node in graph.nodes] == [("squared", "squared")]


def test_types_must_be_kept() -> None:
    b, x = start()
    rule = Rule(
        "tanh(x) => float64", lambda p: p("tanh", p.x), lambda b, m: b("cast", m.x, dtype=FLOAT64)
    )
    with pytest.raises(
        VerificationError, match=r"act: rule 'tanh\(x\) => float64' made float64.* of float32"
    ):
        apply_rules(b.build([b("tanh", x, label="act")]), [rule])


def test_rules_without_end_are_stopped() -> None:
    b, x = start()
    swap = Rule(
        "a - b => -(b - a)", lambda p: p("sub", p.x, p.y), lambda b, m: b("neg", b("sub", m.y, m.x))
    )
    with pytest.raises(VerificationError, match="does not end"):
        apply_rules(b.build([b("sub", x, 1.0, label="endless")]), [swap])


def test_states_and_outputs_follow() -> None:
    b, x = start()
    w = b.state("w", Constant(np.ones(3, np.float32)))
    b.update_state(w, b("neg", b("neg", w)))
    graph = b.build([b("neg", b("neg", x)), x])
    result = apply_rules(graph, [DOUBLE_NEGATION])
    verify(result)
    assert result.nodes == ()
    assert result.outputs == (x, x)
    assert result.states[0].is_unchanged


def test_nothing_to_do_gives_the_same_graph() -> None:
    b, x = start()
    graph = b.build([b("tanh", x)])
    assert rewrite(graph, lambda rewriter, node: None) is graph
    assert is_identical(apply_rules(graph, [DOUBLE_NEGATION]), graph)


def test_what_a_replacement_adds_is_offered_again() -> None:
    offered: list[str] = []

    def replace(rewriter: Rewriter, node: Node) -> list[Value] | None:
        offered.append(node.op.name)
        return (
            [rewriter("neg", rewriter("abs", node.inputs[0]))] if node.op.name == "tanh" else None
        )

    b, x = start()
    graph = rewrite(b.build([b("relu", b("tanh", x))]), replace)
    assert offered == ["tanh", "abs", "neg", "relu"]
    assert names(graph) == ["abs", "neg", "relu"]
    verify(graph)


def test_uses_follow_replacements() -> None:
    """The use of -(-x)'s result counts as a use of x."""
    counts: list[int] = []

    def replace(rewriter: Rewriter, node: Node) -> list[Value] | None:
        if node.op.name == "abs":
            return [node.inputs[0]]
        counts.append(rewriter.uses(node.inputs[0]))
        return None

    b, x = start()
    y = b("exp", x)
    z = b("abs", y)
    rewrite(b.build([b("tanh", z), b("sin", z)]), replace)
    # exp reads x; y is read by tanh, sin and, until it is dropped, by abs
    assert counts == [1, 3, 3]
