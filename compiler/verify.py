"""The rules that every graph keeps, checked: a broken one is a defect in netloom, and the message
names the node.

Values are defined once and before use; types are what the ops infer; attributes are instances of
the op's dataclass; names are unique; a state's three types agree; every symbol comes from a source
or from a ``data_dim`` node before its uses; layouts cover their value's axes. Nested graphs are
checked too; their nodes may use the symbols of the graphs around them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn, TypeAlias
from weakref import WeakKeyDictionary

from netloom.errors import VerificationError

from . import dim
from .constant import Constant
from .dim import Dim, Symbol
from .graph import Graph, Node, Value, field_names, nested_graphs
from .ops.data_dims import data_dim_of
from .ops.iteration import turn_of
from .tensor_type import TensorType

# nodes that were verified, with the symbols that they may use: nodes never change. They are not kept
# here, for constants would keep their contents in memory.
Verified: TypeAlias = WeakKeyDictionary[Node, frozenset[Symbol]]


def verify(graph: Graph, verified: Verified | None = None) -> None:
    """Raises VerificationError if the graph, or one nested in it, breaks a rule. What holds of a
    node by itself is looked at once for all graphs that are verified with the same ``verified``.
    """
    seen: Verified = WeakKeyDictionary() if verified is None else verified
    stack: list[tuple[Graph, frozenset[Symbol]]] = [(graph, frozenset())]
    while stack:
        item, outer = stack.pop()
        symbols = _verify_one(item, outer, seen)
        for node in item.nodes:
            turn = turn_of(node)
            known = symbols if turn is None else symbols | {turn}
            stack += [(inner, known) for inner in nested_graphs(node)]


def symbols_in(*items: Any) -> frozenset[Symbol]:
    """All symbols in types and attributes (those of nested graphs are not counted)."""
    return dim.symbols_of(list(dict.fromkeys(_dims(items))))


def _dims(items: Iterable[Any]) -> Iterator[Dim]:
    stack = list(items)
    while stack:
        match stack.pop():
            case int():
                pass
            case Dim() as extent:
                yield extent
            case tuple() as parts:
                stack += parts
            case TensorType(_, shape):
                stack += shape
            case Graph():
                pass
            case item:
                stack += [getattr(item, name) for name in field_names(type(item))]


def _verify_one(graph: Graph, outer: frozenset[Symbol], verified: Verified) -> frozenset[Symbol]:
    """Checks one graph; returns the symbols that its nested graphs may use."""
    _verify_border(graph)
    symbols = _own_symbols(graph, outer)
    defined: set[Value] = set(graph.sources)
    known: set[TensorType] = set()
    for position, node in enumerate(graph.nodes):
        where = node.label or f"node {position} ({node.op.name})"
        if not defined.issuperset(node.inputs):
            _fail(where, f"{node.op.name} uses a value before it is defined")
        for value in node.outputs:
            if value in defined:
                _fail(where, f"{node.op.name} defines a value that is defined already")
            defined.add(value)
        born = data_dim_of(node)
        if (bound := born or turn_of(node)) is not None:
            taken = bound.name in {symbol.name for symbol in symbols}
            _require(not taken, where, f"the dim {bound.name} is bound already")
        if born is not None:
            symbols |= {born}
        if verified.get(node) == symbols:
            continue
        verified[node] = symbols
        _verify_node(node, where)
        fresh = [value.type for value in node.outputs if value.type not in known]
        known.update(fresh)
        if strange := symbols_in(node.attrs, *fresh) - symbols - {turn_of(node)}:
            _fail(where, f"no source has the dims {sorted(s.name for s in strange)}")
    for name, value in zip(_result_names(graph), graph.results, strict=True):
        _require(value in defined, name, "the result is not defined")
    return symbols


def _verify_border(graph: Graph) -> None:
    _require(
        len(graph.outputs) == len(graph.output_names),
        graph.name,
        "outputs and output names differ in number",
    )
    _require(
        len(set(graph.sources)) == len(graph.sources),
        graph.name,
        "a value is two inputs or states at once",
    )
    for kind, names in (
        ("input", [value.label for value in graph.inputs]),
        ("output", graph.output_names),
        ("state", [state.name for state in graph.states]),
    ):
        _require(
            len(set(names)) == len(names), graph.name, f"two {kind}s have one name: {sorted(names)}"
        )
    for state in graph.states:
        types = (state.input.type, state.output.type, state.initial.type)
        agree = types[0] == types[1] == types[2]
        _require(
            agree, state.name, "the state reads {}, becomes {} and starts as {}".format(*types)
        )
    for value in graph.sources:
        _verify_layout(value, value.label)


def _own_symbols(graph: Graph, outer: frozenset[Symbol]) -> frozenset[Symbol]:
    symbols = outer | symbols_in(*(value.type for value in graph.sources))
    names = [symbol.name for symbol in symbols]
    twice = sorted({name for name in names if names.count(name) > 1})
    _require(not twice, graph.name, f"the dims {twice} have two ranges")
    return symbols


def _verify_node(node: Node, where: str) -> None:
    expected = node.op.attrs
    if type(node.attrs) is not expected:  # a message of the attributes takes time: only now
        raise VerificationError(
            f"{node.op.name} takes {expected.__name__}, not {node.attrs!r}", node=where
        )
    try:
        types = list(node.op.infer(node.attrs, [value.type for value in node.inputs]))
    except ValueError as error:
        raise VerificationError(f"{node.op.name}: {error}", node=where) from error
    found = [value.type for value in node.outputs]
    if types != found:
        raise VerificationError(
            f"{node.op.name} is {_list(found)}, but infers {_list(types)}", node=where
        )
    constant = getattr(node.attrs, "value", None)
    if isinstance(constant, Constant) and constant.type != found[0]:
        _fail(where, f"the constant is {constant.type}, not {found[0]}")
    for value in node.outputs:
        _verify_layout(value, where)


def _verify_layout(value: Value, where: str) -> None:
    if value.layout is None:
        return
    if {part.axis for part in value.layout.parts} != set(range(value.type.rank)):
        _fail(where, f"layout {value.layout} does not fit {value.type}")


def _result_names(graph: Graph) -> list[str]:
    return [*graph.output_names, *(state.name for state in graph.states if not state.is_unchanged)]


def _list(types: Sequence[TensorType]) -> str:
    return ", ".join(map(str, types))


def _require(condition: bool, where: str, message: str) -> None:
    if not condition:
        _fail(where, message)


def _fail(where: str, message: str) -> NoReturn:
    raise VerificationError(message, node=where)
