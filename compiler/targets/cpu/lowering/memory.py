"""Loads and stores: one element for all lanes, neighbours or elements a small step apart as
vectors, or lane by lane.

Lanes that do not run touch no memory; of a local buffer all lanes may be touched. What a block has
loaded already is used again until something is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from .... import dim
from ....dim import Extent
from ....loops.ir import LANE, LANES, Buffer, LaneFold, Load, Store, slope_along
from ....loops.strides import MOST_STEP
from ....tensor_type import BOOL
from .function import Function, MadeInBlock
from .indices import Indices
from .representation import (
    I8,
    I16,
    I32,
    I64,
    PTR,
    Operand,
    is_vector,
    like,
    memory_type,
    suffix,
    vector_of,
    zero_of,
    zero_of_type,
)  # fmt: skip
from .shuffles import picked, spread, transposed


@dataclass(frozen=True)
class _Offset:
    """Where a load or store is in its buffer; ``slope``: the lane's coefficient, None if it has
    none.
    """

    whole: Extent
    without_lane: Extent
    slope: int | None


class Memory:
    """The buffers of a kernel, by address."""

    def __init__(self, f: Function, indices: Indices) -> None:
        self.f, self.b, self.indices = f, f.b, indices
        self.pointers: dict[Buffer, Operand] = {}
        self.offsets: dict[tuple[Buffer, tuple[Extent, ...]], _Offset] = {}
        self.made = MadeInBlock()
        self.made_of_locals = MadeInBlock()
        # columns of square buffers, and where they are known
        self.turned: dict[Buffer, tuple[ir.Block, list[Operand]]] = {}

    def allocate(self, buffer: Buffer) -> None:
        """Room for a local buffer on the stack."""
        elements = dim.product(buffer.shape)
        assert isinstance(elements, int), "a local buffer has a constant size"
        with self.b.goto_entry_block():
            array = self.b.alloca(ir.ArrayType(memory_type(buffer.dtype), elements))
            array.align = 64
            array.type = PTR  # opaque, like all other pointers here
            self.pointers[buffer] = array

    # -- addresses ---------------------------------------------------------------------------------

    def _offset(self, buffer: Buffer, index: tuple[Extent, ...]) -> _Offset:
        if (buffer, index) not in self.offsets:
            whole = buffer.offset(index)
            self.offsets[buffer, index] = _Offset(
                whole, dim.substitute(whole, {LANE: 0}), slope_along(whole, LANE)
            )
        return self.offsets[buffer, index]

    def _address(self, buffer: Buffer, offset: Extent) -> Operand:
        return self.indices.number(
            ("address", buffer, offset),
            offset,
            lambda: self._pointer(buffer, self.indices.extent(offset)),
        )

    def _pointer(self, buffer: Buffer, value: Any) -> Operand:
        kind = memory_type(buffer.dtype)
        base = self.pointers[buffer]
        if isinstance(value, int):
            return self.b.gep(base, [I64(value)], source_etype=kind) if value else base
        return self.b.gep(base, [value], source_etype=kind)

    # -- loads -------------------------------------------------------------------------------------

    def load(self, load: Load) -> Operand:
        """The element at an index that loop variables decide."""
        offset = self._offset(load.buffer, load.extents)
        made = self.made_of_locals if load.buffer.is_local else self.made
        item = (load.buffer, offset.whole)
        return self.indices.once(
            made,
            item,
            [offset.whole],
            lambda: self._value(load.buffer, self._element(load.buffer, offset)),
        )

    def load_at(self, buffer: Buffer, offset: Any) -> Operand:
        """The element at an offset that was computed at run time."""
        if not isinstance(offset, int) and is_vector(offset):
            return self._value(buffer, self._gathered(buffer, offset))
        return self._value(
            buffer, self.b.load(self._pointer(buffer, offset), typ=memory_type(buffer.dtype))
        )

    def vector(self, fold: LaneFold) -> Operand:
        """The vector whose lanes are combined."""
        kind = vector_of(memory_type(fold.buffer.dtype))
        address = self._address(fold.buffer, fold.buffer.offset((*fold.index, 0)))
        return self.b.load(address, align=64, typ=kind)

    def _value(self, buffer: Buffer, element: Operand) -> Operand:
        """What an element in memory means."""
        return (
            self.b.icmp_unsigned("!=", element, zero_of(element))
            if buffer.dtype is BOOL
            else element
        )

    def _element(self, buffer: Buffer, offset: _Offset) -> Operand:
        slope = offset.slope if self.indices.in_lanes else 0
        if slope == 0:
            return self._uniform(buffer, offset.without_lane)
        if slope == 1:
            return self._neighbours(buffer, offset.without_lane)
        if slope is not None and 1 < slope <= MOST_STEP and not buffer.is_local:
            return self._stepped(buffer, offset.without_lane, slope)
        if slope == LANES and buffer.is_local and buffer.shape == (LANES, LANES):
            column = self.indices.extent(offset.without_lane)
            if isinstance(column, int):
                return self._column(buffer, column)
        return self._gathered(buffer, self.indices.extent(offset.whole))

    def _uniform(self, buffer: Buffer, offset: Extent) -> Operand:
        kind, mask = memory_type(buffer.dtype), self.indices.mask
        if mask is None or self.indices.is_tail or buffer.is_local:
            return self.b.load(self._address(buffer, offset), typ=kind)
        some = self.b.icmp_unsigned("!=", self.b.bitcast(mask, I16), I16(0))
        return self.f.lazily(
            some, lambda: self.b.load(self._address(buffer, offset), typ=kind), kind
        )

    def _neighbours(self, buffer: Buffer, offset: Extent) -> Operand:
        return self._vector(buffer, offset, self.indices.mask)

    def _stepped(self, buffer: Buffer, offset: Extent, step: int) -> Operand:
        """Every ``step``-th of the elements that vectors of neighbours hold; the last vector ends
        with the last lane's element, so that nothing behind it is read."""
        last = (LANES - 1) * step
        starts = [*range(0, last + 1 - LANES, LANES), last + 1 - LANES]
        parts = []
        for start in starts:
            lanes = [
                number // step if number % step == 0 else None
                for number in range(start, start + LANES)
            ]
            parts.append(
                self._vector(buffer, offset + start, spread(self.b, self.indices.mask, lanes))
            )
        return picked(self.b, parts, starts, step)

    def _vector(self, buffer: Buffer, offset: Extent, mask: Operand | None) -> Operand:
        kind = vector_of(memory_type(buffer.dtype))
        address = self._address(buffer, offset)
        if mask is None or buffer.is_local:
            return self.b.load(
                address, align=64 if buffer.is_local else buffer.dtype.bytes, typ=kind
            )
        function = self.f.intrinsic(
            f"llvm.masked.load.{suffix(kind)}.p0", kind, [PTR, I32, mask.type, kind]
        )
        return self.b.call(function, [address, I32(buffer.dtype.bytes), mask, zero_of_type(kind)])

    def _column(self, buffer: Buffer, column: int) -> Operand:
        """A column of a square local buffer; all of them are made of its rows together."""
        known = self.turned.get(buffer)
        if known is None or known[0] is not self.b.block:
            rows = [self._neighbours(buffer, row * LANES) for row in range(LANES)]
            known = self.turned[buffer] = self.b.block, transposed(self.b, rows)
        return known[1][column]

    def _gathered(self, buffer: Buffer, offsets: Any) -> Operand:
        """Lane by lane; lanes that do not run read nothing."""
        element = memory_type(buffer.dtype)
        result: Operand = zero_of_type(vector_of(element))
        offsets = self.f.vector(self.indices.i64(offsets))
        for lane in range(LANES):
            at = self.b.extract_element(offsets, I32(lane))

            def one(at: Operand = at) -> Operand:
                return self.b.load(self._pointer(buffer, at), typ=element)

            value = self._if_lane_runs(lane, one, element)
            result = self.b.insert_element(result, value, I32(lane))
        return result

    def _if_lane_runs(self, lane: int, make: Callable[[], Operand], kind: ir.Type) -> Operand:
        if self.indices.mask is None:
            return make()
        return self.f.lazily(self.b.extract_element(self.indices.mask, I32(lane)), make, kind)

    # -- stores ------------------------------------------------------------------------------------

    def store(self, store: Store, value: Operand) -> None:
        """Stores a value where a statement says."""
        buffer = store.buffer
        if buffer.dtype is BOOL:
            value = self.b.zext(value, like(value, I8))
        offset = self._offset(buffer, store.index)
        if not self.indices.in_lanes:
            self.b.store(value, self._address(buffer, offset.whole))
        elif offset.slope == 1:
            self._store_neighbours(buffer, offset.without_lane, self.f.vector(value))
        else:
            self._scatter(buffer, self.indices.extent(offset.whole), self.f.vector(value))
        if buffer.is_local:
            self.made_of_locals.clear()
            self.turned.pop(buffer, None)
        else:
            self.made.clear()  # an output may lie where an input does

    def _store_neighbours(self, buffer: Buffer, offset: Extent, value: Operand) -> None:
        address, mask = self._address(buffer, offset), self.indices.mask
        if mask is None or buffer.is_local:
            self.b.store(value, address, align=64 if buffer.is_local else buffer.dtype.bytes)
            return
        kind = value.type
        function = self.f.intrinsic(
            f"llvm.masked.store.{suffix(kind)}.p0", ir.VoidType(), [kind, PTR, I32, mask.type]
        )
        self.b.call(function, [value, address, I32(buffer.dtype.bytes), mask])

    def _scatter(self, buffer: Buffer, offsets: Any, value: Operand) -> None:
        offsets, mask = self.f.vector(self.indices.i64(offsets)), self.indices.mask
        for lane in range(LANES):
            at = self.b.extract_element(offsets, I32(lane))
            element = self.b.extract_element(value, I32(lane))
            if mask is None:
                self.b.store(element, self._pointer(buffer, at))
                continue
            with self.f.if_then(self.b.extract_element(mask, I32(lane))):
                self.b.store(element, self._pointer(buffer, at))


__all__ = ["Memory"]
