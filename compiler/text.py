"""The text form of graphs: ``parse_graph(print_graph(graph))`` is the graph again.

    graph "example" {
      dim N = 1..64
      input %0: float32[N, 8] "x"
      state "w" %1: float32[8, 4] = fill(float32[8, 4], 0.5)
      %2: float32[N, 4] = matmul(%0, %1) "layer"
      %3: float32[N, 4] @ "0 1/16 1%16" = relu(%2)
      output "y" = %3
    }

Names are data: values are numbered, names stand in JSON strings. Attributes are the fields of the
op's dataclass, those with default values left out. A value's label is left out where it is its
node's (or state's) name; a layout follows ``@``; ``next "w" = %4`` says what a state becomes. A
field that holds a graph reads ``graph``, and the graph follows the node as ``with graph "name" {
... }``. Constants of up to 16 elements and splats stand in the text, others by digest.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from netloom.errors import ModelError, NetloomError, UnsupportedOpError

from . import ops as _ops  # noqa: F401  (defines every op)
from .constant import Constant
from .dim import Dim, Symbol, parse_extent
from .graph import Graph, Node, State, Value, nested_graphs
from .layout import Layout, parse_layout
from .op import OPS
from .tensor_type import DType, TensorType, parse_type, split_top_level
from .verify import symbols_in

INLINE_ELEMENTS = 16

_WORDS: dict[str, Any] = {"none": None, "true": True, "false": False} | {
    dtype.value: dtype for dtype in DType
}
_NUMBER = re.compile(r"-?(?:inf|nan|\d+(?:\.\d+)?(?:e[-+]?\d+)?)")


# -- printing --------------------------------------------------------------------------------------


def print_graph(graph: Graph, labels: bool = True) -> str:
    """The text of a graph: equal texts mean equal graphs; without labels, graphs that compute
    the same.
    """
    lines = [f"graph {json.dumps(graph.name)} {{"]
    stack = [_lines(graph, labels)]
    while stack:
        item = next(stack[-1], None)
        indent = "  " * len(stack)
        if item is None:
            stack.pop()
            lines.append(f"{indent[2:]}}}")
        elif isinstance(item, Graph):
            lines.append(f"{indent}with graph {json.dumps(item.name)} {{")
            stack.append(_lines(item, labels))
        else:
            lines.append(indent + item)
    return "\n".join(lines) + "\n"


def is_identical(left: Graph, right: Graph) -> bool:
    """Whether two graphs are equal in structure, names, types, layouts, attributes and
    constants.
    """
    return left is right or print_graph(left) == print_graph(right)


def constants_of(graph: Graph) -> dict[str, Constant]:
    """All constants of a graph and its nested graphs, by digest: what ``parse_graph`` needs
    besides the text.
    """
    found = {state.initial.digest: state.initial for state in graph.states}
    for inner, node in graph.walk():
        found.update((state.initial.digest, state.initial) for state in inner.states)
        value = getattr(node.attrs, "value", None)
        if isinstance(value, Constant):
            found[value.digest] = value
    return found


def _lines(graph: Graph, labels: bool) -> Iterator[str | Graph]:
    """The lines between a graph's braces; a Graph stands for the block of a nested one."""
    numbers: dict[Value, int] = {}
    for symbol in sorted(_symbols(graph), key=lambda s: s.name):
        yield f"dim {symbol.name} = {symbol.lo}..{'' if symbol.hi is None else symbol.hi}"
    for value in graph.inputs:
        yield f"input {_declaration(value, numbers, '', labels)}"
    for state in graph.states:
        declaration = _declaration(state.input, numbers, state.name, labels)
        yield f"state {json.dumps(state.name)} {declaration} = {print_attribute(state.initial)}"
    for node in graph.nodes:
        yield _node_line(node, numbers, labels)
        yield from nested_graphs(node)
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        yield f"output {json.dumps(name)} = {_reference(value, numbers)}"
    for state in graph.states:
        if not state.is_unchanged:
            yield f"next {json.dumps(state.name)} = {_reference(state.output, numbers)}"


