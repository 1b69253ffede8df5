"""The graph IR: a network as a DAG of nodes in topological order.

A ``Node`` applies an ``Op`` to ``Value``s; nodes and values are compared by identity and never
change. State (parameters, optimizer state, statistics, generator keys) is a list of (name, value
before, value after, initial): the graph itself stays pure. A node's attributes may hold a ``Graph``
(a fused kernel's body); every walk over graphs here and elsewhere uses an explicit stack, so depth
is no limit. All new graphs are made through ``Builder``.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from netloom.errors import ShapeError, UnsupportedOpError

from . import dim, ops  # noqa: F401  (importing the families fills OPS)
from .constant import Constant
from .dim import Dim, Extent, Symbol
from .layout import Layout
from .op import OPS, Op
from .ops.data_dims import data_dim_of
from .ops.iteration import turn_of
from .tensor_type import DType, TensorType

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True, eq=False)
class Value:
    """An edge of the DAG. ``label`` is the frontend's name: data for messages, never code. No
    layout: row-major.
    """

    type: TensorType
    label: str = ""
    layout: Layout | None = None

    @property
    def shape(self) -> tuple[Extent, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    def __repr__(self) -> str:
        return f"<value {self.label or '?'}: {self.type}>"


@dataclass(frozen=True, eq=False)
class Node:
    """An application of an op. ``attrs`` is an instance of ``op.attrs``."""

    op: Op
    inputs: tuple[Value, ...]
    attrs: Any
    outputs: tuple[Value, ...]
    label: str = ""

    @property
    def output(self) -> Value:
        """The only output."""
        (value,) = self.outputs
        return value

    def __repr__(self) -> str:
        return f"<node {self.op.name} {self.label}>"


@dataclass(frozen=True, eq=False)
class State:
    """A named tensor that outlives a run: the graph reads ``input`` and the next run sees
    ``output``.
    """

    name: str
    input: Value
    output: Value
    initial: Constant

    @property
    def is_unchanged(self) -> bool:
        return self.input is self.output


@dataclass(frozen=True, eq=False)
class Graph:
    """A DAG. ``inputs`` carry their names as labels; ``output_names`` name the outputs."""

    name: str
    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    output_names: tuple[str, ...]
    states: tuple[State, ...] = ()

    @property
    def sources(self) -> tuple[Value, ...]:
        """Values that no node makes: inputs, then states."""
        return self.inputs + tuple(state.input for state in self.states)

    @property
    def results(self) -> tuple[Value, ...]:
        """Values that must be computed: outputs, then changed states."""
        return self.outputs + tuple(state.output for state in self.states if not state.is_unchanged)

    @cached_property
    def producers(self) -> Mapping[Value, Node]:
        """Which node makes a value (sources are absent)."""
        return {value: node for node in self.nodes for value in node.outputs}

    @cached_property
    def users(self) -> Mapping[Value, tuple[Node, ...]]:
        """The nodes that read a value, in order, each once (results count no user: see
        ``results``).
        """
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                found.setdefault(value, []).append(node)
        return {value: tuple(nodes) for value, nodes in found.items()}

    @cached_property
    def symbols(self) -> tuple[Symbol, ...]:
        """The free dims of the sources, by name."""
        found = dim.symbols_of([extent for value in self.sources for extent in value.shape])
        return tuple(sorted(found, key=lambda s: s.name))

    def inference_form(self) -> Graph:
        """The graph as inference runs it: this one, unless a frontend keeps another form."""
        return self

    def constant_of(self, value: Value) -> Constant | None:
        """The constant that a value is, if a ``constant`` node makes it."""
        node = self.producers.get(value)
        return node.attrs.value if node is not None and node.op.name == "constant" else None

    def as_networkx(self) -> networkx.MultiDiGraph[Node]:
        """Nodes as vertices, values as edges (key: position of the input)."""
        return self._networkx

    @cached_property
    def _networkx(self) -> networkx.MultiDiGraph[Node]:
        import networkx

        result: networkx.MultiDiGraph[Node] = networkx.MultiDiGraph(name=self.name)
        result.add_nodes_from(self.nodes)
        for node in self.nodes:
            for position, value in enumerate(node.inputs):
                producer = self.producers.get(value)
                if producer is not None:
                    result.add_edge(producer, node, key=position, value=value)
        return result

    def walk(self) -> Iterator[tuple[Graph, Node]]:
        """Every node of this graph and of the graphs nested in attributes."""
        stack = [self]
        while stack:
            graph = stack.pop()
            for node in graph.nodes:
                yield graph, node
                stack += nested_graphs(node)

    def __str__(self) -> str:
        from .text import print_graph

        return print_graph(self)


def nested_graphs(node: Node) -> list[Graph]:
    """The graphs held by a node's attributes."""
    fields = (getattr(node.attrs, name) for name in field_names(type(node.attrs)))
    return [value for value in fields if isinstance(value, Graph)]


