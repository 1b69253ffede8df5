"""Kernels in turns with the peak: clocks that change, neighbours that disturb, and real chains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, cycle, repeat

import pytest

from netloom.benchmarks import peaks, turns
from netloom.benchmarks.turns import Core, beside_the_peak


def core(registers: Iterator[float], loads: Iterator[float]) -> Core:
    return Core(lambda: next(registers), lambda: next(loads))


def blocks(monkeypatch: pytest.MonkeyPatch, seconds: Iterator[float]) -> Callable[[], object]:
    """A call whose blocks take these times."""
    monkeypatch.setattr(turns, "_block_of", lambda _: next(seconds))
    return lambda: None


def test_parts_of_the_peak_do_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It halves after each round: a round sees the old one before and the new one after."""
    call = blocks(monkeypatch, cycle([0.02 / 0.75]))
    clock = chain.from_iterable(repeat(speed, 2) for speed in cycle([100.0, 50.0]))
    loads = cycle([90.0, 45.0])
    found = beside_the_peak(call, 1e9, core(clock, loads), 0.0)
    assert found.part == pytest.approx(0.5) and found.quiet == 1.0


def test_disturbed_rounds_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A neighbour comes and goes while the peak stays; rounds at the edges of its time do not
    count either.
    """
    is_busy = cycle([False] * 6 + [True] * 6)
    state = [next(is_busy)]

    def block(_: object) -> float:
        state[0] = next(is_busy)
        return 0.03 if state[0] else 0.02

    monkeypatch.setattr(turns, "_block_of", block)
    here = Core(lambda: 100.0, lambda: 50.0 if state[0] else 90.0)
    for _ in range(20):
        here.look()
    monkeypatch.setattr(turns, "PATIENCE", 1e6)
    found = beside_the_peak(lambda: None, 1e9, here, 5e-3)
    assert (found.seconds, found.part) == (0.02, pytest.approx(0.5))
    assert 0.3 < found.quiet < 0.6


def test_where_every_round_is_disturbed_all_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core was quiet when it was first looked at, and never since."""
    call = blocks(monkeypatch, cycle([0.02]))
    here = core(cycle([100.0]), chain([90.0] * 40, cycle([50.0])))
    for _ in range(40):
        here.look()
    monkeypatch.setattr(turns, "PATIENCE", 3.0)
    found = beside_the_peak(call, 1e9, here, 1e-4)
    assert found.part == pytest.approx(0.5) and found.quiet == 1.0


def test_chains_that_read_the_cache_are_chains() -> None:
    """Their rate is a rate of multiply-adds: of the order of the peak, which loads hardly bound."""
    registers, loads = (
        max(run() for _ in range(5))
        for run in (peaks.multiplier(1, 1 << 14, reads) for reads in (False, True))
    )
    assert 0.2 * registers < loads < 1.5 * registers
