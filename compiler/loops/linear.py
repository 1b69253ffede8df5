"""Pointwise kernels over contiguous memory: every operand is read exactly where the output is
written, or is one number.

No axes are left then: the loops walk all buffers by one offset, in vectors of 16 lanes, several an
iteration where the formula is short, and the last ones under a condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..scalar import Checked, Expr, Guarded, Index
from .elements import Axis, Elements
from .ir import LANE, LANES, Buffer, Kind, Load, Statement, Store, block, guard, loop
from .unrolling import copies_of

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

    def store(start: Extent, last: Extent | None) -> Statement:
        """A vector; lanes behind ``last``, if it is given, are left out."""
        at = start + Dim.of(LANE)
        assignment = Store(flat[elements.out], (at,), _flattened(value, flat, at))
        conditions = () if last is None else (last - at,)
        return loop(LANE, LANES, guard(conditions, assignment), Kind.VECTOR)

    return (*_chunks(dim.product(elements.out.shape), Dim.of(item), copies_of(value), store), flat)


def _chunks(
    total: Extent, item: Dim, copies: int, store: Callable[[Extent, Extent | None], Statement]
) -> tuple[Extent, Statement]:
    """(work items, a statement for every vector): groups of ``copies`` vectors, then those that
    fill no group.
    """
    step, chunk = copies * LANES, CHUNK * LANES
    items, base = dim.ceil_div(total, chunk), item * chunk
    groups = Axis.of("v", dim.minimum(CHUNK // copies, (total - base) // step))
    whole = loop(groups.symbol, groups.extent, _group(base + groups.position * step, copies, store))
    if isinstance(total, int) and total % step == 0:
        return items, whole
    is_small = isinstance(total, int) and total < step
    rest = base if is_small else base + groups.extent * step
    single = Axis.of("t", dim.ceil_div(total % step, LANES) if isinstance(total, int) else copies)
    vector = store(rest + single.position * LANES, total - 1)
    last = guard((base + chunk - 1 - rest,), loop(single.symbol, single.extent, vector))
    return items, last if is_small else block(whole, last)


def _group(
    start: Extent, copies: int, store: Callable[[Extent, Extent | None], Statement]
) -> Statement:
    if copies == 1:
        return store(start, None)
    copy = Axis.of("u", copies)
    vector = store(start + copy.position * LANES, None)
    return loop(copy.symbol, copies, vector, Kind.UNROLLED)


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
