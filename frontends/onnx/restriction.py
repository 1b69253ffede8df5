"""What a node that does not fit says about a free dim: exported models hold limits that they do not
declare.

A mask of 64 x 64, cut to the sequence's length, fits lengths up to 64 only; a shape with a number
written into it, one; an image that is halved and doubled again meets itself only where its size is
even; inputs that are added have one batch, though their exporter named it twice. ``equal_extents``
says which extents must be equal; ``restriction_of`` for which numbers of one free dim they are (fits.py), or
which other one it then is; ``restrict`` has the model imported again with these.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent, Symbol, product, substitute, symbols_of
from netloom.errors import NetloomError, ShapeError, UnsupportedOpError

from .context import Context
from .equal_extents import BROADCASTING, equal_extents, new_shape
from .fits import (
    AtLeast,
    Chosen,
    MultipleOf,
    SameAs,
    cut_at,
    multiple_where,
    numbers_tried,
    only_symbol,
    pairs_apart,
    where_at_least,
    where_equal,
    where_number,
    where_numbers,
    where_one,
    where_tried,
)
from .input_shapes import InputShapes
from .names import printable
from .node import ModelNode


class Restriction(Exception):
    """The model can be imported only where the free dim ``name`` is as ``chosen`` says: a number,
    one of a range, or what another free dim is. ``note``: what the user should know of it.
    """

    def __init__(self, name: str, chosen: int | range | str, note: str = "") -> None:
        super().__init__(f"{name} in {chosen}")
        self.name, self.chosen, self.note = name, chosen, note


class TooSmall(ShapeError):
    """A node does not fit where an extent is less than ``fewest``."""

    def __init__(
        self, message: str, *, node: str = "", hint: str = "", extent: Extent = 0, fewest: int = 0
    ) -> None:
        super().__init__(message, node=node, hint=hint)
        self.extent, self.fewest = extent, fewest


class Undecided(UnsupportedOpError):
    """What a node does depends on whether a free dim is less than ``least``."""

    def __init__(
        self, message: str, *, node: str = "", hint: str = "", symbol: Symbol | None = None,
        least: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(message, node=node, hint=hint)
        self.symbol, self.least = symbol, least


class NotThatNumber(ShapeError):
    """A node does not fit where an extent is not ``number``."""

    def __init__(
        self, message: str, *, node: str = "", hint: str = "", extent: Extent = 0, number: int = 0
    ) -> None:
        super().__init__(message, node=node, hint=hint)
        self.extent, self.number = extent, number


def restrict(
    context: Context,
    inputs: InputShapes,
    fixed: Collection[str],
    node: ModelNode,
    error: NetloomError,
) -> str:
    """Raises Restriction where numbers of a free dim would make the node fit. If the caller chose
    that dim (it is ``fixed``), the advice that remains; "" if there is none.
    """
    found = restriction_of(context, node, error)
    if found is None:
        return ""
    symbol, chosen = found
    name, step = inputs.dim_of(symbol)
    if not name:
        return ""
    if isinstance(chosen, SameAs):
        other, parts = inputs.dim_of(chosen.other)
        return _unite(inputs, fixed, name, other) if other and step * chosen.times == parts else ""
    if name in fixed:
        shown = f"It fits where {printable(name)} is"
        match chosen:
            case MultipleOf(factor):
                return f"{shown} a multiple of {factor * step}."
            case AtLeast(least):
                return f"{shown} {least * step} at least."
            case int() if chosen > 0:
                return f"{shown} {chosen * step}."
        return ""
    if not isinstance(symbol.hi, int):
        return ""
    match chosen:  # fewer numbers each time, so imports end
        case int() if symbol.lo < symbol.hi and max(symbol.lo, 1) <= chosen <= symbol.hi:
            raise Restriction(name, chosen * step)
        case AtLeast(least):
            numbers = range(least * step, symbol.hi * step + 1, step)
            other = (
                f"{error.node or node.title}: the free dim {printable(name)} is {numbers[0]} at least, for it does "
                "something else for less; to import that, fix the dim (dims=; --dim)."
            )
            raise Restriction(name, numbers, other if isinstance(error, Undecided) else "")
        case range() if chosen.start >= 1 and chosen[-1] < symbol.hi:
            raise Restriction(name, range(chosen[0] * step, chosen[-1] * step + 1, step))
        case MultipleOf(factor) if factor <= symbol.hi:
            raise Restriction(name, range(factor * step, symbol.hi * step + 1, factor * step))
    return ""


def _unite(inputs: InputShapes, fixed: Collection[str], one: str, other: str) -> str:
    """Two free dims as one: the first that the inputs name, unless the caller chose the second."""
    first, second = sorted((one, other), key=list(inputs.symbols).index)
    for free, kept in ((second, first), (first, second)):
        if free not in fixed:
            raise Restriction(free, kept)
    return f"It fits where {printable(second)} is {printable(first)}."


def restriction_of(
    context: Context, node: ModelNode, error: NetloomError
) -> tuple[Symbol, Chosen] | None:
    """The symbol and its numbers for which the node's inputs fit; None if that is not the
    trouble.
    """
    if isinstance(error, TooSmall):
        rest = error.extent - error.fewest
        return where_tried(rest) or where_at_least(rest)
    if isinstance(error, Undecided):
        return None if error.symbol is None else (error.symbol, AtLeast(error.least))
    if isinstance(error, NotThatNumber):
        symbol = only_symbol(error.extent)
        if symbol is None:
            return where_numbers(error.extent, error.number)
        return symbol, error.number
    if node.op_type == "Reshape" and (parts := _where_divided(context, node)) is not None:
        return parts
    for left, right in equal_extents(context, node):
        if node.op_type in BROADCASTING and (one := where_one(left) or where_one(right)):
            return one
        for cut, whole in ((left, right), (right, left)):
            if (symbol := only_symbol(whole)) is not None and (
                most := cut_at(cut, symbol)
            ) is not None:
                return symbol, range(symbol.lo if isinstance(symbol.lo, int) else 1, most + 1)
            if (number := where_number(cut, whole)) is not None:
                return number
            if cut != whole and cut == dim.maximum(whole, 0):
                return where_at_least(whole)
        found = where_equal(left, right) or where_numbers(left, right)
        if (found := found or _where_in_order(context, left, right)) is not None:
            return found
    return None


def _where_in_order(context: Context, left: Extent, right: Extent) -> tuple[Symbol, SameAs] | None:
    """The first symbol of a sum, and of another that has as many, where they are equal if the symbols
    are so in the order of the inputs: text and image joined, and the positions of both. The next
    imports find the others.
    """
    have = [extent for value in context.builder.inputs for extent in value.shape]
    order = list(dict.fromkeys(s for extent in have if (s := only_symbol(extent)) is not None))
    ours, theirs = symbols_of([left]), symbols_of([right])
    mine = [symbol for symbol in order if symbol in ours - theirs]
    others = [symbol for symbol in order if symbol in theirs - ours]
    if not mine or len(mine) != len(others):
        return None
    pairs: dict[Symbol, Extent] = {a: Dim.of(b) for a, b in zip(mine, others, strict=True)}
    return (mine[0], SameAs(others[0])) if substitute(left, pairs) == right else None


def is_negative_somewhere(context: Context, extent: Extent) -> bool:
    """Whether it is negative, or a small number of the only free dim in it makes it so."""
    if isinstance(extent, int) or dim.is_nonnegative(extent):
        return isinstance(extent, int) and extent < 0
    found = numbers_tried(extent)
    if found is None or Dim.of(found[0]) in (*context.data_bounds, *context.turns):
        return False
    symbol, tried = found
    return any(dim.evaluate(extent, {symbol.name: number}) < 0 for number in tried)


def _where_divided(context: Context, node: ModelNode) -> tuple[Symbol, MultipleOf | SameAs] | None:
    """The only symbol of whose multiples the -1 of a Reshape is a number, or the only two that make
    it one if they are equal (an encoder's batch, and its decoder's).
    """
    wanted = new_shape(context, node)
    if wanted is None or -1 not in wanted:
        return None
    have = node.input(0).type.elements
    parts = product([extent for extent in wanted if extent != -1])
    divides = partial(_divides, have, parts)
    found: list[tuple[Symbol, MultipleOf | SameAs]] = [
        restriction
        for symbol in sorted(symbols_of([have]), key=str)
        if (restriction := multiple_where([symbol], divides)) is not None
    ]
    united = [pair for pair in pairs_apart(parts, have) if divides({pair[0]: Dim.of(pair[1])})]
    axes = zip(map(only_symbol, wanted), map(only_symbol, node.input(0).shape), strict=False)
    united = [pair for pair in axes if pair in united][:1] or united  # those of one axis first
    found = found or [(symbol, SameAs(other)) for symbol, other in united]
    return found[0] if len(found) == 1 else None


def _divides(have: Extent, parts: Extent, multiples: dict[Symbol, Extent]) -> bool:
    return dim.exact_quotient(substitute(have, multiples), substitute(parts, multiples)) is not None
