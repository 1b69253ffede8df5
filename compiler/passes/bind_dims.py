"""Free dims become numbers or get narrower ranges: a graph for batch 64 out of one for any batch.

Every type is inferred again, so a binding under which shapes no longer fit is refused by the op
concerned. Graphs nested in attributes are bound as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from netloom.errors import UsageError

from .. import dim
from ..dim import Dim, Extent, Symbol
from ..graph import Builder, Graph, Node, State, Value, map_extents, nested_graphs
from ..loops.ir import LOOP_VARIABLE

Binding: TypeAlias = "int | range | tuple[int, int | None]"


def bind_dims(graph: Graph, bindings: Mapping[str, Binding]) -> Graph:
    """The graph with free dims bound by name: to a number, to a narrower range (lo, hi), or to the
    multiples of a range's step that it holds.

    UsageError for a name that the graph lacks, or a number or range outside the dim's range.
    """
    known = {symbol.name: symbol for symbol in graph.symbols}
    for name in bindings:
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise UsageError(f"there is no free dim {name}.", hint=f"The free dims are: {names}.")
    return substitute_symbols(
        graph, {known[name]: _narrowed(known[name], to) for name, to in bindings.items()}
    )


def own_names(symbols: Sequence[Symbol]) -> dict[Symbol, Symbol]:
    """What kernels call those free dims whose names are left to their loops."""
    taken = {symbol.name for symbol in symbols}
    found = {}
    for symbol in symbols:
        if LOOP_VARIABLE.fullmatch(symbol.name):
            name = f"{symbol.name}_"
            while name in taken:
                name += "_"
            taken.add(name)
            found[symbol] = dataclasses.replace(symbol, name=name)
    return found


def _narrowed(symbol: Symbol, to: Binding) -> Extent:
    lo, hi, step = _numbers(to)
    limit = dim.bounds(Dim.of(symbol))[1]
    if (
        lo < symbol.lo
        or (hi is not None and hi < lo)
        or (limit is not None and (hi is None or hi > limit))
    ):
        allowed = f"{symbol.lo}..{'' if limit is None else limit}"
        raise UsageError(
            f"dim {symbol.name} = {lo}..{'' if hi is None else hi} is outside its range {allowed}"
        )
    if isinstance(to, int):
        return to
    if lo % step:
        raise UsageError(
            f"dim {symbol.name} = {lo}..{hi}:{step} does not begin at a multiple of {step}"
        )
    return Dim.of(Symbol(symbol.name, lo // step, None if hi is None else hi // step)) * step


def _numbers(binding: Binding) -> tuple[int, int | None, int]:
    """(least, most, step)"""
    match binding:
        case int():
            return binding, binding, 1
        case range():
            return binding.start, binding.stop - 1, binding.step
        case lo, hi:
            return lo, hi, 1


def substitute_symbols(graph: Graph, values: Mapping[Symbol, Extent]) -> Graph:
    """The graph with symbols replaced in every type and attribute, nested graphs included."""
    done: dict[Graph, Graph] = {}
    for inner in innermost_first(graph):
        if inner not in done:
            done[inner] = _substitute(inner, values, done)
    return done[graph]


def innermost_first(graph: Graph) -> list[Graph]:
    """The graph and all graphs nested in it, each after those that it holds (some more than
    once).
    """
    order: list[Graph] = []
    stack = [graph]
    while stack:
        item = stack.pop()
        order.append(item)
        for node in item.nodes:
            stack += nested_graphs(node)
    return order[::-1]


def _substitute(
    graph: Graph, values: Mapping[Symbol, Extent], nested: Mapping[Graph, Graph]
) -> Graph:
    b = Builder(graph.name)
    mapping = {
        value: dataclasses.replace(value, type=value.type.substitute(values))
        for value in graph.sources
    }
    b.inputs = [mapping[value] for value in graph.inputs]
    for node in graph.nodes:
        inputs = [mapping[value] for value in node.inputs]
        copy = b.add(
            node.op, inputs, substitute_attrs(node, values, nested), node.label, node.outputs
        )
        mapping.update(zip(node.outputs, copy.outputs, strict=True))
    b.states = [_moved(state, mapping) for state in graph.states]
    return b.build([mapping[value] for value in graph.outputs], graph.output_names)


def _moved(state: State, mapping: Mapping[Value, Value]) -> State:
    return dataclasses.replace(state, input=mapping[state.input], output=mapping[state.output])


def substitute_attrs(
    node: Node, values: Mapping[Symbol, Extent], nested: Mapping[Graph, Graph]
) -> Any:
    """A node's attributes with symbols replaced, and nested graphs looked up in ``nested``."""
    attrs = map_extents(node.attrs, values)
    if not nested_graphs(node):
        return attrs
    fields = ((field.name, getattr(attrs, field.name)) for field in dataclasses.fields(attrs))
    return dataclasses.replace(
        attrs, **{name: nested[part] for name, part in fields if isinstance(part, Graph)}
    )
