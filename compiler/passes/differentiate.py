"""Reverse-mode differentiation: the gradient of a graph is more nodes of the same graph.

Cotangents flow from an output back to the values asked for, through nodes that lie on a way between
them and no others; where ways join they are added. Each op brings its own rule (``vjp``); a
composed op is differentiated through its decomposition.
"""

from __future__ import annotations

from collections.abc import Sequence

from netloom.errors import ShapeError, UnsupportedOpError, UsageError, VerificationError

from ..graph import Builder, Graph, Node, Value
from ..op import ByDecomposition, NotDifferentiable
from ..rewrite import without_dead_nodes
from ..tensor_type import TensorType
from .widen_means import widened


def differentiate(b: Builder, output: Value, wrt: Sequence[Value]) -> list[Value]:
    """Adds nodes that compute d sum(output) / d value for each value of ``wrt``, and returns them.

    A gradient has its value's type; it is zero where ``output`` does not depend on the value.
    UnsupportedOpError names a node through which a gradient must flow but cannot; ShapeError if
    ``output`` or a value of ``wrt`` is not floating point.
    """
    for value in (output, *wrt):
        if not value.dtype.is_float:
            raise ShapeError(
                f"{value.label or 'a value'} is {value.type}: only floating-point values have gradients"
            )
    walk = _Backward(b, wrt)
    walk.accumulate(output, filled(b, 1.0, output.type))
    label = b.label
    walk.run()
    b.label = label
    return [walk.cotangents.get(value) or filled(b, 0.0, value.type) for value in wrt]


def gradient_graph(graph: Graph, output_name: str, wrt: Sequence[str]) -> Graph:
    """The graph with further outputs ``gradient of NAME``, for each input or state named in
    ``wrt``.
    """
    sources = {value.label: value for value in graph.inputs} | {
        state.name: state.input for state in graph.states
    }
    missing = [name for name in wrt if name not in sources]
    if missing:
        raise UsageError(f"the graph has no inputs or states named {missing}")
    if output_name not in graph.output_names:
        raise UsageError(f"the graph has no output {output_name!r}")
    b = Builder(graph.name)
    b.inputs, b.nodes, b.states = list(graph.inputs), list(graph.nodes), list(graph.states)
    output = graph.outputs[graph.output_names.index(output_name)]
    gradients = differentiate(b, output, [sources[name] for name in wrt])
    names = [*graph.output_names, *(f"gradient of {name}" for name in wrt)]
    return without_dead_nodes(b.build([*graph.outputs, *gradients], names))


def filled(b: Builder, number: float, type: TensorType) -> Value:
    """A value of ``type`` that holds one number everywhere; the shape may be symbolic."""
    value = b.number(number if type.dtype.is_float else int(number), type.dtype)
    return b("broadcast", value, shape=type.shape) if type.shape else value


class _Backward:
    """The walk backwards. ``influenced`` are the values that depend on ``wrt`` through
    floating-point values.
    """

    def __init__(self, b: Builder, wrt: Sequence[Value]) -> None:
        self.b = b
        self.cotangents: dict[Value, Value] = {}
        self.influenced = set(wrt)
        self.pending = list(b.nodes)
        for node in self.pending:
            self.reach(node)

    def reach(self, node: Node) -> None:
        if any(value in self.influenced for value in node.inputs):
            self.influenced.update(value for value in node.outputs if value.dtype.is_float)

    def accumulate(self, value: Value, cotangent: Value) -> None:
        present = self.cotangents.get(value)
        self.cotangents[value] = cotangent if present is None else self.b("add", present, cotangent)

    def run(self) -> None:
        while self.pending:
            node = self.pending.pop()
            if any(value in self.cotangents and value in self.influenced for value in node.outputs):
                self.b.label = f"gradient of {node.label}" if node.label else ""
                self.step(node)

    def step(self, node: Node) -> None:
        match node.op.vjp:
            case NotDifferentiable(reason):
                raise UnsupportedOpError(
                    f"{node.op.name} has no gradient: {reason}", node=node.label,
                    hint="Keep it out of the way from the parameters to the loss.",
                )  # fmt: skip
            case ByDecomposition():
                self.expand(node)
            case vjp:
                cotangents = [
                    self.cotangents.get(v) or filled(self.b, 0.0, v.type) for v in node.outputs
                ]
                for value, cotangent in zip(
                    node.inputs, vjp(self.b, node, cotangents), strict=True
                ):
                    if cotangent is not None and value in self.influenced:
                        self.pass_on(node, value, cotangent)

    def pass_on(self, node: Node, value: Value, cotangent: Value) -> None:
        if cotangent.type != value.type:
            raise VerificationError(
                f"the gradient of {node.op.name} is {cotangent.type} where its input is {value.type}",
                node=node.label,
            )
        self.accumulate(value, cotangent)

    def expand(self, node: Node) -> None:
        """Recompute the node through its decomposition, and walk back through that instead."""
        assert node.op.decompose is not None
        start = len(self.b.nodes)
        parts = widened(self.b, node) or node.op.decompose(self.b, node)
        inner = self.b.nodes[start:]
        for part in inner:
            self.reach(part)
        self.pending += inner
        for old, new in zip(node.outputs, parts, strict=True):
            if old in self.cotangents and new in self.influenced:
                self.accumulate(new, self.cotangents[old])
