"""Attention's gradient on tensor cores -> Numba source: as attention_gradient.py, one kernel for its
queries and one for its keys and values, by mma.sync.

A block has some queries, or keys, and meets one tile of keys, or queries, after another; a warp has 16
of a block's rows and a tile's columns, or a share of them. Both operands of the block's rows stay
in shared memory (q and dy; k and v). Of a tile's two operands the first, which makes the scores and
at last the gradient of the rows, has two buffers, the second, which makes the slopes, one: there is
one barrier behind each. Weights and slopes never leave the registers in which their sums were made
(intrinsics/attention_fragments.py), for a product's left operand are they as they lie:

    P = exp(scale A1 B1' + mask - base) * inverse      made_1 += P B2
    dS = P (A2 B2' - delta) scale                      made_0 += dS B1

A is of the rows, B of the columns: (q, dy) and (k, v) for dQ, the other way around for dK and dV.
Warps that share rows add up their gradients at the end, in order. A gradient's sums have a warp's
columns of a tile, added up by the tensor cores, and one addition in float32 a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...scalar import Expr
from ...tensor_type import FLOAT32
from .attention_blocks import Side, static
from .attention_stores import Staged, store_staged
from .attention_warps import LANE_ROWS, WarpGradientTile
from .forms import FusedGradient
from .gradient_blocks import first_column, place_block, read_numbers
from .printer import Printer
from .warp_lanes import MatrixRows, place_lane, stage
from .warp_operands import Group, WarpOperands


def print_warp_gradient(p: Printer, form: FusedGradient) -> None:
    """The whole kernel."""
    kernel = _Kernel(p, form)
    kernel.place()
    kernel.attend()
    kernel.store()


@dataclass
class _Kernel:
    """One kernel's text; ``names``: what is known of the block and the thread."""

    p: Printer
    form: FusedGradient
    names: dict[str, str] = field(default_factory=dict)
    operands: WarpOperands = field(init=False)

    def __post_init__(self) -> None:
        f = self.form
        assert isinstance(f.tile, WarpGradientTile)
        self.tile = f.tile
        self.across = int(f.is_across)
        self.other = f.row if f.is_across else f.key
        of_rows, of_columns = (f.q, f.dy), (f.k, f.v)
        if f.is_across:
            of_rows, of_columns = of_columns, of_rows
        inner = tuple(zip((f.depth, f.width), (f.tile.depth, f.tile.width), strict=True))
        self.kept = [
            Side(load, f.own, axis, f.tile.rows, length, f.tile.rows)
            for load, (axis, length) in zip(of_rows, inner, strict=True)
        ]
        self.met = [
            Side(load, self.other, axis, f.tile.keys, length, f.tile.keys)
            for load, (axis, length) in zip(of_columns, inner, strict=True)
        ]

    # -- before the loop ---------------------------------------------------------------------------

    def place(self) -> None:
        """Which rows the block has, which of them and which columns of a tile this lane."""
        p, n, tile = self.p, self.names, self.tile
        n["thread"] = p.let(p.call("thread"), "t")
        self.operands = WarpOperands(p, self.form.engine, tile, n["thread"])
        place_block(p, self.form, n)
        place_lane(p, tile, n)
        n["memory"] = p.let(p.call(f"shared_float32_{tile.room}"), "s")
        for name, word in (("kept_1", tile.width_at), ("slot_1", tile.values_at)):
            n[name] = p.let(p.call("at", n["memory"], str(word)), "s")
        n["kept_0"] = n["memory"]
        lane = MatrixRows(p, self.form.engine, n)
        for place, length in enumerate((tile.depth, tile.width)):
            stride = tile.stride(length)
            left = p.call("at", n[f"kept_{place}"], lane.left(stride))
            n[f"left_{place}"] = p.let(left, "a")
            # from a tile's start on, which differs
            n[f"right_{place}"], n[f"values_{place}"] = lane.right(stride), lane.values(stride)

    # -- the loop ----------------------------------------------------------------------------------

    def attend(self) -> None:
        """``made_0`` and, of keys and values, ``made_1``: this lane's part of each gradient."""
        p, n, f, tile = self.p, self.names, self.form, self.tile
        for place, columns in enumerate(tile.gradients):
            p.line(f"made_{place} = {p.call(f'tile_zero_{columns // 2}')}")
        if not f.is_across:
            rows = [p.index("plus", n["row"], str(8 * row)) for row in range(LANE_ROWS)]
            read_numbers(p, f, rows, ("bases", "inverses", "deltas"))
        for place, side in enumerate(self.kept):
            self.operands.bring(side, n[f"kept_{place}"], n["first"])
        self._end(0, [], "0")
        with p.loop(n["tiles"]) as step:
            first = self._first_column(step)
            n["slot_0"] = self._slot(step)
            column = p.let(p.call("plus", first, n["column"]), "k")
            columns_ = [
                p.index("plus", column, str(8 * fragment + half))
                for fragment in range(tile.fragments)
                for half in (0, 1)
            ]
            second = self.operands.fetch(self.met[1], first)
            self._score("weights", 0)
            if f.is_across:
                read_numbers(p, f, columns_, ("bases", "inverses"))
            self._weigh(first, column, columns_)
            self._end(1, second, step)
            later = p.let(p.call("plus", step, "1"), "n")
            following = self.operands.fetch(self.met[0], *self._tile_of(later))
            self._score("slopes", 1)
            if f.is_across:
                self._add_gradient(1, "weights")
                read_numbers(p, f, columns_, ("deltas",))
            scale = p.number(f.attrs.scale, FLOAT32)
            name = f"gradients_slopes_{tile.fragments}_{self.across}"
            p.line(f"slopes = {p.call(name, 'weights', 'slopes', 'deltas', scale)}")
            self._mask("slopes", f.slope, columns_)
            self._add_gradient(0, "slopes")
            self._end(0, following, later)

    def _first_column(self, number: str) -> str:
        return first_column(self.p, self.tile, self.names["start"], number)

    def _tile_of(self, number: str) -> tuple[str, list[str]]:
        """The first column of the block's tile of that number, and whether there is one."""
        return self._first_column(number), [self.p.index("below", number, self.names["tiles"])]

    def _slot(self, number: str) -> str:
        """Where the first operand of the tile of that number lies: one of two buffers."""
        p, tile = self.p, self.tile
        offset = p.call("times", p.call("remainder", number, "2"), str(tile.first_words))
        return p.let(
            p.call("at", self.names["memory"], p.call("plus", offset, str(tile.keys_at))), "s"
        )

    def _end(self, place: int, groups: Sequence[Group], number: str) -> None:
        """The tile of that number of one operand, if there is one, is in shared memory for all."""
        side, target = self.met[place], self.names["slot_1"]
        if place == 0:
            target = self._slot(number)
        if groups:
            self.operands.keep(side, target, groups)
        else:
            self.operands.bring(side, target, *self._tile_of(number))
        self.p.do("barrier")

    def _score(self, target: str, place: int) -> None:
        """The products of what is kept and what is met."""
        n = self.names
        right = self.p.let(self.p.call("at", n[f"slot_{place}"], n[f"right_{place}"]), "a")
        length = self.met[place].length
        self.operands.add_scores(target, n[f"left_{place}"], right, length)

    def _weigh(self, first: str, column: str, columns: Sequence[str]) -> None:
        """Scores become weights."""
        p, f, count = self.p, self.form, self.tile.fragments
        if f.attrs.scale != 1:
            scale = p.number(f.attrs.scale, FLOAT32)
            p.line(f"weights = {p.call(f'attention_scaled_{count}', 'weights', scale)}")
        self._mask("weights", f.mask, columns)
        self._hide(first, column)
        name = f"gradients_weights_{count}_{self.across}"
        p.line(f"weights = {p.call(name, 'weights', 'bases', 'inverses')}")

    def _mask(self, target: str, mask: Expr | None, columns: Sequence[str]) -> None:
        """Each score, or slope, behind the mask."""
        p, f, count = self.p, self.form, self.tile.fragments
        if mask is None:
            return
        for fragment in range(count):
            scores = []
            for place in range(4):
                row, half = divmod(place, 2)
                own = p.index("plus", self.names["row"], str(8 * row))
                p.names[f.own.symbol.name] = own
                p.names[self.other.symbol.name] = columns[2 * fragment + half]
                scores.append(p.expression(mask, f"{target}[{4 * fragment + place}]"))
            name = f"attention_masked_{count}_{fragment}"
            p.line(f"{target} = {p.call(name, target, *scores)}")

    def _hide(self, first: str, column: str) -> None:
        """-inf where there is no key, or one behind the query. Queries that are none have weights
        of 0 by their numbers."""
        p, n, f, tile = self.p, self.names, self.form, self.tile
        if not f.is_across and not self.met[0].is_whole(f.key):
            keys = p.extent(f.key.extent)
            with p.where([p.call("below", keys, p.call("plus", first, str(tile.keys)))]):
                left = p.call("minus", keys, column)
                found = p.call(f"fragments_bounded_{tile.fragments}", "weights", left)
                p.line(f"weights = {found}")
        if not f.attrs.is_causal:
            return
        if f.is_across:
            met = p.call("below", first, p.call("plus", n["first"], str(tile.rows - 1)))
            name, reach = "gradients_causal", p.call("minus", column, n["row"])
        else:
            met = p.call("below", n["first"], p.call("plus", first, str(tile.keys - 1)))
            name, reach = "fragments_causal", p.call("minus", n["row"], column)
        with p.where([met]):
            p.line(f"weights = {p.call(f'{name}_{tile.fragments}', 'weights', reach)}")

    def _add_gradient(self, place: int, source: str) -> None:
        """made += source times what is met."""
        p, n, tile = self.p, self.names, self.tile
        values = p.let(p.call("at", n[f"slot_{place}"], n[f"values_{place}"]), "a")
        stride, columns = tile.stride(tile.gradients[place]), tile.gradients[place] // 8
        name = f"gradients_added_{self.form.engine.value}_{stride}_{tile.fragments}_{columns}"
        p.line(f"made_{place} = {p.call(name, f'made_{place}', source, values)}")

    # -- behind the loop ---------------------------------------------------------------------------

    def store(self) -> None:
        """Each gradient through shared memory, so that neighbours store neighbours."""
        p, f, tile = self.p, self.form, self.tile
        extents = (static(f.depth.extent), static(f.width.extent))
        before = 0
        for place, (extent, width) in enumerate(zip(extents, tile.gradients, strict=False)):
            if place:
                p.do("barrier")
            stride = tile.staged(width)
            stage(p, tile, self.names, f"made_{place}", width, stride)
            staged = Staged(f.own, tile.rows, width, stride, extent, before)
            store_staged(p, f, self.names, staged)
            before += extent


__all__ = ["print_warp_gradient"]
