"""cp.async: copies from global to shared memory that are done, at the latest, when their thread
waits for their group.

Nothing may touch the target in between; what was copied is another thread's to read only behind a
barrier after the wait.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .parse import Instruction

if TYPE_CHECKING:
    from .machine import Machine

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Copy:
    """One instruction's copies by some lanes: into which groups, where to, and what."""

    lanes: Array
    groups: Array
    offsets: Array
    values: Array

    def of(self, rows: Array) -> _Copy:
        return _Copy(self.lanes[rows], self.groups[rows], self.offsets[rows], self.values[rows])


class Copies:
    """Those under way. ``committed``: each lane's number of finished groups."""

    def __init__(self, lanes: int) -> None:
        self.committed = np.zeros(lanes, np.int64)
        self.waiting: list[_Copy] = []

    def wait(self, m: Machine, active: Array, pending: int) -> None:
        """Ends the active lanes' copies, but for those of their last ``pending`` groups, or that
        are in none yet.
        """
        limit = np.zeros(m.lanes.size, np.int64)
        limit[active] = np.maximum(self.committed[active] - pending, 0)
        left = []
        for copy in self.waiting:
            is_done = copy.groups < limit[copy.lanes]
            done = copy.of(is_done)
            m.shared.end_copy(done.offsets, done.values, done.lanes, m.epochs[done.lanes])
            if not is_done.all():
                left.append(copy.of(~is_done))
        self.waiting = left


def copy_async(m: Machine, i: Instruction, active: Array) -> None:
    """cp.async.ca/cg [shared], [global], size, source size: what the source does not have is
    zero, and is not read.
    """
    match i.modifiers[1:]:
        case ("ca" | "cg", "shared", "global"):
            _copy(m, i, active)
        case ():
            raise ValueError(f"the emulator does not know {i.text!r}")
        case ("commit_group",):
            m.copies.committed[active] += 1
        case ("wait_group",):
            m.copies.wait(m, active, int(str(i.operands[0])))
        case _:
            raise ValueError(f"the emulator does not know {i.text!r}")


def _copy(m: Machine, i: Instruction, active: Array) -> None:
    width = int(str(i.operands[2]))
    if i.modifiers[0] != "async" or width not in ((16,) if "cg" in i.modifiers else (4, 8, 16)):
        raise ValueError(f"the emulator does not know {i.text!r}")
    sizes = (
        m.read(i.operands[3], "u32", active)
        if len(i.operands) > 3
        else np.full(active.size, width, np.uint32)
    )
    if not np.isin(sizes, (0, width)).all():
        raise ValueError(f"the emulator copies all of {width} bytes or nothing, not a part")
    values = np.zeros((active.size, width), np.uint8)
    reads = np.flatnonzero(sizes)
    if reads.size:
        for space, offsets, rows in m.access(
            replace(i, modifiers=("global",)), i.operands[1], width, active[reads]
        ):
            own = active[reads[rows]]
            values[reads[rows]] = space.load(offsets, width, m.lanes[own], m.epochs[own])
    ((space, offsets, _),) = m.access(
        replace(i, modifiers=("shared",)), i.operands[0], width, active
    )
    space.begin_copy(offsets, width, m.lanes[active], m.epochs[active])
    m.copies.waiting.append(_Copy(m.lanes[active], m.copies.committed[active], offsets, values))
