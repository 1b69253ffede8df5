"""The arena: slots, each as large as the largest of the values that use it one after another."""

from __future__ import annotations

from ... import dim
from ...dim import Extent

TYPICAL = 16  # what free dims are taken for where slots are compared


class Arena:
    """Slots are numbered as they are first needed; ``sizes`` in bytes. Sets of nodes are those of
    ``Lifetimes``."""

    def __init__(self) -> None:
        self.sizes: list[Extent] = []
        self._free: list[int] = []
        self._users: dict[int, int] = {}  # of a free slot: who wrote and read what it held

    def new(self, size: Extent) -> int:
        """A slot that nothing has used before."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def take(self, size: Extent, before: int) -> int:
        """A free slot with the least waste, made larger if need be; else a new one. Only nodes that
        are ``before`` the taker may have used it."""
        fitting = [slot for slot in self._free if not self._users[slot] & ~before]
        if not fitting:
            return self.new(size)
        wanted = _typical(size)
        best = min(fitting, key=lambda slot: (abs(_typical(self.sizes[slot]) - wanted), slot))
        self._free.remove(best)
        if size != self.sizes[best]:
            self.sizes[best] = dim.maximum(self.sizes[best], size)
        return best

    def give_back(self, slot: int, users: int) -> None:
        """The slot is free again, once ``users`` have ended."""
        self._free.append(slot)
        self._users[slot] = users

    def is_free(self, slot: int) -> bool:
        """Whether a slot may be taken."""
        return slot in self._free


def _typical(size: Extent) -> int:
    return dim.evaluate(size, {s.name: TYPICAL for s in dim.symbols_of([size])})
