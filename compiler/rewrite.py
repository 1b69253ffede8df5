"""Rewriting: the one way in which a graph becomes another, and rules that read like their
equations.

``rewrite`` walks a graph in order and offers each node, over its new inputs, to a function that may
put values in its place; what that adds is offered again; nodes that no result needs are dropped.
Types never change. ``Rule``s are such a function made of data: a pattern, a check that gives its
reason when it refuses, and a rewrite, e.g.

    Rule("(x * a) * b => x * (a * b)",
         lambda p: p("mul", p("mul", p.x, p.a), p.b),
         lambda b, m: b("mul", m.x, b("mul", m.a, m.b)),
         check=lambda m: m.is_constant(m.a, m.b) or "a and b must be constants")
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from netloom.errors import VerificationError

from .constant import Constant
from .data_dims import symbols_needed
from .dim import Symbol
from .graph import Builder, Graph, Node, Value
from .op import Op
from .ops.data_dims import DATA_DIM, data_dim_of

MAX_SWEEPS = 100
MAX_REPLACEMENTS_PER_NODE = 100

Replace: TypeAlias = "Callable[[Rewriter, Node], Sequence[Value] | None]"


# -- the rewriter ----------------------------------------------------------------------------------


class Rewriter(Builder):
    """The builder of the new graph; it knows who makes a value and how often it will be used."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.name)
        self.inputs, self.states = list(graph.inputs), list(graph.states)
        self.producers: dict[Value, Node] = {}
        self._uses = Counter(value for node in graph.nodes for value in node.inputs)
        self._uses.update(graph.results)
        self._mapping: dict[Value, Value] = {}
        self.replacements = 0

    def constant_of(self, value: Value) -> Constant | None:
        """The constant that a value is, if a ``constant`` node makes it."""
        node = self.producers.get(value)
        return node.attrs.value if node is not None and node.op.name == "constant" else None

    def uses(self, value: Value) -> int:
        """How many inputs and results the value feeds; dead nodes of this sweep may still count."""
        return self._uses[value]

    def add(
        self,
        op: Op,
        inputs: Sequence[Value],
        attrs: Any,
        label: str = "",
        outputs: Sequence[Value] | None = None,
    ) -> Node:
        """Add a node (see ``Builder.add``)."""
        node = super().add(op, inputs, attrs, label, outputs)
        for value in node.outputs:
            self.producers[value] = node
        for value in inputs:
            self._uses[value] += 1
        return node

    def replace_source(self, value: Value, replacement: Value) -> None:
        """Every use of an input or state of the old graph reads ``replacement``."""
        self._alias(value, replacement)

    def run(self, nodes: Sequence[Node], replace: Replace) -> None:
        """Take over ``nodes`` in order. What ``replace`` adds is taken over in turn, before the
        nodes that follow.
        """
        pending: list[Node | tuple[Node, Sequence[Value]]] = list(reversed(nodes))
        limit = MAX_REPLACEMENTS_PER_NODE * (len(nodes) + 1)
        while pending:
            item = pending.pop()
            if isinstance(item, tuple):
                self._put(*item)
                continue
            node = self._take_over(item)
            start = len(self.nodes)
            self.label = node.label
            found = replace(self, node)
            self.label = ""
            if found is not None:
                self.replacements += 1
                if self.replacements > limit:
                    raise VerificationError(
                        "rewriting does not end", node=node.label or node.op.name
                    )
                added = self.nodes[start:]
                del self.nodes[start:]
                pending.append((node, found))
                pending += reversed(added)

    def finish(self, graph: Graph) -> Graph:
        """The new graph: names, outputs and states of ``graph``, and only the nodes that they
        need.
        """
        states = tuple(dataclasses.replace(s, output=self.new(s.output)) for s in graph.states)
        outputs = tuple(self.new(value) for value in graph.outputs)
        return without_dead_nodes(
            dataclasses.replace(graph, nodes=tuple(self.nodes), outputs=outputs, states=states)
        )

    def new(self, value: Value) -> Value:
        """What stands in the new graph for a value (of the old graph, or one replaced since)."""
        chain = []
        while value in self._mapping:
            chain.append(value)
            value = self._mapping[value]
        for old in chain[:-1]:
            self._mapping[old] = value
        return value

    def _take_over(self, node: Node) -> Node:
        """The node itself if its inputs are unchanged, else a copy over the new inputs."""
        if self._mapping.keys().isdisjoint(node.inputs):  # so it is for nearly all nodes
            self.nodes.append(node)
            for value in node.outputs:
                self.producers[value] = node
            return node
        inputs = tuple(self.new(value) for value in node.inputs)
        copy = super().add(node.op, inputs, node.attrs, node.label, node.outputs)
        self.producers.update(dict.fromkeys(copy.outputs, copy))
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            if old.type != new.type:
                raise VerificationError(
                    f"{node.op.name} was {old.type} and became {new.type}", node=node.label
                )
            self._alias(old, new)
        return copy

    def _put(self, node: Node, found: Sequence[Value]) -> None:
        """Let the values of ``found``, as they stand now, replace the node's outputs."""
        for old, value in zip(node.outputs, found, strict=True):
            new = self.new(value)
            if new.type != old.type or new.layout != old.layout:
                raise VerificationError(
                    f"{node.op.name} is {old.type}, its replacement {new.type}", node=node.label
                )
            self._alias(old, new)

    def _alias(self, old: Value, new: Value) -> None:
        if old is not new:
            self._mapping[old] = new
            self._uses[new] += self._uses[old]


