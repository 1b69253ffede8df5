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
``3xtf32`` 32 of them before float32 does, and a warp's keys of a tile; then comes one addition
in float32 a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...tensor_type import FLOAT32
from .attention_blocks import Side, first_query, key_of, static, tiles_of_keys
from .attention_stores import Staged, store_staged
from .attention_warps import LANE_ROWS, WarpTile
from .forms import FusedAttention
from .printer import Printer
from .warp_lanes import MatrixRows, place_lane, stage
from .warp_operands import Group, WarpOperands


def print_warp_attention(p: Printer, form: FusedAttention) -> None:
    """The whole kernel."""
    kernel = _Kernel(p, form)
    kernel.place()
    kernel.attend()
    kernel.store()


@dataclass
class _Kernel:
    """One kernel's text; ``names``: what is known of the block and the thread."""

    p: Printer
    form: FusedAttention
    names: dict[str, str] = field(default_factory=dict)
    operands: WarpOperands = field(init=False)

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
        self.operands = WarpOperands(p, self.form.engine, tile, n["thread"])
        n["first"] = first_query(p, self.form)
        n["tiles"], n["first_key"] = tiles_of_keys(p, self.form, n["first"])
        place_lane(p, tile, n)
        n["memory"] = p.let(p.call(f"shared_float32_{tile.room}"), "s")
        n["kept_keys"] = p.let(p.call("at", n["memory"], str(tile.keys_at)), "s")
        n["kept_values"] = p.let(p.call("at", n["memory"], str(tile.values_at)), "s")
        rows = MatrixRows(p, self.form.engine, n)
        n["left"] = self._at("memory", rows.left(tile.depth_stride))
        n["right"] = self._at("kept_keys", rows.right(tile.depth_stride))
        n["values"] = self._at("kept_values", rows.values(tile.value_stride))

    def _at(self, memory: str, word: str) -> str:
        return self.p.let(self.p.call("at", self.names[memory], word), "a")

    # -- the loop ----------------------------------------------------------------------------------

    def attend(self) -> None:
        """``made``, ``totals`` and ``largest`` of this lane's rows."""
        p, n, tile = self.p, self.names, self.tile
        p.line(f"made = {p.call(f'tile_zero_{4 * tile.columns}')}")
        p.line(f"totals = {p.call(f'tile_zero_{LANE_ROWS}')}")
        p.line(f"largest = {p.call(f'attention_lowest_{LANE_ROWS}')}")
        self.operands.bring(self.queries, n["memory"], n["first"])
        self._end(self.keys, [], "0")
        with p.loop(n["tiles"]) as step:
            first = key_of(p, n["first_key"], step, tile.keys)
            values = self.operands.fetch(self.values, first)
            self.operands.add_scores("tile", n["left"], n["right"], tile.depth)
            self._weigh(first)
            self._end(self.values, values, step)
            later = p.let(p.call("plus", step, "1"), "n")
            keys = self.operands.fetch(self.keys, *self._tile_of_keys(later))
            shape = f"{self.form.engine.value}_{tile.value_stride}_{tile.fragments}_{tile.columns}"
            found = p.call(f"fragments_values_{shape}", "made", "factors", "tile", n["values"])
            p.line(f"made = {found}")
            self._end(self.keys, keys, later)

    def _end(self, side: Side, groups: Sequence[Group], number: str) -> None:
        """The side's tile of that number, if there is one, is in shared memory for all."""
        target = self.names["kept_values" if side is self.values else "kept_keys"]
        if groups:
            self.operands.keep(side, target, groups)
        else:
            self.operands.bring(side, target, *self._tile_of_keys(number))
        self.p.do("barrier")

    def _tile_of_keys(self, number: str) -> tuple[str, list[str]]:
        """The first key of the block's tile of that number, and whether there is one."""
        n = self.names
        first = key_of(self.p, n["first_key"], number, self.tile.keys)
        return first, [self.p.index("below", number, n["tiles"])]

    def _weigh(self, first: str) -> None:
        """Scores become weights, and ``totals`` and ``largest`` know them."""
        p, n, count = self.p, self.names, self.tile.fragments
        key = p.let(p.call("plus", first, n["column"]), "k")
        if self.form.attrs.scale != 1:
            scale = p.number(self.form.attrs.scale, FLOAT32)
            p.line(f"tile = {p.call(f'attention_scaled_{count}', 'tile', scale)}")
        self._mask(key)
        self._hide(first, key)
        for name, function, *arguments in (
            ("raised", f"fragments_raised_{count}", "largest", "tile"),
            ("bases", f"attention_bases_{LANE_ROWS}", "raised"),
            ("factors", f"attention_factors_{LANE_ROWS}", "largest", "bases"),
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
        stage(p, tile, self.names, "made", tile.width, tile.stage_stride)
        width = static(form.column.extent)
        staged = Staged(form.row, tile.rows, tile.width, tile.stage_stride, width)
        store_staged(p, form, self.names, staged)

    def _merge(self) -> None:
        """``largest`` and ``totals`` of all keys, and ``made`` counted from that largest score."""
        p, n, tile = self.p, self.names, self.tile
        kept = p.let(p.call("at", n["memory"], str(tile.merged_at)), "s")
        with p.where([p.call("below", n["place"], "1")]):
            for number, name in enumerate(("largest", "totals")):
                warp = p.call("plus", n["x"], str(number * tile.across))
                start = p.call("plus", p.call("times", warp, str(tile.rows)), n["own"])
                start = p.let(start, "i")
                for row in range(LANE_ROWS):
                    at = p.call("plus", start, str(8 * row))
                    p.do("store_float32", kept, at, f"{name}[{row}]")
        p.do("barrier")
        own, shape = p.let(p.call("at", kept, n["own"]), "s"), f"{tile.across}_{tile.rows}"
        p.line(f"raised = {p.call(f'fragments_most_{shape}', own)}")
        p.line(f"bases = {p.call(f'attention_bases_{LANE_ROWS}', 'raised')}")
        p.line(f"factors = {p.call(f'attention_factors_{LANE_ROWS}', 'largest', 'bases')}")
        p.line(f"totals = {p.call(f'fragments_total_{shape}', own, 'bases')}")
        p.line("largest = raised")
        p.line(f"made = {p.call(f'fragments_rescaled_{tile.columns}', 'made', 'factors')}")

    def _store_sums(self) -> None:
        """Each row's largest score and sum behind its outputs, by the first of its lanes."""
        p, n, f = self.p, self.names, self.form
        first = p.call("plus", n["place"], n["x"])
        with p.where([p.call("below", first, "1")]):
            for number in range(LANE_ROWS):
                row = p.let(p.call("plus", n["row"], str(8 * number)), "r")
                p.names[f.row.symbol.name] = row
                with p.where([p.call("below", row, p.extent(f.row.extent))]):
                    for place, name in enumerate(("largest", "totals")):
                        p.names[f.column.symbol.name] = str(static(f.column.extent) + place)
                        to = p.extent(p.kernel.buffers[-1].offset(f.position))
                        p.store(to, f"{name}[{number}]")


__all__ = ["print_warp_attention"]
