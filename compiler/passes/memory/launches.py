"""The launches of one entry in the order of a run, and the dims and turns that stand between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from netloom.errors import VerificationError

from ... import dim
from ...data_dims import bounds_of
from ...dim import Dim, Extent, Symbol
from ...graph import Graph, Value
from ...program import BoundDim, BufferRef, Launch, Space, Turn
from ..bind_dims import own_names, substitute_symbols
from ..placement import Placement
from .slice_starts import without_starts


class Launches:
    """``bounds``: the most that each symbol can be which a run binds itself."""

    def __init__(self, graph: Graph, placement: Placement) -> None:
        self.done: list[Launch] = []
        self.dims: list[BoundDim | Turn] = []
        self.bounds = bounds_of(graph)  # those in bodies too
        self._placement = placement
        # loops have names of their own, so some symbols are called otherwise in kernels
        renamed = own_names((*graph.symbols, *self.bounds))
        self._own_names = {symbol: Dim.of(own) for symbol, own in renamed.items()}
        self._meanings = {own: Dim.of(symbol) for symbol, own in renamed.items()}

    def add(
        self,
        body: Graph,
        read: Sequence[tuple[Value, BufferRef]],
        out: BufferRef,
        label: str,
        node: tuple[int, ...] = (),
    ) -> None:
        """A kernel that does what the body says runs next, over values and their places; ``node``
        as in ``Launch``.

        VerificationError if a symbol that the kernel needs has no value by then.
        """
        body, firsts = without_starts(body, lambda number: self._may_move(*read[number]))
        if self._own_names:
            body = substitute_symbols(body, self._own_names)
        name, outline = self._placement.kernel(body)
        moved = (
            replace(ref, offset=ref.offset + first * value.dtype.bytes)
            for (value, ref), first in zip(read, firsts, strict=True)
        )
        extents = tuple(self._meanings.get(symbol, Dim.of(symbol)) for symbol in outline.symbols)
        items = dim.substitute(outline.items, self._meanings)
        self._check_bound((*extents, items), label)
        self.done.append(Launch(name, (*moved, out), extents, items, label, node))

    def bind(self, symbol: Symbol, limit: Extent, count: BufferRef) -> None:
        """From here on a data dim has its value; launches that need it come later."""
        self.dims.append(BoundDim(symbol, limit, self.bounds[symbol], count, len(self.done)))

    @contextmanager
    def turns(self, symbol: Symbol, count: Extent, goes_on: BufferRef | None) -> Iterator[None]:
        """What is added within is one turn; fields as in ``Turn``."""
        entered, first = len(self.dims), len(self.done)
        turn = Turn(symbol, count, self.bounds[symbol], goes_on, True, first, first)
        self.dims.append(turn)
        yield
        turn = replace(turn, last=len(self.done))
        self.dims[entered] = turn
        self.dims.append(replace(turn, is_first=False))

    def _may_move(self, value: Value, ref: BufferRef) -> bool:
        """Whether what a kernel reads may begin at any element of its slot."""
        is_known = dim.symbols_of(value.shape).isdisjoint(self.bounds)
        return self._placement.joins_in_place and ref.space is Space.ARENA and is_known

    def _check_bound(self, extents: tuple[Extent, ...], label: str) -> None:
        known = {bound.symbol for bound in self.dims}
        if early := dim.symbols_of(extents) & self.bounds.keys() - known:
            names = sorted(map(str, early))
            raise VerificationError(f"a launch reads {names} too early", node=label)
