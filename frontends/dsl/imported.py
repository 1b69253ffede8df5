"""Graphs of other frontends as parts of networks: their constants become parameters, their batch
norms take the training form, and a network may go on from any of their values.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any

from netloom.compiler import dim
from netloom.compiler.constant import Constant
from netloom.compiler.dim import Dim, Extent, Symbol
from netloom.compiler.graph import Graph, Node, Value
from netloom.compiler.ops.iteration import ITERATE
from netloom.compiler.passes.bind_dims import substitute_symbols
from netloom.compiler.passes.unroll_turns import unroll_turns
from netloom.compiler.tensor_type import TensorType
from netloom.errors import ShapeError, UnsupportedOpError, UsageError, quoted

from .initializers import Fans
from .network import Network, TracedGraph
from .normalizations import batch_normalized
from .trace import Symbolic

MOMENTUM = 0.1  # of the running statistics, unless a layer says otherwise
STATISTICS = (3, 4)  # inputs of batch_norm that are no parameters: running mean and variance
# ops that draw random numbers: which of their inputs is the key
_KEYS = {"dropout": 1, "random_bits": 0, "random_normal": 0, "random_uniform": 0}


def trainable(graph: Graph) -> TracedGraph:
    """A graph that holds its weights as constants, such as an ONNX model, as one to be trained.

    Its named floating-point constants of rank 1 and above become parameters of the same names; the
    running statistics of batch norms become states that the training form moves. Random numbers are
    drawn anew in each step of a training. Turns of a known number become copies, which have
    gradients; UnsupportedOpError for weights in others.
    """
    graph = unroll_turns(graph)
    _refuse_weights_of_turns(graph)
    function = functools.partial(_all_of, graph)
    types: dict[str, Any] = {value.label: value.type for value in graph.inputs}
    if taken := {"training", "seed", "initializer"} & set(types):
        raise UsageError(
            f"an input of the graph is named {min(taken)!r}, which is an option of every network.",
            hint="Rename the input, or use the graph by nl.apply inside a network.",
        )
    return Network(function, given_name=graph.name).graph(**types)


def _refuse_weights_of_turns(graph: Graph) -> None:
    for node in graph.nodes:
        if node.op is ITERATE and any(
            _names_of_constants(body) for body, _ in node.attrs.body.walk()
        ):
            raise UnsupportedOpError(
                "its weights cannot be trained: data or free dims decide how many turns it has.",
                node=node.label,
                hint="Fix the free dims that decide it (dims=), or use the graph by nl.apply.",
            )


def _all_of(graph: Graph, **inputs: Symbolic) -> dict[str, Symbolic]:
    found = _Copy(graph, [inputs[value.label] for value in graph.inputs]).values(graph.outputs)
    return dict(zip(graph.output_names, found, strict=True))


def apply(graph: Graph, *inputs: Symbolic, output: str | None = None) -> Symbolic:
    """Use a graph inside a network: its value ``output`` for these inputs.

    ``output`` is the name of an output or of a node, such as the last one that a new head shall
    keep; by default the graph's only output. Only what that value needs is taken over. UsageError
    for a name that the graph has not, ShapeError for inputs that do not fit.
    """
    graph = unroll_turns(graph)
    return _Copy(graph, inputs).values([_named(graph, output)])[0]


def _named(graph: Graph, name: str | None) -> Value:
    if name is None and len(graph.outputs) == 1:
        return graph.outputs[0]
    known = {node.label: node.output for node in graph.nodes if node.label and node.inputs}
    known |= dict(zip(graph.output_names, graph.outputs, strict=True))
    if name is None:
        raise UsageError(
            f"the graph has {len(graph.outputs)} outputs.",
            hint=f"Say which one by output=: {quoted(list(graph.output_names), 5)}.",
        )
    if name not in known:
        raise UsageError(
            f"the graph has no value {name!r}.", hint=f"It has {quoted(list(known)[::-1], 8)}."
        )
    return known[name]


class _Copy:
    """A graph being copied into a trace, as far as values are asked for."""

    def __init__(self, graph: Graph, inputs: tuple[Symbolic, ...] | list[Symbolic]) -> None:
        if len(inputs) != len(graph.inputs) or not inputs:
            names = ", ".join(value.label for value in graph.inputs)
            raise UsageError(
                f"the graph takes {len(graph.inputs)} inputs ({names}), not {len(inputs)}."
            )
        self.trace = inputs[0].trace
        given = [value.type for value in inputs]
        self.graph = substitute_symbols(graph, _bindings(graph, given))
        # by position: substitution makes values anew, in the same order
        self.position = {
            value: (number, place)
            for number, node in enumerate(graph.nodes)
            for place, value in enumerate(node.outputs)
        }
        self.sources = {value: number for number, value in enumerate(graph.sources)}
        self.known: dict[Value, Symbolic] = dict(zip(self.graph.inputs, inputs, strict=True))
        self.names = _names_of_constants(self.graph)
        for state in self.graph.states:
            self.known[state.input] = self._parameter(
                state.name, state.initial, is_trained=state.is_unchanged
            )

    def values(self, wanted: tuple[Value, ...] | list[Value]) -> list[Symbolic]:
        """The values of the graph that was given, in the trace."""
        here = [self._here(value) for value in wanted]
        for node in _needed(self.graph, here):
            self._copy(node)
        return [self.known[value] for value in here]

    def _here(self, value: Value) -> Value:
        if value in self.sources:
            return self.graph.sources[self.sources[value]]
        number, place = self.position[value]
        return self.graph.nodes[number].outputs[place]

    def _copy(self, node: Node) -> None:
        if node.op.name == "constant":
            self.known[node.output] = self._constant(node)
        elif node.op.name == "batch_norm" and self.trace.training:
            x, *rest = (self.known[value] for value in node.inputs)
            self.known[node.output] = batch_normalized(
                x, *rest, epsilon=node.attrs.epsilon, momentum=MOMENTUM, label=node.label
            )
        else:
            inputs = [self.known[value].value for value in node.inputs]
            if node.op.name in _KEYS and self.trace.training:  # other numbers in each step
                inputs[_KEYS[node.op.name]] = self.trace.random_key().value
            outputs = self.trace.b.copy(node, inputs)
            for old, new in zip(node.outputs, outputs, strict=True):
                self.known[old] = Symbolic(new, self.trace)

    def _constant(self, node: Node) -> Symbolic:
        constant, readers = node.attrs.value, self.graph.users[node.output]
        places = {
            (reader.op.name, place)
            for reader in readers
            for place, value in enumerate(reader.inputs)
            if value is node.output
        }
        is_statistic = places and all(
            name == "batch_norm" and place in STATISTICS for name, place in places
        )
        if node not in self.names:
            return Symbolic(self.trace.b.constant(constant, label=node.label), self.trace)
        return self._parameter(self.names[node], constant, is_trained=not is_statistic)

    def _parameter(self, name: str, constant: Constant, is_trained: bool) -> Symbolic:
        def given(_type: TensorType, _fans: Fans, _generator: object) -> Constant:
            return constant

        return self.trace.parameter(name, constant.type, given, Fans(1, 1), trainable=is_trained)


def _names_of_constants(graph: Graph) -> dict[Node, str]:
    """The constants that become parameters, by name: "w", then "w.1", if several have one label."""
    taken = {state.name for state in graph.states}
    names: dict[Node, str] = {}
    for node in graph.nodes:
        type = node.outputs[0].type
        if node.op.name != "constant" or not (node.label and type.rank and type.dtype.is_float):
            continue
        numbered = (f"{node.label}.{number}" for number in itertools.count(1))
        names[node] = next(n for n in itertools.chain([node.label], numbered) if n not in taken)
        taken.add(names[node])
    return names


def _needed(graph: Graph, wanted: list[Value]) -> list[Node]:
    """The nodes that the values are made of, in order."""
    read = set(wanted)
    found = []
    for node in reversed(graph.nodes):
        if any(value in read for value in node.outputs):
            found.append(node)
            read.update(node.inputs)
    return found[::-1]


def _bindings(graph: Graph, given: list[TensorType]) -> Mapping[Symbol, Extent]:
    """Free dims of the graph -> the extents of what is given in their place."""
    found: dict[Symbol, Extent] = {}
    for value, type in zip(graph.inputs, given, strict=True):
        if type.dtype is not value.dtype or type.rank != value.type.rank:
            raise ShapeError(f"the input {value.label!r} is {value.type}, not {type}")
        for extent, own in zip(value.shape, type.shape, strict=True):
            symbol = _symbol_of(extent)
            if symbol is not None:
                found.setdefault(symbol, own)
        if value.type.substitute(found) != type:
            raise ShapeError(f"the input {value.label!r} is {value.type}, not {type}")
    return found


def _symbol_of(extent: Extent) -> Symbol | None:
    """The symbol that an extent consists of, if it is one."""
    if not isinstance(extent, Dim):
        return None
    return next((s for s in dim.symbols_of([extent]) if Dim.of(s) == extent), None)


__all__ = ["apply", "trainable"]
