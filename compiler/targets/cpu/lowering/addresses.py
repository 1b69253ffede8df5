"""Where elements are: addresses of a kernel's buffers, by offsets and by lanes, each computed once
for what it is used for. What must not be read is at an address of zeros on the stack, and what must
not be written at one that nothing reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from .... import dim
from ....dim import Extent
from ....loops.ir import LANE, LANES, Buffer, slope_along
from .function import Function
from .indices import Indices
from .representation import (
    I32,
    I64,
    PTR,
    Operand,
    known_lanes,
    memory_type,
    vector_of,
    zero_of_type,
)

LINE = 64  # bytes of a cache line


@dataclass(frozen=True)
class Offset:
    """Where a load or store is in its buffer; ``slope``: the lane's coefficient, None if it has
    none.
    """

    whole: Extent
    without_lane: Extent
    slope: int | None


class Addresses:
    """The buffers of a kernel, by address."""

    def __init__(self, f: Function, indices: Indices) -> None:
        self.f, self.b, self.indices = f, f.b, indices
        self.pointers: dict[Buffer, Operand] = {}
        self.offsets: dict[tuple[Buffer, tuple[Extent, ...]], Offset] = {}
        self.elsewhere: dict[str, Operand] = {}  # "zeros" to read, "rest" to write

    def allocate(self, buffer: Buffer) -> None:
        """Room for a local buffer on the stack."""
        elements = dim.product(buffer.shape)
        assert isinstance(elements, int), "a local buffer has a constant size"
        with self.b.goto_entry_block():
            array = self.b.alloca(ir.ArrayType(memory_type(buffer.dtype), elements))
            array.align = 64
            array.type = PTR  # opaque, like all other pointers here
            self.pointers[buffer] = array

    def _offset(self, buffer: Buffer, index: tuple[Extent, ...]) -> Offset:
        if (buffer, index) not in self.offsets:
            whole = buffer.offset(index)
            self.offsets[buffer, index] = Offset(
                whole, dim.substitute(whole, {LANE: 0}), slope_along(whole, LANE)
            )
        return self.offsets[buffer, index]

    def _address(self, buffer: Buffer, offset: Extent) -> Operand:
        return self.indices.number(
            ("address", buffer, offset), offset, lambda: self._made_address(buffer, offset)
        )

    def _made_address(self, buffer: Buffer, offset: Extent) -> Operand:
        """Many addresses differ by numbers: the others begin with the one that has none."""
        total, number = self.indices.parts(offset)
        if total is None:
            return self._pointer(buffer, number)
        whole = self.f.numbers.once(
            ("address", buffer, total), lambda: self._pointer(buffer, total)
        )
        return self._behind(buffer, whole, number)

    def _pointer(self, buffer: Buffer, value: Any) -> Operand:
        return self._behind(buffer, self.pointers[buffer], value)

    def _behind(self, buffer: Buffer, address: Operand, elements: Any) -> Operand:
        """The address so many elements behind another one."""
        if isinstance(elements, int) and elements == 0:
            return address
        kind = memory_type(buffer.dtype)
        return self.b.gep(address, [self.indices.i64(elements)], source_etype=kind)

    def _readable(self, address: Operand, flag: Operand | None = None) -> Operand:
        """An address where a load may read, and under the flag; else one of zeros."""
        condition = self.f.both(self.indices.flag, flag)
        if condition is None:
            return address
        return self.f.numbers.once(
            ("readable", address, condition),
            lambda: self.b.select(condition, address, self._elsewhere("zeros")),
        )

    def _elsewhere(self, name: str) -> Operand:
        """A vector on the stack: of zeros, or for what nothing reads. LLVM does not learn that it is
        there: of hundreds of loads and stores that may be there it would try each pair.
        """
        if name not in self.elsewhere:
            kind = vector_of(I64)
            with self.b.goto_entry_block():
                room = self.b.alloca(kind)
                room.align = LINE
                room.type = PTR
                self.b.store(zero_of_type(kind), room, align=LINE)
                same = ir.FunctionType(PTR, [PTR])
                self.elsewhere[name] = self.b.asm(same, "", "=r,0", [room], side_effect=False)
        return self.elsewhere[name]

    def _lanes(self, buffer: Buffer, at: Offset | Operand) -> Iterator[tuple[int, Operand]]:
        """The lanes that may run, and where the element of each is."""
        mask = self.indices.mask
        known = None if mask is None else known_lanes(mask)
        for lane in range(LANES):
            if known is None or known[lane]:
                yield lane, self._lane_address(buffer, at, lane)

    def _lane_address(self, buffer: Buffer, at: Offset | Operand, lane: int) -> Operand:
        if isinstance(at, Offset) and at.slope is not None:
            return self._address(buffer, at.without_lane + lane * at.slope)
        offsets = at
        if isinstance(at, Offset):
            offsets = self.f.vector(self.indices.i64(self.indices.extent(at.whole)))
        known = known_lanes(offsets)
        if known is not None:
            return self._pointer(buffer, known[lane])
        one = self.f.numbers.once(
            ("lane", offsets, lane), lambda: self.b.extract_element(offsets, I32(lane))
        )
        return self.f.numbers.once(("address", buffer, one), lambda: self._pointer(buffer, one))

    def _runs(self, mask: Operand | None, lane: int) -> Operand | None:
        """Whether a lane of a mask runs; None: it is known that it does."""
        if mask is None or known_lanes(mask) is not None:
            return None
        if mask is self.indices.mask:
            return self.indices.runs(lane)
        return self.f.numbers.once(
            ("runs", mask, lane), lambda: self.b.extract_element(mask, I32(lane))
        )

    def _has_masks(self, buffer: Buffer, mask: Operand) -> bool:
        """Whether some lanes of neighbours are one access: else LLVM would make branches."""
        return known_lanes(mask) is not None or buffer.dtype.bytes in self.f.cpu.masked_bytes


def alignment_of(buffer: Buffer, offset: Extent) -> int:
    """Of a vector at an offset: local buffers begin at lines."""
    width = buffer.dtype.bytes
    return min(LINE, LANES * width) if buffer.is_local and starts_at_vectors(offset) else width


def starts_at_vectors(offset: Extent) -> bool:
    """Whether an offset is a multiple of LANES, whatever its variables are."""
    if isinstance(offset, int):
        return offset % LANES == 0
    return all(factor % LANES == 0 for _, factor in offset.terms)


__all__ = ["LINE", "Addresses", "Offset", "alignment_of", "starts_at_vectors"]
