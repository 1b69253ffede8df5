"""shfl.sync.bfly: each lane of a warp gets another one's number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .memory import MemoryFault
from .parse import Instruction

if TYPE_CHECKING:
    from .machine import Machine

WARP = 32
ALL = 0xFFFFFFFF


def shuffle(m: Machine, i: Instruction, active: npt.NDArray[Any]) -> None:
    """Of whole warps, by the lane whose number differs in the given bits."""
    target, source, by, bound, members = map(str, i.operands)
    if i.modifiers != ("sync", "bfly", "b32") or int(bound, 0) != WARP - 1:
        raise ValueError(f"the emulator does not know {i.text!r}")
    lanes = m.lanes[active]
    is_whole = lanes.size % WARP == 0 and m.threads % WARP == 0
    first = lanes.reshape(-1, WARP)[:, :1] if is_whole else np.full((1, 1), -1)
    if (first % WARP).any() or (lanes.reshape(len(first), -1) != first + np.arange(WARP)).any():
        raise MemoryFault("shfl: some threads of a warp are elsewhere")
    if int(members, 0) & ALL != ALL:
        raise MemoryFault("shfl: not all threads of a warp take part")
    (apart,) = np.unique(m.read(by, "b32", active))
    values = m.read(source, "b32", active).reshape(-1, WARP)
    m.write(target.split("|")[0], values[:, np.arange(WARP) ^ int(apart)].reshape(-1), active)
