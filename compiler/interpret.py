"""The meaning of a graph: every node computed by its op's NumPy reference, one after another.

Slow and complete. Free dims are bound from the shapes of the arrays given; every result is checked
against its type; arrays are freed after their last use. Layouts do not matter here: values are
logical.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np

from netloom.errors import InputError, NetloomError, VerificationError

from . import dim
from .dim import Dim, Symbol
from .graph import Graph, Node, Value, nested_graphs
from .op import Array
from .ops.data_dims import data_dim_of
from .passes.bind_dims import substitute_attrs, substitute_symbols
from .tensor_type import DType, TensorType


@overload
def interpret(
    graph: Graph,
    inputs: Mapping[str, Any],
    states: Mapping[str, Any] | None = None,
    values: Literal[False] = False,
    *,
    symbols: Mapping[Symbol, int] | None = None,
) -> list[Array]: ...


@overload
def interpret(
    graph: Graph,
    inputs: Mapping[str, Any],
    states: Mapping[str, Any] | None = None,
    *,
    values: Literal[True],
    symbols: Mapping[Symbol, int] | None = None,
) -> dict[Value, Array]: ...


def interpret(
    graph: Graph,
    inputs: Mapping[str, Any],
    states: Mapping[str, Any] | None = None,
    values: bool = False,
    *,
    symbols: Mapping[Symbol, int] | None = None,
) -> list[Array] | dict[Value, Array]:
    """The graph's outputs for arrays given by input name; ``values=True`` gives every value
    instead. ``symbols``: those of graphs around this one.

    States that ``states`` lacks read as their initial constants. InputError for arrays that do not
    fit.
    """
    found = _evaluate(graph, inputs, states or {}, values, symbols or {})
    return found if values else [found[value] for value in graph.outputs]


def interpret_step(
    graph: Graph, inputs: Mapping[str, Any], states: Mapping[str, Any] | None = None
) -> tuple[list[Array], dict[str, Array]]:
    """The outputs, and every state by name as the next run will see it."""
    found = _evaluate(graph, inputs, states or {}, False, {})
    return [found[value] for value in graph.outputs], {
        state.name: found[state.output] for state in graph.states
    }


def _evaluate(
    graph: Graph, inputs: Mapping[str, Any], states: Mapping[str, Any], keep_all: bool,
    outer: Mapping[Symbol, int],
) -> dict[Value, Array]:  # fmt: skip
    found = _sources(graph, inputs, states)
    symbols = {**outer, **bind_symbols(graph, found)}
    kept = {*graph.outputs, *(state.output for state in graph.states)}
    uses = Counter(value for node in graph.nodes for value in node.inputs)
    for node in graph.nodes:
        results = evaluate_node(node, [found[value] for value in node.inputs], symbols)
        found.update(zip(node.outputs, results, strict=True))
        if (born := data_dim_of(node)) is not None:
            symbols[born] = int(results[0])
        if not keep_all:
            uses.subtract(node.inputs)
            for value in {*node.inputs, *node.outputs}:
                if not uses[value] and value not in kept:
                    del found[value]
    return found


def _sources(
    graph: Graph, inputs: Mapping[str, Any], states: Mapping[str, Any]
) -> dict[Value, Array]:
    names = {value.label for value in graph.inputs}
    unknown = [name for name in inputs if name not in names]
    missing = [value.label for value in graph.inputs if value.label not in inputs]
    if unknown or missing:
        raise InputError(f"the inputs are {sorted(names)}; missing: {missing}, unknown: {unknown}")
    unknown = sorted(set(states) - {state.name for state in graph.states})
    if unknown:
        raise InputError(f"there are no states {unknown}")
    given = {value: np.asarray(inputs[value.label]) for value in graph.inputs}
    given.update(
        {
            state.input: np.asarray(states.get(state.name, state.initial.array))
            for state in graph.states
        }
    )
    for value, array in given.items():
        if array.dtype != value.dtype.numpy or array.ndim != value.type.rank:
            raise InputError(
                f"{value.label} must be {value.type}, not {array.dtype}{list(array.shape)}"
            )
    return given


def bind_symbols(graph: Graph, arrays: Mapping[Value, Array]) -> dict[Symbol, int]:
    """Each free dim's number, from the shapes of the sources' arrays. InputError if they contradict
    or leave its range.

    An extent binds its symbol if it is the symbol times a number plus a number; others are only
    checked.
    """
    bound: dict[Symbol, int] = {}
    for value in graph.sources:
        for extent, number in zip(value.shape, arrays[value].shape, strict=True):
            solution = _solve(extent, number)
            if solution is not None:
                bound.setdefault(*solution)
    unbound = [symbol.name for symbol in graph.symbols if symbol not in bound]
    if unbound:
        raise InputError(f"no shape of an input tells the dims {unbound}")
    _check_ranges(bound)
    by_name = {symbol.name: number for symbol, number in bound.items()}
    for value in graph.sources:
        if value.type.evaluate(by_name) != arrays[value].shape:
            where = ", ".join(f"{name} = {number}" for name, number in by_name.items())
            raise InputError(
                f"{value.label} must be {value.type}, not {list(arrays[value].shape)} ({where})"
            )
    return bound


def _solve(extent: int | Dim, number: int) -> tuple[Symbol, int] | None:
    """factor * symbol + offset = number."""
    if isinstance(extent, int):
        return None
    varying = [(atoms, factor) for atoms, factor in extent.terms if atoms]
    offset = sum(factor for atoms, factor in extent.terms if not atoms)
    if len(varying) == 1 and len(varying[0][0]) == 1 and isinstance(varying[0][0][0], Symbol):
        (symbol,), factor = varying[0]
        assert isinstance(symbol, Symbol)
        return symbol, (number - offset) // factor
    return None


def _check_ranges(bound: Mapping[Symbol, int]) -> None:
    for symbol, number in bound.items():
        high = dim.bounds(symbol.hi)[1] if symbol.hi is not None else None
        if number < symbol.lo or (high is not None and number > high):
            allowed = f"{symbol.lo}..{'' if high is None else high}"
            raise InputError(f"dim {symbol.name} is {number}, outside its range {allowed}")


def evaluate_node(
    node: Node, arrays: Sequence[Array], symbols: Mapping[Symbol, int]
) -> Sequence[Array]:
    """The node's results; each has the dtype and shape of its type, or VerificationError names
    the node.
    """
    nested = (
        {graph: substitute_symbols(graph, symbols) for graph in nested_graphs(node)}
        if symbols
        else {}
    )
    attrs = substitute_attrs(node, symbols, nested) if symbols else node.attrs
    types = (
        [value.type.substitute(symbols) for value in node.outputs]
        if symbols
        else [v.type for v in node.outputs]
    )
    try:
        with np.errstate(all="ignore"):
            results = node.op.reference(attrs, arrays, types)
    except NetloomError:
        raise
    except IndexError as error:
        raise InputError(f"{node.op.name}: {error}", node=node.label) from error
    except Exception as error:
        shapes = ", ".join(f"{array.dtype}{list(array.shape)}" for array in arrays)
        message = f"the reference of {node.op.name} failed on ({shapes}): {error}"
        raise VerificationError(message, node=node.label) from error
    _check_results(node, types, results)
    return results


def _check_results(node: Node, types: Sequence[TensorType], results: Sequence[Array]) -> None:
    if len(results) != len(types):
        raise VerificationError(
            f"{node.op.name} gave {len(results)} results, not {len(types)}", node=node.label
        )
    for type, array in zip(types, results, strict=True):
        if array.dtype != type.dtype.numpy or array.shape != type.static_shape:
            found = TensorType(DType.of(array.dtype), array.shape)
            raise VerificationError(
                f"{node.op.name} gave {found} where its type is {type}", node=node.label
            )
