"""The text of matrix products: register tiles over slices of both operands in shared memory.

A block makes one tile of the result. While its threads multiply one pair of slices, the next is on
its way into registers. ``ffma`` multiplies in float32; the others use tensor cores: ``tf32`` and
``bf16`` round the operands, ``3xtf32`` splits each into two and keeps float32's accuracy. The order
of every sum depends on shapes only; no accumulator takes more than CHAIN additions, in ``3xtf32`` no
more than 32 terms, before its sum is added to another in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ... import dim
from ...tensor_type import FLOAT32
from .copied_slices import Slices
from .forms import CHAIN, THREADS, Engine, Product, blocks, count
from .printer import Printer
from .product_engines import Side, Simt, Tensor
from .warpgroup_engine import Warpgroups
from .warpgroups import chain_of

PROMOTED = 32  # terms that 3xtf32 leaves to the tensor cores' own additions


def print_product(p: Printer, form: Product) -> None:
    """The whole kernel; blocks of the grid that have no tile do nothing."""
    tiles, all_blocks = blocks(form), p.kernel.items
    with p.where(
        [] if tiles == all_blocks else [p.call("below", p.call("block"), p.extent(tiles))]
    ):
        _print_tile(p, form)


def _print_tile(p: Printer, form: Product) -> None:
    engine = _engine(p, form)
    row_start, column_start = _tile_starts(p, form)
    thread = p.let(p.call("thread"), "t")
    memory = p.let(p.call(f"shared_float32_{engine.room}"), "s")
    engine.place(thread)
    if form.stages:
        _multiply_copies(p, form, engine, thread, memory, (row_start, column_start))
    elif isinstance(engine, Warpgroups):
        _multiply_behind(p, form, engine, thread, memory, (row_start, column_start))
    else:
        _multiply(
            p, form, engine, thread, _sides(p, form, engine, memory, (row_start, column_start))
        )
    _finish(p, form, engine, thread, memory, row_start, column_start)


def _engine(p: Printer, form: Product) -> Simt | Tensor:
    if form.engine is Engine.FFMA:
        return Simt(p, form)
    return Warpgroups(p, form) if form.is_by_warpgroups else Tensor(p, form)


def _sides(
    p: Printer, form: Product, engine: Simt | Tensor, memory: str, starts: tuple[str, str]
) -> tuple[Side, Side]:
    """Where the slices of both operands are kept."""
    right = p.let(p.call("at", memory, str(engine.left_words)), "s")
    return Side(form.left, form.tile.rows, memory, starts[0]), Side(
        form.right, form.tile.columns, right, starts[1]
    )


def _chain(form: Product) -> int:
    """Terms after which the engine's sums are added to others."""
    if form.is_by_warpgroups:
        return chain_of(form)
    return PROMOTED if form.engine is Engine.TF32X3 else CHAIN


def _is_long(form: Product) -> bool:
    terms = form.chain
    return not isinstance(terms, int) or terms > _chain(form)


def _multiply(
    p: Printer, form: Product, engine: Simt | Tensor, thread: str, sides: tuple[Side, Side]
) -> None:
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


def _multiply_copies(
    p: Printer,
    form: Product,
    engine: Simt | Tensor,
    thread: str,
    memory: str,
    starts: tuple[str, str],
) -> None:
    """``tile``: this thread's sums, while later slices arrive in other buffers; one barrier a
    slice.

    Behind the barrier of a step, all have read the buffer that it copies to, and all of what it
    multiplies has arrived.
    """
    tile = form.tile
    left = Slices.of(form.left, tile.rows, tile.depth, form.engine)
    right = Slices.of(form.right, tile.columns, tile.depth, form.engine)
    buffer, ahead = str(left.words + right.words), form.stages - 1
    _begin_sums(p, form)
    rows = [
        side.rows(p, form, thread, start) for side, start in zip((left, right), starts, strict=True)
    ]
    first = _first_term(p, form)
    slices = p.extent(dim.ceil_div(form.chain, tile.depth))
    with p.loop(p.let(p.call("plus", slices, str(ahead)), "n")) as step:
        p.do(f"arrive_{ahead - 1}")
        p.do("barrier")
        with p.where([p.call("below", step, slices)]):
            start = p.let(p.call("plus", first, p.call("times", step, str(tile.depth))), "k")
            target = p.let(
                p.call(
                    "at",
                    memory,
                    p.call("times", p.call("remainder", step, str(form.stages)), buffer),
                ),
                "s",
            )
            left.copy(p, form, target, thread, start, starts[0], THREADS, rows[0])
            right.copy(
                p,
                form,
                p.let(p.call("at", target, str(left.words)), "s"),
                thread,
                start,
                starts[1],
                THREADS,
                rows[1],
            )
        p.do("commit")
        done = p.let(p.call("minus", step, str(ahead - 1)), "n")
        with p.where([p.call("below", "0", done)]):
            slot = p.call("remainder", p.call("plus", step, "1"), str(form.stages))
            source = p.let(p.call("at", memory, p.call("times", slot, buffer)), "s")
            p.line(
                f"tile = {engine.multiplied_copies(source, p.call('at', source, str(left.words)), left, right)}"
            )
            _end_chain(p, form, done)
    p.do("barrier")
    _end_sums(p, form)


