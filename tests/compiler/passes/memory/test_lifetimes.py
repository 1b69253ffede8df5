"""When values end, and what comes before them: against walks over the graph by networkx."""

from __future__ import annotations

import networkx as nx

from netloom.compiler.graph import Builder, Graph, Node, Value
from netloom.compiler.passes.memory.aliases import Aliases
from netloom.compiler.passes.memory.lifetimes import ANYTHING, Lifetimes
from netloom.compiler.tensor_type import FLOAT32, TensorType


def branches() -> Graph:
    """Two towers that meet, and one that nothing reads but the caller."""
    b = Builder("branches")
    x = b.input(TensorType(FLOAT32, (3,)), "x")
    left = b("exp", b("neg", x))
    right = b("tanh", b("sqrt", x))
    alone = b("abs", x)
    return b.build([b("relu", b("add", left, right)), alone])


def bits(graph: Graph, nodes: set[Node]) -> int:
    return sum(1 << graph.nodes.index(node) for node in nodes)


def test_a_value_ends_with_its_last_reader() -> None:
    graph = branches()
    lifetimes = Lifetimes(graph, Aliases({}), keeps_branches_apart=False)
    for node in graph.nodes:
        value = node.output
        readers = [n for n, reader in enumerate(graph.nodes) if value in reader.inputs]
        last = len(graph.nodes) if value in graph.outputs else max(readers)
        assert lifetimes.is_used(value)
        assert [lifetimes.ends(value, n) for n in range(last + 2)] == [False] * last + [True] * 2


def test_a_value_that_nobody_reads_ends_at_once() -> None:
    b = Builder("unused")
    x = b.input(TensorType(FLOAT32, (3,)), "x")
    unused, used = b("neg", x), b("exp", x)
    lifetimes = Lifetimes(b.build([used]), Aliases({}), keeps_branches_apart=False)
    assert not lifetimes.is_used(unused) and lifetimes.ends(unused, 0)


def test_what_holds_others_lives_as_long_as_they_do() -> None:
    b = Builder("held")
    x = b.input(TensorType(FLOAT32, (3,)), "x")
    whole = b("neg", x)
    part = b("exp", whole)
    graph = b.build([b("tanh", part)])

    def last(places: dict[Value, tuple[Value, int]]) -> int:
        lifetimes = Lifetimes(graph, Aliases(places), keeps_branches_apart=False)
        return next(n for n in range(4) if lifetimes.ends(whole, n))

    assert last({}) == 1 and last({part: (whole, 0)}) == 2


def test_branches_are_known_by_what_they_need() -> None:
    graph = branches()
    lifetimes = Lifetimes(graph, Aliases({}), keeps_branches_apart=True)
    edges = graph.as_networkx()
    edges.add_nodes_from(graph.nodes)
    for node in graph.nodes:
        assert lifetimes.before(node.output) == bits(graph, nx.ancestors(edges, node))
        assert lifetimes.users(node.output) == bits(graph, {node, *edges.successors(node)})


def test_users_of_parts_are_users_of_the_whole() -> None:
    graph = branches()
    neg, exp, *_ = graph.nodes
    aliases = Aliases({exp.output: (neg.output, 0)})
    lifetimes = Lifetimes(graph, aliases, keeps_branches_apart=True)
    readers = {*graph.users[neg.output], *graph.users[exp.output]}
    assert lifetimes.users(neg.output) == bits(graph, {neg, exp, *readers})


def test_where_branches_need_not_be_kept_apart_nothing_is_asked() -> None:
    graph = branches()
    lifetimes = Lifetimes(graph, Aliases({}), keeps_branches_apart=False)
    value = graph.nodes[0].output
    assert lifetimes.before(value) == ANYTHING and lifetimes.users(value) == 0
