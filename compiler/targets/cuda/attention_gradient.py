"""Attention's gradient in one kernel for its queries and one for its keys and values -> Numba
source: neither scores nor their slopes are in the device's memory.

A block has 64 rows and meets one tile of 64 columns after another (FlashAttention-2, Dao 2023,
algorithm 2). For dQ, rows are queries and columns keys; for dK and dV it is the other way around,
so that each gradient's sums are in one block's registers and in one order, without atomics. A tile's
weights are made anew from the scores and from each query's largest score and sum, which the forward
kernel leaves:

    P = exp(scale Q K' + mask - base) * inverse        dV += P' dy
    dS = P (dy V' - delta) scale                       dK += dS' Q, dQ += dS K

P, then dS, go through the same place in shared memory to the product that reads them. Operands come
in slices as in attention.py. A gradient's sums have the 64 terms of a tile, and one addition a tile.
With ``is_causal``, tiles that have no pair of a query and a key that it sees are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ... import dim
from ...loops.elements import Axis
from ...loops.ir import Load
from ...scalar import Expr
from ...tensor_type import FLOAT32
from .attention_blocks import Side, static
from .attention_slices import Slices
from .attention_stores import Staged, store_staged
from .attention_tiles import ACROSS, COLUMNS, KEYS, GradientTile, row_offset
from .forms import FusedGradient
from .gradient_blocks import first_column, place_block, read_numbers
from .printer import Printer


def print_gradient(p: Printer, form: FusedGradient) -> None:
    """The whole kernel."""
    kernel = _Kernel(p, form)
    kernel.place()
    kernel.attend()
    kernel.store()


@dataclass(frozen=True)
class _Phase:
    """Slices of a tile that are met together: two operands of scores, or one of a gradient."""

    sides: tuple[Side, ...]
    slices: int
    start: int  # slices of the tile before them


@dataclass
class _Kernel:
    """One kernel's text; ``names``: what is known of the block and the thread."""

    p: Printer
    form: FusedGradient
    names: dict[str, str] = field(default_factory=dict)
    phases: list[_Phase] = field(default_factory=list)
    ring: Slices = field(init=False)

    def __post_init__(self) -> None:
        f = self.form
        assert isinstance(f.tile, GradientTile)
        self.tile, self.rows = f.tile, f.tile.thread_rows
        self.other = f.row if f.is_across else f.key
        self.across = int(f.is_across)
        q, k = Side(f.q, f.row, f.depth, KEYS, 16, KEYS), Side(f.k, f.key, f.depth, KEYS, 16, KEYS)
        v, dy = (
            Side(f.v, f.key, f.width, KEYS, 16, KEYS),
            Side(f.dy, f.row, f.width, KEYS, 16, KEYS),
        )
        if f.is_across:
            self._add_scores_of(k, q)
            self._add_operand_of(f.dy, f.row, f.width)
            self._add_scores_of(v, dy)
            self._add_operand_of(f.q, f.row, f.depth)
        else:
            self._add_scores_of(q, k)
            self._add_scores_of(dy, v)
            self._add_operand_of(f.k, f.key, f.depth)
        self.slices = sum(phase.slices for phase in self.phases)

    def _add_scores_of(self, *sides: Side) -> None:
        slices = static(dim.ceil_div(sides[0].inner.extent, self.tile.depth))
        self._add(sides, slices)

    def _add_operand_of(self, load: Load, outer: Axis, inner: Axis) -> None:
        width = self._padded(inner)
        values = self.tile.values(width)
        self._add((Side(load, outer, inner, values, width, KEYS),), KEYS // values)

    def _add(self, sides: tuple[Side, ...], slices: int) -> None:
        start = self.phases[-1].start + self.phases[-1].slices if self.phases else 0
        self.phases.append(_Phase(sides, slices, start))

    def _padded(self, axis: Axis) -> int:
        """Of a gradient's columns: depth comes first."""
        return self.tile.widths[0 if axis is self.form.depth else -1]

    # -- before the loop ---------------------------------------------------------------------------

    def place(self) -> None:
        """Which rows the block has, and which of a tile's numbers this thread."""
        p, n, tile = self.p, self.names, self.tile
        n["thread"] = p.let(p.call("thread"), "t")
        place_block(p, self.form, n)
        n["slices"] = p.let(p.call("times", n["tiles"], str(self.slices)), "n")
        n["memory"] = p.let(p.call(f"shared_float32_{tile.room}"), "s")
        ring = p.let(p.call("at", n["memory"], str(tile.weight_words)), "s")
        self.ring = Slices(
            p, n["thread"], ring, tile.stages, tile.slice_words, tile.depth, tile.fragment
        )
        n["y"] = p.let(p.call("quotient", n["thread"], str(ACROSS)), "y")
        n["x"] = p.let(p.call("remainder", n["thread"], str(ACROSS)), "x")
        n["own"] = p.let(p.call("times", n["y"], str(tile.fragment)), "r")
        n["row"] = p.let(p.call("plus", n["first"], n["own"]), "r")
        n["left"] = p.let(p.call("times", n["own"], str(tile.depth)), "p")
        n["left_turn"] = p.let(self.ring.left_turn(n["own"]), "z")
        right = p.call("plus", p.call("times", n["x"], str(tile.depth)), str(KEYS * tile.depth))
        n["right"] = p.let(right, "p")
        n["right_turn"] = p.let(self.ring.right_turn(n["x"]), "z")
        weights = p.let(p.call("times", n["own"], str(tile.weight_stride)), "w")
        n["weights"] = p.let(p.call("at", n["memory"], weights), "w")
        n["kept"] = p.let(p.call("at", n["weights"], n["x"]), "w")
        n["column"] = p.let(p.call("times", n["x"], "4"), "x")

    # -- slices ------------------------------------------------------------------------------------

    def _fetch(self, number: str) -> None:
        """Begins this thread's copies of a slice, if there is one of that number."""
        p, n = self.p, self.names
        with p.where([p.call("below", number, n["slices"])]):
            target = self.ring.slot(number)
            first = self._first_column(p.call("quotient", number, str(self.slices)))
            part = p.let(p.call("remainder", number, str(self.slices)), "k")
            for phase in self.phases:
                last = phase.start + phase.slices
                conditions = [p.call("below", part, str(last))]
                if phase.start:
                    conditions.append(p.call("below", str(phase.start - 1), part))
                with p.where(conditions):
                    passed = p.call("minus", part, str(phase.start))
                    self._copy(phase.sides, target, first, p.let(passed, "k"))
        p.do("commit")

    def _copy(self, sides: Sequence[Side], target: str, first: str, passed: str) -> None:
        p, ring = self.p, self.ring
        if len(sides) == 1:
            step = p.call("times", passed, str(sides[0].size))
            ring.copy(sides[0], target, 0, p.let(p.call("plus", first, step), "k"), "0", None)
            return
        term = p.let(p.call("times", passed, str(self.tile.depth)), "k")
        ring.copy(sides[0], target, 0, self.names["first"], term, ring.left_turn)
        ring.copy(sides[1], target, KEYS * self.tile.depth, first, term, ring.right_turn)

    def _first_column(self, number: str) -> str:
        return first_column(self.p, self.tile, self.names["start"], number)

    # -- the loop ----------------------------------------------------------------------------------

    def attend(self) -> None:
        """``made_0`` and, of keys and values, ``made_1``: this thread's part of each gradient."""
        p, n, f = self.p, self.names, self.form
        for place, width in enumerate(self.tile.widths):
            p.line(f"made_{place} = {p.call(f'tile_zero_{self._held(width)}')}")
        if not f.is_across:
            read_numbers(p, f, [self._row(number) for number in range(self.rows)])
        self.ring.begin(self._fetch)
        with p.loop(n["tiles"]) as step:
            base = p.let(p.call("times", step, str(self.slices)), "n")
            first = self._first_column(step)
            column = p.let(p.call("plus", first, n["x"]), "k")
            columns = [p.index("plus", column, str(ACROSS * c)) for c in range(COLUMNS)]
            if f.is_across:
                read_numbers(p, f, columns)
            phases = iter(self.phases)
            self._score("weights", base, next(phases))
            self._weigh(first, column, columns)
            if f.is_across:
                self._add_gradient(1, "weights", base, next(phases))
            self._score("slopes", base, next(phases))
            scale = p.number(f.attrs.scale, FLOAT32)
            name = f"gradient_slopes_{self.rows}_{self.across}"
            p.line(f"slopes = {p.call(name, 'weights', 'slopes', 'deltas', scale)}")
            self._mask("slopes", f.slope, columns)
            self._add_gradient(0, "slopes", base, next(phases))

    def _held(self, width: int) -> int:
        return self.rows * width // ACROSS

    def _row(self, number: int) -> str:
        offset = row_offset(number, self.rows)
        return self.p.index("plus", self.names["row"], str(offset))

    def _score(self, target: str, base: str, phase: _Phase) -> None:
        """The products of two operands, over their slices."""
        p, n = self.p, self.names
        p.line(f"{target} = {p.call(f'tile_zero_{self.rows * COLUMNS}')}")
        name = f"attention_scores_{self.rows}_{self.tile.depth}"
        with p.loop(phase.slices) as part:
            slot = self._next(base, phase, part)
            left, right = (p.call("at", slot, n[side]) for side in ("left", "right"))
            turns = (n["left_turn"], n["right_turn"])
            p.line(f"{target} = {p.call(name, target, left, right, *turns)}")

    def _next(self, base: str, phase: _Phase, part: str) -> str:
        p = self.p
        number = p.call("plus", p.call("plus", base, str(phase.start)), part)
        return self.ring.next(p.let(number, "n"), self._fetch)

    def _weigh(self, first: str, column: str, columns: Sequence[str]) -> None:
        """Scores become weights."""
        p, f, rows = self.p, self.form, self.rows
        if f.attrs.scale != 1:
            scale = p.number(f.attrs.scale, FLOAT32)
            p.line(f"weights = {p.call(f'attention_scaled_{rows}', 'weights', scale)}")
        self._mask("weights", f.mask, columns)
        self._hide(first, column)
        name = f"gradient_weights_{rows}_{self.across}"
        p.line(f"weights = {p.call(name, 'weights', 'bases', 'inverses')}")

    def _mask(self, target: str, mask: Expr | None, columns: Sequence[str]) -> None:
        """Each score, or slope, behind the mask."""
        p, f = self.p, self.form
        if mask is None:
            return
        for number in range(self.rows):
            p.names[f.own.symbol.name] = self._row(number)
            scores = []
            for c, column in enumerate(columns):
                p.names[self.other.symbol.name] = column
                scores.append(p.expression(mask, f"{target}[{number * COLUMNS + c}]"))
            name = f"attention_masked_{self.rows}_{number}"
            p.line(f"{target} = {p.call(name, target, *scores)}")

    def _hide(self, first: str, column: str) -> None:
        """-inf where there is no key, or one behind the query. Queries that are none have weights
        of 0 by their numbers."""
        p, n, f, rows = self.p, self.names, self.form, self.rows
        extent = f.key.extent
        if not f.is_across and (not isinstance(extent, int) or extent % KEYS):
            keys = p.extent(extent)
            with p.where([p.call("below", keys, p.call("plus", first, str(KEYS)))]):
                left = p.call("minus", keys, column)
                p.line(f"weights = {p.call(f'attention_bounded_{rows}', 'weights', left)}")
        if f.attrs.is_causal:
            # tiles of rows and columns are equally long: only that on the diagonal has both
            with p.where([p.call("below", first, p.call("plus", n["first"], "1")),
                          p.call("below", n["first"], p.call("plus", first, "1"))]):  # fmt: skip
                name = "gradient_causal" if f.is_across else "attention_causal"
                ends = (column, n["row"]) if f.is_across else (n["row"], column)
                reach = p.call("minus", *ends)
                p.line(f"weights = {p.call(f'{name}_{rows}', 'weights', reach)}")

    def _add_gradient(self, place: int, source: str, base: str, phase: _Phase) -> None:
        """made += source times an operand, through shared memory."""
        p, n, tile = self.p, self.names, self.tile
        (side,), width = phase.sides, tile.widths[place]
        held, sums = self._held(width), f"sums_{place}"
        p.do(f"attention_keep_{self.rows}_{tile.weight_stride}", n["kept"], source)
        p.line(f"{sums} = {p.call(f'tile_zero_{held}')}")
        name = f"attention_values_{self.rows}_{tile.weight_stride}_{side.size}_{width}"
        with p.loop(phase.slices) as part:
            slot = self._next(base, phase, part)
            weights = p.call("at", n["weights"], p.call("times", part, str(side.size)))
            p.line(f"{sums} = {p.call(name, sums, weights, p.call('at', slot, n['column']))}")
        p.line(f"made_{place} = {p.call(f'tile_add_{held}', f'made_{place}', sums)}")

    # -- behind the loop ---------------------------------------------------------------------------

    def store(self) -> None:
        """Each gradient through shared memory, so that neighbours store neighbours."""
        p, f = self.p, self.form
        extents = (f.depth.extent, f.width.extent)[: len(self.tile.widths)]
        first = 0
        for place, (extent, width) in enumerate(zip(extents, self.tile.widths, strict=True)):
            start = p.call("times", self.names["y"], str(self.rows * width))
            place_of = p.call("plus", start, self.names["column"])
            target = p.let(p.call("at", self.names["memory"], place_of), "s")
            p.do("barrier")
            p.do(f"tile_stage_{self.rows}_{width // ACROSS}_0_{self.rows}_{width}_64",
                 f"made_{place}", target)  # fmt: skip
            p.do("barrier")
            staged = Staged(f.own, self.tile.rows, width, width, static(extent), first)
            store_staged(p, f, self.names, staged)
            first += static(extent)


__all__ = ["print_gradient"]