def _symbols(graph: Graph) -> frozenset[Symbol]:
    types = dict.fromkeys(value.type for value in graph.sources)
    types.update(dict.fromkeys(value.type for node in graph.nodes for value in node.outputs))
    return symbols_in(*types, *(node.attrs for node in graph.nodes))


def _declaration(value: Value, numbers: dict[Value, int], default_label: str, labels: bool) -> str:
    numbers[value] = len(numbers)
    layout = f' @ "{value.layout}"' if value.layout is not None else ""
    label = f" {json.dumps(value.label)}" if labels and value.label != default_label else ""
    return f"%{numbers[value]}: {value.type}{layout}{label}"


def _reference(value: Value, numbers: Mapping[Value, int]) -> str:
    return f"%{numbers[value]}" if value in numbers else "%undefined"


def _node_line(node: Node, numbers: dict[Value, int], labels: bool) -> str:
    inputs = ", ".join(_reference(value, numbers) for value in node.inputs)
    outputs = ", ".join(_declaration(value, numbers, node.label, labels) for value in node.outputs)
    attributes = _print_attributes(node.attrs)
    label = f" {json.dumps(node.label)}" if labels and node.label else ""
    return f"{outputs} = {node.op.name}({inputs}){attributes}{label}"


def _print_attributes(attrs: Any) -> str:
    parts = []
    for field in dataclasses.fields(attrs):
        text = print_attribute(getattr(attrs, field.name))
        if field.default is dataclasses.MISSING or text != print_attribute(field.default):
            parts.append(f"{field.name} = {text}")
    return f" {{{', '.join(parts)}}}" if parts else ""


def print_attribute(item: Any) -> str:
    """The text of one attribute value; TypeError for a kind of value that has none."""
    match item:
        case None | bool():
            return str(item).lower()
        case int() | float() | TensorType():
            return str(item)
        case str():
            return json.dumps(item)
        case Dim():
            text = str(item)
            return f"({text})" if text in _WORDS or text in ("inf", "nan", "graph") else text
        case tuple():
            inner = ", ".join(map(print_attribute, item))
            return f"({inner},)" if len(item) == 1 else f"({inner})"
        case DType():
            return item.value
        case Layout():
            return f'layout("{item}")'
        case Constant():
            return _print_constant(item)
        case Graph():
            return "graph"
        case _:
            raise TypeError(f"an attribute of type {type(item).__name__} has no text form")


def _print_constant(constant: Constant) -> str:
    if constant.is_splat:
        text = f"fill({constant.type}, {print_attribute(constant.splat_value.item())})"
    elif constant.array.size <= INLINE_ELEMENTS:
        elements = [print_attribute(element) for element in constant.array.ravel().tolist()]
        text = f"dense({', '.join([str(constant.type), *elements])})"
    else:
        return f'digest("{constant.digest}")'
    is_exact = _parse_constant(text, {}, {}) == constant  # not for every NaN
    return text if is_exact else f'digest("{constant.digest}")'


# -- parsing ---------------------------------------------------------------------------------------

_STRING = r'"(?:[^"\\]|\\.)*"'
_DECLARATION = rf'%\d+: [a-z0-9]+\[[^\]]*\](?: @ "[^"]*")?(?: {_STRING})?'
_BLOCK = re.compile(rf"(?:with )?graph ({_STRING}) \{{")
_DIM = re.compile(r"dim (\w+) = (\d+)\.\.(\d*)")
_INPUT = re.compile(rf"input ({_DECLARATION})")
_STATE = re.compile(rf"state ({_STRING}) ({_DECLARATION}) = (.*)")
_BOUND = re.compile(rf"(output|next) ({_STRING}) = (%\w+)")
_NODE = re.compile(
    rf"(?P<outputs>{_DECLARATION}(?:, {_DECLARATION})*) = (?P<op>\w+)\((?P<inputs>[%\w, ]*)\)"
    rf'(?: \{{(?P<attributes>(?:[^"{{}}]|{_STRING})*+)\}})?(?: (?P<label>{_STRING}))?'
)
_PARTS = re.compile(
    rf'(?P<id>%\d+): (?P<type>[a-z0-9]+\[[^\]]*\])(?: @ "(?P<layout>[^"]*)")?(?: (?P<label>{_STRING}))?'
)


