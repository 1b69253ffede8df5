"""What a formula costs, and how many vectors of it an iteration makes.

A CPU that waits for memory looks ahead a number of instructions: the fewer of them only count and
compare, the more loads are among them. Long formulas keep it busy as they are, and are not copied.
"""

from __future__ import annotations

from .. import scalar
from ..scalar import Call, Cast, Expr
from .row_passes import CHEAP

COPIES = 4
SHORT = 8  # instructions of a formula that is copied out
LONG = 4  # instructions that a function counts for that is more than one


def cost_of(value: Expr) -> int:
    """About how many instructions make an element."""
    calls = [node for node in scalar.post_order([value]) if isinstance(node, Call | Cast)]
    return sum(1 if isinstance(c, Cast) or c.function in CHEAP else LONG for c in calls)


def copies_of(value: Expr) -> int:
    """How many vectors an iteration makes of a formula."""
    return COPIES if cost_of(value) <= SHORT else 1


__all__ = ["COPIES", "copies_of", "cost_of"]