def born_dims(nodes: Iterable[Node]) -> Iterator[Symbol]:
    """The symbols that nodes bind, and nodes of graphs that they hold: data dims, and turns."""
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if (born := data_dim_of(node) or turn_of(node)) is not None:
            yield born
        stack += [inner for graph in nested_graphs(node) for inner in graph.nodes]


_FIELD_NAMES: dict[type, tuple[str, ...]] = {}


def field_names(kind: type) -> tuple[str, ...]:
    """The fields of a dataclass, looked up once; none of another type."""
    found = _FIELD_NAMES.get(kind)
    if found is None:
        fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        found = _FIELD_NAMES[kind] = tuple(field.name for field in fields)
    return found


def map_extents(item: Any, values: Mapping[Symbol, Extent]) -> Any:
    """Attributes with symbols replaced, through tuples and dataclasses (nested graphs stay as
    they are).
    """
    if isinstance(item, Dim):
        return dim.substitute(item, values)
    if isinstance(item, tuple):
        return tuple(map_extents(part, values) for part in item)
    if isinstance(item, TensorType):
        return item.substitute(values)
    if dataclasses.is_dataclass(item) and not isinstance(item, type | Graph | Symbol | Layout):
        changes = {
            f.name: map_extents(getattr(item, f.name), values) for f in dataclasses.fields(item)
        }
        return dataclasses.replace(item, **changes)
    return item


