"""Attention in one kernel on tensor cores -> Numba source: no score is in the device's memory.

As attention.py (FlashAttention, Dao et al. 2022; the division of labour is that of FlashAttention-2,
Dao 2023), by mma.sync: a warp has 16 queries and the keys of a tile, or a share of them. Queries stay
in shared memory; a tile of keys and one of values have a buffer each. Both pass through registers,
where they are rounded once as the engine reads them: values are on their way while scores are made,
the next keys while values are multiplied, with one barrier behind each. Where registers are short,
or elements come one by one, they come when their buffer is free. Weights never leave the
registers in which their scores were summed up (intrinsics/attention_fragments.py). Each row keeps its
largest score, its sum of weights (a part in each of four lanes) and its output, both multiplied by
exp(largest before - largest) where a tile raises that. Warps that share queries merge theirs at the
end, in order.

Every sum is in order of terms, then of tiles. Tensor cores add up the terms of the depth, in
``3xtf32`` PROMOTED of them before float32 does, and a warp's keys of a tile; then comes one addition
in float32 a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ...tensor_type import FLOAT32
from .attention_blocks import Side, first_query, key_of, static, tiles_of_keys
from .attention_warps import FEWEST_KEYS, WARP_ROWS, WarpTile
from .forms import THREADS, Engine, FusedAttention
from .printer import Printer

STEPS = 4  # of 8 words of the depth, that are multiplied in one piece
PROMOTED = 8 * STEPS  # terms that 3xtf32 leaves to the tensor cores' own additions
ROWS = 2  # of a lane
HELD = 128  # of a lane's registers, for outputs, scores and what is on its way
Group: TypeAlias = tuple[str, Sequence[str], tuple[str, ...]]


def print_warp_attention(p: Printer, form: FusedAttention) -> None:
    """The whole kernel."""
    kernel = _Kernel(p, form)
    kernel.place()
    kernel.attend()
    kernel.store()


def with_fewer_keys(form: FusedAttention) -> FusedAttention | None:
    """The form for the same grid by tiles of half as many keys, which need fewer registers; None if
    the warps cannot share them."""
    if not isinstance(form.tile, WarpTile) or form.tile.own_keys < 2 * FEWEST_KEYS:
        return None
    return replace(form, tile=replace(form.tile, keys=form.tile.keys // 2))


@dataclass
class _Kernel:
    """One kernel's text; ``names``: what is known of the block and the thread."""

    p: Printer
    form: FusedAttention
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        f = self.form
        assert isinstance(f.tile, WarpTile)
        self.tile = tile = f.tile
        self.queries = Side(f.q, f.row, f.depth, tile.rows, tile.depth, tile.rows)
        self.keys = Side(f.k, f.key, f.depth, tile.keys, tile.depth, tile.keys)
        self.values = Side(f.v, f.key, f.column, tile.keys, tile.width, tile.keys)

    # -- before the loop ---------------------------------------------------------------------------

    def place(self) -> None:
        """Which queries the block has, which of them and which keys of a tile this lane."""
        p, n, tile = self.p, self.names, self.tile
        n["thread"] = p.let(p.call("thread"), "t")
        n["first"] = first_query(p, self.form)
        n["tiles"], n["first_key"] = tiles_of_keys(p, self.form, n["first"])
        lane = n["lane"] = p.let(p.call("remainder", n["thread"], "32"), "l")
        warp = p.let(p.call("quotient", n["thread"], "32"), "w")
        n["y"] = p.let(p.call("quotient", warp, str(tile.across)), "y")
        n["x"] = p.let(p.call("remainder", warp, str(tile.across)), "x")
        n["group"] = p.let(p.call("quotient", lane, "4"), "g")
        n["place"] = p.let(p.call("remainder", lane, "4"), "q")
        rows = p.let(p.call("times", n["y"], str(WARP_ROWS)), "r")
        n["own"] = p.let(p.call("plus", rows, n["group"]), "r")
        n["row"] = p.let(p.call("plus", n["first"], n["own"]), "r")
        keys = p.let(p.call("times", n["x"], str(tile.own_keys)), "k")
        n["key"] = p.let(p.call("plus", keys, p.call("times", n["place"], "2")), "k")
        n["memory"] = p.let(p.call(f"shared_float32_{tile.room}"), "s")
        n["kept_keys"] = p.let(p.call("at", n["memory"], str(tile.keys_at)), "s")
        n["kept_values"] = p.let(p.call("at", n["memory"], str(tile.values_at)), "s")
        self._place_products(lane, rows, keys)

    def _place_products(self, lane: str, rows: str, keys: str) -> None:
        """The rows of matrices that this lane names to ldmatrix, and its own place in values."""
        p, n, tile = self.p, self.names, self.tile
        low, half = p.call("remainder", lane, "16"), p.call("quotient", lane, "16")
        n["left"] = self._word("memory", p.call("plus", rows, low), half, tile.depth_stride, 4)
        column = p.call("plus", p.call("remainder", lane, "8"), p.call("times", half, "8"))
        words = p.call("remainder", p.call("quotient", lane, "8"), "2")
        n["right"] = self._word(
            "kept_keys", p.call("plus", keys, column), words, tile.depth_stride, 4
        )
        if self.form.engine is Engine.BF16:
            key = p.call("plus", keys, low)
            n["values"] = self._word("kept_values", key, half, tile.value_stride, 4)
        else:
            n["values"] = self._word("kept_values", n["key"], n["group"], tile.value_stride, 1)

    def _word(self, memory: str, row: str, group: str, stride: int, size: int) -> str:
        """A pointer to a row's group of words."""
        p = self.p
        column = p.call("times", group, str(size)) if size > 1 else group
        word = p.call("plus", p.call("times", row, str(stride)), column)
        return p.let(p.call("at", self.names[memory], word), "a")

    # -- tiles of operands -------------------------------------------------------------------------

    def _is_ahead(self, side: Side) -> bool:
        """Whether a tile of that side is on its way while another is multiplied."""
        return side.width > 1 and self.tile.held <= HELD

    def _turns(self, side: Side) -> int:
        """Of all threads, that a tile of a side takes."""
        size = side.width if side.width > 1 else self.tile.per_word
        return -(-side.size * side.length // (size * THREADS))

    def _fetch(self, side: Side, outer: str, wanted: Sequence[str] = ()) -> list[Group]:
        """This thread's groups of a side's tile from ``outer`` on, zeros where they are not
        wanted; none if they come later."""
        if not self._is_ahead(side):
            return []
        thread = self.names["thread"]
        turns = (str(part * THREADS) for part in range(self._turns(side)))
        return [
            self._group(side, self.p.index("plus", thread, turn), outer, wanted) for turn in turns
        ]

    def _bring(self, side: Side, target: str, outer: str, wanted: Sequence[str] = ()) -> None:
        """The same to shared memory, one group after another."""
        p = self.p
        with p.loop(self._turns(side)) as turn:
            flat = p.call("plus", self.names["thread"], p.call("times", turn, str(THREADS)))
            self._keep(side, target, [self._group(side, p.let(flat, "i"), outer, wanted)])

    def _group(self, side: Side, flat: str, outer: str, wanted: Sequence[str]) -> Group:
        """The word that a group goes to, under which condition, and its values, zeros behind the
        operand and where it is not wanted."""
        p = self.p
        size = side.width if side.width > 1 else self.tile.per_word
        across, number = side.length // size, side.size * side.length // size
        stride = self.tile.value_stride if side is self.values else self.tile.depth_stride
        mine = [p.index("below", flat, str(number))] if number % THREADS else []
        place, inner = (p.index(x, flat, str(across)) for x in ("quotient", "remainder"))
        inner = p.index("times", inner, str(size)) if size > 1 else inner
        word = p.index("quotient", inner, str(self.tile.per_word))
        word = p.index("plus", p.index("times", place, str(stride)), word)
        at = p.index("plus", outer, place)
        inside = [*wanted, *mine]
        if not side.is_whole(side.outer):
            inside.append(p.index("below", at, p.extent(side.outer.extent)))
        return word, mine, self._elements(side, at, inner, inside)

    def _elements(
        self, side: Side, outer: str, inner: str, inside: Sequence[str]
    ) -> tuple[str, ...]:
        """The numbers of a group: one vector of four, or one after another."""
        p, buffer = self.p, self.p.buffers[side.load.buffer]
        p.names[side.outer.symbol.name] = outer
        found = []
        for lane in range(1 if side.width > 1 else self.tile.per_word):
            place = p.index("plus", inner, str(lane)) if lane else inner
            own = list(inside)
            if not side.is_whole(side.inner):
                own.append(p.index("below", place, p.extent(side.inner.extent)))
            p.names[side.inner.symbol.name] = place
            name = "load4_if_float32" if side.width > 1 else "load_if_float32"
            condition = p.all(own or [p.index("below", "0", "1")])
            found.append(p.let(p.call(name, buffer, p.offset(side.load, {}), condition), "v"))
        return tuple(found)

    def _keep(self, side: Side, target: str, groups: Sequence[Group]) -> None:
        """What has arrived goes to shared memory, rounded as the engine reads it."""
        p, engine = self.p, self.form.engine
        kind = {Engine.BF16: "bfloat16", Engine.TF32: "tf32"}.get(engine, "float32")
        for word, mine, values in groups:
            with p.where(mine):
                if side.width > 1:
                    p.do(f"keep4_{kind}", target, word, *values)
                elif engine is Engine.BF16:
                    p.do("pair_1_0", target, word, *values)
                else:
                    p.do(f"keep_{kind}", target, word, *values)

    # -- the loop ----------------------------------------------------------------------------------

    def attend(self) -> None:
        """``made``, ``totals`` and ``largest`` of this lane's rows."""
        p, n, tile = self.p, self.names, self.tile
        p.line(f"made = {p.call(f'tile_zero_{4 * tile.columns}')}")
        p.line(f"totals = {p.call(f'tile_zero_{ROWS}')}")
        p.line(f"largest = {p.call(f'attention_lowest_{ROWS}')}")
        self._bring(self.queries, n["memory"], n["first"])
        self._end(self.keys, [], "0")
        with p.loop(n["tiles"]) as step:
            first = key_of(p, n["first_key"], step, tile.keys)
            values = self._fetch(self.values, first)
            self._add_scores()
            self._weigh(first)
            self._end(self.values, values, step)
            later = p.let(p.call("plus", step, "1"), "n")
            keys = self._fetch(self.keys, *self._tile_of_keys(later))
            shape = f"{self.form.engine.value}_{tile.value_stride}_{tile.fragments}_{tile.columns}"
            found = p.call(f"fragments_values_{shape}", "made", "factors", "tile", n["values"])
            p.line(f"made = {found}")
            self._end(self.keys, keys, later)

    def _end(self, side: Side, groups: Sequence[Group], number: str) -> None:
        """The side's tile of that number, if there is one, is in shared memory for all."""
        target = self.names["kept_values" if side is self.values else "kept_keys"]
        if groups:
            self._keep(side, target, groups)
        else:
            self._bring(side, target, *self._tile_of_keys(number))
        self.p.do("barrier")

    def _tile_of_keys(self, number: str) -> tuple[str, list[str]]:
        """The first key of the block's tile of that number, and whether there is one."""
        n = self.names
        first = key_of(self.p, n["first_key"], number, self.tile.keys)
        return first, [self.p.index("below", number, n["tiles"])]

    def _add_scores(self) -> None:
        """``tile``: sums over the depth, a few steps at once."""
        p, tile = self.p, self.tile
        p.line(f"tile = {p.call(f'tile_zero_{4 * tile.fragments}')}")
        whole, rest = divmod(tile.depth // (8 * tile.per_word), STEPS)
        if whole > 1:
            with p.loop(whole) as number:
                self._add_piece(p.let(p.call("times", number, str(8 * STEPS)), "k"), STEPS)
        elif whole:
            self._add_piece("0", STEPS)
        if rest:
            self._add_piece(str(8 * STEPS * whole), rest)

    def _add_piece(self, word: str, steps: int) -> None:
        p, n, tile = self.p, self.names, self.tile
        left, right = (p.call("at", n[side], word) for side in ("left", "right"))
        name = f"mma_{self.form.engine.value}_{tile.depth_stride}_{steps}_1_{tile.fragments}"
        if self.form.engine is not Engine.TF32X3:
            p.line(f"tile = {p.call(name, 'tile', left, right)}")
            return
        zero = p.call(f"tile_zero_{4 * tile.fragments}")
        piece = p.let(p.call(name, zero, left, right), "p")
        p.line(f"tile = {p.call(f'tile_add_{4 * tile.fragments}', 'tile', piece)}")

    def _weigh(self, first: str) -> None:
        """Scores become weights, and ``totals`` and ``largest`` know them."""
        p, n, count = self.p, self.names, self.tile.fragments
        key = p.let(p.call("plus", first, n["key"]), "k")
        if self.form.attrs.scale != 1:
            scale = p.number(self.form.attrs.scale, FLOAT32)
            p.line(f"tile = {p.call(f'attention_scaled_{count}', 'tile', scale)}")
        self._mask(key)
        self._hide(first, key)
        for name, function, *arguments in (
            ("raised", f"fragments_raised_{count}", "largest", "tile"),
            ("bases", f"attention_bases_{ROWS}", "raised"),
            ("factors", f"attention_factors_{ROWS}", "largest", "bases"),
            ("tile", f"fragments_weights_{count}", "tile", "bases"),
            ("totals", f"fragments_totals_{count}", "totals", "factors", "tile"),
        ):
            p.line(f"{name} = {p.call(function, *arguments)}")
        p.line("largest = raised")

    def _mask(self, key: str) -> None:
        """Each score behind the mask."""
        p, f = self.p, self.form
        if f.mask is None:
            return
        count = self.tile.fragments
        for fragment in range(count):
            scores = []
            for place in range(4):
                row, column = divmod(place, 2)
                p.names[f.row.symbol.name] = p.index("plus", self.names["row"], str(8 * row))
                p.names[f.key.symbol.name] = p.index("plus", key, str(8 * fragment + column))
                scores.append(p.expression(f.mask, f"tile[{4 * fragment + place}]"))
            name = f"attention_masked_{count}_{fragment}"
            p.line(f"tile = {p.call(name, 'tile', *scores)}")

    def _hide(self, first: str, key: str) -> None:
        """-inf where there is no key, or one behind the query; full tiles that all see go by."""
        p, n, tile = self.p, self.names, self.tile
        if not self.keys.is_whole(self.form.key):
            keys = p.extent(self.form.key.extent)
            with p.where([p.call("below", keys, p.call("plus", first, str(tile.keys)))]):
                left = p.call("minus", keys, key)
                p.line(f"tile = {p.call(f'fragments_bounded_{tile.fragments}', 'tile', left)}")
        if self.form.attrs.is_causal:
            with p.where([p.call("below", n["first"], p.call("plus", first, str(tile.keys - 1)))]):
                reach = p.call("minus", n["row"], key)
                p.line(f"tile = {p.call(f'fragments_causal_{tile.fragments}', 'tile', reach)}")

    # -- behind the loop ---------------------------------------------------------------------------

    def store(self) -> None:
        """The outputs over their sums, through shared memory, so that neighbours store
        neighbours."""
        p, tile, form = self.p, self.tile, self.form
        p.line(f"totals = {p.call('fragments_whole', 'totals')}")
        if tile.across > 1:
            self._merge()
        if form.part is None:
            shape = f"{tile.columns}_{int(form.attrs.has_zeros)}"
            p.line(f"made = {p.call(f'fragments_divided_{shape}', 'made', 'totals')}")
        else:
            self._store_sums()
        self._stage()
        with p.loop(tile.rows * tile.width // THREADS) as step:
            self._store_one(step)

    def _merge(self) -> None:
        """``largest`` and ``totals`` of all keys, and ``made`` counted from that largest score."""
        p, n, tile = self.p, self.names, self.tile
        kept = p.let(p.call("at", n["memory"], str(tile.merged_at)), "s")
        with p.where([p.call("below", n["place"], "1")]):
            for number, name in enumerate(("largest", "totals")):
                warp = p.call("plus", n["x"], str(number * tile.across))
                start = p.call("plus", p.call("times", warp, str(tile.rows)), n["own"])
                start = p.let(start, "i")
                for row in range(ROWS):
                    at = p.call("plus", start, str(8 * row))
                    p.do("store_float32", kept, at, f"{name}[{row}]")
        p.do("barrier")
        own, shape = p.let(p.call("at", kept, n["own"]), "s"), f"{tile.across}_{tile.rows}"
        p.line(f"raised = {p.call(f'fragments_most_{shape}', own)}")
        p.line(f"bases = {p.call(f'attention_bases_{ROWS}', 'raised')}")
        p.line(f"factors = {p.call(f'attention_factors_{ROWS}', 'largest', 'bases')}")
        p.line(f"totals = {p.call(f'fragments_total_{shape}', own, 'bases')}")
        p.line("largest = raised")
        p.line(f"made = {p.call(f'fragments_rescaled_{tile.columns}', 'made', 'factors')}")

    def _store_sums(self) -> None:
        """Each row's largest score and sum behind its outputs, by the first of its lanes."""
        p, n, f = self.p, self.names, self.form
        first = p.call("plus", n["place"], n["x"])
        with p.where([p.call("below", first, "1")]):
            for number in range(ROWS):
                row = p.let(p.call("plus", n["row"], str(8 * number)), "r")
                p.names[f.row.symbol.name] = row
                with p.where([p.call("below", row, p.extent(f.row.extent))]):
                    for place, name in enumerate(("largest", "totals")):
                        p.names[f.column.symbol.name] = str(static(f.column.extent) + place)
                        to = p.extent(p.kernel.buffers[-1].offset(f.position))
                        p.store(to, f"{name}[{number}]")

    def _stage(self) -> None:
        """Warps that share queries add theirs up there, one after another."""
        p, n, tile = self.p, self.names, self.tile
        stride = tile.stage_stride
        target = self._word("memory", n["own"], n["place"], stride, 2)
        for warp in range(tile.across):
            name = f"fragments_added_{tile.columns}_{stride}"
            if warp == 0:
                name = f"mma_stage_1_{tile.columns}_0_{stride}"
            first = [p.call("below", n["x"], str(warp + 1))]
            first += [p.call("below", str(warp - 1), n["x"])] if warp else []
            with p.where(first if tile.across > 1 else []):
                p.do(name, "made", target)
            p.do("barrier")

    def _store_one(self, step: str) -> None:
        p, f, tile = self.p, self.form, self.tile
        turn = p.call("plus", p.call("times", step, str(THREADS)), self.names["thread"])
        flat = p.let(turn, "i")
        local, column = (p.index(x, flat, str(tile.width)) for x in ("quotient", "remainder"))
        row = p.let(p.call("plus", self.names["first"], local), "r")
        inside = [p.call("below", row, p.extent(f.row.extent))]
        if f.column.extent != tile.width:
            inside.append(p.call("below", column, p.extent(f.column.extent)))
        with p.where(inside):
            p.names[f.row.symbol.name], p.names[f.column.symbol.name] = row, column
            word = p.index("plus", p.index("times", local, str(tile.stage_stride)), column)
            value = p.let(p.call("load_float32", self.names["memory"], word))
            offset = p.extent(p.kernel.buffers[-1].offset(f.position))
            p.store(offset, p.expression(f.value, value))


__all__ = ["print_warp_attention", "with_fewer_keys"]
