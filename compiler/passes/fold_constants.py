"""What depends on constants alone is computed now, by the ops' references.

A splat stays a splat: elementwise ops are computed on its one value, ops that only move elements
keep it. Large weights times a factor of a channel are left to whoever reads them (scaled.py).
Results of more than 64 MiB are left to the program, and so is what would grow by more than
1 MiB (a constant broadcast).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ..constant import Constant
from ..graph import Graph, Node, Value
from ..interpret import evaluate_node
from ..op import Array
from ..rewrite import Rewriter, rewrite
from ..scaled import Scaled
from ..tensor_type import FLOAT32, FLOAT64, TensorType
from ..verify import symbols_in

MAX_BYTES = 64 << 20
MAX_GROWTH = 1 << 20
LARGE = 1 << 16  # bytes of a product that is worth leaving to its readers


def fold_constants(graph: Graph) -> Graph:
    """The graph with every node over constants replaced by its results."""
    return rewrite(graph, _folded)


def _folded(rewriter: Rewriter, node: Node) -> Sequence[Value] | None:
    if node.op.name == "constant" or any(value.layout is not None for value in node.outputs):
        return None
    constants = [rewriter.constant_of(value) for value in node.inputs]
    known = [constant for constant in constants if constant is not None]
    if len(known) < len(constants):
        return None
    if symbols_in(node.attrs, *(value.type for value in node.outputs)):
        return None
    results = _splat_results(node, known) or _dense_results(node, known)
    if results is None:
        return None
    return [rewriter.constant(result, label=node.label) for result in results]


def _splat_results(node: Node, constants: Sequence[Constant]) -> Sequence[Constant] | None:
    """The result of an op on splats, where it is a splat by the kind of the op."""
    if (
        not constants
        or len(node.outputs) != 1
        or not all(constant.is_splat for constant in constants)
    ):
        return None
    type = node.output.type
    if node.op.is_elementwise:
        elements = [Constant(constant.splat_value) for constant in constants]
        return [Constant.splat(_element(node, elements), type)]
    if node.op.family == "shape" and _moves_one_value(node, constants):
        return [Constant.splat(constants[0].splat_value, type)]
    return None


def _element(node: Node, elements: Sequence[Constant]) -> Array:
    """An elementwise node's result for scalars."""
    inputs = tuple(Value(element.type) for element in elements)
    scalar = Node(node.op, inputs, node.attrs, (Value(TensorType(node.output.dtype)),), node.label)
    (result,) = evaluate_node(scalar, [element.array for element in elements], {})
    return result


def _moves_one_value(node: Node, constants: Sequence[Constant]) -> bool:
    """Whether all elements that the op moves (and pads with) are one and the same, bit for bit."""
    dtype = constants[0].type.dtype.numpy
    values = [np.asarray(constant.splat_value).tobytes() for constant in constants]
    if hasattr(node.attrs, "value"):
        values.append(np.asarray(node.attrs.value).astype(dtype).tobytes())
    return len(set(values)) == 1


def _dense_results(node: Node, constants: Sequence[Constant]) -> Sequence[Constant] | None:
    before = sum(_bytes(constant.type) for constant in constants)
    after = sum(_bytes(value.type) for value in node.outputs)
    if max(before, after) > MAX_BYTES or after > before + MAX_GROWTH:
        return None
    if _is_scaling(node, constants):
        weights, factor = (constant.array for constant in constants)
        return [Constant(Scaled(weights, np.broadcast_to(factor, weights.shape)))]
    return [
        Constant(array)
        for array in evaluate_node(node, [constant.array for constant in constants], {})
    ]


def _is_scaling(node: Node, constants: Sequence[Constant]) -> bool:
    """Whether it multiplies a large array of floats by one that is repeated."""
    if node.op.name != "mul" or node.output.dtype not in (FLOAT32, FLOAT64):
        return False
    weights, factor = (constant.type for constant in constants)
    is_repeated = weights == node.output.type and _bytes(factor) < _bytes(weights)
    return is_repeated and _bytes(weights) >= LARGE and not constants[0].is_splat


def _bytes(type: TensorType) -> int:
    return prod(type.static_shape) * type.dtype.bytes
