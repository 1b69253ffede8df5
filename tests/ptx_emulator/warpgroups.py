"""wgmma: products of 64 rows by four warps, whose operands lie in shared memory and which are done
when they are waited for.

Until then their sums are NaN to everyone else, and nothing may write what they read. What they read
must have been fenced by its writer (fence.proxy.async) and lie behind a barrier. A move of such a
sum names its register anew, as the assembler does with values that a product changes in place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .memory import MemoryFault
from .parse import Instruction

if TYPE_CHECKING:
    from .machine import Machine

Array = npt.NDArray[Any]
GROUP = 128  # threads of four warps
_SHAPE = re.compile(r"m64n(\d+)k(8|16)")


@dataclass
class _Group:
    """What one warpgroup has under way: sums by register, cells that products read, and by how
    many commits each is old.
    """

    sums: dict[str, Array]
    reads: list[tuple[int, Array]]
    commits: int = 0
    may_begin: bool = False


class Warpgroups:
    """All warpgroups' products under way."""

    def __init__(self, lanes: int) -> None:
        self.groups = [_Group({}, []) for _ in range(-(-lanes // GROUP))]

    @property
    def are_busy(self) -> bool:
        """Whether any sums are under way."""
        return any(group.sums for group in self.groups)


def warpgroup_product(m: Machine, i: Instruction, active: Array) -> None:
    """wgmma.fence, .mma_async, .commit_group and .wait_group."""
    if len(i.modifiers) < 3 or i.modifiers[1:3] != ("sync", "aligned"):
        raise ValueError(f"the emulator does not know {i.text!r}")
    lanes = m.lanes[active]
    if lanes.size % GROUP or (lanes.reshape(-1, GROUP)[:, 0] % GROUP).any() or m.threads % GROUP:
        raise MemoryFault(f"wgmma.{i.modifiers[0]}: some threads of a warpgroup are elsewhere")
    if (np.diff(lanes.reshape(-1, GROUP), axis=1) != 1).any():
        raise MemoryFault(f"wgmma.{i.modifiers[0]}: some threads of a warpgroup are elsewhere")
    for own in active.reshape(-1, GROUP):
        group = m.warpgroups.groups[int(m.lanes[own[0]]) // GROUP]
        match i.modifiers[0]:
            case "fence":
                group.may_begin = True
            case "mma_async":
                _begin(m, i, group, own)
            case "commit_group":
                group.commits += 1
            case "wait_group":
                _wait(m, group, own, int(str(i.operands[0])))
            case _:
                raise ValueError(f"the emulator does not know {i.text!r}")


def _begin(m: Machine, i: Instruction, group: _Group, own: Array) -> None:
    shape = _SHAPE.fullmatch(i.modifiers[3])
    kinds = {("8", ("f32", "tf32", "tf32")): 1, ("16", ("f32", "bf16", "bf16")): 2}
    per_word = kinds.get((shape.group(2), i.modifiers[4:])) if shape else None
    signs = tuple(map(str, i.operands[4:]))
    registers = i.operands[0]
    if (
        shape is None
        or per_word is None
        or signs != (("1", "1") if per_word == 1 else ("1", "1", "0", "0"))
    ):
        raise ValueError(f"the emulator does not know {i.text!r}")
    columns = int(shape.group(1))
    assert isinstance(registers, tuple) and len(registers) == columns // 2
    if not group.may_begin:
        raise MemoryFault("wgmma.mma_async: no wgmma.fence since its registers were free")
    left, right = (
        _matrix(m, i, own, number, rows, per_word, group)
        for number, rows in ((1, 64), (2, columns))
    )
    product = left @ right.T  # [64, columns]
    thread = np.arange(GROUP)
    row, column = thread // 32 * 16 + thread % 32 // 4, thread % 4 * 2
    adds = m.read(i.operands[3], "pred", own)
    for place, register in enumerate(registers):
        pair, half, last = place // 4, place // 2 % 2, place % 2
        before = group.sums.get(register, m.read(register, "f32", own))
        before = np.where(adds, before, 0).astype(np.float64)
        group.sums[register] = (before + product[row + 8 * half, 8 * pair + column + last]).astype(
            np.float32
        )
        m.write(register, np.full(GROUP, np.nan, np.float32), own)


def _matrix(
    m: Machine, i: Instruction, own: Array, number: int, rows: int, per_word: int, group: _Group
) -> Array:
    """[rows, k] of an operand: 32 bytes of each row, in 64- or 128-byte swizzle (bits 4 and 5, or 4
    to 6, of an address are changed by those three above).
    """
    descriptors = np.unique(m.read(i.operands[number], "b64", own))
    if descriptors.size > 1:
        raise MemoryFault("wgmma.mma_async: the threads of a warpgroup name different matrices")
    descriptor = int(descriptors[0])
    swizzle = {1: 128, 2: 64}.get(descriptor >> 62)
    if swizzle is None or descriptor >> 49 & 7:
        raise ValueError("the emulator knows matrices in 64- and 128-byte swizzle only")
    start, groups = (descriptor & 0x3FFF) << 4, (descriptor >> 32 & 0x3FFF) << 4
    row = np.arange(rows)[:, None]
    linear = start + row // 8 * groups + row % 8 * swizzle + np.arange(0, 32, 4)  # [rows, words]
    address = (linear ^ (linear >> 7 & swizzle // 16 - 1) << 4).reshape(-1)
    if (address + 4 > m.shared_size).any():
        raise MemoryFault(
            f"shared memory: a matrix ends at byte {int(address.max()) + 4} of {m.shared_size}"
        )
    lanes = np.full(address.size, m.lanes[own[0]])
    cells = address + m.lanes[own[0]] // m.threads * m.shared_size
    words = np.ascontiguousarray(m.shared.load_for_products(cells, lanes, m.epochs[lanes])).view(
        np.uint32
    )
    group.reads.append((group.commits, cells))
    if per_word == 1:
        return (words & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64).reshape(rows, -1)
    halves = np.stack([words[:, 0] << np.uint32(16), words[:, 0] & np.uint32(0xFFFF0000)], -1)
    return halves.view(np.float32).astype(np.float64).reshape(rows, -1)


def _wait(m: Machine, group: _Group, own: Array, pending: int) -> None:
    """Sums are there when no product is under way."""
    done = [cells for commit, cells in group.reads if commit < group.commits - pending]
    group.reads = [
        (commit, cells) for commit, cells in group.reads if commit >= group.commits - pending
    ]
    for cells in done:
        lanes = np.full(cells.size, m.lanes[own[0]])
        m.shared.end_products(cells, lanes, m.epochs[lanes])
    if not group.reads:
        for register, value in group.sums.items():
            m.write(register, value, own)
        group.sums.clear()
    group.may_begin = False


def rename(m: Machine, target: str, source: str, active: Array) -> None:
    """What a move does to sums under way: the target is the sum from now on."""
    for own in np.unique(m.lanes[active] // GROUP):
        sums = m.warpgroups.groups[int(own)].sums
        sums.pop(target, None)
        if source in sums:
            sums[target] = sums[source]


def fence(m: Machine, i: Instruction, active: Array) -> None:
    """fence.proxy.async: what these threads wrote is there for products that begin behind a
    barrier.
    """
    if i.modifiers[:2] != ("proxy", "async"):
        raise ValueError(f"the emulator does not know {i.text!r}")
    m.shared.fence(m.lanes[active])
