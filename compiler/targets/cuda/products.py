"""The text of matrix products: register tiles over slices of both operands in shared memory.

A block makes one tile of the result. While its threads multiply one pair of slices, the next is on its way into registers.
``ffma`` multiplies in float32; the others use tensor cores: ``tf32`` and ``bf16`` round the operands, ``3xtf32`` splits each
into two and keeps float32's accuracy. The order of every sum depends on shapes only; no accumulator adds up more than CHAIN
terms, in ``3xtf32`` no more than 32, before its sum is added to another in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ... import dim
from ...tensor_type import FLOAT32
from .copied_slices import Slices
from .forms import CHAIN, PAD, THREADS, Engine, Operand, Product, count
from .printer import Printer

FRAGMENT = 4  # neighbouring elements that a thread holds in a row of its tile
WARPS_DOWN, WARPS_ACROSS = 2, 4  # of a tile on tensor cores
PROMOTED = 32  # terms that 3xtf32 leaves to the tensor cores' own additions


@dataclass(frozen=True)
class _Side:
    """An operand's slice: ``size`` rows or columns, where it lies in shared memory, and the block's first one."""

    operand: Operand
    size: int
    memory: str
    first: str


def print_product(p: Printer, form: Product) -> None:
    """The whole kernel."""
    engine = _engine(p, form)
    row_start, column_start = _tile_starts(p, form)
    thread = p.let(p.call("thread"), "t")
    memory = p.let(p.call(f"shared_float32_{engine.room}"), "s")
    engine.place(thread)
    if form.stages:
        _multiply_copies(p, form, engine, thread, memory, (row_start, column_start))
    elif isinstance(engine, _Warpgroups):
        _multiply_behind(p, form, engine, thread, memory, (row_start, column_start))
    else:
        _multiply(p, form, engine, thread, _sides(p, form, engine, memory, (row_start, column_start)))
    _finish(p, form, engine, thread, memory, row_start, column_start)


def _engine(p: Printer, form: Product) -> _Simt | _Tensor:
    if form.engine is Engine.FFMA:
        return _Simt(p, form)
    return _Warpgroups(p, form) if form.is_by_warpgroups else _Tensor(p, form)


def _sides(p: Printer, form: Product, engine: _Simt | _Tensor, memory: str, starts: tuple[str, str]) -> tuple[_Side, _Side]:
    """Where the slices of both operands are kept."""
    right = p.let(p.call("at", memory, str(engine.left_words)), "s")
    return _Side(form.left, form.tile.rows, memory, starts[0]), _Side(form.right, form.tile.columns, right, starts[1])


def _chain(form: Product) -> int:
    """Terms after which the engine's sums are added to others."""
    return PROMOTED if form.engine is Engine.TF32X3 else CHAIN


def _is_long(form: Product) -> bool:
    terms = form.chain
    return not isinstance(terms, int) or terms > _chain(form)


def _multiply(p: Printer, form: Product, engine: _Simt | _Tensor, thread: str, sides: tuple[_Side, _Side]) -> None:
    """``tile``: this thread's sums."""
    depth, terms = form.tile.depth, form.chain
    _begin_sums(p, form)
    first = _first_term(p, form)
    with p.loop(dim.ceil_div(terms, depth) + 1) as step:
        start = p.let(p.call("plus", first, p.call("times", step, str(depth))), "k")
        fetched = [_fetch(p, form, engine, side, thread, start) for side in sides]
        with p.where([p.call("below", "0", step)]):
            p.line(f"tile = {engine.multiplied(sides[0].memory, sides[1].memory)}")
        _end_chain(p, form, step)
        p.do("barrier")
        for side, values in zip(sides, fetched, strict=True):
            engine.keep_all(side, thread, values)
        p.do("barrier")
    _end_sums(p, form)


