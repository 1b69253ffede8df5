"""What plans take for granted of the devices that a program runs on: figures of architectures,
not of the machine at hand.
"""

from __future__ import annotations

# of the largest device of each architecture: A100 and H100 SXM (data sheets)
MULTIPROCESSORS = {"sm_80": 108, "sm_90a": 132}
# that keep each of them busy: two blocks hide each other's waits
BLOCKS = 2 * max(MULTIPROCESSORS.values())

__all__ = ["BLOCKS", "MULTIPROCESSORS"]
