"""Slots: which one a value gets, and how large slots become."""

from __future__ import annotations

import random

from netloom.compiler import dim
from netloom.compiler.dim import Dim, symbol
from netloom.compiler.passes.memory.arena import Arena
from netloom.compiler.passes.memory.lifetimes import ANYTHING


def arena_of(*sizes: int | Dim) -> Arena:
    """Slots of these sizes, all free."""
    arena = Arena()
    for slot in [arena.take(size, ANYTHING) for size in sizes]:
        arena.give_back(slot, users=0)
    return arena


def test_the_slot_with_the_least_waste_is_taken() -> None:
    arena = arena_of(4096, 64, 1024)
    assert [arena.take(size, ANYTHING) for size in (900, 100, 8)] == [2, 1, 0]
    assert arena.sizes == [4096, 100, 1024]  # one has been made larger


def test_of_equal_slots_it_is_the_first() -> None:
    arena = arena_of(64, 64)
    assert arena.take(64, ANYTHING) == 0 and not arena.is_free(0) and arena.is_free(1)


def test_a_slot_holds_all_of_free_sizes() -> None:
    n = symbol("N", 1)
    arena = arena_of(64 * n, 1 << 20)
    assert arena.take(1000, ANYTHING) == 0  # 64 N is taken for 1024
    for number in (1, 15, 16, 100):
        assert dim.evaluate(arena.sizes[0], {"N": number}) == max(64 * number, 1000)


def test_only_what_comes_before_may_have_used_a_slot() -> None:
    arena = Arena()
    arena.give_back(arena.take(64, ANYTHING), users=0b101)
    assert arena.take(64, before=0b001) == 1  # node 2 may still read the other one
    assert arena.take(64, before=0b111) == 0


def test_a_new_slot_is_one_that_nothing_has_used() -> None:
    assert arena_of(64).new(64) == 1


def test_values_that_are_alive_together_share_nothing() -> None:
    """Against a list of who has which slot."""
    random.seed(0)
    arena = Arena()
    alive: dict[int, int] = {}
    for _ in range(2000):
        if alive and random.random() < 0.5:
            slot = random.choice(list(alive))
            del alive[slot]
            arena.give_back(slot, users=0)
        else:
            size = random.randrange(1, 1 << 16)
            slot = arena.take(size, ANYTHING)
            assert slot not in alive
            alive[slot] = size
        assert all(arena.sizes[slot] >= size for slot, size in alive.items())
    assert len(arena.sizes) < 200  # of about a thousand values
