"""Costly functions of one byte -> tables of their 256 results.

Between quantized tensors stand functions such as x sigmoid(x), each of one byte, which a chain of
elementwise nodes dequantizes and quantizes again. What such a chain makes of each byte is computed
now, by the ops' references. Chains of a few additions and products stay: they take less time than
reading a table.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..constant import Constant
from ..graph import Builder, Graph, Node, Value, finish, rebuilder
from ..interpret import evaluate_node
from ..op import Array
from ..ops.look_up import BYTES
from ..rewrite import without_dead_nodes
from ..tensor_type import FLOAT32, INT32, TensorType

QUICK = frozenset(
    {"cast", "add", "sub", "mul", "clip", "relu", "max", "min", "neg", "abs", "round"}
)
LEAST_ELEMENTS = 1 << 12  # of a tensor that is worth a table, if its extents are known


def tabulate(graph: Graph) -> Graph:
    """The graph with chains of elementwise nodes over one byte as reads of a table."""
    bytes_of = _bytes_of(graph)
    ends = {v for v in bytes_of if _is_end(graph, v, bytes_of) and _is_worth_it(graph, v, bytes_of)}
    if not ends:
        return graph
    b, mapping = rebuilder(graph)
    for node in graph.nodes:
        if len(node.outputs) == 1 and node.output in ends:
            mapping[node.output] = _looked_up(b, graph, node.output, bytes_of, mapping)
        else:
            mapping.update(
                zip(node.outputs, b.copy(node, [mapping[v] for v in node.inputs]), strict=True)
            )
    return without_dead_nodes(finish(b, graph, mapping))


def _bytes_of(graph: Graph) -> dict[Value, Value]:
    """Values that are functions of one byte each -> the values that hold these bytes."""
    found: dict[Value, Value] = {}
    for node in graph.nodes:
        if not node.op.is_elementwise or len(node.outputs) != 1:
            continue
        operands = {v for v in node.inputs if not _is_number(graph, v)}
        sources = {found.get(v, v) for v in operands}
        if len(sources) != 1:
            continue
        (source,) = sources
        is_byte = source.dtype.is_integer and source.dtype.bytes == 1
        if is_byte and all(v.shape == node.output.shape for v in (*operands, source)):
            found[node.output] = source
    return found


def _is_number(graph: Graph, value: Value) -> bool:
    constant = graph.constant_of(value)
    return constant is not None and (constant.is_splat or constant.array.size == 1)


def _is_end(graph: Graph, value: Value, bytes_of: Mapping[Value, Value]) -> bool:
    """Whether something reads the value that is no function of the same byte."""
    readers = graph.users.get(value, ())
    return value in graph.results or any(
        len(reader.outputs) != 1 or bytes_of.get(reader.output) is not bytes_of[value]
        for reader in readers
    )


def _is_worth_it(graph: Graph, value: Value, bytes_of: Mapping[Value, Value]) -> bool:
    elements = value.type.elements
    if isinstance(elements, int) and elements < LEAST_ELEMENTS:
        return False
    if value.dtype.bytes > 4 or not (value.dtype.is_integer or value.dtype is FLOAT32):
        return False
    chain = _chain(graph, value, bytes_of)
    return any(node.op.name not in QUICK | {"div"} for node in chain)


def _chain(graph: Graph, value: Value, bytes_of: Mapping[Value, Value]) -> list[Node]:
    """The nodes that make a value of its byte, in order."""
    needed: dict[Node, None] = {}
    open_ = [value]
    while open_:
        node = graph.producers[open_.pop()]
        if node not in needed:
            needed[node] = None
            open_ += [v for v in node.inputs if v in bytes_of]
    return [node for node in graph.nodes if node in needed]


def _looked_up(
    b: Builder,
    graph: Graph,
    value: Value,
    bytes_of: Mapping[Value, Value],
    mapping: Mapping[Value, Value],
) -> Value:
    """The value as a table's entries, of four bytes each, which vectors can pick."""
    table = _table(graph, value, bytes_of)
    wide = table if value.dtype is FLOAT32 else table.astype(np.int32)
    found = b("look_up", b.constant(Constant(wide)), mapping[bytes_of[value]])
    return found if value.dtype in (FLOAT32, INT32) else b("cast", found, dtype=value.dtype)


def _table(graph: Graph, value: Value, bytes_of: Mapping[Value, Value]) -> Array:
    """What the chain makes of each byte."""
    source = bytes_of[value]
    info = np.iinfo(source.dtype.numpy)
    known: dict[Value, Array] = {
        source: np.arange(info.min, info.max + 1).astype(source.dtype.numpy)
    }
    for node in _chain(graph, value, bytes_of):
        arrays = [known[v] if v in known else _number(graph, v) for v in node.inputs]
        inputs = tuple(
            Value(TensorType(v.dtype, array.shape))
            for v, array in zip(node.inputs, arrays, strict=True)
        )
        output = Value(TensorType(node.output.dtype, (BYTES,)))
        line = Node(node.op, inputs, node.attrs, (output,), node.label)
        (known[node.output],) = evaluate_node(line, arrays, {})
    return known[value]


def _number(graph: Graph, value: Value) -> Array:
    constant = graph.constant_of(value)
    assert constant is not None
    return np.asarray(
        constant.splat_value if constant.is_splat else constant.array.reshape(-1)[0]
    ).astype(value.dtype.numpy)


__all__ = ["tabulate"]
