"""What the compiler hands to a target: kernels as loops, launches in order, constants, states and a
memory plan.

A kernel is called as ``void kernel(const uint64_t *words, int64_t begin, int64_t end)``: it does
the work items ``begin <= item < end``. ``words`` holds one pointer per buffer, then one int64 per
extent argument, then a pointer to the context's int32 error flag (kernels store a nonzero code
there when a run-time index is out of range).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .constant import Constant
from .dim import Extent, Symbol
from .tensor_type import TensorType

if TYPE_CHECKING:
    from .loops.ir import Kernel

ALIGNMENT = 64  # of every buffer in the arena, the constants and the state, in bytes


class Space(enum.Enum):
    """Where a buffer lives."""

    INPUT = "input"  # index: position in the entry's inputs
    OUTPUT = "output"  # index: position in the entry's outputs
    CONSTANT = "constant"  # index: position in the program's constants
    STATE = "state"  # index: position in the program's states
    ARENA = "arena"  # index: position in the entry's slots


@dataclass(frozen=True)
class BufferRef:
    """One buffer argument of a launch; ``offset`` is its start in an arena slot, in bytes (a
    multiple of ALIGNMENT, but for an entry that a turn stacks, and for a slice that is read).
    """

    space: Space
    index: int
    offset: Extent = 0


@dataclass(frozen=True)
class Launch:
    """Run all items of a kernel, in any order, on any threads; the next launch sees all its
    stores.
    """

    kernel: str
    buffers: tuple[BufferRef, ...]
    extents: tuple[Extent, ...]
    items: Extent
    label: str = ""  # what the user calls it: data for profiles, never code
    # the kernel node's place in the entry's graph; in a body, behind that of the node that has the
    # body; (): a copy
    node: tuple[int, ...] = ()


@dataclass(frozen=True)
class Port:
    """A named tensor at the program's border. The name is data."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class StatePort:
    """A state tensor (static shape): its initial value is constant number ``initial``."""

    name: str
    type: TensorType
    initial: int


@dataclass(frozen=True)
class BoundDim:
    """A free dim that a run binds itself: to the int64 number at ``count`` once the first
    ``launches`` launches are done. It is at most ``limit``, an extent over the program's symbols
    and dims that were bound before, and so at most ``bound``, over the program's symbols alone.
    """

    symbol: Symbol
    limit: Extent
    bound: Extent
    count: BufferRef
    launches: int


@dataclass(frozen=True)
class Turn:
    """Where a run decides whether a turn follows: before the launches ``first`` to ``last``, which
    are one turn, and behind them. The first time the symbol becomes 0, then one more. A turn
    follows if the symbol is less than ``limit`` and, where ``goes_on`` is given, the byte there is
    not 0.
    """

    symbol: Symbol
    limit: Extent
    bound: Extent  # of the symbol
    goes_on: BufferRef | None
    is_first: bool
    first: int
    last: int

    @property
    def launches(self) -> int:
        """How many launches, in the order of the list, come before it."""
        return self.first if self.is_first else self.last


@dataclass(frozen=True)
class Entry:
    """One function of the program: ``run`` (inference) or ``train_step``.

    Arena slot i holds ``slots[i]`` bytes; slots lie one after another, each rounded up to
    ``ALIGNMENT``. ``dims`` are in the order of the launches that they stand between; ``slots`` and
    what the caller gives for outputs have room for their bounds.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    launches: tuple[Launch, ...]
    slots: tuple[Extent, ...]
    dims: tuple[BoundDim | Turn, ...] = ()

    @property
    def bounds(self) -> dict[Symbol, Extent]:
        """The most that each of its own dims can be."""
        return {bound.symbol: bound.bound for bound in self.dims}


@dataclass(frozen=True)
class Program:
    """The whole program, before code is emitted for a target. ``symbols`` are the free dims of
    all entries that callers' shapes bind.
    """

    name: str
    symbols: tuple[Symbol, ...]
    entries: tuple[Entry, ...]
    constants: tuple[Constant, ...]  # as they lie in memory (already packed)
    states: tuple[StatePort, ...]
    kernels: Mapping[str, Kernel]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_training(self) -> bool:
        return any(entry.name == "train_step" for entry in self.entries)


def identifier(name: str) -> str:
    """A name as symbols and C identifiers may bear it: ASCII letters, digits and
    underscores, about 64 at the most.
    """
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)[:64]
    return kept if kept and not kept[0].isdigit() else f"model_{kept}"