def _multiply_behind(
    p: Printer, form: Product, engine: Warpgroups, thread: str, memory: str, starts: tuple[str, str]
) -> None:
    """``tile``: this thread's sums, by products that run while the next slice is kept and the one
    after it fetched; one barrier a slice.

    What a step keeps lies in the buffer that is multiplied to the end: of two buffers by the step
    before, of three by the step before that one.
    """
    depth = form.tile.depth
    sides = [
        replace(side, rows=engine.rows(form, side, thread))
        for side in _sides(p, form, engine, memory, starts)
    ]
    first = _first_term(p, form)
    for side, values in zip(sides, _fetched(p, form, engine, sides, thread, first), strict=True):
        engine.keep_all(side, thread, values)
    second = p.let(p.call("plus", first, str(depth)), "k")
    waiting = _fetched(p, form, engine, sides, thread, second)
    p.do("fence_for_products")
    p.do("barrier")
    _begin_sums(p, form)
    with p.loop(dim.ceil_div(form.chain, depth)) as step:
        done = p.let(p.call("plus", step, "1"), "n")
        source, target = (_buffer(p, engine, memory, number) for number in (step, done))
        p.line(f"tile = {engine.multiplied(source, p.call('at', source, str(engine.left_words)))}")
        right = p.let(p.call("at", target, str(engine.left_words)), "s")
        for side, kept_at, values in zip(sides, (target, right), waiting, strict=True):
            engine.keep_all(replace(side, memory=kept_at), thread, values)
        start = p.let(p.call("plus", second, p.call("times", done, str(depth))), "k")
        later = _fetched(p, form, engine, sides, thread, start)
        for old, new in zip(sum(waiting, []), sum(later, []), strict=True):
            p.line(f"{old} = {new}")
        p.do("fence_for_products")
        _end_products(p, form, engine, done)
        p.do("barrier")
    if engine.buffers > 2:
        p.line(f"tile = {p.call(f'finished_{_held(form)}', 'tile')}")
        p.do("barrier")
    _end_sums(p, form)


def _buffer(p: Printer, engine: Warpgroups, memory: str, number: str) -> str:
    """Where the slice of that number lies."""
    place = p.call("remainder", number, str(engine.buffers))
    return p.let(p.call("at", memory, p.call("times", place, str(engine.words))), "s")


def _fetched(
    p: Printer, form: Product, engine: Warpgroups, sides: Sequence[Side], thread: str, start: str
) -> list[list[str]]:
    return [_fetch(p, form, engine, side, thread, start) for side in sides]


def _end_products(p: Printer, form: Product, engine: Warpgroups, done: str) -> None:
    """Waits until a buffer may be kept to again: with two for all products, with three for all but
    the last; and for the last one too where its sums move to ``total``."""
    if engine.buffers == 2:
        p.line(f"tile = {p.call(f'finished_{_held(form)}', 'tile')}")
        _end_chain(p, form, done)
        return
    p.line(f"tile = {p.call(f'ahead_{_held(form)}', 'tile')}")
    _end_chain(p, form, done, is_ahead=True)


def _held(form: Product) -> int:
    return form.tile.thread_rows * form.tile.thread_columns


def _begin_sums(p: Printer, form: Product) -> None:
    p.line(f"tile = {p.call(f'tile_zero_{_held(form)}')}")
    if _is_long(form):
        p.line(f"total = {p.call(f'tile_zero_{_held(form)}')}")


def _end_chain(p: Printer, form: Product, done: str, is_ahead: bool = False) -> None:
    """After as many slices as a chain has, its sums move to ``total``; if products are ahead, when
    they are done."""
    if _is_long(form):
        slices = _chain(form) // form.tile.depth
        last = p.call("below", p.call("remainder", done, str(slices)), "1")
        with p.where([last] if slices > 1 else []):
            if is_ahead:
                p.line(f"tile = {p.call(f'finished_{_held(form)}', 'tile')}")
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


def _fetch(
    p: Printer, form: Product, engine: Simt | Tensor, side: Side, thread: str, start: str
) -> list[str]:
    """This thread's part of a slice, zero outside the operand: numbers, or vectors of four."""
    if side.rows is not None and isinstance(engine, Warpgroups):
        return engine.fetched(form, side, side.rows, thread, start)
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


def _number(
    p: Printer, form: Product, side: Side, term: str, at: str, conditions: Sequence[str]
) -> str:
    value = p.let(p.number(0.0, FLOAT32), "v")
    with p.where(conditions):
        p.decode(at, side.operand.axes)
        p.decode(term, form.terms)
        p.line(f"{value} = {p.expression(side.operand.value)}")
    return value


def _vector(
    p: Printer, form: Product, side: Side, term: str, at: str, conditions: Sequence[str]
) -> str:
    load = side.operand.load
    p.decode(at, side.operand.axes)
    p.decode(term, form.terms)
    return p.let(
        p.call("load4_if_float32", p.buffers[load.buffer], p.offset(load, {}), p.all(conditions)),
        "v",
    )


def _finish(
    p: Printer,
    form: Product,
    engine: Simt | Tensor,
    thread: str,
    stage: str,
    row_start: str,
    column_start: str,
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
            staged, across = (
                p.index("quotient", flat, str(columns)),
                p.index("remainder", flat, str(columns)),
            )
            row = p.let(p.call("plus", row_start, engine.row_of(part, staged)), "m")
            column = p.let(p.call("plus", column_start, across), "n")
            inside = [
                p.call("below", at, p.extent(count(side.axes)))
                for at, side in ((row, form.left), (column, form.right))
            ]
            with p.where(inside):
                p.decode(row, form.left.axes)
                p.decode(column, form.right.axes)
                sum_ = p.let(
                    p.call(
                        "load_float32",
                        stage,
                        p.index("plus", p.index("times", staged, str(engine.stage_stride)), across),
                    )
                )
                offset = p.extent(p.kernel.buffers[-1].offset(form.position))
                p.store(offset, p.expression(form.value, sum_))


__all__ = ["print_product"]