def rewrite(graph: Graph, replace: Replace) -> Graph:
    """The graph with nodes replaced where ``replace(rewriter, node)`` gives values; itself if
    nothing changes.
    """
    rewriter = Rewriter(graph)
    rewriter.run(graph.nodes, replace)
    return rewriter.finish(graph) if rewriter.replacements else without_dead_nodes(graph)


def without_dead_nodes(graph: Graph) -> Graph:
    """The graph without the nodes that no result needs; itself if there are none. A data dim is
    needed where a type or an attribute holds its symbol.
    """
    needed = set(graph.results)
    has_dims = any(node.op is DATA_DIM for node in graph.nodes)
    needed_dims: set[Symbol] = set()
    kept = []
    for node in reversed(graph.nodes):
        is_dim = node.op is DATA_DIM and data_dim_of(node) in needed_dims
        if is_dim or not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            if has_dims:
                needed_dims |= symbols_needed(node)
            kept.append(node)
    return (
        graph
        if len(kept) == len(graph.nodes)
        else dataclasses.replace(graph, nodes=tuple(reversed(kept)))
    )


# -- patterns --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variable:
    """Matches anything; the same thing wherever its name occurs again."""

    name: str


@dataclass(frozen=True)
class Applied:
    """Matches a value made by an op. ``attrs`` maps fields to a value or a variable; ``name``
    binds the node.
    """

    op: str
    inputs: tuple[Pattern, ...]
    attrs: tuple[tuple[str, Any], ...]
    name: str


Bound: TypeAlias = Mapping[str, Any]  # what the variables of a pattern stand for
Pattern: TypeAlias = "Variable | Applied | float | int"


class PatternBuilder:
    """``p.x`` is a variable; ``p("add", p.x, 0.0)`` a node, its attributes matched if given;
    numbers match splats.
    """

    def __getattr__(self, name: str) -> Variable:
        return Variable(name)

    def __call__(self, op: str, *inputs: Pattern, node: str = "", **attrs: Any) -> Applied:
        return Applied(op, inputs, tuple(attrs.items()), node)


class Match:
    """What the variables of a pattern stand for (``m.x``), and what is known of it."""

    def __init__(self, rewriter: Rewriter, root: Node, bound: Bound) -> None:
        self.rewriter = rewriter
        self.root = root
        self.bound = bound

    def __getattr__(self, name: str) -> Any:
        return self.bound[name]

    def is_constant(self, *values: Value) -> bool:
        """Whether all are constants."""
        return all(self.rewriter.constant_of(value) is not None for value in values)

    def is_only_use(self, *values: Value) -> bool:
        """Whether nothing but this match reads the values."""
        return all(self.rewriter.uses(value) == 1 for value in values)


@dataclass(frozen=True)
class Rule:
    """An equation on graphs. ``check`` gives True, or the reason for which the rule does not
    hold here.
    """

    name: str
    pattern: Callable[[PatternBuilder], Applied]
    rewrite: Callable[[Rewriter, Match], Value]
    check: Callable[[Match], bool | str] = lambda m: True