def parse_graph(text: str, constants: Mapping[str, Constant] | None = None) -> Graph:
    """The graph that a text describes; ``constants`` holds by digest those that the text only
    names.

    The graph is not verified. ModelError names the first line that is not understood.
    """
    reader = _Reader(constants or {})
    for number, line in enumerate(text.splitlines(), 1):
        try:
            reader.read(line.strip())
        except NetloomError as error:
            raise type(error)(f"line {number}: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"line {number} is not understood: {error}") from error
    if reader.result is None:
        raise ModelError("the text ends before its graph does")
    return reader.result


@dataclasses.dataclass
class _Draft:
    """A graph being read. ``waiting`` is a node whose nested graphs are still to come."""

    name: str
    symbols: dict[str, Symbol]
    values: dict[str, Value] = dataclasses.field(default_factory=dict)
    inputs: list[Value] = dataclasses.field(default_factory=list)
    states: dict[str, State] = dataclasses.field(default_factory=dict)
    nodes: list[Node] = dataclasses.field(default_factory=list)
    outputs: dict[str, Value] = dataclasses.field(default_factory=dict)
    waiting: tuple[re.Match[str], dict[str, Any]] | None = None

    def declare(self, text: str, default_label: str) -> Value:
        match = _PARTS.fullmatch(text)
        if match is None or match["id"] in self.values:
            raise ValueError(f"{text!r} declares no new value")
        label = json.loads(match["label"]) if match["label"] is not None else default_label
        layout = parse_layout(match["layout"]) if match["layout"] is not None else None
        value = Value(parse_type(match["type"], self.symbols), label, layout)
        self.values[match["id"]] = value
        return value

    def build(self) -> Graph:
        if self.waiting is not None:
            raise ValueError("a nested graph is missing")
        outputs, names = tuple(self.outputs.values()), tuple(self.outputs)
        return Graph(
            self.name,
            tuple(self.inputs),
            tuple(self.nodes),
            outputs,
            names,
            tuple(self.states.values()),
        )


class _Reader:
    """Reads line by line, with a stack of the graphs that are open."""

    def __init__(self, constants: Mapping[str, Constant]) -> None:
        self.constants = constants
        self.open: list[_Draft] = []
        self.result: Graph | None = None

    def read(self, line: str) -> None:
        if not line:
            return
        if self.result is not None:
            raise ValueError("there is text after the graph")
        if match := _BLOCK.fullmatch(line):
            if bool(self.open) != line.startswith("with"):
                raise ValueError("only nested graphs begin with 'with'")
            self.open.append(_Draft(json.loads(match[1]), {}))
        elif not self.open:
            raise ValueError('a graph must begin with: graph "name" {')
        elif line == "}":
            self.close()
        else:
            self.read_part(self.open[-1], line)

    def close(self) -> None:
        graph = self.open.pop().build()
        if not self.open:
            self.result = graph
            return
        draft = self.open[-1]
        if draft.waiting is None:
            raise ValueError("no attribute waits for this graph")
        match, fields = draft.waiting
        fields[next(name for name, value in fields.items() if value is Graph)] = graph
        self.add_node(draft, match, fields)

    def read_part(self, draft: _Draft, line: str) -> None:
        if draft.waiting is not None:
            raise ValueError("expected: with graph")
        if match := _NODE.fullmatch(line):
            pairs = (part.partition(" = ") for part in split_top_level(match["attributes"] or ""))
            fields = {
                name: parse_attribute(text, draft.symbols, self.constants)
                for name, _, text in pairs
            }
            self.add_node(draft, match, fields)
        elif match := _DIM.fullmatch(line):
            draft.symbols[match[1]] = Symbol(
                match[1], int(match[2]), int(match[3]) if match[3] else None
            )
        elif match := _INPUT.fullmatch(line):
            draft.inputs.append(draft.declare(match[1], ""))
        elif match := _STATE.fullmatch(line):
            name = json.loads(match[1])
            value = draft.declare(match[2], name)
            initial = parse_attribute(match[3], draft.symbols, self.constants)
            draft.states[name] = State(name, value, value, initial)
        elif match := _BOUND.fullmatch(line):
            self.bind(draft, match[1], json.loads(match[2]), draft.values[match[3]])
        else:
            raise ValueError(line)

    def bind(self, draft: _Draft, kind: str, name: str, value: Value) -> None:
        if kind == "output":
            draft.outputs[name] = value
        else:
            draft.states[name] = dataclasses.replace(draft.states[name], output=value)

    def add_node(self, draft: _Draft, match: re.Match[str], fields: dict[str, Any]) -> None:
        if any(value is Graph for value in fields.values()):
            draft.waiting = (match, fields)
            return
        draft.waiting = None
        op = OPS.get(match["op"])
        if op is None:
            raise UnsupportedOpError(f"there is no op named {match['op']!r}")
        label = json.loads(match["label"]) if match["label"] else ""
        inputs = tuple(draft.values[name] for name in split_top_level(match["inputs"]))
        outputs = tuple(
            draft.declare(part[0], label) for part in re.finditer(_DECLARATION, match["outputs"])
        )
        draft.nodes.append(Node(op, inputs, op.attrs(**fields), outputs, label))


def parse_attribute(
    text: str, symbols: Mapping[str, Symbol], constants: Mapping[str, Constant]
) -> Any:
    """The inverse of ``print_attribute``; a nested graph is the class ``Graph``, to be filled
    in.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text == "graph":
        return Graph
    if text.startswith('"'):
        return json.loads(text)
    if _NUMBER.fullmatch(text):
        return int(text) if text.lstrip("-").isdigit() else float(text)
    if text.startswith("layout("):
        return parse_layout(json.loads(text[len("layout(") : -1]))
    if text.startswith(("fill(", "dense(", "digest(")):
        return _parse_constant(text, symbols, constants)
    if text.endswith("]"):
        return parse_type(text, symbols)
    parts = _tuple_parts(text)
    if parts is not None:
        return tuple(parse_attribute(part, symbols, constants) for part in parts)
    return parse_extent(text, symbols)


def _tuple_parts(text: str) -> Sequence[str] | None:
    """The items of ``(a, b)``, ``(a,)`` or ``()``; None for an extent that begins with a
    bracket.
    """
    if not (text.startswith("(") and text.endswith(")")):
        return None
    inner = text[1:-1]
    if inner == "":
        return []
    depth = 0
    for letter in inner:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            return None
    parts = split_top_level(inner)
    if len(parts) > 1 and parts[-1] == "":
        return parts[:-1]
    return parts if len(parts) > 1 or inner.rstrip().endswith(",") else None


def _parse_constant(
    text: str, symbols: Mapping[str, Symbol], constants: Mapping[str, Constant]
) -> Constant:
    kind, _, rest = text.partition("(")
    parts = split_top_level(rest[:-1])
    if kind == "digest":
        return constants[json.loads(parts[0])]
    type = parse_type(parts[0], symbols)
    elements = [parse_attribute(part, {}, {}) for part in parts[1:]]
    if kind == "fill":
        return Constant.splat(np.asarray(elements[0], type.dtype.numpy), type)
    return Constant(np.array(elements, type.dtype.numpy).reshape(type.static_shape))
