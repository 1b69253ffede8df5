"""Where a program's time goes: every launch of an entry timed by itself, on one thread, in that
thread's CPU time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netloom.compiler.driver import Compiled
from netloom.compiler.targets.cpu.launches import Launches


@dataclass(frozen=True)
class KernelTime:
    """One launch: the best of its runs in seconds, and its work items."""

    label: str
    kernel: str
    seconds: float
    items: int


def profile(
    compiled: Compiled, entry: str = "run", runs: int = 5, dims: Mapping[str, int] | None = None
) -> list[KernelTime]:
    """Times of an entry's launches in order; inputs are uniform random numbers; free dims 1
    unless given.
    """
    chosen = next(e for e in compiled.program.entries if e.name == entry)
    launches = Launches(compiled.program, compiled.objects, chosen, dims)
    best = [min(times) for times in zip(*(launches.run() for _ in range(runs)), strict=True)]
    return [
        KernelTime(launch.label, launch.kernel, seconds, items)
        for launch, seconds, items in zip(chosen.launches, best, launches.items, strict=True)
    ]


__all__ = ["KernelTime", "profile"]
