"""Slices of operands that arrive in shared memory by themselves: where their words lie, and which
thread copies which.

A product whose operands are plain reads, at most guarded, copies some slices ahead while it
multiplies one. Neighbouring threads copy neighbouring elements; neither copies nor the multiplying
threads' reads meet in a bank.
"""

from __future__ import annotations

from dataclasses import dataclass

from ... import dim
from ...dim import Extent
from ...loops.ir import Load
from ...scalar import Guarded, Literal
from ...tensor_type import FLOAT32
from .forms import PAD, THREADS, Engine, Operand, Product, count
from .printer import Printer
from .windows import Rows, is_dense, position, print_elements, print_rows

SHARED_BYTES = 48 << 10  # of a block, without asking the driver for more
MOST_STAGES = 4


@dataclass(frozen=True)
class Source:
    """A read, and the conditions under which it happens; zero elsewhere."""

    load: Load
    conditions: tuple[Extent, ...]


def source_of(operand: Operand) -> Source | None:
    """What is copied of an operand; None if its elements are computed."""
    match operand.value:
        case Load(buffer) as load if buffer.dtype is FLOAT32 and not load.index_expressions:
            return Source(load, ())
        case Guarded(conditions, Load(buffer) as load, Literal(value=0)) if (
            buffer.dtype is FLOAT32 and not load.index_expressions
        ):
            return Source(load, tuple(conditions))
    return None


@dataclass(frozen=True)
class Slices:
    """One side's slices of ``size`` rows or columns, ``depth`` terms at a time.

    ``is_by_rows``: [place, k], groups of four words swizzled as ldmatrix and wgmma (64 bytes) read
    them; else [k, place], for tensor cores with groups of eight words swizzled by k, for float32
    units padded.
    """

    operand: Operand
    size: int
    depth: int
    is_simt: bool

    @staticmethod
    def of(operand: Operand, size: int, depth: int, engine: Engine) -> Slices:
        return Slices(operand, size, depth, engine is Engine.FFMA)

    @property
    def is_by_rows(self) -> bool:
        return self.operand.terms_are_adjacent and not self.is_simt

    @property
    def stride(self) -> int:
        return self.depth if self.is_by_rows else self.size + (PAD if self.is_simt else 0)

    @property
    def words(self) -> int:
        return (self.size if self.is_by_rows else self.depth) * self.stride

    @property
    def width(self) -> int:
        """Words of a copy."""
        return 1 if self.is_simt and self.operand.terms_are_adjacent else self.operand.width

    @property
    def kind(self) -> str:
        """What intrinsics call it."""
        return "r" if self.is_by_rows else f"c{self.size}"

    def position(self, p: Printer, thread: str, part: int, threads: int) -> tuple[str, str]:
        """(k, place) of the first element of a thread's copy."""
        # 8 k of 4 rows: a sector of memory each, and 32 banks
        if self.is_simt and self.operand.terms_are_adjacent:
            turns = self.size * 8 // threads  # of all threads, before the next 8 k
            k, place = p.index("remainder", thread, "8"), p.index("quotient", thread, "8")
            high, low = divmod(part, turns)
            place = p.index("plus", place, str(low * threads // 8)) if low else place
            return p.index("plus", k, str(8 * high)) if high else k, place
        flat = p.index("plus", thread, str(part * threads)) if part else thread
        fast = self.depth if self.operand.terms_are_adjacent else self.size
        length = str(fast // self.width)
        inner, outer = p.index("remainder", flat, length), p.index("quotient", flat, length)
        inner = p.index("times", inner, str(self.width)) if self.width > 1 else inner
        return (inner, outer) if self.operand.terms_are_adjacent else (outer, inner)

    def word(self, p: Printer, k: str, place: str) -> str:
        """Where an element lies."""
        if self.is_simt:
            return p.index("plus", p.index("times", k, str(self.stride)), place)
        if not self.is_by_rows:
            swizzled = p.index(
                "xor_int32", place, p.index("times", p.index("remainder", k, "4"), "8")
            )
            return p.index("plus", p.index("times", k, str(self.stride)), swizzled)
        group = p.index(
            "xor_int32",
            p.index("quotient", k, "4"),
            p.index("remainder", p.index("quotient", place, "2"), "4"),
        )
        start = p.index(
            "plus", p.index("times", place, str(self.stride)), p.index("times", group, "4")
        )
        return p.index("plus", start, p.index("remainder", k, "4"))

    def rows(self, p: Printer, form: Product, thread: str, first: str) -> Rows | None:
        """What a thread keeps of its rows of windows, from ``first`` on."""
        windows = self.operand.windows
        if windows is None:
            return None
        turns = range(self.size * self.depth // THREADS)
        places = [position(p, self.depth, thread, part)[1] for part in turns]
        return print_rows(p, form, windows, self.operand.axes, self.size, first, places)

    def copy(
        self, p: Printer, form: Product, memory: str, thread: str, start: str, first: str, threads: int,
        rows: Rows | None = None,
    ) -> None:  # fmt: skip
        """This thread's copies of the slice of terms from ``start`` on and rows or columns from
        ``first`` on.
        """
        if rows is not None and self.operand.windows is not None:
            k = position(p, self.depth, thread, 0)[0]
            for number, element in enumerate(
                print_elements(p, form, self.operand.windows, rows, start, k)
            ):
                word = self.word(p, *position(p, self.depth, thread, number))
                p.do("copy_1", memory, word, *element)
            return
        source = source_of(self.operand)
        assert source is not None
        for part in range(self.size * self.depth // (threads * self.width)):
            k, place = self.position(p, thread, part, threads)
            term, at = (
                p.let(p.call("plus", start, k), "k"),
                p.let(p.call("plus", first, place), "m"),
            )
            inside = [p.call("below", term, p.extent(count(form.terms)))]
            extent = count(self.operand.axes)
            if not isinstance(extent, int) or extent % self.size:
                inside.append(p.call("below", at, p.extent(extent)))
            p.decode(at, self.operand.axes)
            offset = self._offset(p, form, source.load, term)
            inside += [p.index("inside", p.extent(condition)) for condition in source.conditions]
            buffer = p.buffers[source.load.buffer]
            p.do(
                f"copy_{self.width}", memory, self.word(p, k, place), buffer, offset, p.all(inside)
            )

    def _offset(self, p: Printer, form: Product, load: Load, term: str) -> str:
        """Of a term of the row whose axes are bound; the terms' axes are bound, too."""
        p.decode(term, form.terms)
        if not is_dense(load, form.terms):
            return p.offset(load, {})
        start = dim.substitute(
            load.buffer.offset(load.extents), {axis.symbol: 0 for axis in form.terms}
        )
        return p.index("plus", p.extent(start), term)


def stages(
    engine: Engine, rows: int, columns: int, depth: int, sides: tuple[Operand, Operand]
) -> int:
    """How many slices are under way, the one that is multiplied included; 0 if operands must
    pass through registers.
    """
    if engine is Engine.BF16 or any(source_of(side) is None for side in sides):
        return 0
    words = sum(
        Slices.of(side, size, depth, engine).words
        for side, size in zip(sides, (rows, columns), strict=True)
    )
    return min(MOST_STAGES, SHARED_BYTES // (4 * words))


__all__ = ["Slices", "source_of", "stages"]
