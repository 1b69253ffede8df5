"""The machine table: for each CPU level the figures of a machine, from which costs are estimated.
Data, in the repository.

Selection reads this table and never the machine that compiles, so what is chosen depends on the
model and the options alone. ``netloom machine`` measures a machine and prints an entry in this
form. Where a level stands for many machines, the entry is one of them; ``--tune`` measures instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from netloom.errors import UsageError

from .strategy import Rates

# What kernels make of a machine's limits, from measurements of the layers of nine networks on Zen 4
# (benchmarks/choices.py).
TILED = 0.96  # of the multiply-add peak: register tiles
AHEAD = 1.33  # of the bandwidth of reading: operands, of which a part comes while tiles multiply
SPILLED = 0.375  # of a copy's bandwidth: a workspace in memory, written and read
KEPT = 0.5  # of the last-level cache: the largest workspace that stays in it


@dataclass(frozen=True)
class MachineEntry:
    """One core of a machine at a level, and what it shares. Extents of caches in bytes, bandwidths
    of one core.

    ``lanes``: float32 of a vector; ``registers``: vectors that are held; ``clock``: GHz;
    ``products``: multiply-adds a cycle in chains that never leave the registers; ``read``,
    ``copy``: GB/s (a copy's bytes count twice), ``cached``: of a copy within the last-level cache;
    ``barrier``: seconds from the end of one launch to the start of the next on two threads.
    """

    cpu: str
    source: str
    lanes: int
    registers: int
    clock: float
    products: float
    read: float
    copy: float
    cached: float
    l1: int
    l2: int
    l3: int
    barrier: float

    @property
    def rates(self) -> Rates:
        """What costs are made of."""
        return Rates(
            TILED * self.products * self.clock * 1e9, AHEAD * self.read * 1e9,
            cache=KEPT * self.l3, near=self.cached * 1e9, far=SPILLED * self.copy * 1e9,
            has_bands=True,
        )  # fmt: skip


_ZEN4 = "measured: AMD EPYC (Zen 4), a virtual machine of two processors"

MACHINES: dict[str, MachineEntry] = {
    entry.cpu: entry
    for entry in (
        MachineEntry(
            cpu="x86-64", source="as x86-64-v2, whose multiply-adds are the same instructions",
            lanes=4, registers=16, clock=3.64, products=6.8, read=36.0, copy=32.0, cached=80.0,
            l1=32 << 10, l2=1 << 20, l3=32 << 20, barrier=2.5e-7,
        ),
        MachineEntry(
            cpu="x86-64-v2", source=_ZEN4,
            lanes=4, registers=16, clock=3.64, products=6.8, read=36.0, copy=32.0, cached=80.0,
            l1=32 << 10, l2=1 << 20, l3=32 << 20, barrier=2.5e-7,
        ),
        MachineEntry(
            cpu="x86-64-v3",
            source="measured: AMD EPYC (Zen 3), a virtual machine of two processors",
            lanes=8, registers=16, clock=3.22, products=16.0, read=18.9, copy=21.4, cached=54.8,
            l1=32 << 10, l2=512 << 10, l3=32 << 20, barrier=1.5e-7,
        ),
        MachineEntry(
            cpu="x86-64-v4", source=_ZEN4,
            lanes=16, registers=32, clock=3.64, products=16.0, read=36.0, copy=32.0, cached=80.0,
            l1=32 << 10, l2=1 << 20, l3=32 << 20, barrier=2.5e-7,
        ),
        MachineEntry(
            cpu="x86-64-v4-vnni", source="as x86-64-v4: floats take the same instructions",
            lanes=16, registers=32, clock=3.64, products=16.0, read=36.0, copy=32.0, cached=80.0,
            l1=32 << 10, l2=1 << 20, l3=32 << 20, barrier=2.5e-7,
        ),
        MachineEntry(
            cpu="sapphirerapids",
            source="measured: Intel Xeon (Sapphire Rapids), a virtual machine of two processors, "
                   "which count on a part of the 105 MB that all share",
            lanes=16, registers=32, clock=2.45, products=29.5, read=11.0, copy=11.0, cached=18.6,
            l1=48 << 10, l2=2 << 20, l3=32 << 20, barrier=2.0e-7,
        ),
        MachineEntry(
            cpu="aarch64", source="estimated, not measured: Neoverse N1 at 2.5 GHz, two "
                                  "multiply-adds of 4 lanes a cycle",
            lanes=4, registers=32, clock=2.5, products=8.0, read=15.0, copy=20.0, cached=40.0,
            l1=64 << 10, l2=1 << 20, l3=32 << 20, barrier=5e-7,
        ),
    )
}  # fmt: skip


def machine_entry(cpu: str) -> MachineEntry:
    """The entry of a CPU level by its name; UsageError if the table has none."""
    if cpu not in MACHINES:
        raise UsageError(
            f"the machine table has no entry for {cpu!r}.", hint=f"It has {', '.join(MACHINES)}."
        )
    return MACHINES[cpu]


def rates_of(cpu: str) -> Rates:
    """The rates at which costs are estimated for a CPU level."""
    return machine_entry(cpu).rates
