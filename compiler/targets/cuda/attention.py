"""Attention in one kernel -> Numba source: no score is in the device's memory.

A block makes the outputs of up to 128 queries of a head (FlashAttention, Dao et al. 2022; online
softmax, Milakov and Gimelshein 2018). Keys come in tiles of 64, and queries, keys and values in
slices that ``cp.async`` copies to shared memory while earlier ones are multiplied, one barrier a
slice. A tile's scores are sums over the depth in registers; then come each row's largest score so
far, by shuffles in the half warp that has the row, and the weights exp(score - largest), which go
to shared memory for the product with the values. Each row keeps its largest score, its sum of
weights (a part in each of 16 threads) and its output, both multiplied by exp(largest before -
largest) where a tile raises that.

Every sum is in order of terms, then of tiles; a chain of additions has the terms of the depth, at
most CHAIN, or the 64 keys of a tile, and then one addition a tile. With ``is_causal``, tiles behind
all of a block's queries are not read, and blocks with the most keys come first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from ... import dim
from ...tensor_type import FLOAT32
from .attention_blocks import Side, first_query, key_of, static, tiles_of_keys
from .attention_slices import Slices
from .attention_stores import Staged, store_staged
from .attention_tiles import ACROSS, COLUMNS, KEYS, AttentionTile, row_offset
from .forms import FusedAttention
from .printer import Printer


def print_attention(p: Printer, form: FusedAttention) -> None:
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
    ring: Slices = field(init=False)

    def __post_init__(self) -> None:
        f, tile = self.form, self.form.tile
        assert isinstance(tile, AttentionTile)
        self.tile = tile
        self.depth_slices = static(dim.ceil_div(f.depth.extent, tile.depth))
        self.value_slices = KEYS // tile.values
        self.slices = self.depth_slices + self.value_slices  # of a tile of keys
        self.queries = Side(f.q, f.row, f.depth, tile.rows, tile.depth, tile.rows)
        self.keys = Side(f.k, f.key, f.depth, KEYS, tile.depth, KEYS)
        self.values = Side(f.v, f.key, f.column, tile.values, tile.width, KEYS)

    # -- before the loop ---------------------------------------------------------------------------

    def place(self) -> None:
        """Which queries the block has, and which of a tile's numbers this thread."""
        p, n, tile = self.p, self.names, self.tile
        n["thread"] = p.let(p.call("thread"), "t")
        n["first"] = first_query(p, self.form)
        n["memory"] = p.let(p.call(f"shared_float32_{tile.room}"), "s")
        ring = p.let(p.call("at", n["memory"], str(tile.weight_words)), "s")
        self.ring = Slices(
            p, n["thread"], ring, tile.stages, tile.slice_words, tile.depth, tile.fragment
        )
        y = p.let(p.call("quotient", n["thread"], str(ACROSS)), "y")
        n["y"], n["x"] = y, p.let(p.call("remainder", n["thread"], str(ACROSS)), "x")
        n["own"] = p.let(p.call("times", y, str(tile.fragment)), "r")
        n["row"] = p.let(p.call("plus", n["first"], n["own"]), "r")
        self._place_products()
        n["tiles"], n["first_key"] = tiles_of_keys(p, self.form, n["first"])
        n["slices"] = p.let(p.call("times", n["tiles"], str(self.slices)), "n")

    def _place_products(self) -> None:
        """Where this thread's first rows of slices and weights lie."""
        p, n, tile = self.p, self.names, self.tile
        n["left"] = p.let(p.call("times", n["own"], str(tile.depth)), "p")
        n["left_turn"] = p.let(self.ring.left_turn(n["own"]), "z")
        keys = p.call("plus", p.call("times", n["x"], str(tile.depth)), str(tile.rows * tile.depth))
        n["right"] = p.let(keys, "p")
        n["right_turn"] = p.let(self.ring.right_turn(n["x"]), "z")
        weights = p.let(p.call("times", n["own"], str(tile.weight_stride)), "w")
        n["weights"] = p.let(p.call("at", n["memory"], weights), "w")
        n["kept"] = p.let(p.call("at", n["weights"], n["x"]), "w")
        n["column"] = p.let(p.call("times", n["x"], "4"), "x")

    # -- slices ------------------------------------------------------------------------------------

    def _fetch(self, number: str) -> None:
        """Begins this thread's copies of a slice, if there is one of that number."""
        p, n, tile = self.p, self.names, self.tile
        with p.where([p.call("below", number, n["slices"])]):
            target = self.ring.slot(number)
            keys = key_of(p, n["first_key"], p.call("quotient", number, str(self.slices)), KEYS)
            part = p.let(p.call("remainder", number, str(self.slices)), "k")
            with p.nested(f"if {p.call('below', part, str(self.depth_slices))}:"):
                term = p.let(p.call("times", part, str(tile.depth)), "k")
                self.ring.copy(self.queries, target, 0, n["first"], term, self.ring.left_turn)
                self.ring.copy(
                    self.keys, target, tile.rows * tile.depth, keys, term, self.ring.right_turn
                )
            with p.nested("else:"):
                passed = p.call("minus", part, str(self.depth_slices))
                first = p.call("plus", keys, p.call("times", passed, str(tile.values)))
                self.ring.copy(self.values, target, 0, p.let(first, "k"), "0", None)
        p.do("commit")

    # -- the loop ----------------------------------------------------------------------------------

    def attend(self) -> None:
        """``made``, ``totals`` and ``largest`` of this thread's rows."""
        p, n, tile = self.p, self.names, self.tile
        rows, held = tile.thread_rows, tile.thread_rows * tile.columns
        p.line(f"made = {p.call(f'tile_zero_{held}')}")
        p.line(f"totals = {p.call(f'tile_zero_{rows}')}")
        p.line(f"largest = {p.call(f'attention_lowest_{rows}')}")
        self.ring.begin(self._fetch)
        with p.loop(n["tiles"]) as step:
            base = p.let(p.call("times", step, str(self.slices)), "n")
            p.line(f"tile = {p.call(f'tile_zero_{rows * COLUMNS}')}")
            with p.loop(self.depth_slices) as part:
                self._add_scores(p.let(p.call("plus", base, part), "n"))
            self._weigh(step)
            p.line(f"sums = {p.call(f'tile_zero_{held}')}")
            with p.loop(self.value_slices) as part:
                number = p.call("plus", p.call("plus", base, str(self.depth_slices)), part)
                self._add_values(p.let(number, "n"), part)
            rescaled = p.call(
                f"attention_rescaled_{rows}_{tile.columns}", "made", "factors", "sums"
            )
            p.line(f"made = {rescaled}")

    def _add_scores(self, number: str) -> None:
        p, n, tile = self.p, self.names, self.tile
        slot = self.ring.next(number, self._fetch)
        left, right = (p.call("at", slot, n[side]) for side in ("left", "right"))
        name = f"attention_scores_{tile.thread_rows}_{tile.depth}"
        turns = (n["left_turn"], n["right_turn"])
        p.line(f"tile = {p.call(name, 'tile', left, right, *turns)}")

    def _add_values(self, number: str, part: str) -> None:
        p, n, tile = self.p, self.names, self.tile
        slot = self.ring.next(number, self._fetch)
        weights = p.call("at", n["weights"], p.call("times", part, str(tile.values)))
        shape = f"{tile.thread_rows}_{tile.weight_stride}_{tile.values}_{tile.width}"
        values = p.call("at", slot, n["column"])
        p.line(f"sums = {p.call(f'attention_values_{shape}', 'sums', weights, values)}")

    def _weigh(self, step: str) -> None:
        """Scores become weights, and ``totals`` and ``largest`` know them."""
        p, n, rows = self.p, self.names, self.tile.thread_rows
        first = key_of(p, n["first_key"], step, KEYS)
        key = p.let(p.call("plus", first, n["x"]), "k")
        if self.form.attrs.scale != 1:
            scale = p.number(self.form.attrs.scale, FLOAT32)
            p.line(f"tile = {p.call(f'attention_scaled_{rows}', 'tile', scale)}")
        self._mask(key)
        self._hide(first, key)
        for name, function, *arguments in (
            ("raised", "raised", "largest", "tile"), ("bases", "bases", "raised"),
            ("factors", "factors", "largest", "bases"), ("largest", "", "raised"),
            ("tile", "weights", "tile", "bases"), ("totals", "totals", "totals", "factors", "tile"),
        ):  # fmt: skip
            call = p.call(f"attention_{function}_{rows}", *arguments) if function else arguments[0]
            p.line(f"{name} = {call}")
        p.do(f"attention_keep_{rows}_{self.tile.weight_stride}", n["kept"], "tile")

    def _mask(self, key: str) -> None:
        """Each score behind the mask."""
        p, f = self.p, self.form
        if f.mask is None:
            return
        rows = self.tile.thread_rows
        for row in range(rows):
            offset = str(row_offset(row, rows))
            p.names[f.row.symbol.name] = p.index("plus", self.names["row"], offset)
            scores = []
            for c in range(COLUMNS):
                p.names[f.key.symbol.name] = p.index("plus", key, str(ACROSS * c))
                scores.append(p.expression(f.mask, f"tile[{row * COLUMNS + c}]"))
            p.line(f"tile = {p.call(f'attention_masked_{rows}_{row}', 'tile', *scores)}")

    def _hide(self, first: str, key: str) -> None:
        """-inf where there is no key, or one behind the query; full tiles that all see go by."""
        p, n, rows = self.p, self.names, self.tile.thread_rows
        extent = self.form.key.extent
        if not isinstance(extent, int) or extent % KEYS:
            keys = p.extent(extent)
            with p.where([p.call("below", keys, p.call("plus", first, str(KEYS)))]):
                left = p.call("minus", keys, key)
                p.line(f"tile = {p.call(f'attention_bounded_{rows}', 'tile', left)}")
        if self.form.attrs.is_causal:
            with p.where([p.call("below", n["first"], p.call("plus", first, str(KEYS - 1)))]):
                reach = p.call("minus", n["row"], key)
                p.line(f"tile = {p.call(f'attention_causal_{rows}', 'tile', reach)}")

    # -- behind the loop ---------------------------------------------------------------------------

    def store(self) -> None:
        """The outputs over their sums, through shared memory, so that neighbours store
        neighbours."""
        p, tile = self.p, self.tile
        rows, staged = tile.thread_rows, tile.staged
        p.line(f"totals = {p.call(f'attention_whole_{rows}', 'totals')}")
        if self.form.part is None:
            shape = f"{rows}_{tile.columns}_{int(self.form.attrs.has_zeros)}"
            p.line(f"made = {p.call(f'attention_divided_{shape}', 'made', 'totals')}")
        else:
            self._store_sums()
        place = p.call("times", self.names["y"], str(staged * tile.width))
        target = p.let(
            p.call("at", self.names["memory"], p.call("plus", place, self.names["column"])), "s"
        )
        for first in range(0, rows, staged):
            p.do("barrier")
            stage = f"tile_stage_{rows}_{tile.columns}_{first}_{staged}_{tile.width}_64"
            p.do(stage, "made", target)
            p.do("barrier")
            part = Staged(
                self.form.row,
                staged * ACROSS,
                tile.width,
                tile.width,
                static(self.form.column.extent),
            )
            store_staged(p, self.form, self.names, part, partial(self._staged_row, first))

    def _store_sums(self) -> None:
        """Each row's largest score and sum behind its outputs, by the first of its threads."""
        p, f = self.p, self.form
        with p.where([p.call("below", self.names["x"], "1")]):
            for number in range(self.tile.thread_rows):
                offset = str(row_offset(number, self.tile.thread_rows))
                row = p.let(p.call("plus", self.names["row"], offset), "r")
                p.names[f.row.symbol.name] = row
                with p.where([p.call("below", row, p.extent(f.row.extent))]):
                    for place, name in enumerate(("largest", "totals")):
                        p.names[f.column.symbol.name] = str(static(f.column.extent) + place)
                        to = p.extent(p.kernel.buffers[-1].offset(f.position))
                        p.store(to, f"{name}[{number}]")

    def _staged_row(self, first: int, place: str) -> str:
        """Which one lies there while those from a thread's row ``first`` on are staged."""
        p, tile = self.p, self.tile
        y, own = (p.index(x, place, str(tile.staged)) for x in ("quotient", "remainder"))
        local = p.call("plus", p.call("times", y, str(tile.fragment)), own)
        start = str(row_offset(first, tile.thread_rows))
        return p.call("plus", p.call("plus", self.names["first"], start), local)


__all__ = ["print_attention"]
