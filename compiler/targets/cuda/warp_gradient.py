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

from ... import dim
from ...scalar import Expr
from ...tensor_type import FLOAT32
from .attention_blocks import Side, static
from .attention_warps import WARP_ROWS, WarpGradientTile
from .forms import THREADS, Engine, FusedGradient
from .printer import Printer
from .warp_operands import Group, WarpOperands

ROWS = 2  # of a lane


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
        self._place_block()
        lane = p.let(p.call("remainder", n["thread"], "32"), "l")
        warp = p.let(p.call("quotient", n["thread"], "32"), "w")
        n["y"] = p.let(p.call("quotient", warp, str(tile.across)), "y")
        n["x"] = p.let(p.call("remainder", warp, str(tile.across)), "x")
        n["group"] = p.let(p.call("quotient", lane, "4"), "g")
        n["place"] = p.let(p.call("remainder", lane, "4"), "q")
        rows = p.let(p.call("times", n["y"], str(WARP_ROWS)), "r")
        n["own"] = p.let(p.call("plus", rows, n["group"]), "r")
        n["row"] = p.let(p.call("plus", n["first"], n["own"]), "r")
        columns = p.let(p.call("times", n["x"], str(tile.own_keys)), "k")
        n["column"] = p.let(p.call("plus", columns, p.call("times", n["place"], "2")), "k")
        n["memory"] = p.let(p.call(f"shared_float32_{tile.room}"), "s")
        for name, word in (("kept_1", tile.width_at), ("slot_1", tile.values_at)):
            n[name] = p.let(p.call("at", n["memory"], str(word)), "s")
        n["kept_0"] = n["memory"]
        self._place_products(lane, rows, columns)

    def _place_block(self) -> None:
        """The block's first row, and the tiles of columns that it meets: ``tiles`` from ``start`` on.
        Blocks that meet most come first."""
        p, n, f, tile = self.p, self.names, self.form, self.tile
        block = p.let(p.call("block"), "b")
        down = p.extent(dim.ceil_div(f.own.extent, tile.rows))
        number = p.call("remainder", block, down)
        if f.attrs.is_causal and not f.is_across:
            number = p.call("minus", p.call("minus", down, "1"), number)
        n["first"] = p.let(p.call("times", p.let(number, "n"), str(tile.rows)), "m")
        p.decode(p.let(p.call("quotient", block, down), "b"), f.heads)
        n["start"] = "0"
        tiles = p.extent(dim.ceil_div(self.other.extent, tile.keys))
        if f.attrs.is_causal and f.is_across:
            n["start"] = p.let(p.call("quotient", n["first"], str(tile.keys)), "n")
            tiles = p.call("minus", tiles, n["start"])
        elif f.attrs.is_causal:
            seen = p.call("plus", n["first"], str(tile.rows + tile.keys - 1))
            tiles = p.call("lesser", tiles, p.call("quotient", seen, str(tile.keys)))
        n["tiles"] = p.let(tiles, "n")

    def _place_products(self, lane: str, rows: str, columns: str) -> None:
        """For both operands, the rows of matrices that this lane names to ldmatrix: of what is
        kept, and, from a tile's start on, of what is met; and its own place in that as values."""
        p, n, tile = self.p, self.names, self.tile
        low, half = p.call("remainder", lane, "16"), p.call("quotient", lane, "16")
        own = p.let(p.call("plus", rows, low), "r")
        turned = p.call("plus", p.call("remainder", lane, "8"), p.call("times", half, "8"))
        column = p.let(p.call("plus", columns, turned), "k")
        words = p.let(p.call("remainder", p.call("quotient", lane, "8"), "2"), "q")
        half = p.let(half, "q")
        for place, length in enumerate((tile.depth, tile.width)):
            stride = tile.stride(length)
            left = self._word(own, half, stride, 4)
            n[f"left_{place}"] = p.let(p.call("at", n[f"kept_{place}"], left), "a")
            n[f"right_{place}"] = self._word(column, words, stride, 4)
            if self.form.engine is Engine.BF16:
                key = p.let(p.call("plus", columns, low), "k")
                n[f"values_{place}"] = self._word(key, half, stride, 4)
            else:
                n[f"values_{place}"] = self._word(n["column"], n["group"], stride, 1)

    def _word(self, row: str, group: str, stride: int, size: int) -> str:
        """Where a row's group of words lies."""
        p = self.p
        column = p.call("times", group, str(size)) if size > 1 else group
        return p.let(p.call("plus", p.call("times", row, str(stride)), column), "i")

    # -- the loop ----------------------------------------------------------------------------------

    def attend(self) -> None:
        """``made_0`` and, of keys and values, ``made_1``: this lane's part of each gradient."""
        p, n, f, tile = self.p, self.names, self.form, self.tile
        for place, columns in enumerate(tile.gradients):
            p.line(f"made_{place} = {p.call(f'tile_zero_{columns // 2}')}")
        if not f.is_across:
            rows = [p.index("plus", n["row"], str(8 * row)) for row in range(ROWS)]
            self._read_numbers(rows, ("bases", "inverses", "deltas"))
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
                self._read_numbers(columns_, ("bases", "inverses"))
            self._weigh(first, column, columns_)
            self._end(1, second, step)
            later = p.let(p.call("plus", step, "1"), "n")
            following = self.operands.fetch(self.met[0], *self._tile_of(later))
            self._score("slopes", 1)
            if f.is_across:
                self._add_gradient(1, "weights")
                self._read_numbers(columns_, ("deltas",))
            scale = p.number(f.attrs.scale, FLOAT32)
            name = f"gradients_slopes_{tile.fragments}_{self.across}"
            p.line(f"slopes = {p.call(name, 'weights', 'slopes', 'deltas', scale)}")
            self._mask("slopes", f.slope, columns_)
            self._add_gradient(0, "slopes")
            self._end(0, following, later)

    def _first_column(self, tile: str) -> str:
        p, start = self.p, self.names["start"]
        number = tile if start == "0" else p.call("plus", start, tile)
        return p.let(p.call("times", number, str(self.tile.keys)), "k")

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

    def _read_numbers(self, queries: Sequence[str], which: Sequence[str]) -> None:
        """``bases``, ``inverses`` or ``deltas`` of this lane's queries."""
        p, f = self.p, self.form
        numbers = dict(zip(("bases", "inverses", "deltas"), f.numbers, strict=True))
        for name in which:
            found = []
            for query in queries:
                p.names[f.row.symbol.name] = query
                found.append(p.expression(numbers[name]))
            p.line(f"{name} = ({', '.join(found)})")

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
        for place, width in enumerate(tile.gradients):
            if place:
                p.do("barrier")
            self._stage(place, width)
            with p.loop(tile.rows * width // THREADS) as step:
                self._store_one(step, extents[place], width, before)
            before += extents[place]

    def _stage(self, place: int, width: int) -> None:
        """Warps that share rows add theirs up there, one after another."""
        p, n, tile = self.p, self.names, self.tile
        stride = tile.staged(width)
        word = self._word(n["own"], n["place"], stride, 2)
        target = p.let(p.call("at", n["memory"], word), "a")
        for warp in range(tile.across):
            name = f"fragments_added_{width // 8}_{stride}"
            if warp == 0:
                name = f"mma_stage_1_{width // 8}_0_{stride}"
            mine = [p.call("below", n["x"], str(warp + 1))]
            mine += [p.call("below", str(warp - 1), n["x"])] if warp else []
            with p.where(mine if tile.across > 1 else []):
                p.do(name, f"made_{place}", target)
            p.do("barrier")

    def _store_one(self, step: str, extent: int, width: int, before: int) -> None:
        p, f, tile = self.p, self.form, self.tile
        turn = p.call("plus", p.call("times", step, str(THREADS)), self.names["thread"])
        flat = p.let(turn, "i")
        local, column = (p.index(x, flat, str(width)) for x in ("quotient", "remainder"))
        row = p.let(p.call("plus", self.names["first"], local), "r")
        inside = [p.call("below", row, p.extent(f.own.extent))]
        if extent != width:
            inside.append(p.call("below", column, str(extent)))
        with p.where(inside):
            p.names[f.own.symbol.name] = row
            p.names[f.column.symbol.name] = p.index("plus", column, str(before))
            word = p.index("plus", p.index("times", local, str(tile.staged(width))), column)
            value = p.let(p.call("load_float32", self.names["memory"], word))
            offset = p.extent(p.kernel.buffers[-1].offset(f.position))
            p.store(offset, p.expression(f.value, value))


__all__ = ["print_warp_gradient"]
