"""A planned kernel -> Numba source: one Python function over pointers and int32, made of calls of
intrinsics.

Equal kernels have equal texts. Products are in products.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

from ...loops.elements import Axis
from ...tensor_type import DType
from ..cpu.vector_math import expand_all
from .attention import print_attention
from .attention_gradient import print_gradient
from .attention_tiles import HELD
from .attention_warps import HELD_BY_TWO, WarpGradientTile, WarpTile
from .forms import (
    CHAIN,
    THREADS,
    DeviceKernel,
    Engine,
    Form,
    FusedAttention,
    FusedGradient,
    FusedWinograd,
    Pointwise,
    Product,
    RowPasses,
    Rows,
    Transform,
    count,
)  # fmt: skip
from .printer import Printer, Values
from .products import print_product
from .row_passes import print_row_passes
from .warp_attention import print_warp_attention
from .warp_gradient import print_warp_gradient
from .warpgroups import for_warpgroups
from .winograd import NARROW, print_fused

OLDEST, SPECIAL = "sm_80", "sm_90a"  # architectures that kernels have sources of their own for


@dataclass(frozen=True)
class KernelSource:
    """A kernel as text. ``arguments``: the buffers' dtypes, then int32 per symbol, then the error
    flag.

    ``intrinsics`` are the names that the text uses; ``numbers`` its literals: (name, dtype, bits).
    """

    text: str
    arguments: tuple[DType, ...]
    symbols: int
    intrinsics: tuple[str, ...]
    numbers: tuple[tuple[str, DType, bytes], ...]
    threads: int
    blocks: int  # that must fit a multiprocessor at once: what registers are rationed for
    # sources of the same kernel that only one architecture can run, of each the best first
    special: tuple[tuple[str, KernelSource], ...] = ()

    @property
    def checks_indices(self) -> bool:
        """Whether the kernel may set the error flag."""
        return "store_int32(error," in self.text

    @property
    def key(self) -> str:
        """All that decides the code, as text."""
        numbers = "\n".join(
            f"{name} = {dtype.value}({bits.hex()})" for name, dtype, bits in self.numbers
        )
        arguments = ", ".join(dtype.value for dtype in self.arguments)
        others = "".join(
            f"\n# {architecture}\n{source.key}" for architecture, source in self.special
        )
        head = (
            f"# {arguments}; {self.symbols} symbols; {self.threads} threads, {self.blocks} blocks"
        )
        return f"{head}\n{numbers}\n{self.text}{others}"

    def of(self, architecture: str) -> tuple[KernelSource, ...]:
        """The sources that an architecture can run, the best first, the general one last."""
        own = tuple(source for name, source in self.special if name == architecture)
        return (*own, replace(self, special=()))


def print_source(kernel: DeviceKernel) -> KernelSource:
    """The source of a kernel, with those for single architectures; the general one is of the form
    that needs the fewest registers."""
    *heavier, lightest = _lighter_and_lighter(kernel.form)
    special: list[tuple[str, Form]] = [(SPECIAL, own) for own in for_warpgroups(lightest)]
    special += [(architecture, own) for architecture in (OLDEST, SPECIAL) for own in heavier]
    sources = tuple(
        (architecture, _source(replace(kernel, form=own))) for architecture, own in special
    )
    return replace(_source(replace(kernel, form=lightest)), special=sources)


def _lighter_and_lighter(form: Form) -> Iterator[Form]:
    """The form, and those for the same grid that need fewer and fewer registers, if there are any;
    of attention one more, since each tile of keys is an addition."""
    yield form
    match form:
        case FusedAttention(tile=WarpTile() as tile) if fewer := tile.lighter():
            yield replace(form, tile=fewer)
        case FusedGradient(tile=WarpGradientTile() as own) if less := own.lighter():
            yield from _lighter_and_lighter(replace(form, tile=less))


def _source(kernel: DeviceKernel) -> KernelSource:
    p = Printer(kernel)
    match kernel.form:
        case Pointwise() as form:
            _pointwise(p, form)
        case Rows() as form:
            _rows(p, form)
        case RowPasses() as form:
            print_row_passes(p, form)
        case Product() as form:
            print_product(p, form)
        case Transform() as form:
            _transform(p, form)
        case FusedWinograd() as form:
            print_fused(p, form)
        case FusedAttention(tile=WarpTile()) as form:
            print_warp_attention(p, form)
        case FusedAttention() as form:
            print_attention(p, form)
        case FusedGradient(tile=WarpGradientTile()) as form:
            print_warp_gradient(p, form)
        case FusedGradient() as form:
            print_gradient(p, form)
    text = f"def kernel({', '.join(p.arguments)}):\n" + "\n".join(p.lines) + "\n"
    numbers = tuple((name, dtype, bits) for (dtype, bits), name in p.numbers.items())
    dtypes = tuple(buffer.dtype for buffer in kernel.buffers)
    return KernelSource(
        text,
        dtypes,
        len(kernel.symbols),
        tuple(sorted(p.used)),
        numbers,
        THREADS,
        resident_blocks(kernel.form),
    )


def resident_blocks(form: Form) -> int:
    """Blocks that must fit a multiprocessor at once. Two hide each other's waits in 128 registers a
    thread; products with more sums than those hold need all 255.
    """
    if isinstance(form, FusedWinograd):
        return 2 if form.block_filters == NARROW else 1
    if isinstance(form, FusedAttention):
        return 2 if form.tile.rows * form.tile.width <= HELD else 1
    if isinstance(form, FusedGradient):
        tile = form.tile
        if isinstance(tile, WarpGradientTile):
            return 2 if tile.held <= HELD_BY_TWO else 1
        return 2 if tile.rows * sum(tile.widths) <= HELD else 1
    if not isinstance(form, Product):
        return 2
    terms = form.chain
    sums = (
        form.tile.thread_rows
        * form.tile.thread_columns
        * (1 if isinstance(terms, int) and terms <= CHAIN else 2)
    )
    return 2 if form.engine is Engine.FFMA and sums <= 64 else 1


def _pointwise(p: Printer, form: Pointwise) -> None:
    flat = p.let(
        p.call("plus", p.call("times", p.call("block"), str(THREADS)), p.call("thread")), "i"
    )
    with p.where([p.call("below", flat, p.extent(count(form.axes)))]):
        p.decode(flat, form.axes)
        p.store(flat, p.expression(form.value))


def _rows(p: Printer, form: Rows) -> None:
    dtype = form.term.dtype
    thread = p.let(p.call("thread"), "t")
    fast, slow = ("remainder", "quotient") if form.rows_are_adjacent else ("quotient", "remainder")
    width = str(form.rows if form.rows_are_adjacent else form.lanes)
    local = p.let(p.call(fast, thread, width), "r")
    lane = p.let(p.call(slow, thread, width), "l")
    row = p.let(p.call("plus", p.call("times", p.call("block"), str(form.rows)), local), "i")
    inside = p.call("below", row, p.extent(count(form.axes)))
    p.line(f"total = {p.number(form.neutral, dtype)}")
    with p.where([inside]):
        p.decode(row, form.axes)
        _sum(p, form, lane)
    conditions = [inside]
    if form.lanes > 1:
        _tree(p, form, thread, lane)
        conditions.append(p.call("below", lane, "1"))
    with p.where(conditions):
        p.decode(row, form.axes)
        value = p.expression(form.value, "total")
        p.store(row, value)


def _sum(p: Printer, form: Rows, lane: str) -> None:
    """Adds this lane's terms to ``total``: every lanes-th one, in chains of at most CHAIN."""
    terms = count(form.terms)
    if isinstance(terms, int) and terms <= CHAIN and form.lanes == 1:
        _nested_sum(p, form, list(form.terms))
        return
    mine = p.let(
        p.call(
            "quotient", p.call("minus", p.extent(terms + form.lanes - 1), lane), str(form.lanes)
        ),
        "n",
    )
    if isinstance(terms, int) and terms <= CHAIN * form.lanes:
        with p.loop(mine) as step:
            _add_term(p, form, "total", _flat(p, form, lane, step))
        return
    chains = p.let(p.call("quotient", p.call("plus", mine, str(CHAIN - 1)), str(CHAIN)), "n")
    with p.loop(chains) as chain:
        start = p.let(p.call("times", chain, str(CHAIN)), "i")
        p.line(f"part = {p.number(form.neutral, form.term.dtype)}")
        with p.loop(p.call("lesser", str(CHAIN), p.call("minus", mine, start))) as step:
            _add_term(p, form, "part", _flat(p, form, lane, p.call("plus", start, step)))
        p.line(f"total = {p.call(f'{form.combine}_{form.term.dtype.value}', 'total', 'part')}")


