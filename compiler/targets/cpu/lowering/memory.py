"""Loads and stores: one element for all lanes, neighbours or elements a small step apart as
vectors, or lane by lane.

Lanes that do not run touch no memory; of a local buffer all lanes may be touched. No lane has a
branch of its own: what must not be read is a zero on the stack, and what must not be written goes
there too (a store that goes lane by lane asks once whether all lanes run). What a block has loaded
already is used again until something is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from llvmlite import ir

from .... import dim
from ....dim import Extent
from ....loops.ir import LANE, LANES, Buffer, LaneFold, Load, Store
from ....loops.lanes import by_lane, most_step
from ....loops.strides import MOST_STEP
from ....tensor_type import BOOL
from .addresses import LINE, Addresses, Offset, alignment_of, starts_at_vectors
from .function import Function, MadeInBlock
from .indices import Indices
from .representation import (
    I8,
    I16,
    I32,
    I64,
    PTR,
    Mask,
    Operand,
    is_vector,
    known_lanes,
    like,
    memory_type,
    suffix,
    vector_of,
    zero_of,
    zero_of_type,
)  # fmt: skip
from .shuffles import part_of, picked, runs, spread, transposed

# llvm.prefetch's locality for the L2 cache, which has more lines under way than the L1 cache
L2_LOCALITY = 2


class Memory(Addresses):
    """Loads from the buffers of a kernel, and stores to them."""

    def __init__(self, f: Function, indices: Indices) -> None:
        super().__init__(f, indices)
        self.made = MadeInBlock()
        self.made_of_locals = MadeInBlock()
        # columns of square buffers, and where they are known
        self.transposed: dict[Buffer, tuple[ir.Block, list[Operand]]] = {}
        self.at_lines: dict[Buffer, Operand] = {}  # whether streamed buffers start at one

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

    def load_at(self, buffer: Buffer, offset: Any, is_row: bool = False) -> Operand:
        """The element at an offset that was computed at run time; ``is_row``: it is that of the
        first lane, and the others are its neighbours."""
        if is_row:
            address = self._pointer(buffer, offset)
            return self._value(buffer, self._vector(buffer, address, self.indices.mask))
        if not isinstance(offset, int) and is_vector(offset):
            return self._value(buffer, self._gathered(buffer, offset))
        address = self._readable(self._pointer(buffer, offset))
        return self._value(buffer, self.b.load(address, typ=memory_type(buffer.dtype)))

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

    def _element(self, buffer: Buffer, offset: Offset) -> Operand:
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
        found = by_lane(offset.whole) if not buffer.is_local else None
        if found is not None and max(found[0]) - min(found[0]) < MOST_STEP * LANES:
            return self._near(buffer, *found)
        if not buffer.is_local and most_step(offset.whole) == 1:
            return self._run_or_gathered(buffer, offset)
        return self._gathered(buffer, offset)

    def _run_or_gathered(self, buffer: Buffer, offset: Offset) -> Operand:
        """Elements that clamps keep inside an axis: away from its ends they are neighbours, which
        they are just if the last lane's is so far from the first one's."""
        first, last = offset.without_lane, dim.substitute(offset.whole, {LANE: LANES - 1})
        apart = self.indices.i64(self.indices.extent(last - first))
        return self.f.either(
            self.b.icmp_signed("==", apart, I64(LANES - 1)),
            lambda: self._neighbours(buffer, first),
            lambda: self._gathered(buffer, offset),
        )

    def _uniform(self, buffer: Buffer, offset: Extent) -> Operand:
        kind, mask = memory_type(buffer.dtype), self.indices.mask
        address = self._address(buffer, offset)
        if mask is None or self.indices.is_tail or buffer.is_local:
            return self.b.load(self._readable(address), typ=kind)
        some = self.f.numbers.once(
            ("some", mask),
            lambda: self.b.icmp_unsigned("!=", self.b.bitcast(mask, I16), I16(0)),
        )
        return self.b.load(self._readable(address, some), typ=kind)

    def _neighbours(self, buffer: Buffer, offset: Extent) -> Operand:
        alignment = alignment_of(buffer, offset)
        return self._vector(buffer, self._address(buffer, offset), self.indices.mask, alignment)

    def _stepped(self, buffer: Buffer, offset: Extent, step: int) -> Operand:
        """Every ``step``-th of the elements that vectors of neighbours hold. Vectors lie as the
        elements of the whole window do, so that all of them are made of the same vectors, and the
        last one ends with the last element, so that nothing behind it is read."""
        first, place, end = self.indices.window(offset)
        elements = (LANES - 1) * step + end + 1
        starts = [*range(0, elements - LANES, LANES), elements - LANES]
        inside = range(place, place + LANES * step, step)
        holders = sorted({next(s for s in starts if e < s + LANES) for e in inside})
        parts = [self._window_part(buffer, first, start, step, end) for start in holders]
        wanted = range(0, LANES * step, step)
        return picked(self.b, parts, [start - place for start in holders], wanted)

    def _near(self, buffer: Buffer, places: Sequence[int], rest: Extent) -> Operand:
        """Elements at places that are known for each lane, near each other: picked out of vectors
        of neighbours, of which only what the lanes read is loaded."""
        first, running = min(places), self.indices.mask
        wanted = [place - first for place in places]
        starts = range(0, max(wanted) + 1, LANES)
        masks = [self._readers(wanted, start) for start in starts]
        if not all(mask is None or self._has_masks(buffer, mask) for mask in masks):
            return self._joined(buffer, self._lanes_at(buffer, places, rest), running)
        parts = [
            self._vector(buffer, self._address(buffer, rest + first + start), mask)
            for start, mask in zip(starts, masks, strict=True)
        ]
        result = picked(self.b, parts, starts, wanted)
        if running is None or len(set(wanted)) == LANES:
            return result
        # a lane that does not run reads a zero, also where another one wants its element
        return self.b.select(running, result, zero_of_type(result.type))

    def _readers(self, wanted: Sequence[int], start: int) -> Operand | None:
        """Which of the elements from ``start`` on lanes that run want; None: all."""
        running = self.indices.mask
        known = (True,) * LANES if running is None else known_lanes(running)
        readers = [
            [lane for lane, place in enumerate(wanted) if place == element]
            for element in range(start, start + LANES)
        ]
        if known is not None:
            read = [any(known[lane] for lane in lanes) for lanes in readers]
            return None if all(read) else Mask(read)
        mask: Operand | None = None
        for turn in range(max(map(len, readers))):
            some = [lanes[turn] if turn < len(lanes) else None for lanes in readers]
            part = spread(self.b, running, some)
            mask = part if mask is None else self.b.or_(mask, part)
        return mask

    def _lanes_at(
        self, buffer: Buffer, places: Sequence[int], rest: Extent
    ) -> Iterator[tuple[int, Operand]]:
        """The lanes, and where the element of each is."""
        for lane, place in enumerate(places):
            yield lane, self._address(buffer, rest + place)

    def _window_part(
        self, buffer: Buffer, first: Extent, start: int, step: int, end: int
    ) -> Operand:
        """The elements from ``start`` on of those that windows of ``end + 1`` elements, a step
        apart, read in the lanes that run."""
        mask: Operand | None = None
        for before in range(end // step + 1) if self.indices.mask is not None else ():
            lanes = [_reader(number, step, end, before) for number in range(start, start + LANES)]
            part = spread(self.b, self.indices.mask, lanes)
            mask = part if mask is None else self.b.or_(mask, part)
        address = self._address(buffer, first + start)
        kind = (buffer, first + start, "window")
        return self.indices.once(
            self.made, kind, [first], lambda: self._vector(buffer, address, mask)
        )

    def _vector(
        self, buffer: Buffer, address: Operand, mask: Operand | None, alignment: int | None = None
    ) -> Operand:
        kind = vector_of(memory_type(buffer.dtype))
        if mask is not None and not buffer.is_local and not self._has_masks(buffer, mask):
            each = ((lane, self._behind(buffer, address, lane)) for lane in range(LANES))
            return self._joined(buffer, each, mask)
        # a CPU takes a thousand cycles to find that no lane of a vector without memory is read
        is_of_lanes = mask is not None and mask is self.indices.mask
        address = self._readable(address, self.indices.may_run() if is_of_lanes else None)
        if mask is None or buffer.is_local:
            return self.b.load(address, align=alignment or buffer.dtype.bytes, typ=kind)
        function = self.f.intrinsic(
            f"llvm.masked.load.{suffix(kind)}.p0", kind, [PTR, I32, mask.type, kind]
        )
        return self.b.call(function, [address, I32(buffer.dtype.bytes), mask, zero_of_type(kind)])

    def _column(self, buffer: Buffer, column: int) -> Operand:
        """A column of a square local buffer; all of them are made of its rows together."""
        known = self.transposed.get(buffer)
        if known is None or known[0] is not self.b.block:
            rows = [self._neighbours(buffer, row * LANES) for row in range(LANES)]
            known = self.transposed[buffer] = self.b.block, transposed(self.b, rows)
        return known[1][column]

    def _gathered(self, buffer: Buffer, at: Offset | Operand) -> Operand:
        """Lane by lane."""
        return self._joined(buffer, self._lanes(buffer, at), self.indices.mask)

    def _joined(
        self, buffer: Buffer, lanes: Iterable[tuple[int, Operand]], mask: Operand | None
    ) -> Operand:
        """What lanes have at their addresses; those that do not run read a zero."""
        element = memory_type(buffer.dtype)
        result: Operand = zero_of_type(vector_of(element))
        for lane, address in lanes:
            value = self.b.load(self._readable(address, self._runs(mask, lane)), typ=element)
            result = self.b.insert_element(result, value, I32(lane))
        return result

    # -- hints -------------------------------------------------------------------------------------

    def prefetch(self, buffer: Buffer, extent: Extent) -> None:
        """A hint for the element at an offset that loop variables decide."""
        self._prefetch(self._address(buffer, extent))

    def prefetch_at(self, buffer: Buffer, offset: Any) -> None:
        """The same at an offset that was computed at run time."""
        self._prefetch(self._pointer(buffer, offset))

    def _prefetch(self, address: Operand) -> None:
        """Into the L2 cache, to be read; an address outside all memory is no error."""
        function = self.f.intrinsic("llvm.prefetch.p0", ir.VoidType(), [PTR, I32, I32, I32])
        self.b.call(function, [address, I32(0), I32(L2_LOCALITY), I32(1)])

    # -- stores ------------------------------------------------------------------------------------

    def store(self, store: Store, value: Operand) -> None:
        """Stores a value where a statement says, at an index that loop variables decide."""
        buffer = store.buffer
        value = self._in_memory(buffer, value)
        offset = self._offset(buffer, store.extents)
        if not self.indices.in_lanes:
            self.b.store(value, self._address(buffer, offset.whole))
        elif offset.slope == 1:
            hint = store.bypasses_cache and starts_at_vectors(offset.without_lane)
            self._store_neighbours(buffer, offset.without_lane, self.f.vector(value), hint)
        else:
            self._put(self._lanes(buffer, offset), self.f.vector(value))
        self._forget(buffer)

    def store_at(self, buffer: Buffer, offset: Any, value: Operand) -> None:
        """Stores a number at an offset that was computed at run time; in lanes that is the offset of
        the first one, and the others are its neighbours."""
        value, address = self._in_memory(buffer, value), self._pointer(buffer, offset)
        if self.indices.in_lanes:
            self._store_vector(buffer, address, self.f.vector(value), buffer.dtype.bytes)
        else:
            self.b.store(value, address)
        self._forget(buffer)

    def _in_memory(self, buffer: Buffer, value: Operand) -> Operand:
        """The element that means a value."""
        return self.b.zext(value, like(value, I8)) if buffer.dtype is BOOL else value

    def _forget(self, buffer: Buffer) -> None:
        """What was loaded before a store to a buffer is not used again."""
        if buffer.is_local:
            self.made_of_locals.clear()
            self.transposed.pop(buffer, None)
        else:
            self.made.clear()  # an output may lie where an input does

    def _store_neighbours(
        self, buffer: Buffer, offset: Extent, value: Operand, bypasses_cache: bool
    ) -> None:
        address = self._address(buffer, offset)
        if bypasses_cache and self.indices.mask is None:
            self._stream(buffer, address, value)
            return
        self._store_vector(buffer, address, value, alignment_of(buffer, offset))

    def _store_vector(
        self, buffer: Buffer, address: Operand, value: Operand, alignment: int
    ) -> None:
        """In the lanes that run, neighbours from an address on; of a local buffer in all."""
        mask = self.indices.mask
        if mask is None or buffer.is_local:
            self.b.store(value, address, align=alignment)
            return
        known = known_lanes(mask)
        if known is not None and not self.f.cpu.machine.has_masks:
            self._store_runs(buffer, address, value, known)
            return
        if not self._has_masks(buffer, mask):
            each = ((lane, self._behind(buffer, address, lane)) for lane in range(LANES))
            self._put(each, value, lambda: self.b.store(value, address, align=alignment))
            return
        kind = value.type
        function = self.f.intrinsic(
            f"llvm.masked.store.{suffix(kind)}.p0", ir.VoidType(), [kind, PTR, I32, mask.type]
        )
        self.b.call(function, [value, address, I32(buffer.dtype.bytes), mask])

    def _store_runs(
        self, buffer: Buffer, address: Operand, value: Operand, known: Sequence[int]
    ) -> None:
        """Known lanes in parts that are stored whole."""
        for first, count in runs(known):
            part = part_of(self.b, value, first, count)
            where = self._behind(buffer, address, first)
            self.b.store(part, where, align=buffer.dtype.bytes)

    def _stream(self, buffer: Buffer, address: Operand, value: Operand) -> None:
        """Past the caches, which needs whole lines: where the caller's array starts at one."""
        with self.b.if_else(self._starts_at_line(buffer), likely=True) as (at_line, elsewhere):
            with at_line:
                store = self.b.store(value, address, align=min(LINE, LANES * buffer.dtype.bytes))
                store.set_metadata("nontemporal", self.f.module.add_metadata([I32(1)]))
            with elsewhere:
                self.b.store(value, address, align=buffer.dtype.bytes)

    def _starts_at_line(self, buffer: Buffer) -> Operand:
        """Whether a buffer's first element starts a cache line."""
        if buffer not in self.at_lines:
            with self.b.goto_entry_block():
                address = self.b.ptrtoint(self.pointers[buffer], I64)
                rest = self.b.and_(address, I64(LINE - 1))
                self.at_lines[buffer] = self.b.icmp_unsigned("==", rest, I64(0))
        return self.at_lines[buffer]

    def fence(self) -> None:
        """Behind the last store: what went past the caches is seen before what follows."""
        name = self.f.cpu.architecture.store_fence
        if self.at_lines and name:
            self.b.call(self.f.intrinsic(name, ir.VoidType(), []), [])

    def _put(
        self,
        lanes: Iterable[tuple[int, Operand]],
        value: Operand,
        whole: Callable[[], object] | None = None,
    ) -> None:
        """Lane by lane. Mostly all of them run, for which no lane is tested; ``whole`` then stores
        them at once."""
        all_run = self.indices.all_run()
        if all_run is None:
            self._put_running(lanes, value)
            return
        places = list(lanes)
        with self.f.if_either(all_run) as (all_, some):
            with all_:
                if whole is not None:
                    whole()
                for lane, address in places if whole is None else ():
                    self.b.store(self.b.extract_element(value, I32(lane)), address)
            with some:
                self._put_running(places, value)

    def _put_running(self, lanes: Iterable[tuple[int, Operand]], value: Operand) -> None:
        """Those that run, and the others where nothing reads."""
        for lane, address in lanes:
            element = self.b.extract_element(value, I32(lane))
            runs = self._runs(self.indices.mask, lane)
            if runs is not None:
                address = self.b.select(runs, address, self._elsewhere("rest"))
            self.b.store(element, address)


def _reader(number: int, step: int, end: int, before: int) -> int | None:
    """The lane whose window holds an element, so many before the last one that may; None if it
    does not."""
    lane = number // step - before
    return lane if 0 <= lane < LANES and number - lane * step <= end else None


__all__ = ["Memory"]
