"""A convolution's windows as an operand of a product: what a thread needs of its rows is made once,
before the loop.

An element lies at start(row) + step(term), if its tap is inside the image. So a thread keeps for
each of its rows the start, and one bit for each tap; in the loop it decodes one term for all of
them, and each element costs an addition, a test of a bit and an access that happens or does not.
Neighbouring threads take neighbouring rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from ... import dim
from ...dim import Extent, Symbol
from ...loops.elements import Axis
from ...loops.ir import Load, slope_along
from ...scalar import Expr, Guarded, Literal
from ...tensor_type import FLOAT32
from .forms import THREADS, Operand, Product, Windows, count
from .printer import Printer

MOST_TAPS = 32  # bits of a mask
NEAR = 4  # elements between neighbouring rows, at most


def by_windows(side: Operand, terms: Sequence[Axis]) -> Operand:
    """The operand as windows, if it is that and is read one by one; rows then run fastest."""
    windows = windows_of(side.value, side.axes, terms) if side.width == 1 else None
    return side if windows is None else replace(side, windows=windows, terms_are_adjacent=False)


def windows_of(value: Expr, axes: Sequence[Axis], terms: Sequence[Axis]) -> Windows | None:
    """The operand as windows, if it is one load whose offset is a sum of a row's and a term's."""
    match value:
        case Guarded(conditions, Load() as load, Literal(value=0)):
            pass
        case Load() as load:
            conditions = ()
        case _:
            return None
    last = next((axis for axis in reversed(axes) if axis.extent != 1), None)
    if load.index_expressions or load.buffer.dtype is not FLOAT32 or last is None:
        return None
    offset = load.buffer.offset(load.extents)
    slope = slope_along(offset, last.symbol)
    if slope is None or not 0 < slope <= NEAR or is_dense(load, terms):
        return None
    start = dim.substitute(offset, dict.fromkeys(_symbols(terms), 0))
    step = offset - start
    if not dim.symbols_of([step]) <= set(_symbols(terms)):
        return None
    taps = _taps(conditions, terms)
    return None if taps is None else Windows(load, start, step, conditions, taps)


def _taps(conditions: Sequence[Extent], terms: Sequence[Axis]) -> tuple[Axis, ...] | None:
    """The last terms, from the first one on that the conditions know; None if there are too many
    taps.
    """
    known = dim.symbols_of(list(conditions))
    first = next((place for place, axis in enumerate(terms) if axis.symbol in known), len(terms))
    taps = tuple(terms[first:])
    number = count(taps)
    return taps if isinstance(number, int) and number <= MOST_TAPS else None


def is_dense(load: Load, terms: Sequence[Axis]) -> bool:
    """Whether terms that follow each other lie next to each other, from the first to the last."""
    if load.index_expressions:
        return False
    offset, stride = load.buffer.offset(load.extents), 1
    for axis in reversed(terms):
        if axis.extent == 1:
            continue
        if not isinstance(axis.extent, int) or slope_along(offset, axis.symbol) != stride:
            return False
        stride *= axis.extent
    return stride > 1


def _symbols(axes: Sequence[Axis]) -> list[Symbol]:
    return [axis.symbol for axis in axes]


# -- text ------------------------------------------------------------------------------------------


def position(p: Printer, depth: int, thread: str, part: int) -> tuple[str, str]:
    """(k, place) in a slice of a thread's element: the same k in all its turns."""
    group = THREADS // depth
    place = p.index("remainder", thread, str(group))
    return p.index("quotient", thread, str(group)), p.index(
        "plus", place, str(part * group)
    ) if part else place


@dataclass(frozen=True)
class Rows:
    """What a thread keeps of its rows: where each begins, and its taps that are inside."""

    starts: tuple[str, ...]
    masks: tuple[str, ...]


def print_rows(
    p: Printer,
    form: Product,
    windows: Windows,
    axes: Sequence[Axis],
    size: int,
    first: str,
    places: Sequence[str],
) -> Rows:
    """The rows of this thread, which lie at ``places`` in a side of ``size`` that begins with
    ``first``.
    """
    starts, masks = [], []
    extent = count(axes)
    for place in places:
        at = p.let(p.call("plus", first, place), "m")
        p.decode(at, axes)
        starts.append(p.let(p.extent(windows.start), "a"))
        is_row = (
            []
            if isinstance(extent, int) and extent % size == 0
            else [p.call("below", at, p.extent(extent))]
        )
        masks.append(_mask(p, form, windows, is_row))
    return Rows(tuple(starts), tuple(masks))


def _mask(p: Printer, form: Product, windows: Windows, is_row: list[str]) -> str:
    """A bit for each tap whose conditions hold."""
    total = "int32(0)"
    zeros = dict.fromkeys(_symbols(form.terms), 0)
    ranges = [range(_static(axis.extent)) for axis in windows.taps]
    for number, tap in enumerate(product(*ranges)):
        values = {**zeros, **dict(zip(_symbols(windows.taps), tap, strict=True))}
        conditions = [dim.substitute(condition, values) for condition in windows.conditions]
        if any(isinstance(condition, int) and condition < 0 for condition in conditions):
            continue
        tests = is_row + [
            p.index("inside", p.extent(c)) for c in conditions if not isinstance(c, int)
        ]
        bit = p.call("bit", str(number), p.all(tests)) if tests else f"int32({1 << number})"
        total = p.let(p.call("or_int32", total, bit), "b")
    return total


def _static(extent: Extent) -> int:
    assert isinstance(extent, int)
    return extent


def print_elements(
    p: Printer, form: Product, windows: Windows, rows: Rows, start: str, k: str
) -> list[tuple[str, str, str]]:
    """(buffer, offset, whether it is inside) of the k-th term of this thread's rows, in the slice
    that begins with term ``start``.
    """
    term = p.let(p.call("plus", start, k), "k")
    p.decode(term, form.terms)
    step = p.let(p.extent(windows.step), "d")
    number: Extent = 0
    for axis in windows.taps:
        number = number * axis.extent + (axis.position if axis.extent != 1 else 0)
    bit = p.let(
        p.call("bit", p.extent(number), p.call("below", term, p.extent(count(form.terms)))), "b"
    )
    buffer = p.buffers[windows.load.buffer]
    return [(buffer, p.call("plus", at, step), p.call("meet", mask, bit))
            for at, mask in zip(rows.starts, rows.masks, strict=True)]  # fmt: skip


__all__ = [
    "Rows",
    "by_windows",
    "is_dense",
    "position",
    "print_elements",
    "print_rows",
    "windows_of",
]