def _flat(p: Printer, form: Rows, lane: str, step: str) -> str:
    return step if form.lanes == 1 else p.call("plus", p.call("times", step, str(form.lanes)), lane)


def _nested_sum(p: Printer, form: Rows, axes: list[Axis]) -> None:
    """One loop an axis."""
    with ExitStack() as loops:
        for axis in axes:
            p.names[axis.symbol.name] = loops.enter_context(p.loop(axis.extent))
        p.combine("total", form.combine, form.term)


def _add_term(p: Printer, form: Rows, target: str, flat: str) -> None:
    p.decode(p.let(flat, "k"), form.terms)
    p.combine(target, form.combine, form.term)


def _tree(p: Printer, form: Rows, thread: str, lane: str) -> None:
    """The lanes' sums combined in a fixed tree: lane i with lane i + width, width halving."""
    name = form.term.dtype.value
    scratch = p.let(p.call(f"shared_{name}_{THREADS}"), "s")
    stride = form.rows if form.rows_are_adjacent else 1
    p.do(f"store_{name}", scratch, thread, "total")
    p.do("barrier")
    width = form.lanes // 2
    while width:
        with p.where([p.call("below", lane, str(width))]):
            other = p.call("plus", thread, str(width * stride))
            pair = (p.call(f"load_{name}", scratch, at) for at in (thread, other))
            p.line(f"total = {p.call(f'{form.combine}_{name}', *pair)}")
            if width > 1:
                p.do(f"store_{name}", scratch, thread, "total")
        if width > 1:
            p.do("barrier")
        width //= 2


def _transform(p: Printer, form: Transform) -> None:
    """A thread's tile in registers."""
    flat = p.let(
        p.call("plus", p.call("times", p.call("block"), str(THREADS)), p.call("thread")), "i"
    )
    target = p.kernel.buffers[-1]
    with p.where([p.call("below", flat, p.extent(count(form.axes)))]):
        p.decode(flat, form.axes)
        values = Values(p, "", {})
        tile = [values.of(expand_all(read)) for row in form.reads for read in row]
        tiles = p.let(p.call(f"transform_{form.name}_{target.dtype.value}", *tile), "w")
        for place, put in enumerate(put for row in form.puts for put in row):
            with p.where([p.index("inside", p.extent(condition)) for condition in put.conditions]):
                offset = p.extent(target.offset(put.position))
                p.store(offset, p.expression(put.value, f"{tiles}[{place}]"))


__all__ = ["KernelSource", "print_source", "resident_blocks"]