class Builder:
    """Makes a graph, node by node; types are inferred and checked as nodes are added.

    ``b("conv", x, w, stride=(1, 1))`` adds a node and returns its output value; Python numbers
    among the inputs become constants of the other inputs' dtype. ``b.many`` returns all outputs.
    """

    def __init__(self, name: str = "graph", outer: Builder | None = None) -> None:
        """``outer``: the builder of the graph that this one will be nested in."""
        self.name, self.outer = name, outer
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.states: list[State] = []
        self._numbers: dict[tuple[Any, DType], Value] = {}
        self.label = ""  # given to nodes that get no label of their own
        # names that data dims here and in graphs around this one have been given
        self._numbered_dims: set[str] = set() if outer is None else outer._numbered_dims

    def input(self, type: TensorType, label: str) -> Value:
        """A new input."""
        value = Value(type, label)
        self.inputs.append(value)
        return value

    def state(
        self, name: str, initial: Constant, output: Value | None = None, input: Value | None = None
    ) -> Value:
        """A new state; set its output later with ``update_state`` unless it never changes."""
        value = input or Value(initial.type, name)
        self.states.append(State(name, value, output or value, initial))
        return value

    def update_state(self, value: Value, output: Value) -> None:
        """The state that reads as ``value`` becomes ``output`` after the run."""
        for position, state in enumerate(self.states):
            if state.input is value:
                if output.type != value.type:
                    raise ShapeError(
                        f"state {state.name} is {value.type} and cannot become {output.type}"
                    )
                self.states[position] = dataclasses.replace(state, output=output)
                return
        raise KeyError(value)

    def constant(
        self, array: npt.ArrayLike | Constant, dtype: DType | None = None, label: str = ""
    ) -> Value:
        """A constant tensor."""
        value = array if isinstance(array, Constant) else Constant(array, dtype)
        return self("constant", value=value, label=label)

    def number(self, value: float | int | bool, dtype: DType) -> Value:
        """A scalar constant, shared within the graph."""
        key = (repr(value), dtype)
        if key not in self._numbers:
            self._numbers[key] = self.constant(np.asarray(value, dtype.numpy))
        return self._numbers[key]

    def __call__(
        self, op: str | Op, *inputs: Value | float | int | bool, label: str = "", **attrs: Any
    ) -> Value:
        """Add a node with one output."""
        outputs = self.many(op, *inputs, label=label, **attrs)
        if len(outputs) != 1:
            raise TypeError(f"{op} has {len(outputs)} outputs: use many()")
        return outputs[0]

    def many(
        self, op: str | Op, *inputs: Value | float | int | bool, label: str = "", **attrs: Any
    ) -> tuple[Value, ...]:
        """Add a node; returns all its outputs."""
        record = op if isinstance(op, Op) else OPS.get(op)
        if record is None:
            raise UnsupportedOpError(f"there is no op named {op!r}", node=label)
        values = tuple(x if isinstance(x, Value) else None for x in inputs)
        dtypes = [v.dtype for v in values if v is not None]
        lifted = tuple(
            v if v is not None else self.number(x, dtypes[-1])  # type: ignore[arg-type]
            for v, x in zip(values, inputs, strict=True)
        )
        return self.add(record, lifted, record.attrs(**attrs), label).outputs

    def add(
        self,
        op: Op,
        inputs: Sequence[Value],
        attrs: Any,
        label: str = "",
        outputs: Sequence[Value] | None = None,
    ) -> Node:
        """Add a node from its parts; ``outputs`` gives labels and layouts to keep (types must
        agree).
        """
        label = label or self.label
        try:
            types = op.infer(attrs, [value.type for value in inputs])
        except ValueError as error:
            shapes = ", ".join(str(value.type) for value in inputs)
            raise ShapeError(f"{op.name}({shapes}): {error}", node=label) from error
        if outputs is not None:
            values = tuple(
                Value(t, old.label, old.layout) for t, old in zip(types, outputs, strict=True)
            )
        else:
            values = tuple(Value(t, label) for t in types)
        node = Node(op, tuple(inputs), attrs, values, label)
        self.nodes.append(node)
        return node

    def copy(self, node: Node, inputs: Sequence[Value]) -> tuple[Value, ...]:
        """Add a node like ``node`` over other inputs."""
        return self.add(node.op, inputs, node.attrs, node.label, node.outputs).outputs

    def new_data_dim(self, name: str, bound: Extent) -> Dim:
        """A symbol of a name like this that nothing here has, for a ``data_dim`` node."""
        numbered = (f"{name}_{number}" for number in itertools.count())
        unique = next(name for name in numbered if name not in self._dim_names)
        self._numbered_dims.add(unique)
        return Dim.of(Symbol(unique, 0, bound if isinstance(bound, int) else None))

    @property
    def _dim_names(self) -> set[str]:
        """The names of all dims here, in nested graphs, and in graphs around this one."""
        types = [value.type for value in (*self.inputs, *(state.input for state in self.states))]
        found = {symbol.name for symbol in dim.symbols_of([e for t in types for e in t.shape])}
        found |= {born.name for born in born_dims(self.nodes)} | self._numbered_dims
        return found if self.outer is None else found | self.outer._dim_names

    def build(self, outputs: Iterable[Value], names: Iterable[str] | None = None) -> Graph:
        """The finished graph."""
        results = tuple(outputs)
        given = (
            tuple(names) if names is not None else tuple(f"output{i}" for i in range(len(results)))
        )
        return Graph(
            self.name, tuple(self.inputs), tuple(self.nodes), results, given, tuple(self.states)
        )


def rebuilder(graph: Graph) -> tuple[Builder, dict[Value, Value]]:
    """A builder with the sources of ``graph`` already there (the same Value objects), and the
    map to fill.
    """
    b = Builder(graph.name)
    b.inputs = list(graph.inputs)
    b.states = list(graph.states)
    return b, {value: value for value in graph.sources}


def finish(b: Builder, graph: Graph, mapping: Mapping[Value, Value]) -> Graph:
    """The rebuilt graph: outputs and states of ``graph`` looked up in the map."""
    b.states = [dataclasses.replace(s, output=mapping[s.output]) for s in graph.states]
    return b.build([mapping[v] for v in graph.outputs], graph.output_names)
