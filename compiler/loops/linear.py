"""Pointwise kernels over contiguous memory: every operand is read exactly where the output is
written, or is one number.

No axes are left then: the loops walk all buffers by one offset, in vectors of 16 lanes, several an
iteration where the formula is short, and the last ones under a condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..scalar import Checked, Expr, Guarded, Index
from .elements import Axis, Elements
from .ir import (
    LANE,
    LANES,
    Allocate,
    Buffer,
    Kind,
    Load,
    Statement,
    Store,
    block,
    guard,
    loop,
)
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

    total, base = dim.product(elements.out.shape), Dim.of(item) * CHUNK * LANES
    walk = _Walk(flat[elements.out], lambda at: _flattened(value, flat, at), copies_of(value))
    local = Buffer(elements.local_name("k"), walk.out.dtype, (walk.copies, LANES), is_local=True)
    return dim.ceil_div(total, CHUNK * LANES), walk.chunk(base, total, local), flat


@dataclass(frozen=True)
class _Walk:
    """How a work item goes along the output: ``copies`` vectors an iteration, of elements that
    ``element`` makes.
    """

    out: Buffer
    element: Callable[[Extent], Expr]
    copies: int

    def chunk(self, base: Extent, total: Extent, local: Buffer) -> Statement:
        """A statement for every vector: groups, and then those that fill no group."""
        step = self.copies * LANES
        groups = Axis.of("v", dim.minimum(CHUNK // self.copies, (total - base) // step))
        group = self.group(base + groups.position * step, local)
        whole = loop(groups.symbol, groups.extent, group)
        if isinstance(total, int) and total % step == 0:
            return whole
        is_small = isinstance(total, int) and total < step
        rest = base if is_small else base + groups.extent * step
        vectors = dim.ceil_div(total % step, LANES) if isinstance(total, int) else self.copies
        single = Axis.of("t", vectors)
        at = rest + single.position * LANES + Dim.of(LANE)
        vector = loop(LANE, LANES, guard((total - 1 - at,), self.store(at)), Kind.VECTOR)
        is_open = base + (CHUNK * LANES - 1) - rest
        last = guard((is_open,), loop(single.symbol, single.extent, vector))
        return last if is_small else block(whole, last)

    def group(self, start: Extent, local: Buffer) -> Statement:
        """All are computed before the first is stored: a CPU may take a load for one of what was
        just stored 4096 bytes away, and wait.
        """
        if self.copies == 1:
            return loop(LANE, LANES, self.store(start + Dim.of(LANE)), Kind.VECTOR)
        copy, lane = Axis.of("u", self.copies), Dim.of(LANE)
        at, kept = start + copy.position * LANES + lane, (copy.position, lane)
        make = Store(local, kept, self.element(at))
        write = Store(self.out, (at,), Load(local, kept))
        return Allocate(local, block(*(_each(copy, statement) for statement in (make, write))))

    def store(self, at: Extent) -> Statement:
        return Store(self.out, (at,), self.element(at))


def _each(copy: Axis, statement: Statement) -> Statement:
    return loop(copy.symbol, copy.extent, loop(LANE, LANES, statement, Kind.VECTOR), Kind.UNROLLED)


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
