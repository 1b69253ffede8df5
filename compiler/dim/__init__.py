"""Extents and indices: integer polynomials in ranged symbols, kept in one canonical form.

An extent is an ``int`` or a ``Dim``; arithmetic on either gives an ``int`` whenever the result is
constant. The same algebra serves tensor shapes, loop indices, buffer offsets and memory sizes, so
what is proved here (ranges, divisibility) serves them all. Two equal polynomials compare equal;
``str`` and ``parse_extent`` are inverses.

Each file builds on those before it: ``atoms`` (symbols, quotients, remainders, minima), ``terms``
(the canonical form of a sum of products), ``ranges`` (what is proved), ``polynomial`` (``Dim`` and
its operators), then ``arithmetic``, ``conditions``, ``substitution``, ``parse`` and ``room``.
"""

from .arithmetic import ceil_div, exact_quotient, maximum, minimum, product, truncated_quotient
from .atoms import Atom, Minimum, Quotient, Remainder, Symbol
from .conditions import inside, reduced_condition, unproved
from .parse import parse_extent
from .polynomial import Dim, Extent, symbol
from .ranges import bounds, is_nonnegative
from .room import largest
from .substitution import evaluate, substitute, symbols_of

__all__ = [
    "Atom",
    "Dim",
    "Extent",
    "Minimum",
    "Quotient",
    "Remainder",
    "Symbol",
    "bounds",
    "ceil_div",
    "evaluate",
    "exact_quotient",
    "inside",
    "is_nonnegative",
    "largest",
    "maximum",
    "minimum",
    "parse_extent",
    "product",
    "reduced_condition",
    "substitute",
    "symbol",
    "symbols_of",
    "truncated_quotient",
    "unproved",
]
