"""A fused kernel's graph -> loops, over contiguous memory, by a schedule of the node's own, or
tiled for vector registers.

A kernel holds at most one reducing node (a convolution, a matmul, a sum: the *anchor*); all others
are pointwise and are inlined, before the anchor into its term, after it into its epilogue
(elements.py). The anchor's loops (space.py) are tiled so that a block of accumulators stays in
registers: ``rows`` x ``columns`` vectors of 16 lanes (tiling.py, emit.py).

Guarantees: the number of work items and the order of every sum depend on shapes only; no chain of
float32 additions is longer than ``plan.CHAIN`` terms (longer reductions add partial sums).
"""

from __future__ import annotations

from collections.abc import Mapping

from .. import dim, scalar
from ..dim import Extent, Symbol
from ..graph import Graph, Node
from ..scalar import Expr
from . import fft, merging, runs, scans, scatter, selecting, winograd
from .attention import attention_loops
from .axes import iteration_space
from .elements import Elements, compute_of
from .emit import emit_tiles
from .ir import Buffer, For, Kernel, Let, Statement, block, expressions_in, extents_in, walk
from .linear import linear_loops
from .plan import Machine
from .row_form import row_form
from .row_loops import row_loops
from .streams import with_hints
from .tiles import Schedule
from .tiling import plan_tiles
from .transposed_tiles import transposed_loops
from .transposition import planned_transposition

SCHEDULES: Mapping[str, Schedule] = {  # of every op that has loops of its own
    **winograd.SCHEDULES, **fft.SCHEDULES, **scans.SCHEDULES, **merging.SCHEDULES,
    **runs.SCHEDULES, **scatter.SCHEDULES, **selecting.SCHEDULES,
    "attention_online": attention_loops,
}  # fmt: skip

# ops that are a kernel of a device's own (targets/cuda/); elsewhere they are decomposed
DEVICE_KERNELS = frozenset({"attention_fused", "attention_parts", "attention_gradient_fused"})


def build_kernel(name: str, graph: Graph, machine: Machine) -> Kernel:
    """The loops of a kernel's graph (one output; buffers are the graph's inputs, then its
    output).
    """
    item = Symbol("w", 0, None)
    rows = row_form(graph)
    elements = rows.elements if rows else Elements(graph, anchor_of(graph))
    items, body, flat = row_loops(rows, item) if rows else _loops(elements, machine, item)
    buffers = tuple(flat.get(b, b) for b in elements.arguments)
    symbols = dim.symbols_of([*(e for b in buffers for e in b.shape), items]) | _free_symbols(
        body, item
    )
    ordered = tuple(sorted(symbols, key=lambda s: s.name))
    return with_hints(Kernel(name, buffers, ordered, items, item, body))


def has_loops(node: Node) -> bool:
    """Whether code can be made for a node: it has an element formula, or loops of its own."""
    return node.op.compute is not None or _has_own_loops(node)


def _has_own_loops(node: Node) -> bool:
    return node.op.name in SCHEDULES or node.op.name in DEVICE_KERNELS


def is_anchor(node: Node) -> bool:
    """Whether a node decides a kernel's loops: it reduces, or has loops of its own."""
    return _has_own_loops(node) or bool(compute_of(node).reduce)


def anchor_of(graph: Graph) -> Node | None:
    """The one node that decides the loops, if any; of a row kernel the last reduction."""
    found = [node for node in graph.nodes if is_anchor(node)]
    if len(found) > 1 and row_form(graph) is None:
        raise ValueError(f"only a row kernel can hold two reductions: {found}")
    return found[-1] if found else None


def _loops(
    elements: Elements, machine: Machine, item: Symbol
) -> tuple[Extent, Statement, Mapping[Buffer, Buffer]]:
    """(work items, body, the buffers that the loops walk by their offsets)"""
    if 0 in elements.out.shape:  # nothing to do, and no axes to plan for
        return 0, block(), {}
    if elements.anchor is not None and elements.anchor.op.name in SCHEDULES:
        items, body = SCHEDULES[elements.anchor.op.name](elements, machine, item)
        return items, body, {}
    if elements.anchor is None and (linear := linear_loops(elements, item)) is not None:
        return linear
    space = iteration_space(elements, machine.has_dots)
    if elements.anchor is None and (found := planned_transposition(space, machine)) is not None:
        return *transposed_loops(found, item), space.flat
    plan = plan_tiles(space, machine)
    return plan.items, emit_tiles(plan, item), plan.space.arguments


def _free_symbols(body: Statement, item: Symbol) -> frozenset[Symbol]:
    """Symbols that no loop binds: the free dims of the model."""
    statements = list(walk(body))
    parts: list[Statement | Expr] = [
        *statements,
        *scalar.post_order([value for s in statements for value in expressions_in(s)]),
    ]
    bound = {item.name, *(s.variable.name for s in statements if isinstance(s, For | Let))}
    found = dim.symbols_of([extent for part in parts for extent in extents_in(part)])
    return frozenset(symbol for symbol in found if symbol.name not in bound)


__all__ = ["Machine", "anchor_of", "build_kernel", "has_loops", "is_anchor"]
