"""Where results go: outputs into the caller's buffers, states back to where they were read.

A kernel writes a result right to its place where it may (a *target*); a copy at the end does the
rest. A state is updated in place where its kernel reads each element only before writing it and
nobody reads the old value later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...graph import Graph, Node, Value
from ...ops.data_dims import data_dim_of
from ...program import BufferRef, Space
from .aliases import is_renaming


@dataclass(frozen=True)
class Goal:
    """A result and the place that it goes to; ``old``: what that place holds before."""

    value: Value
    ref: BufferRef
    old: Value | None = None


def direct_goals(graph: Graph, goals: Sequence[Goal]) -> list[Goal]:
    """The goals that kernels may write to at once: of each value the first such one."""
    made = _made_by_kernels(graph)
    found: dict[Value, Goal] = {}
    for goal in goals:
        if goal.value not in made or goal.value in found:
            continue
        if goal.old is None or _may_overwrite(graph, goal.old, made[goal.value]):
            found[goal.value] = goal
    return list(found.values())


def targets(graph: Graph, direct: Sequence[Goal]) -> dict[Value, BufferRef]:
    """Values that kernels write to their final place. What is renamed last is made there at
    once.
    """
    made = _made_by_kernels(graph)
    found = {goal.value: goal.ref for goal in direct}
    for node in reversed(graph.nodes):
        if is_renaming(node) and node.output in found:
            (source,) = node.inputs
            # it has no other place, and the new name replaces no state
            is_free = source in made and source not in found and source not in graph.results
            if is_free and found[node.output].space is Space.OUTPUT:
                found[source] = found.pop(node.output)
    return found


def _made_by_kernels(graph: Graph) -> Mapping[Value, Node]:
    return {v: node for node in graph.nodes if node.op.name == "kernel" for v in node.outputs}


def _may_overwrite(graph: Graph, old: Value, maker: Node) -> bool:
    """Whether what a kernel makes may take the place of ``old``: nobody reads that later, the
    kernel only at the element that it writes.
    """
    users = graph.users.get(old, ())  # in the order of the graph
    if users and graph.nodes.index(users[-1]) > graph.nodes.index(maker):
        return False
    if any(data_dim_of(user) is not None for user in users):  # its value lies there too
        return False
    return old not in graph.results and (old not in maker.inputs or _goes_by_elements(maker))


def _goes_by_elements(kernel: Node) -> bool:
    """Whether a kernel reads each element only where it writes it."""
    body: Graph = kernel.attrs.body
    is_elementwise = all(
        inner.op.is_elementwise or inner.op.name == "constant" for inner in body.nodes
    )
    return is_elementwise and all(v.shape in (kernel.output.shape, ()) for v in body.inputs)
