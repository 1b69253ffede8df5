"""A float64 oracle of a network: the graph with every float32 made float64, run by the
interpreter, before a final softmax.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from netloom.compiler.constant import Constant
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.eliminate_dead import eliminate_dead
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, TensorType

Array = npt.NDArray[Any]


def before_softmax(graph: Graph) -> Graph:
    """The graph whose outputs are what a final softmax (behind reshapes) would get; where there
    is none, the graph.
    """
    outputs = []
    for value in graph.outputs:
        found = value
        while (node := graph.producers.get(found)) is not None and node.op.name == "reshape":
            found = node.inputs[0]
        node = graph.producers.get(found)
        outputs.append(node.inputs[0] if node is not None and node.op.name == "softmax" else value)
    return eliminate_dead(dataclasses.replace(graph, outputs=tuple(outputs)))


def widened(graph: Graph) -> Graph:
    """The graph over float64."""
    b = Builder(graph.name)
    mapping: dict[Value, Value] = {}
    for value in graph.inputs:
        mapping[value] = b.input(_wide_type(value.type), value.label)
    for state in graph.states:
        mapping[state.input] = b.constant(_wide_constant(state.initial))
    for node in graph.nodes:
        inputs = [mapping[value] for value in node.inputs]
        attrs = node.attrs
        if node.op.name == "constant":
            attrs = dataclasses.replace(attrs, value=_wide_constant(attrs.value))
        elif getattr(attrs, "dtype", None) is FLOAT32:
            attrs = dataclasses.replace(attrs, dtype=FLOAT64)
        if isinstance(body := getattr(attrs, "body", None), Graph):  # of a loop
            attrs = dataclasses.replace(attrs, body=widened(body))
        mapping.update(
            zip(
                node.outputs,
                b.add(node.op, inputs, attrs, node.label, node.outputs).outputs,
                strict=True,
            )
        )
    return b.build([mapping[value] for value in graph.outputs], list(graph.output_names))


def float64_outputs(graph: Graph, feeds: Mapping[str, Array]) -> list[Array]:
    """The graph's outputs for the feeds, everything in float64."""
    wide = {
        name: array.astype(np.float64) if array.dtype == np.float32 else array
        for name, array in feeds.items()
    }
    return list(interpret(widened(graph), wide))


def _wide_type(kind: TensorType) -> TensorType:
    return TensorType(FLOAT64, kind.shape) if kind.dtype is FLOAT32 else kind


def _wide_constant(constant: Constant) -> Constant:
    if constant.type.dtype is not FLOAT32:
        return constant
    if constant.is_splat:
        return Constant.splat(np.float64(constant.splat_value), _wide_type(constant.type))
    return Constant(constant.array.astype(np.float64))
