"""Launches' order: every hazard is kept, no edge is in vain, and any order that the edges allow
gives the same memory.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from netloom.runtime.cuda.order import Access, predecessors


def some_accesses(seed: int) -> list[Access]:
    """Whole buffers mostly, as an arena has them, and pieces that overlap."""
    rng = random.Random(seed)
    buffers = [(start, start + rng.randint(1, 6)) for start in range(0, 40, 5)]
    pieces = [*buffers, *((start, start + rng.randint(0, 9)) for start in rng.sample(range(40), 4))]
    return [
        Access(
            tuple(rng.sample(pieces, rng.randint(0, 3))),
            tuple(rng.sample(pieces, rng.randint(0, 2))),
        )
        for _ in range(rng.randint(1, 14))
    ]


def hazards(accesses: Sequence[Access]) -> set[tuple[int, int]]:
    """All pairs of launches that must stay in order, straight from the definition."""

    def touch(one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> bool:
        return any(set(range(*a)) & set(range(*b)) for a in one for b in other)

    return {
        (i, j)
        for j, later in enumerate(accesses)
        for i, earlier in enumerate(accesses[:j])
        if touch(earlier.writes, later.reads)
        or touch(earlier.reads, later.writes)
        or touch(earlier.writes, later.writes)
    }


def ordered_pairs(edges: Sequence[Sequence[int]]) -> set[tuple[int, int]]:
    """All pairs that the edges put in order."""
    before: list[set[int]] = []
    for mine in edges:
        before.append(set(mine).union(*(before[i] for i in mine)))
    return {(i, j) for j, found in enumerate(before) for i in found}


def executed(accesses: Sequence[Access], order: Sequence[int]) -> list[object]:
    """The memory after launches that mix all they read into all they write."""
    memory: list[object] = list(range(64))
    for number in order:
        read = tuple(memory[i] for piece in accesses[number].reads for i in range(*piece))
        for piece in accesses[number].writes:
            for place in range(*piece):
                memory[place] = hash((number, place, read))
    return memory


@pytest.mark.parametrize("seed", range(60))
def test_hazards_are_kept_and_no_edge_is_in_vain(seed: int) -> None:
    accesses = some_accesses(seed)
    edges = predecessors(accesses)
    assert hazards(accesses) <= ordered_pairs(edges)
    for j, mine in enumerate(edges):
        for i in mine:
            less = [
                tuple(e for e in found if (e, place) != (i, j)) for place, found in enumerate(edges)
            ]
            assert (i, j) in hazards(accesses) - ordered_pairs(less)


@pytest.mark.parametrize("seed", range(60))
def test_any_order_that_the_edges_allow_gives_the_same_memory(seed: int) -> None:
    accesses = some_accesses(seed)
    edges, rng = predecessors(accesses), random.Random(seed)
    wanted = executed(accesses, range(len(accesses)))
    for _ in range(5):
        order: list[int] = []
        while len(order) < len(edges):
            order.append(
                rng.choice(
                    [
                        n
                        for n, mine in enumerate(edges)
                        if n not in order and set(mine) <= set(order)
                    ]
                )
            )
        assert executed(accesses, order) == wanted


def test_branches_and_the_reuse_of_a_slot() -> None:
    """x -> a, x -> b, (a, b) -> y; then a's bytes are written anew: only readers of the old ones
    are waited for."""
    x, a, b, y = ((place, place + 8) for place in (0, 8, 16, 24))
    accesses = [
        Access((x,), (a,)),
        Access((x,), (b,)),
        Access((a, b), (y,)),
        Access((x,), (a,)),
        Access((b,), ()),
        Access((), (x,)),
    ]
    assert predecessors(accesses) == ((), (), (1, 0), (2,), (1,), (3,))
