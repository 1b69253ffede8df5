"""An op whose attribute is a graph, for tests of nesting; it is not one of netloom's ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.op import Array, NotDifferentiable, Op
from netloom.compiler.tensor_type import FLOAT32, TensorType


@dataclass(frozen=True)
class BodyAttrs:
    name: str
    body: Graph
    factor: int = 1


def _infer(attrs: BodyAttrs, _inputs: Sequence[TensorType]) -> list[TensorType]:
    return [value.type for value in attrs.body.outputs]


def _reference(
    attrs: BodyAttrs, inputs: Sequence[Array], _types: Sequence[TensorType]
) -> Sequence[Array]:
    return interpret(
        attrs.body, {value.label: x for value, x in zip(attrs.body.inputs, inputs, strict=True)}
    )


NESTED = Op(
    "nested_test", "Runs a graph.", _infer, _reference, NotDifferentiable("a test op"), BodyAttrs
)


def nested(depth: int, type: TensorType | None = None) -> Graph:
    """neg inside a graph inside a graph ... ``depth`` times."""
    type = type or TensorType(FLOAT32, (2,))
    b = Builder("innermost")
    graph = b.build([b("neg", b.input(type, "x"))])
    for level in range(depth):
        b = Builder(f"level {level}")
        x = b.input(type, "x")
        graph = b.build(
            b.add(NESTED, [x], BodyAttrs(f"body {level}", graph), f"node {level}").outputs
        )
    return graph
