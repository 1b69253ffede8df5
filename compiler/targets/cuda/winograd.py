"""Winograd's F(2x2, 3x3) in one kernel -> Numba source: nothing but x, U and y is in the device's
memory.

A block makes 32 or 64 channels of 32 tiles, a slice of 4 input channels at a time. Half of its
warps each read the patches of a channel and transform them in registers; the other half read U's
slice. Both go to shared memory, of which there are two buffers, and each warp multiplies two of the
16 entries, while the next slice is on its way into registers. At the end the sums are exchanged
through shared memory, 16 filters at a time, transformed back, and stored with what is fused behind.
Every sum runs over channels in order; after CHAIN channels it is transformed back and added to a
total, so that no chain of additions is longer. Neighbouring blocks share U.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ... import dim
from ...dim import Extent
from ...graph import Node
from ...loops.elements import Axis, Elements
from ...scalar import Argument
from ...tensor_type import FLOAT32
from .elements import SUM
from .forms import CHAIN, THREADS, FusedWinograd, Put, count, nominal
from .printer import Printer

# tiles of a block, channels of a slice, entries and inputs of a tile
TILES, DEPTH, ENTRIES, SIDE = 32, 4, 16, 4
STAGED = 16  # filters that are exchanged at a time
NARROW, WIDE = 32, 64  # filters of a block
MANY_BLOCKS = 128  # fill a device
WARPS = THREADS // 32
SLICES = CHAIN // DEPTH  # of a chunk
READERS = THREADS // 2  # threads that read patches; as many read weights


def fused_form(elements: Elements, node: Node) -> FusedWinograd:
    """The form of a kernel around ``winograd_fused``."""
    attrs, (x, u) = node.attrs, node.inputs
    n, filters, height, width = attrs.shape
    down, across = attrs.tiles(attrs.shape)
    axes = tuple(Axis.of(f"p{place}", e) for place, e in enumerate((n, down, across)))
    filter_axis = Axis.of("p3", filters)
    number, row, column = (axis.position for axis in axes)

    def put(i: int, j: int) -> Put:
        y, z = row * 2 + i, column * 2 + j
        value = elements.element(
            elements.output, (number, filter_axis.position, y, z), Argument(SUM, FLOAT32)
        )
        conditions = dim.unproved((height - 1 - y, width - 1 - z))
        return Put((number, filter_axis.position, y, z), conditions, value)

    puts = tuple(tuple(put(i, j) for j in range(2)) for i in range(2))
    block = _block_filters(_static(x.shape[1]), _static(filters), nominal(count(axes)))
    return FusedWinograd(
        axes, filter_axis, elements.buffers[x], elements.buffers[u], attrs.lo, puts, block, TILES
    )


def _block_filters(channels: int, filters: int, tiles: int) -> int:
    """A wide block spends less on transforms; it has no registers left for totals, or for
    channels that do not exist.
    """
    if filters % WIDE or channels % DEPTH or channels > CHAIN:
        return NARROW
    return WIDE if -(-tiles // TILES) * (filters // WIDE) >= MANY_BLOCKS else NARROW


def _static(extent: Extent) -> int:
    assert isinstance(extent, int)
    return extent


def print_fused(p: Printer, form: FusedWinograd) -> None:
    """The whole kernel."""
    kernel = _Kernel(p, form)
    kernel.place()
    if kernel.chunks == 1:
        kernel.multiply("0", str(kernel.slices))
        kernel.finish()
        return
    for number in range(kernel.shares):
        p.line(f"total_{number} = {p.call('tile_zero_4')}")
    with p.loop(kernel.chunks) as chunk:
        first = p.let(p.call("times", chunk, str(SLICES)), "c")
        kernel.multiply(
            first,
            p.let(p.call("lesser", str(SLICES), p.call("minus", str(kernel.slices), first)), "n"),
        )
        kernel.add_totals()
    kernel.store_totals()


@dataclass
class _Kernel:
    """One kernel's text. ``parts``: accesses of a thread to U's slice, each ``entries_apart``
    entries after the last.
    """

    p: Printer
    form: FusedWinograd
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.channels, self.height, self.width = map(_static, self.form.x.shape[1:])
        self.filters = _static(self.form.filters.extent)
        self.block = self.form.block_filters
        self.slices = -(-self.channels // DEPTH)
        self.chunks = -(-self.channels // CHAIN)
        self.access = 4 if self.filters % 4 == 0 else 1
        self.per_row = self.block // self.access
        self.entries_apart = READERS // (self.per_row * DEPTH)
        self.parts = ENTRIES // self.entries_apart
        self.v_start = DEPTH * ENTRIES * self.block
        self.buffer = self.v_start + DEPTH * ENTRIES * TILES
        self.room = max(2 * self.buffer, ENTRIES * STAGED * TILES)
        self.shares = self.block // WARPS  # pairs of a tile and a filter that a thread finishes

    # -- before the loop ---------------------------------------------------------------------------

    def place(self) -> None:
        """What this thread reads, keeps and multiplies."""
        p, n = self.p, self.names
        thread = p.let(p.call("thread"), "t")
        self._place_block(thread, p.let(p.call("block"), "b"))
        n["memory"] = p.let(p.call(f"shared_float32_{self.room}"), "s")
        n["is_patch"] = p.let(p.call("below", thread, str(READERS)), "o")
        self._place_patch()
        self._place_filters(p.let(p.call("remainder", thread, str(READERS)), "t"))
        self._place_products()

    def _place_block(self, thread: str, block: str) -> None:
        """This lane's tile and the block's first filter."""
        p, n = self.p, self.names
        n["lane"] = p.let(p.call("remainder", thread, "32"), "l")
        n["warp"] = p.let(p.call("quotient", thread, "32"), "w")
        tiles = count(self.form.tiles)
        across = p.extent(dim.ceil_div(tiles, TILES))
        n["filter"] = p.let(
            p.call("times", p.call("quotient", block, across), str(self.block)), "m"
        )
        first = p.call("times", p.call("remainder", block, across), str(TILES))
        number = p.let(p.call("plus", first, n["lane"]), "i")
        n["is_tile"] = p.let(p.call("below", number, p.extent(tiles)), "o")
        p.decode(number, self.form.tiles)

    def _place_patch(self) -> None:
        """A warp's channel, a lane's tile."""
        p, n = self.p, self.names
        number, row, column = (p.names[axis.symbol.name] for axis in self.form.tiles)
        lo = self.form.lo
        top, left = (
            p.let(p.call("minus", p.call("times", at, "2"), str(z)), "y")
            for at, z in zip((row, column), lo, strict=True)
        )
        n["mask"] = p.let(
            p.call(f"winograd_mask_{self.height}_{self.width}", top, left, n["is_tile"]), "m"
        )
        channel = p.call("plus", p.call("times", number, str(self.channels)), n["warp"])
        line = p.call("plus", p.call("times", channel, str(self.height)), top)
        n["patch"] = p.let(p.call("plus", p.call("times", line, str(self.width)), left), "a")
        kept = p.call("plus", p.call("times", n["warp"], str(ENTRIES * TILES)), n["lane"])
        n["kept"] = p.let(p.call("plus", kept, str(self.v_start)), "v")

    def _place_filters(self, thread: str) -> None:
        """Threads of a row of U's slice read neighbours."""
        p, n = self.p, self.names
        own = p.let(
            p.call("times", p.call("remainder", thread, str(self.per_row)), str(self.access)), "f"
        )
        rest = p.let(p.call("quotient", thread, str(self.per_row)), "r")
        n["channel"] = p.let(p.call("remainder", rest, str(DEPTH)), "c")
        entry = p.let(p.call("quotient", rest, str(DEPTH)), "e")
        filter_ = p.let(p.call("plus", n["filter"], own), "f")
        n["is_filter"] = p.let(p.call("below", filter_, str(self.filters)), "o")
        row = p.call("plus", p.call("times", entry, str(self.channels)), n["channel"])
        n["u"] = p.let(p.call("plus", p.call("times", row, str(self.filters)), filter_), "a")
        line = p.call("plus", p.call("times", n["channel"], str(ENTRIES)), entry)
        n["put"] = p.let(p.call("plus", p.call("times", line, str(self.block)), own), "u")

    def _place_products(self) -> None:
        """Half a warp multiplies one entry: 4 x 4 threads over the filters and the tiles."""
        p, n = self.p, self.names
        self._place_sums()
        u = p.call(
            "plus", p.call("times", n["entry"], str(self.block)), p.call("times", n["down"], "4")
        )
        n["left"] = p.let(u, "p")
        v = p.call(
            "plus", p.call("times", n["entry"], str(TILES)), p.call("times", n["across"], "4")
        )
        n["right"] = p.let(p.call("plus", v, str(self.v_start)), "p")

    def _place_sums(self) -> None:
        """The entry, and which fragments of filters and tiles."""
        p, n = self.p, self.names
        entry = p.call("plus", p.call("times", n["warp"], "2"), p.call("quotient", n["lane"], "16"))
        n["entry"] = p.let(entry, "e")
        n["down"] = p.let(p.call("remainder", n["lane"], "4"), "x")
        n["across"] = p.let(p.call("remainder", p.call("quotient", n["lane"], "4"), "4"), "y")

    def _place_again(self) -> None:
        """What is needed behind the loop, made anew: registers are short within it."""
        self._place_block(
            self.p.let(self.p.call("thread_again"), "t"),
            self.p.let(self.p.call("block_again"), "b"),
        )
        self._place_sums()

    # -- the loop ----------------------------------------------------------------------------------

    def multiply(self, first: str, slices: str) -> None:
        """``tile``: this thread's sums over that many slices from the ``first`` on."""
        p, n = self.p, self.names
        sums = self.block // SIDE * TILES // SIDE
        p.line(f"tile = {p.call(f'tile_zero_{sums}')}")
        self._fetch(first)
        with p.loop(slices) as step:
            turn = p.call("times", p.call("remainder", step, "2"), str(self.buffer))
            memory = p.let(p.call("at", n["memory"], turn), "s")
            self._keep(memory)
            p.do("barrier")
            following = p.call("plus", first, p.call("plus", step, "1"))
            # the last comes again, in vain
            self._fetch(p.let(p.call("lesser", following, str(self.slices - 1)), "k"))
            left, right = (p.call("at", memory, n[side]) for side in ("left", "right"))
            p.line(f"tile = {p.call(f'winograd_fma_{self.block}', 'tile', left, right)}")
        p.do("barrier")

    def _keep(self, memory: str) -> None:
        """What was fetched, to a buffer: patches transformed."""
        p, n = self.p, self.names
        with p.nested(f"if {n['is_patch']}:"):
            patch = (f"fetched[{entry}]" for entry in range(ENTRIES))
            transformed = p.let(p.call("transform_input2t3x2t3_float32", *patch), "v")
            p.do(f"winograd_keep_{TILES}", p.call("at", memory, n["kept"]), transformed)
        with p.nested("else:"):
            step = self.entries_apart * self.block
            p.do(
                f"winograd_put_{self.access}_{self.parts}_{step}",
                p.call("at", memory, n["put"]),
                "fetched",
            )

    def _fetch(self, slice_: str) -> None:
        """``fetched``: this thread's part of a slice; zeros for channels that do not exist."""
        p, n = self.p, self.names
        first = p.let(p.call("times", slice_, str(DEPTH)), "c")
        x, u = (p.buffers[buffer] for buffer in (self.form.x, self.form.u))
        with p.nested(f"if {n['is_patch']}:"):
            mask = n["mask"]
            if self.channels % DEPTH:
                mask = p.let(
                    p.call("select_int32", self._exists(first, n["warp"]), mask, "int32(0)"), "m"
                )
            at = p.call("plus", n["patch"], p.call("times", first, str(self.height * self.width)))
            p.line(
                f"fetched = {p.call(f'winograd_patch_{self.width}_{self.access * self.parts}', x, at, mask)}"
            )
        with p.nested("else:"):
            is_inside = n["is_filter"]
            if self.channels % DEPTH:
                is_inside = p.call("both", is_inside, self._exists(first, n["channel"]))
            at = p.call("plus", n["u"], p.call("times", first, str(self.filters)))
            apart = self.entries_apart * self.channels * self.filters
            p.line(
                f"fetched = {p.call(f'winograd_filters_{self.access}_{self.parts}_{apart}', u, at, is_inside)}"
            )

    def _exists(self, first: str, channel: str) -> str:
        return self.p.call("below", self.p.call("plus", first, channel), str(self.channels))

    # -- behind the loop ---------------------------------------------------------------------------

    def finish(self) -> None:
        """The sums through shared memory, transformed back and stored."""
        self._place_again()
        for part in range(self.block // STAGED):
            self._stage(part)
            for half in range(2):
                self._store(part, half, self._transformed(half))

    def add_totals(self) -> None:
        """``total_0`` …: the sums, transformed back, of one chunk after another."""
        p = self.p
        for part in range(self.block // STAGED):
            self._stage(part)
            for half in range(2):
                total = f"total_{2 * part + half}"
                p.line(f"{total} = {p.call('tile_add_4', total, self._transformed(half))}")
        p.do("barrier")

    def store_totals(self) -> None:
        for number in range(self.shares):
            self._store(number // 2, number % 2, f"total_{number}")

    def _stage(self, part: int) -> None:
        """16 filters of all entries, [entry, filter, tile]; tiles change places so that banks do
        not meet.
        """
        p, n = self.p, self.names
        if part:
            p.do("barrier")
        row = p.call(
            "plus", p.call("times", n["entry"], str(STAGED)), p.call("times", n["down"], "4")
        )
        target = p.call("at", n["memory"], p.call("times", row, str(TILES)))
        turn = p.let(p.call("times", n["down"], "8"), "z")
        near = p.let(p.call("times", n["across"], "4"), "z")
        far = p.call("plus", near, "16")
        places = [p.call("xor_int32", place, turn) for place in (near, far)]
        p.do(f"winograd_stage_{self.block}_{part}", "tile", target, *places)
        p.do("barrier")

    def _transformed(self, half: int) -> str:
        """The 2 x 2 results of this lane's tile and this warp's filter of a half."""
        p, n = self.p, self.names
        row = p.let(p.call("plus", n["warp"], str(WARPS * half)), "r")
        turned = p.call("xor_int32", n["lane"], p.call("times", p.call("quotient", row, "4"), "8"))
        start = p.let(p.call("plus", p.call("times", row, str(TILES)), turned), "a")
        entries = [p.let(p.call("load_float32", n["memory"], p.call("plus", start, str(entry * STAGED * TILES))), "m")
                   for entry in range(ENTRIES)]  # fmt: skip
        return p.let(p.call("transform_output2t3x2t3_float32", *entries), "w")

    def _store(self, part: int, half: int, values: str) -> None:
        p, n = self.p, self.names
        at = p.let(
            p.call(
                "plus", p.call("plus", n["filter"], n["warp"]), str(STAGED * part + WARPS * half)
            ),
            "f",
        )
        p.names[self.form.filters.symbol.name] = at
        conditions = [n["is_tile"]]
        if self.filters % self.block:
            conditions.append(p.index("below", at, str(self.filters)))
        target = p.kernel.buffers[-1]
        with p.where(conditions):
            for place, put in enumerate(put for row in self.form.puts for put in row):
                with p.where(
                    [p.index("inside", p.extent(condition)) for condition in put.conditions]
                ):
                    p.store(
                        p.extent(target.offset(put.position)),
                        p.expression(put.value, f"{values}[{place}]"),
                    )


__all__ = ["fused_form", "print_fused"]
