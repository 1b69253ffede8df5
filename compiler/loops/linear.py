"""Pointwise kernels over contiguous memory: every operand is read exactly where the output is
written, or is one number.

No axes are left then: the loops walk all buffers by one offset, in vectors of 16 lanes and a last
vector under a condition.
"""

from __future__ import annotations

from collections.abc import Mapping

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..scalar import Checked, Expr, Guarded, Index
from .elements import Axis, Elements
from .ir import LANE, LANES, Buffer, Kind, Load, Statement, Store, block, guard, loop

CHUNK = 256  # vectors in one work item


def linear_loops(
    elements: Elements, item: Symbol
) -> tuple[Extent, Statement, Mapping[Buffer, Buffer]] | None:
    """(work items, body, the buffers as they are walked) of a kernel without an anchor; None if
    an operand is read elsewhere.
    """
    position = tuple(Axis.of(f"p{i}", e).position for i, e in enumerate(elements.out.shape))
    value = elements.final(elements.logical(position), None)
    if not all(_is_aligned(node, elements.out, position) for node in scalar.post_order([value])):
        return None
    flat = {b: Buffer(b.name, b.dtype, (dim.product(b.shape),)) for b in elements.arguments}
    total = dim.product(elements.out.shape)
    chunk = CHUNK * LANES

    def store(start: Extent, conditions: tuple[Extent, ...]) -> Statement:
        at = start + Dim.of(LANE)
        assignment = Store(flat[elements.out], (at,), _flattened(value, flat, at))
        return loop(LANE, LANES, guard(conditions, assignment), Kind.VECTOR)

    base = Dim.of(item) * chunk
    vectors = Axis.of("v", dim.minimum(CHUNK, (total - base) // LANES))
    whole = loop(vectors.symbol, vectors.extent, store(base + vectors.position * LANES, ()))
    items = dim.ceil_div(total, chunk)
    if isinstance(total, int) and total % LANES == 0:
        return items, whole, flat
    rest = base + vectors.extent * LANES
    in_memory, in_chunk = total - 1 - rest - Dim.of(LANE), base + (chunk - 1) - rest - Dim.of(LANE)
    return items, block(whole, store(rest, (in_memory, in_chunk))), flat


def _is_aligned(node: Expr, out: Buffer, position: tuple[Extent, ...]) -> bool:
    """Whether a part of the stored value needs no more than the offset at which it is stored."""
    match node:
        case Index() | Guarded() | Checked():
            return False
        case Load(buffer, index):
            return dim.product(buffer.shape) == 1 or (
                buffer.shape == out.shape and index == position
            )
    return True


def _flattened(value: Expr, flat: Mapping[Buffer, Buffer], at: Extent) -> Expr:
    def leaf(node: Expr) -> Expr | None:
        if not isinstance(node, Load):
            return None
        is_one = dim.product(node.buffer.shape) == 1
        return Load(flat[node.buffer], (0 if is_one else at,))

    return scalar.rebuild(value, leaf)


__all__ = ["linear_loops"]
