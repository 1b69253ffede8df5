"""What holds at a place of a kernel's loops."""

from __future__ import annotations

from netloom.compiler import dim
from netloom.compiler.loops.scope import Scope


def test_nothing_is_tried_where_a_loop_has_no_steps() -> None:
    """The other loop has a billion: its numbers must not be listed."""
    long, none = dim.symbol("i", 0, 10**9), dim.symbol("j", 0, -1)
    assert Scope(facts=(long - none,)).proves(long * none - 5)