def matches(rewriter: Rewriter, pattern: Pattern, value: Value, bound: Bound) -> Iterator[Bound]:
    """All ways to bind the pattern's variables so that it is ``value`` (commutative ops: both
    orders).
    """
    match pattern:
        case Variable(name):
            yield from _bind(bound, name, value)
        case Applied(op, inputs, attrs, name):
            node = rewriter.producers.get(value)
            if node is not None and node.op.name == op and len(node.inputs) == len(inputs):
                for named in _bind(bound, name, node) if name else (bound,):
                    for found in _match_attributes(node, attrs, named):
                        yield from _match_inputs(rewriter, node, inputs, found)
        case number:
            constant = rewriter.constant_of(value)
            if (
                constant is not None
                and constant.is_splat
                and _is_same_number(constant.splat_value, number)
            ):
                yield bound


def _is_same_number(found: Any, number: float | int) -> bool:
    """Equal, and of equal sign if zero."""
    return bool(
        found == number and (number != 0 or np.signbit(float(found)) == np.signbit(float(number)))
    )


def _bind(bound: Bound, name: str, item: Any) -> Iterator[Bound]:
    if name not in bound:
        yield {**bound, name: item}
    elif bound[name] is item or (not isinstance(item, Value | Node) and bound[name] == item):
        yield bound


def _match_attributes(
    node: Node, attrs: Sequence[tuple[str, Any]], bound: Bound
) -> Iterator[Bound]:
    for field, wanted in attrs:
        actual = getattr(node.attrs, field)
        if isinstance(wanted, Variable):
            extended = next(_bind(bound, wanted.name, actual), None)
            if extended is None:
                return
            bound = extended
        elif actual != wanted:
            return
    yield bound


def _match_inputs(
    rewriter: Rewriter, node: Node, patterns: Sequence[Pattern], bound: Bound
) -> Iterator[Bound]:
    orders = [node.inputs]
    if node.op.commutative and len(node.inputs) == 2:
        orders.append(node.inputs[::-1])
    for values in orders:
        partial: list[Bound] = [bound]
        for pattern, value in zip(patterns, values, strict=True):
            partial = [
                found for known in partial for found in matches(rewriter, pattern, value, known)
            ]
        yield from partial


# -- rules -----------------------------------------------------------------------------------------

# rule name, root of the match, "applied" or why not
Explain: TypeAlias = "Callable[[str, Node, str], None]"


class RuleSet:
    """Rules ready to be tried, found by the op at the pattern's root."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.by_op: dict[str, list[tuple[Rule, Applied]]] = defaultdict(list)
        for rule in rules:
            pattern = rule.pattern(PatternBuilder())
            self.by_op[pattern.op].append((rule, pattern))

    def replace(
        self, rewriter: Rewriter, node: Node, explain: Explain | None = None
    ) -> Sequence[Value] | None:
        """What the first rule that holds puts in the node's place."""
        if len(node.outputs) != 1:
            return None
        for rule, pattern in self.by_op.get(node.op.name, ()):
            for bound in matches(rewriter, pattern, node.output, {}):
                match = Match(rewriter, node, bound)
                verdict = rule.check(match)
                if explain is not None:
                    explain(rule.name, node, "applied" if verdict is True else str(verdict))
                if verdict is True:
                    return [_rewritten(rule, rewriter, match)]
        return None


def _rewritten(rule: Rule, rewriter: Rewriter, match: Match) -> Value:
    value = rule.rewrite(rewriter, match)
    old = match.root.output
    if value.type != old.type:
        raise VerificationError(
            f"rule {rule.name!r} made {value.type} of {old.type}", node=match.root.label
        )
    return value


def apply_rules(
    graph: Graph, rules: Sequence[Rule] | RuleSet, explain: Explain | None = None
) -> Graph:
    """The graph after no rule applies any more (VerificationError if that is not reached in
    MAX_SWEEPS sweeps).
    """
    ready = rules if isinstance(rules, RuleSet) else RuleSet(rules)
    for _ in range(MAX_SWEEPS):
        new = rewrite(graph, lambda rewriter, node: ready.replace(rewriter, node, explain))
        if new is graph:
            return graph
        graph = new
    raise VerificationError(
        f"the rules do not come to an end within {MAX_SWEEPS} sweeps", node=graph.name
    )
