"""What plans and estimates take for granted of the devices that a program runs on: figures of
architectures, not of the machine at hand.

Rates are from data sheets and others' measurements; none was measured by this project.
"""

from __future__ import annotations

from dataclasses import dataclass

# of the largest device of each architecture: A100 and H100 SXM (data sheets)
MULTIPROCESSORS = {"sm_80": 108, "sm_90a": 132}
# that keep each of them busy: two blocks hide each other's waits
BLOCKS = 2 * max(MULTIPROCESSORS.values())


@dataclass(frozen=True)
class Figures:
    """A device as estimates see it. ``products``: float32 multiply-adds a second of a
    multiprocessor; ``far``, ``near``: bytes a second of its memory and of its L2 cache;
    ``cache``: bytes that stay there from one kernel to the next; ``launch``: seconds from the
    last store of a kernel to the first work of the next one in a graph."""

    multiprocessors: int
    products: float
    far: float
    near: float
    cache: int
    launch: float


# H200 SXM: 128 multiply-adds a cycle at 1.98 GHz, 4.8 TB/s of which copies reach five sixths
# (data sheet); the cache is 50 MB (data sheet), its rate what others measured on an H100
FIGURES = Figures(MULTIPROCESSORS["sm_90a"], 128 * 1.98e9, 4e12, 5.5e12, 30 << 20, 2e-6)

__all__ = ["BLOCKS", "FIGURES", "MULTIPROCESSORS", "Figures"]
