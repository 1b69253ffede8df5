"""A kernel timed in turns with the multiply-add peak, on a core whose other half may belong to
somebody else.

Where a core runs two hardware threads, a neighbour on the other one takes load ports and half of
the first cache from a kernel, while chains of multiply-adds in registers hardly notice: the peak
stays, the kernel loses a third. So each round is judged by what the kernel cannot influence: the
rate of chains whose addends come from the first cache, as a part of that of the chains in registers,
just before and just after. Rounds with less than QUIET of the usual part are disturbed and do not
count. Where all rounds are alike, quiet or not, all count. Neighbours that keep memory or the
last-level cache busy are not seen.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from netloom.benchmarks import peaks

BLOCK = 0.004  # seconds for which a kernel is timed before the peak is
TRIPS = 1 << 17  # of the chains whose rate is the peak: a millisecond or less
QUIET = 0.88  # of the part that chains reach which read the first cache
ENOUGH = 12  # undisturbed rounds
LOOKS, PAUSE = 300, 0.007  # at a core before anything is timed, and seconds between them
PATIENCE = 10  # times the seconds meant for a kernel, at most, for so many of them


@dataclass(frozen=True)
class Moment:
    """GFLOP/s of chains in registers, and the part of it that chains reach which read the first
    cache."""

    peak: float
    part: float


@dataclass
class Core:
    """As many cores as there are threads, and the parts that were seen of them, in rising order."""

    registers: Callable[[], float]
    loads: Callable[[], float]
    seen: list[float] = field(default_factory=list)

    def look(self) -> Moment:
        """How fast it is now."""
        before = self.registers()
        loads = self.loads()
        peak = (before + self.registers()) / 2
        insort(self.seen, loads / peak)
        return Moment(peak, loads / peak)

    def is_quiet(self, part: float) -> bool:
        """Whether nobody else took from it."""
        return part >= QUIET * self.seen[int(0.95 * (len(self.seen) - 1))]


@dataclass(frozen=True)
class Round:
    """Seconds of a call, the peak around it, and the lesser part of the two moments."""

    seconds: float
    peak: float
    part: float


@dataclass(frozen=True)
class Timing:
    """Medians of undisturbed rounds: seconds of a call, its part of the multiply-add peak; which
    part of all rounds these were."""

    seconds: float
    part: float
    quiet: float


def beside_the_peak(call: Callable[[], object], flops: float, core: Core, budget: float) -> Timing:
    """Rounds of calls and chains in turns: for ``budget`` seconds, two rounds at least, longer where
    ENOUGH undisturbed ones were not among them; after calls that do not count.
    """
    warm = time.perf_counter() + 0.1 * budget
    call()
    while time.perf_counter() < warm:
        call()
    rounds: list[Round] = []
    start, now = time.perf_counter(), core.look()
    while not _is_done(rounds, core, time.perf_counter() - start, budget):
        before, seconds = now, _block_of(call)
        now = core.look()
        rounds.append(Round(seconds, (before.peak + now.peak) / 2, min(before.part, now.part)))
    counted = [each for each in rounds if core.is_quiet(each.part)] or rounds
    return Timing(
        float(np.median([each.seconds for each in counted])),
        float(np.median([flops / each.seconds / 1e9 / each.peak for each in counted])),
        len(counted) / len(rounds),
    )


def _is_done(rounds: Sequence[Round], core: Core, spent: float, budget: float) -> bool:
    if len(rounds) < 2 or spent < budget:
        return False
    quiet = sum(core.is_quiet(each.part) for each in rounds)
    return quiet >= min(ENOUGH, len(rounds)) or spent >= PATIENCE * budget


@cache
def core_of(threads: int) -> Core:
    """Chains on so many threads, compiled once, and looked at for some seconds: a neighbour's work
    comes in bursts."""
    registers, loads = (peaks.multiplier(threads, TRIPS, reads) for reads in (False, True))
    core = Core(registers, loads)
    for _ in range(LOOKS):
        core.look()
        time.sleep(PAUSE)
    return core


def _block_of(call: Callable[[], object]) -> float:
    """The mean time of calls that follow each other for BLOCK seconds, one at least."""
    start = time.perf_counter()
    count, now = 0, start
    while now - start < BLOCK or not count:
        call()
        count, now = count + 1, time.perf_counter()
    return (now - start) / count


__all__ = ["QUIET", "Core", "Timing", "beside_the_peak", "core_of"]
