"""How many vectors an iteration makes of a formula.

A CPU that waits for memory looks ahead a number of instructions: the fewer of them only count and
compare, the more loads are among them. Long formulas keep it busy as they are, and are not copied.
"""

from __future__ import annotations

from .. import scalar
from ..scalar import Call, Cast, Expr
from .row_passes import CHEAP

COPIES = 4
SHORT = 8  # instructions of a formula that is copied
SLOW = {"div": 4, "sqrt": 4}  # functions that are one slow instruction, by what it counts for
LONG = 16  # what functions count for that are many


def copies_of(value: Expr) -> int:
    """How many vectors an iteration makes of a formula."""
    calls = [node for node in scalar.post_order([value]) if isinstance(node, Call | Cast)]
    return COPIES if sum(map(_instructions, calls)) <= SHORT else 1


def _instructions(node: Call | Cast) -> int:
    if isinstance(node, Cast) or node.function in CHEAP:
        return 1
    return SLOW.get(node.function, LONG)


__all__ = ["COPIES", "copies_of"]