def _multiply_copies(p: Printer, form: Product, engine: _Simt | _Tensor, thread: str, memory: str, starts: tuple[str, str]) -> None:
    """``tile``: this thread's sums, while later slices arrive in other buffers; one barrier a slice.

    Behind the barrier of a step, all have read the buffer that it copies to, and all of what it multiplies has arrived.
    """
    tile = form.tile
    left = Slices.of(form.left, tile.rows, tile.depth, form.engine)
    right = Slices.of(form.right, tile.columns, tile.depth, form.engine)
    buffer, ahead = str(left.words + right.words), form.stages - 1
    _begin_sums(p, form)
    rows = [side.rows(p, form, thread, start) for side, start in zip((left, right), starts, strict=True)]
    first = _first_term(p, form)
    slices = p.extent(dim.ceil_div(form.chain, tile.depth))
    with p.loop(p.let(p.call("plus", slices, str(ahead)), "n")) as step:
        p.do(f"arrive_{ahead - 1}")
        p.do("barrier")
        with p.where([p.call("below", step, slices)]):
            start = p.let(p.call("plus", first, p.call("times", step, str(tile.depth))), "k")
            target = p.let(p.call("at", memory, p.call("times", p.call("remainder", step, str(form.stages)), buffer)), "s")
            left.copy(p, form, target, thread, start, starts[0], THREADS, rows[0])
            right.copy(p, form, p.let(p.call("at", target, str(left.words)), "s"), thread, start, starts[1], THREADS, rows[1])
        p.do("commit")
        done = p.let(p.call("minus", step, str(ahead - 1)), "n")
        with p.where([p.call("below", "0", done)]):
            slot = p.call("remainder", p.call("plus", step, "1"), str(form.stages))
            source = p.let(p.call("at", memory, p.call("times", slot, buffer)), "s")
            p.line(f"tile = {engine.multiplied_copies(source, p.call('at', source, str(left.words)), left, right)}")
            _end_chain(p, form, done)
    p.do("barrier")
    _end_sums(p, form)


def _multiply_behind(p: Printer, form: Product, engine: _Warpgroups, thread: str, memory: str, starts: tuple[str, str]) -> None:
    """``tile``: this thread's sums, by products that run while the next slice is fetched and kept; one barrier a slice.

    What a step keeps lies in the buffer that the step before it has multiplied to the end.
    """
    depth = form.tile.depth
    first = _first_term(p, form)
    sides = _sides(p, form, engine, memory, starts)
    for side, values in zip(sides, [_fetch(p, form, engine, side, thread, first) for side in sides], strict=True):
        engine.keep_all(side, thread, values)
    p.do("fence_for_products")
    p.do("barrier")
    _begin_sums(p, form)
    with p.loop(dim.ceil_div(form.chain, depth)) as step:
        done = p.let(p.call("plus", step, "1"), "n")
        start = p.let(p.call("plus", first, p.call("times", done, str(depth))), "k")
        fetched = [_fetch(p, form, engine, side, thread, start) for side in sides]
        source, target = (p.let(p.call("at", memory, p.call("times", p.call("remainder", number, "2"), str(engine.words))), "s")
                          for number in (step, done))
        p.line(f"tile = {engine.multiplied(source, p.call('at', source, str(engine.left_words)))}")
        for side, values in zip(_sides(p, form, engine, target, starts), fetched, strict=True):
            engine.keep_all(side, thread, values)
        p.do("fence_for_products")
        p.line(f"tile = {p.call(f'finished_{_held(form)}', 'tile')}")
        _end_chain(p, form, done)
        p.do("barrier")
    _end_sums(p, form)


def _held(form: Product) -> int:
    return form.tile.thread_rows * form.tile.thread_columns


def _begin_sums(p: Printer, form: Product) -> None:
    p.line(f"tile = {p.call(f'tile_zero_{_held(form)}')}")
    if _is_long(form):
        p.line(f"total = {p.call(f'tile_zero_{_held(form)}')}")


