"""Results of attention, or of its gradient, from shared memory to the device's: neighbours store
neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...loops.elements import Axis
from .forms import THREADS, FusedAttention, FusedGradient
from .printer import Printer


@dataclass(frozen=True)
class Staged:
    """``rows`` of results in a block's memory, ``stride`` words apart, of ``width`` columns, the
    first ``extent`` of which are stored; ``before``: columns of the output that come before them."""

    row: Axis
    rows: int
    width: int
    stride: int
    extent: int
    before: int = 0


def store_staged(
    p: Printer,
    form: FusedAttention | FusedGradient,
    names: Mapping[str, str],
    staged: Staged,
    row_of: Callable[[str], str] | None = None,
) -> None:
    """Stores them; ``row_of``: the row that lies at a place, the block's ``first`` and so on if not
    given."""
    with p.loop(staged.rows * staged.width // THREADS) as step:
        turn = p.call("plus", p.call("times", step, str(THREADS)), names["thread"])
        flat = p.let(turn, "i")
        place, column = (p.index(x, flat, str(staged.width)) for x in ("quotient", "remainder"))
        row = p.let(row_of(place) if row_of else p.call("plus", names["first"], place), "r")
        inside = [p.call("below", row, p.extent(staged.row.extent))]
        if staged.extent != staged.width:
            inside.append(p.call("below", column, str(staged.extent)))
        with p.where(inside):
            p.names[staged.row.symbol.name] = row
            behind = p.index("plus", column, str(staged.before)) if staged.before else column
            p.names[form.column.symbol.name] = behind
            word = flat
            if staged.stride != staged.width:
                word = p.index("plus", p.index("times", place, str(staged.stride)), column)
            value = p.let(p.call("load_float32", names["memory"], word))
            offset = p.extent(p.kernel.buffers[-1].offset(form.position))
            p.store(offset, p.expression(form.value, value))


__all__ = ["Staged", "store_staged"]
