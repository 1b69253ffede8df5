"""How many vectors an iteration makes of a formula, and which formulas are long.

A CPU that waits for memory looks ahead a number of instructions: the fewer of them only count and
compare, the more loads are among them. Long formulas keep it busy as they are, and are not copied.
"""

from __future__ import annotations

from .. import scalar
from ..scalar import Call, Cast, Expr
from .row_passes import CHEAP

COPIES = 4
SHORT = 8  # instructions of a formula that is copied
# functions that take as long as a few instructions, by what they count for
SLOW = {"div": 4, "sqrt": 4, "sign": 4, "shift_left": 4, "shift_right": 4}
LONG = 16  # what functions count for that are many instructions


def copies_of(value: Expr) -> int:
    """How many vectors an iteration makes of a formula."""
    return COPIES if _length(value) <= SHORT else 1


def is_long(value: Expr) -> bool:
    """Whether a formula is tens of instructions, for a vector as for one lane: where it calls a
    function that is no instruction, or is itself the polynomial of one (atan)."""
    return _length(value) >= LONG


def _length(value: Expr) -> int:
    nodes = scalar.post_order([value])
    return sum(_instructions(node) for node in nodes if isinstance(node, Call | Cast))


def _instructions(node: Call | Cast) -> int:
    if isinstance(node, Cast) or node.function in CHEAP:
        return 1
    return SLOW.get(node.function, LONG)


__all__ = ["COPIES", "copies_of", "is_long"]