def _end_chain(p: Printer, form: Product, done: str) -> None:
    """After as many slices as a chain has, its sums move to ``total``."""
    if _is_long(form):
        with p.where([p.call("below", p.call("remainder", done, str(_chain(form) // form.tile.depth)), "1")]):
            p.line(f"total = {p.call(f'tile_add_{_held(form)}', 'total', 'tile')}")
            p.line(f"tile = {p.call(f'tile_zero_{_held(form)}')}")


def _end_sums(p: Printer, form: Product) -> None:
    if _is_long(form):
        p.line(f"tile = {p.call(f'tile_add_{_held(form)}', 'total', 'tile')}")


def _first_term(p: Printer, form: Product) -> str:
    return p.extent(form.part.position * form.chain) if form.part else "0"


def _tile_starts(p: Printer, form: Product) -> tuple[str, str]:
    """The block's first row and column; the batch axes are bound."""
    across = p.extent(dim.ceil_div(count(form.right.axes), form.tile.columns))
    down = p.extent(dim.ceil_div(count(form.left.axes), form.tile.rows))
    rest = p.let(p.call("block"), "b")
    column = p.let(p.call("times", p.call("remainder", rest, across), str(form.tile.columns)), "n")
    rest = p.let(p.call("quotient", rest, across), "b")
    row = p.let(p.call("times", p.call("remainder", rest, down), str(form.tile.rows)), "m")
    p.decode(p.let(p.call("quotient", rest, down), "b"), form.batch)
    return row, column


def _fetch(p: Printer, form: Product, engine: _Simt | _Tensor, side: _Side, thread: str, start: str) -> list[str]:
    """This thread's part of a slice, zero outside the operand: numbers, or vectors of four."""
    values = []
    for part in range(side.size * form.tile.depth // (THREADS * side.operand.width)):
        k, place = engine.position(side, thread, part)
        term = p.let(p.call("plus", start, k), "k")
        at = p.let(p.call("plus", side.first, place), "m")
        conditions = [p.call("below", term, p.extent(count(form.terms)))]
        extent = count(side.operand.axes)
        if not isinstance(extent, int) or extent % side.size:
            conditions.append(p.call("below", at, p.extent(extent)))
        values.append(_vector(p, form, side, term, at, conditions) if side.operand.width > 1
                      else _number(p, form, side, term, at, conditions))  # fmt: skip
    return values


def _turn(p: Printer, thread: str, part: int) -> str:
    """A thread's number among all turns of its block."""
    return p.index("plus", thread, str(part * THREADS)) if part else thread


def _number(p: Printer, form: Product, side: _Side, term: str, at: str, conditions: Sequence[str]) -> str:
    value = p.let(p.number(0.0, FLOAT32), "v")
    with p.where(conditions):
        p.decode(at, side.operand.axes)
        p.decode(term, form.terms)
        p.line(f"{value} = {p.expression(side.operand.value)}")
    return value


def _vector(p: Printer, form: Product, side: _Side, term: str, at: str, conditions: Sequence[str]) -> str:
    load = side.operand.load
    p.decode(at, side.operand.axes)
    p.decode(term, form.terms)
    return p.let(p.call("load4_if_float32", p.buffers[load.buffer], p.offset(load, {}), p.all(conditions)), "v")


def _finish(
    p: Printer, form: Product, engine: _Simt | _Tensor, thread: str, stage: str, row_start: str, column_start: str
) -> None:
    """The tile through shared memory, some rows at a time, so that neighbours store neighbours."""
    columns = form.tile.columns
    for part in range(engine.parts):
        if part:
            p.do("barrier")
        engine.stage(part, stage)
        p.do("barrier")
        with p.loop(form.tile.rows // engine.parts * columns // THREADS) as step:
            flat = p.let(p.call("plus", p.call("times", step, str(THREADS)), thread), "i")
            staged, across = p.index("quotient", flat, str(columns)), p.index("remainder", flat, str(columns))
            row = p.let(p.call("plus", row_start, engine.row_of(part, staged)), "m")
            column = p.let(p.call("plus", column_start, across), "n")
            inside = [p.call("below", at, p.extent(count(side.axes))) for at, side in ((row, form.left), (column, form.right))]
            with p.where(inside):
                p.decode(row, form.left.axes)
                p.decode(column, form.right.axes)
                sum_ = p.let(p.call("load_float32", stage, p.index("plus", p.index("times", staged, str(engine.stage_stride)), across)))
                offset = p.extent(p.kernel.buffers[-1].offset(form.position))
                p.store(offset, p.expression(form.value, sum_))


class _Simt:
    """Slices [k, place]; a thread's tile is fragments of four rows and columns, spread over the block's tile."""

    def __init__(self, p: Printer, form: Product) -> None:
        self.p, self.tile = p, form.tile
        self.left_stride, self.right_stride = form.tile.rows + PAD, form.tile.columns + PAD
        self.parts = form.tile.thread_rows // FRAGMENT
        self.stage_stride = form.tile.columns
        self.left_words = form.tile.depth * self.left_stride
        slices = self.left_words + form.tile.depth * self.right_stride
        self.room = max(form.tile.rows // self.parts * form.tile.columns, slices * max(1, form.stages))

    def place(self, thread: str) -> None:
        p = self.p
        across = str(self.tile.columns // self.tile.thread_columns)
        self.x = p.let(p.call("times", p.call("remainder", thread, across), str(FRAGMENT)), "x")
        self.y = p.let(p.call("times", p.call("quotient", thread, across), str(FRAGMENT)), "y")

    def multiplied(self, left: str, right: str) -> str:
        t, p = self.tile, self.p
        shape = f"{t.depth}_{self.left_stride}_{self.right_stride}_{t.thread_rows}_{t.thread_columns}"
        return p.call(f"tile_fma_{shape}", "tile", p.call("at", left, self.y), p.call("at", right, self.x))

    def multiplied_copies(self, left: str, right: str, _left: Slices, _right: Slices) -> str:
        return self.multiplied(left, right)

    def position(self, side: _Side, thread: str, part: int) -> tuple[str, str]:
        """(k, place) in a slice of the first element of a thread's turn: neighbours read neighbours."""
        p, width, flat = self.p, side.operand.width, _turn(self.p, thread, part)
        length = (self.tile.depth if side.operand.terms_are_adjacent else side.size) // width
        fast, slow = p.index("remainder", flat, str(length)), p.index("quotient", flat, str(length))
        fast = p.index("times", fast, str(width)) if width > 1 else fast
        return (fast, slow) if side.operand.terms_are_adjacent else (slow, fast)

    def keep_all(self, side: _Side, thread: str, values: Sequence[str]) -> None:
        for part, value in enumerate(values):
            self._keep(side, *self.position(side, thread, part), value)

    def _keep(self, side: _Side, k: str, place: str, value: str) -> None:
        p, stride = self.p, str(side.size + PAD)
        where = p.call("plus", p.call("times", k, stride), place)
        if side.operand.width == 1:
            p.do("store_float32", side.memory, where, value)
        elif side.operand.terms_are_adjacent:
            for lane in range(side.operand.width):
                p.do("store_float32", side.memory, p.call("plus", where, str(lane * (side.size + PAD))), f"{value}[{lane}]")
        else:
            p.do("store4_float32", side.memory, where, value)

    def stage(self, part: int, stage: str) -> None:
        t, p = self.tile, self.p
        step = t.columns * FRAGMENT // t.thread_columns
        target = p.call("at", stage, p.call("plus", p.call("times", self.y, str(t.columns)), self.x))
        p.do(f"tile_stage_{t.thread_rows}_{t.thread_columns}_{part * FRAGMENT}_{FRAGMENT}_{t.columns}_{step}", "tile", target)

    def row_of(self, part: int, local: str) -> str:
        """The tile's row that a row of the stage holds."""
        return self.p.call("plus", local, str(part * self.tile.rows // self.parts))


class _Tensor:
    """Slices [place, k] of 16 words a row, for ldmatrix; 2 x 4 warps, each with m16n8 fragments of the tile."""

    def __init__(self, p: Printer, form: Product) -> None:
        self.p, self.tile, self.engine = p, form.tile, form.engine
        self.per_word = 2 if form.engine is Engine.BF16 else 1
        self.stride = form.tile.depth // self.per_word + PAD  # words
        self.down, self.across = form.tile.rows // WARPS_DOWN // 16, form.tile.columns // WARPS_ACROSS // 8
        self.parts = self.down
        self.stage_stride = form.tile.columns + 2 * PAD
        self.left_words = form.tile.rows * self.stride
        slices = self.left_words + form.tile.columns * self.stride
        if form.stages:
            sides = ((form.left, form.tile.rows), (form.right, form.tile.columns))
            slices = form.stages * sum(Slices.of(side, size, form.tile.depth, form.engine).words for side, size in sides)
        self.room = max(form.tile.rows // self.parts * self.stage_stride, slices)

    def place(self, thread: str) -> None:
        p = self.p
        self.lane = p.let(p.call("remainder", thread, "32"), "l")
        warp = p.let(p.call("quotient", thread, "32"), "w")
        self.warp_row = p.let(p.call("quotient", warp, str(WARPS_ACROSS)), "y")
        self.warp_column = p.let(p.call("times", p.call("remainder", warp, str(WARPS_ACROSS)), str(self.across * 8)), "x")
        row = p.call("plus", p.call("times", self.warp_row, str(self.down * 16)), p.call("remainder", self.lane, "16"))
        self.left_at = self._word(row, p.call("quotient", self.lane, "16"))
        column = p.call("plus", p.call("remainder", self.lane, "8"), p.call("times", p.call("quotient", self.lane, "16"), "8"))
        half = p.call("remainder", p.call("quotient", self.lane, "8"), "2")
        self.right_at = self._word(p.call("plus", self.warp_column, column), half)

    def _word(self, row: str, half: str) -> str:
        """Where a lane's row of an 8 x 4-word matrix begins."""
        p = self.p
        return p.let(p.call("plus", p.call("times", row, str(self.stride)), p.call("times", half, "4")), "a")

    def multiplied(self, left: str, right: str) -> str:
        p, steps = self.p, self.tile.depth // self.per_word // 8
        name = f"mma_{self.engine.value}_{self.stride}_{steps}_{self.down}_{self.across}"
        return p.call(name, "tile", p.call("at", left, self.left_at), p.call("at", right, self.right_at))

    def multiplied_copies(self, left: str, right: str, lefts: Slices, rights: Slices) -> str:
        p = self.p
        rows = p.call("times", self.warp_row, str(self.down * 16))
        words = [self._first_word(lefts, rows, is_left=True), self._first_word(rights, self.warp_column, is_left=False)]
        name = f"mmac_{self.engine.value}_{lefts.kind}_{rights.kind}_{self.down}_{self.across}"
        return p.call(name, "tile", left, words[0], right, words[1])

    def _first_word(self, slices: Slices, first: str, is_left: bool) -> str:
        """Where this lane's first word of a warp's rows or columns lies (intrinsics/tensor_cores.py, mmac)."""
        p = self.p
        if not slices.is_by_rows:
            group, k = p.call("quotient", self.lane, "4"), p.call("remainder", self.lane, "4")
            return slices.word(p, p.let(k, "k"), p.let(p.call("plus", first, group), "m"))
        if is_left:
            row, half = p.call("remainder", self.lane, "16"), p.call("quotient", self.lane, "16")
        else:
            row = p.call("plus", p.call("remainder", self.lane, "8"), p.call("times", p.call("quotient", self.lane, "16"), "8"))
            half = p.call("remainder", p.call("quotient", self.lane, "8"), "2")
        return slices.word(p, p.let(p.call("times", half, "4"), "k"), p.let(p.call("plus", first, row), "m"))

    def position(self, side: _Side, thread: str, part: int) -> tuple[str, str]:
        """(k, place) in a slice of the first element of a thread's turn.

        Rows are 20 words apart: 8 of them at four words, or 16 words of every fourth, lie in different banks. A warp's reads
        fill whole sectors of 32 bytes. Two turns of a thread that makes pairs differ in k by one.
        """
        p, width, words = self.p, side.operand.width, self.tile.depth // self.per_word
        if width > 1 and side.operand.terms_are_adjacent:
            flat = _turn(p, thread, part)
            low, rest = p.index("remainder", flat, "8"), p.index("quotient", flat, "8")
            groups = str(self.tile.depth // width)
            k, rest = p.index("remainder", rest, groups), p.index("quotient", rest, groups)
            return p.index("times", k, str(width)), p.index("plus", p.index("times", rest, "8"), low)
        flat = _turn(p, thread, part // self.per_word)
        if width > 1:
            word, place = p.index("remainder", flat, str(words)), p.index("times", p.index("quotient", flat, str(words)), str(width))
        elif self.per_word == 1 and side.operand.terms_are_adjacent:
            word, place = p.index("remainder", flat, str(words)), p.index("quotient", flat, str(words))
        else:
            low, rest = p.index("remainder", flat, "8"), p.index("quotient", flat, "8")
            word, rest = p.index("remainder", rest, "4"), p.index("quotient", rest, "4")
            groups = str(side.size // 8)
            place = p.index("plus", p.index("times", p.index("remainder", rest, groups), "8"), low)
            word = p.index("plus", p.index("times", p.index("quotient", rest, groups), "4"), word)
        if self.per_word == 1:
            return word, place
        k = p.index("times", word, "2")
        return p.index("plus", k, "1") if part % 2 else k, place

    def keep_all(self, side: _Side, thread: str, values: Sequence[str]) -> None:
        """Rounded to what the engine multiplies; of bfloat16, two in a word."""
        p, width = self.p, side.operand.width
        if width > 1 and side.operand.terms_are_adjacent:
            name = "bfloat16" if self.per_word == 2 else self._kept
            for part, value in enumerate(values):
                p.do(f"keep4_{name}", side.memory, self._where(*self.position(side, thread, part)), value)
        elif self.per_word == 2:
            for part in range(0, len(values), 2):
                where = self._where(*self.position(side, thread, part))
                p.do(f"pair_{width}_{self.stride}", side.memory, where, values[part], values[part + 1])
        else:
            for part, value in enumerate(values):
                where = self._where(*self.position(side, thread, part))
                for lane in range(width):
                    element = value if width == 1 else f"{value}[{lane}]"
                    at = p.call("plus", where, str(lane * self.stride)) if lane else where
                    p.do(f"keep_{self._kept}", side.memory, at, element)

    @property
    def _kept(self) -> str:
        return "tf32" if self.engine is Engine.TF32 else "float32"

    def _where(self, k: str, place: str) -> str:
        """The word of an element."""
        p = self.p
        word = p.index("quotient", k, "2") if self.per_word == 2 else k
        return p.index("plus", p.index("times", place, str(self.stride)), word)

    def stage(self, part: int, stage: str) -> None:
        p, columns = self.p, self.stage_stride
        row = p.call("plus", p.call("times", self.warp_row, "16"), p.call("quotient", self.lane, "4"))
        column = p.call("plus", self.warp_column, p.call("times", p.call("remainder", self.lane, "4"), "2"))
        target = p.call("at", stage, p.call("plus", p.call("times", row, str(columns)), column))
        p.do(f"mma_stage_{self.down}_{self.across}_{part}_{columns}", "tile", target)

    def row_of(self, part: int, local: str) -> str:
        """The tile's row that a row of the stage holds: 16 rows of each row of warps."""
        p = self.p
        own = p.call("times", p.call("quotient", local, "16"), str(self.down * 16))
        return p.call("plus", p.call("plus", own, str(part * 16)), p.call("remainder", local, "16"))


class _Warpgroups(_Tensor):
    """Two buffers of slices [place, k], 16 words a row, swizzled; each of two groups of four warps makes 64 rows of the tile, of
    a tile of 64 rows half the columns."""

    def __init__(self, p: Printer, form: Product) -> None:
        super().__init__(p, form)
        self.stride = form.tile.depth // self.per_word
        self.parts = form.tile.rows // 64
        self.columns = form.tile.columns * self.parts // 2
        self.left_words = form.tile.rows * self.stride
        self.words = self.left_words + form.tile.columns * self.stride
        self.room = max(64 * self.stage_stride, 2 * self.words)

    def place(self, thread: str) -> None:
        p = self.p
        self.lane = p.let(p.call("remainder", thread, "32"), "l")
        self.warp = p.let(p.call("remainder", p.call("quotient", thread, "32"), "4"), "w")
        self.group = p.let(p.call("quotient", thread, "128"), "w")
        self.warp_column = "0" if self.parts == 2 else p.let(p.call("times", self.group, str(self.columns)), "x")

    def multiplied(self, left: str, right: str) -> str:
        """Begins it; the tile is there when ``finished``."""
        p = self.p
        row = p.call("times", self.group, str(64 * self.stride)) if self.parts == 2 else "0"
        column = p.call("times", self.warp_column, str(self.stride))
        name = f"wgmma_{self.engine.value}_{self.columns}_{self.stride // 8}"
        return p.call(name, "tile", p.call("at", left, row), p.call("at", right, column))

    def _where(self, k: str, place: str) -> str:
        """The word of an element: groups of four words swizzled as 64-byte rows are."""
        p = self.p
        word = p.index("quotient", k, "2") if self.per_word == 2 else k
        group = p.index("xor_int32", p.index("quotient", word, "4"), p.index("remainder", p.index("quotient", place, "2"), "4"))
        start = p.index("plus", p.index("times", place, str(self.stride)), p.index("times", group, "4"))
        return p.index("plus", start, p.index("remainder", word, "4"))

    def keep_all(self, side: _Side, thread: str, values: Sequence[str]) -> None:
        p, width = self.p, side.operand.width
        if width == 1 or side.operand.terms_are_adjacent:
            super().keep_all(side, thread, values)
            return
        for part in range(0, len(values), self.per_word):  # rows next to each other are swizzled each in its way
            k, place = self.position(side, thread, part)
            for lane in range(width):
                where = self._where(k, p.index("plus", place, str(lane)) if lane else place)
                elements = [f"{value}[{lane}]" for value in values[part : part + self.per_word]]
                p.do(f"pair_1_{self.stride}" if self.per_word == 2 else f"keep_{self._kept}", side.memory, where, *elements)

    def stage(self, part: int, stage: str) -> None:
        p, columns = self.p, self.stage_stride
        row = p.call("plus", p.call("times", self.warp, "16"), p.call("quotient", self.lane, "4"))
        column = p.call("plus", self.warp_column, p.call("times", p.call("remainder", self.lane, "4"), "2"))
        conditions = [p.call("below", self.group, "1") if part == 0 else p.call("below", "0", self.group)] if self.parts == 2 else []
        target = p.call("at", stage, p.call("plus", p.call("times", row, str(columns)), column))
        with p.where(conditions):
            p.do(f"mma_stage_1_{self.columns // 8}_0_{columns}", "tile", target)

    def row_of(self, part: int, local: str) -> str:
        """The tile's row that a row of the stage holds."""
        return self.p.call("plus", local, str(64 * part))


__all__ = ["print_product"]
