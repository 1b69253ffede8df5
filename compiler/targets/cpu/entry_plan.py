"""An entry of a program -> where each of its values lies when host code runs it.

Each entry has a pool of 64-bit words: [inputs | outputs | constants | states | places in the arena |
values | error flag], addresses first. The words of all launches are gathered from the pool through
one table of indices (``wiring``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ... import dim
from ...data_dims import room_for
from ...dim import Extent
from ...program import ALIGNMENT, BufferRef, Entry, Program, Space, Turn


@dataclass(frozen=True)
class EntryPlan:
    """Where everything of an entry lies in its pool."""

    program: Program
    entry: Entry

    @cached_property
    def values(self) -> dict[Extent, int]:
        """Every extent that the host needs, with its number."""
        wanted: list[Extent] = []
        for port in (*self.entry.inputs, *self.entry.outputs):
            wanted += [*port.type.shape, *map(self.room, port.type.shape)]
        wanted += [*self.arena_offsets, self.arena_bytes]
        wanted += [bound.limit for bound in self.entry.dims]
        for launch in self.entry.launches:
            wanted += [launch.items, *launch.extents]
        return {extent: number for number, extent in enumerate(dict.fromkeys(wanted))}

    def room(self, extent: Extent) -> Extent:
        """The most that an output's extent can be."""
        return room_for(extent, self.entry.bounds, self.entry.name)

    @cached_property
    def slot_starts(self) -> tuple[Extent, ...]:
        """Where each slot of the arena starts, and at last the arena's size."""
        starts: list[Extent] = [0]
        for size in self.entry.slots:
            starts.append(starts[-1] + dim.ceil_div(size, ALIGNMENT) * ALIGNMENT)
        return tuple(starts)

    @property
    def arena_bytes(self) -> Extent:
        """The arena's size."""
        return self.slot_starts[-1]

    @cached_property
    def arena_places(self) -> dict[BufferRef, int]:
        """Every place in the arena that a launch or the run itself reads or writes, with its
        number.
        """
        refs = [ref for launch in self.entry.launches for ref in launch.buffers]
        for bound in self.entry.dims:
            read = bound.goes_on if isinstance(bound, Turn) else bound.count
            refs += [read] if read is not None else []
        in_arena = (ref for ref in refs if ref.space is Space.ARENA)
        return {ref: number for number, ref in enumerate(dict.fromkeys(in_arena))}

    @cached_property
    def arena_offsets(self) -> tuple[Extent, ...]:
        """Where each of these places starts in the arena."""
        return tuple(self.slot_starts[ref.index] + ref.offset for ref in self.arena_places)

    @cached_property
    def bases(self) -> dict[Space | str, int]:
        """The first pool index of each section; "size" is the pool's length."""
        lengths: list[tuple[Space | str, int]] = [
            (Space.INPUT, len(self.entry.inputs)), (Space.OUTPUT, len(self.entry.outputs)),
            (Space.CONSTANT, len(self.program.constants)), (Space.STATE, len(self.program.states)),
            (Space.ARENA, len(self.arena_places)), ("values", len(self.values)), ("flag", 1), ("size", 0),
        ]  # fmt: skip
        bases, position = {}, 0
        for section, length in lengths:
            bases[section] = position
            position += length
        return bases

    def value(self, extent: Extent) -> int:
        """The pool index of an extent's value."""
        return self.bases["values"] + self.values[extent]

    def buffer(self, ref: BufferRef) -> int:
        """The pool index of a buffer's address."""
        return self.bases[ref.space] + (
            self.arena_places[ref] if ref.space is Space.ARENA else ref.index
        )

    @cached_property
    def wiring(self) -> tuple[tuple[int, ...], ...]:
        """The pool indices of each launch's words."""
        return tuple(
            (
                *map(self.buffer, launch.buffers),
                *map(self.value, launch.extents),
                self.bases["flag"],
            )
            for launch in self.entry.launches
        )

    @property
    def needs_state(self) -> bool:
        return self.entry.name == "train_step" or any(
            ref.space is Space.STATE for launch in self.entry.launches for ref in launch.buffers
        )
