"""The nodes of a graph in an order that defines every name before it is used.

Names are checked here: each is defined once and none is undefined; cycles are found by
counting, never by recursion. Sub-graphs (branches) count as users of the outer names that they
read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence

import onnx
from onnx import AttributeProto

from netloom.errors import ModelError

from .names import printable

AnyGraph = onnx.GraphProto | onnx.FunctionProto


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Every node, also those of nested graphs."""
    stack = [iter(nodes)]
    while stack:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
            continue
        yield node
        stack += [iter(graph.node) for graph in subgraphs(node)]


def title(node: onnx.NodeProto) -> str:
    """Op type and name, for messages."""
    return f"{printable(node.op_type)} {label(node)!r}"


def label(node: onnx.NodeProto) -> str:
    """The node's name, or that of its first output."""
    return printable(node.name or next(iter(node.output), ""))


def reads(node: onnx.NodeProto) -> set[str]:
    """The names that a node reads, those of its sub-graphs included."""
    names = {name for name in node.input if name}
    waiting = [(graph, frozenset[str]()) for graph in subgraphs(node)]
    while waiting:
        graph, outside = waiting.pop()
        made = outside.union(_made_in(graph))
        used = {name for inner in graph.node for name in inner.input if name}
        names |= (used | {output.name for output in graph.output}) - made
        waiting += [(deeper, made) for inner in graph.node for deeper in subgraphs(inner)]
    return names


def _made_in(graph: onnx.GraphProto) -> Iterator[str]:
    """The names that a graph defines."""
    yield from (item.name for item in (*graph.input, *graph.initializer))
    yield from (sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        yield from node.output


def ordered(
    nodes: Sequence[onnx.NodeProto], known: Collection[str], results: Iterable[str]
) -> list[onnx.NodeProto]:
    """The nodes sorted (stable where they already are); ``known`` are the names visible before
    them.
    """
    makers = _makers(nodes, known)
    needs = [reads(node) for node in nodes]
    for node, names in zip(nodes, needs, strict=True):
        for name in names:
            if name not in makers and name not in known:
                raise ModelError(f"its input {printable(name)!r} is defined nowhere.", node=title(node),
                                 hint="Export the model again.")  # fmt: skip
    for name in results:
        if name not in makers and name not in known:
            raise ModelError(
                f"the output {printable(name)!r} is defined nowhere.",
                hint="Export the model again.",
            )
    return _sorted(nodes, makers, needs)


def _makers(nodes: Sequence[onnx.NodeProto], known: Collection[str]) -> dict[str, int]:
    makers: dict[str, int] = {}
    for position, node in enumerate(nodes):
        for name in node.output:
            if not name:
                continue
            if name in makers or name in known:
                raise ModelError(
                    f"its output {printable(name)!r} is defined twice.",
                    node=title(node),
                    hint="Every name may be defined once only; rename one.",
                )
            makers[name] = position
    return makers


def _sorted(
    nodes: Sequence[onnx.NodeProto], makers: dict[str, int], needs: Sequence[set[str]]
) -> list[onnx.NodeProto]:
    """Kahn's algorithm."""
    waiting = [len({makers[name] for name in names if name in makers}) for names in needs]
    users: dict[int, list[int]] = {}
    for position, names in enumerate(needs):
        for maker in sorted({makers[name] for name in names if name in makers}):
            users.setdefault(maker, []).append(position)
    ready = deque(position for position, count in enumerate(waiting) if not count)
    order: list[int] = []
    while ready:
        position = ready.popleft()
        order.append(position)
        for user in users.get(position, ()):
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    if len(order) < len(nodes):
        stuck = next(node for node, count in zip(nodes, waiting, strict=True) if count)
        raise ModelError(f"{len(nodes) - len(order)} nodes form a cycle or wait for one.", node=title(stuck),
                         hint="A network has no cycles: export it again.")  # fmt: skip
    is_sorted = all(
        makers[name] < user for user, names in enumerate(needs) for name in names if name in makers
    )
    return list(nodes) if is_sorted else [nodes[position] for position in order]
