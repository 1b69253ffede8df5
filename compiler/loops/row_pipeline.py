"""Row kernels whose passes run at once, each on a row of its own: pass s on row K - s while K counts.

An exponential keeps the multipliers busy, a division the divider, reading the next row the memory; one pass after another would
wait for each in turn. So one loop over a row's vectors holds a vector of every pass (software pipelining; Lam 1988). Numbers of
rows wait in short queues: what pass a found of a row is at place b - a - 1 when pass b needs it. The first and the last rows,
for which not all passes have a row, are made by loops of their own, which read nothing that is kept; they find the same bits, since
they make it anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .. import dim, scalar
from ..dim import Dim, Extent, Symbol
from ..graph import Node, Value
from . import tiling
from .elements import accumulated_in
from .ir import LANES, Allocate, Buffer, Let, Load, Statement, Store, block, guard, loop, variable
from .row_along import Along
from .row_form import RowForm, decoded
from .row_lanes import Spot, merged_from, segments
from .row_passes import Keep, Pass, is_dear, row_passes

UNITS = 2  # vectors of each pass at a time
ROW_BYTES = 1 << 16  # of the longest row: several lie in the cache at once
MOST_ROWS = 64  # of a work item: few, compared to these, are made by the loops for the first and the last ones
LEAST_ITEMS = 16  # that are kept, where there are not many rows


def can_pipeline(along: Along) -> bool:
    """Whether passes over rows of known length can share a loop, and one of them computes enough to wait for."""
    form = along.form
    if not form.is_row or not isinstance(form.length, int) or form.length * along.elements.out.dtype.bytes > ROW_BYTES:
        return False
    if not any(is_dear(step.root) for step in along.passes.steps if isinstance(step.makes, Node)):
        return False
    if isinstance(form.count, int) and form.count < 2 * len(form.reductions):
        return False
    return all(merged_from(form, root) == 0 and along.chain(root, UNITS) <= tiling.CHAIN for root in along.passes.roots)


def pipelined_loops(along: Along, item: Symbol) -> tuple[Extent, Statement, Mapping[Buffer, Buffer]]:
    """(work items, body, the buffers as they are walked)"""
    return _Pipeline(along, item).loops()


class _Pipeline:
    """``stages``: a pass over a row and then what is made of its result for the row, each also without what is kept."""

    def __init__(self, along: Along, item: Symbol) -> None:
        self.along, self.form, self.item = along, along.form, item
        self.stages: list[list[tuple[Pass, Pass]]] = []
        for pair in zip(along.passes.steps, row_passes(along.form, Keep.NOTHING).steps, strict=True):
            if isinstance(pair[0].makes, Value):
                self.stages[-1].append(pair)
            else:
                self.stages.append([pair])
        self.last = len(self.stages) - 1
        self.rows = _rows_of_item(self.form)
        self.queues: dict[Buffer, Buffer] = {}
        self.stage_of: dict[Buffer, int] = {}
        self.totals: list[Buffer] = []
        for place, stage in enumerate(self.stages[: self.last]):
            for step, anew in stage:
                queue = along.local("s", step.leaf.dtype, (self.last - place,))
                self.queues.update({step.leaf: queue, anew.leaf: queue})
                self.stage_of.update({step.leaf: place, anew.leaf: place})
            step, _ = stage[0]
            self.totals.append(along.local("t", accumulated_in(step.leaf.dtype), (UNITS, LANES)))
            if step.keeps is not None:
                along.kept[step.keeps] = along.keeps_in(step)

    def loops(self) -> tuple[Extent, Statement, Mapping[Buffer, Buffer]]:
        """(work items, body, the buffers as they are walked)"""
        own = dim.minimum(self.rows, self.form.count - Dim.of(self.item) * self.rows)
        number = variable("k", own + self.last)
        first, last = Dim.of(number) - self.last, own - 1 - Dim.of(number)
        is_at_end = -dim.minimum(first, last) - 1
        steps = block(guard((first, last), self._together(number)), guard((is_at_end,), self._apart(number, own)))
        queues = dict.fromkeys(self.queues.values())
        clear = [Store(queue, (place,), scalar.literal(0, queue.dtype)) for queue in queues for place in range(_size(queue))]
        body = block(*clear, loop(number, own + self.last, steps))
        for local in (*queues, *self.totals):
            body = Allocate(local, body)
        return dim.ceil_div(self.form.count, self.rows), body, self.along.flat

    # -- one step of all passes --------------------------------------------------------------------------

    def _together(self, number: Symbol) -> Statement:
        """Every pass on its row, vector by vector."""
        rows = [_row(stage, self.form) for stage in range(len(self.stages))]
        whole = self._swept([stage[0][0] for stage in self.stages], dict(enumerate(rows)))
        made = [s for stage in range(self.last) for s in (self._folded(stage), *self._made(stage, rows[stage]))]
        body = block(*map(self._clear, range(self.last)), whole, self._moved(), *made)
        for stage, row in enumerate(rows):
            body = Let(row, self._position(number, stage), body)
        return body

    def _apart(self, number: Symbol, own: Extent) -> Statement:
        """Those passes that have a row, one after another; the others find numbers that nothing reads."""
        sweeps: list[Statement] = []
        made: list[Statement] = []
        for stage, pairs in enumerate(self.stages):
            row, at = _row(stage, self.form), Dim.of(number) - stage
            is_inside, place = (at, own - 1 - at), self._position(number, stage)
            kept, anew = pairs[0]
            step = Pass(kept.makes, anew.root, kept.leaf, kept.keeps)
            sweeps.append(guard(is_inside, Let(row, place, self._swept([step], {stage: row}))))
            if stage < self.last:
                made.append(self._folded(stage))
                made += [guard(is_inside, Let(row, place, block(*values))) for values in [self._made(stage, row)] if values]
        return block(*map(self._clear, range(self.last)), *sweeps, self._moved(), *made)

    def _position(self, number: Symbol, stage: int) -> Extent:
        """The row that a pass has."""
        return Dim.of(self.item) * self.rows + Dim.of(number) - stage

    def _swept(self, steps: Sequence[Pass], rows: Mapping[int, Symbol]) -> Statement:
        """The passes over their rows, by number."""
        known = {stage: self.along.decoded(Dim.of(row)) for stage, row in rows.items()}

        def make(at: Extent, unit: Extent, vector: Extent, conditions: tuple[Extent, ...]) -> Statement:
            inner = decoded(self.form.reduced, at)
            spots = {stage: Spot(Dim.of(row), at, {**known[stage], **inner}, unit, vector, conditions) for stage, row in rows.items()}
            return block(*(self._vector(stage, step, spots[stage]) for stage, step in zip(rows, steps, strict=True)))

        assert isinstance(self.form.length, int)
        return segments(0, self.form.length, UNITS, make)

    def _vector(self, stage: int, step: Pass, spot: Spot) -> Statement:
        """A pass over one vector."""
        self._see(stage, 1)
        if isinstance(step.makes, Node):
            return self.along.adder(step, step.makes, self.totals[stage])(spot)
        return self.along.storer(step.root)(spot)

    # -- numbers of rows ---------------------------------------------------------------------------------

    def _see(self, stage: int, behind: int) -> None:
        """What is read of the rows of earlier passes is theirs of the present row; ``behind``: 1 until the queues moved."""
        places = {leaf: stage - self.stage_of[leaf] - behind for leaf in self.queues}
        self.along.scalars = {
            leaf: Load(queue, (places[leaf],)) for leaf, queue in self.queues.items() if 0 <= places[leaf] < _size(queue)
        }

    def _clear(self, stage: int) -> Statement:
        node = self.stages[stage][0][0].makes
        assert isinstance(node, Node)
        return self.along.clear(self.totals[stage], node)

    def _moved(self) -> Statement:
        """All numbers one place on."""
        queues = dict.fromkeys(self.queues.values())
        return block(*(Store(q, (p,), Load(q, (p - 1,))) for q in queues for p in range(_size(q) - 1, 0, -1)))

    def _folded(self, stage: int) -> Statement:
        """What a pass found of its row."""
        step, _ = self.stages[stage][0]
        assert isinstance(step.makes, Node)
        return self.along.folded(self.totals[stage], step.makes, self.queues[step.leaf], 0)

    def _made(self, stage: int, row: Symbol) -> list[Statement]:
        """What is made of that for the row."""
        self._see(stage, 0)
        spot = self.along.spot(Dim.of(row), ())
        return [Store(self.queues[step.leaf], (0,), self.along.placed(step.root, spot)) for step, _ in self.stages[stage][1:]]


def _row(stage: int, form: RowForm) -> Symbol:
    return variable("q" + chr(ord("a") + stage), form.count)


def _size(queue: Buffer) -> int:
    (size,) = queue.shape
    assert isinstance(size, int)
    return size


def _rows_of_item(form: RowForm) -> int:
    """As many as share the loops for the first and the last rows, but few enough to leave work for all threads."""
    if not isinstance(form.count, int):
        return MOST_ROWS // 2
    assert isinstance(form.length, int)
    least = max(1, tiling.ITEM_WORK // form.length)
    return min(form.count, max(least, min(MOST_ROWS, form.count // LEAST_ITEMS)))


__all__ = ["can_pipeline", "pipelined_loops"]
