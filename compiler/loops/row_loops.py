"""A row kernel -> loops: a work item makes some rows, in several passes over a row while it is in
the cache or in registers.

Each reduction is one pass over the row and the result is another; ``row_passes.py`` says what each
computes and what it keeps for later ones. Here is chosen how rows are vectorized: if they are
shorter than a vector each lane has a row of its own (row_per_lane.py), else lanes lie along a row
(row_along_lanes.py). The order of every sum depends on shapes only."""

from __future__ import annotations

from collections.abc import Mapping

from ..dim import Extent, Symbol
from .ir import LANES, Buffer, Statement
from .row_along_lanes import RowAlongLanes
from .row_form import RowForm
from .row_passes import Keep, row_passes
from .row_per_lane import RowPerLane
from .row_vectors import merged_from

ONE_LANE = LANES - 1  # the longest rows that have one lane each
SHORT = 4  # vectors of a row that stays in registers


def row_loops(form: RowForm, item: Symbol) -> tuple[Extent, Statement, Mapping[Buffer, Buffer]]:
    """(work items, body, the buffers as they are walked) of a row kernel."""
    length = form.length
    if (
        isinstance(length, int)
        and length <= ONE_LANE
        and not (isinstance(form.count, int) and form.count < LANES)
    ):
        return RowPerLane(form, row_passes(form, Keep.ALL)).loops(item)
    if isinstance(length, int) and length <= SHORT * LANES:
        passes = row_passes(form, Keep.COMPUTED)
        if all(merged_from(form, root) == 0 for root in passes.roots):
            return RowAlongLanes(form, passes, is_short=True).loops(item)
    keep = Keep.ONE if form.is_row else Keep.NOTHING
    return RowAlongLanes(form, row_passes(form, keep)).loops(item)


__all__ = ["row_loops"]
