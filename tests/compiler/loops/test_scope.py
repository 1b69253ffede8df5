"""What holds at a place of a kernel's loops."""

from __future__ import annotations

from netloom.compiler import dim
from netloom.compiler.loops.scope import Scope


def test_nothing_is_tried_where_a_loop_has_no_steps() -> None:
    """The other loop has a billion: its numbers must not be listed."""
    long, none = dim.symbol("i", 0, 10**9), dim.symbol("j", 0, -1)
    assert Scope(facts=(long - none,)).proves(long * none - 5)


def test_orders_of_the_same_steps_are_tried_once() -> None:
    """Eight facts may be used in any order: 8 + 28 + 56 + 70 sums of up to four of them."""
    names = [dim.symbol(f"n{number}", 0) for number in range(8)]
    wanted = -1 + sum(names, start=dim.symbol("m")) * -1
    scope = Scope(facts=tuple(-name + 5 for name in names))
    assert not scope.proves(wanted)
    assert len(scope._open) <= 1 + 8 + 28 + 56 + 70


def test_quotients_of_facts() -> None:
    """6 (n // 6) is 6 at least where n is."""
    n = dim.symbol("n", -1)
    scope = Scope(facts=(n - 6,))
    assert scope.proves(n // 6 * 6 - 6)
    assert not scope.proves(n // 6 * 6 - 7)
