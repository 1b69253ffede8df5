"""Instructions that carry values: loads, stores, moves, and addresses that become generic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .copies import copy_async
from .handlers import Array, Handler, dtype_of
from .memory import SHARED_WINDOW
from .parse import Instruction
from .shuffles import shuffle
from .warpgroups import rename

if TYPE_CHECKING:
    from .machine import Machine


def _load(m: Machine, i: Instruction, active: Array) -> None:
    dtype = dtype_of(i.modifiers[-1])
    targets = i.operands[0] if isinstance(i.operands[0], tuple) else (i.operands[0],)
    if "param" in i.modifiers:
        name = str(i.operands[1]).strip("[]")
        m.write(
            targets[0], np.full(active.size, m.parameters[name], np.int64).astype(dtype), active
        )
        return
    width = dtype.itemsize * len(targets)
    data = np.empty((active.size, width), np.uint8)
    for space, offsets, rows in m.access(i, i.operands[1], width, active):
        data[rows] = space.load(offsets, width, m.lanes[active[rows]], m.epochs[active[rows]])
    for place, target in enumerate(targets):
        part = np.ascontiguousarray(data[:, place * dtype.itemsize : (place + 1) * dtype.itemsize])
        m.write(target, part.view(dtype)[:, 0], active)


def _store(m: Machine, i: Instruction, active: Array) -> None:
    kind = i.modifiers[-1]
    sources = i.operands[1] if isinstance(i.operands[1], tuple) else (i.operands[1],)
    parts = [np.ascontiguousarray(m.read(s, kind, active))[:, None].view(np.uint8) for s in sources]
    data = np.concatenate(parts, axis=1)
    for space, offsets, rows in m.access(i, i.operands[0], data.shape[1], active):
        space.store(offsets, data[rows], m.lanes[active[rows]], m.epochs[active[rows]])


def _move(m: Machine, i: Instruction, active: Array) -> None:
    kind = i.modifiers[-1]
    target, source = i.operands
    if isinstance(source, tuple):
        half = f"b{dtype_of(kind).itemsize * 8 // len(source)}"
        parts = [
            np.ascontiguousarray(m.read(s, half, active))[:, None].view(np.uint8) for s in source
        ]
        m.write(target, np.concatenate(parts, axis=1).view(dtype_of(kind))[:, 0], active)
    elif isinstance(target, tuple):
        data = np.ascontiguousarray(m.read(source, kind, active))[:, None].view(
            f"u{dtype_of(kind).itemsize // len(target)}"
        )
        for place, one in enumerate(target):
            m.write(one, np.ascontiguousarray(data[:, place]), active)
    else:
        m.write(target, m.read(source, kind, active), active)
        if m.warpgroups.are_busy:
            rename(m, target, str(source), active)


def _to_generic(m: Machine, i: Instruction, active: Array) -> None:
    shift = SHARED_WINDOW if "shared" in i.modifiers else 0
    value = m.read(i.operands[1], "b64", active)
    m.write(
        i.operands[0],
        value - np.uint64(shift) if "to" in i.modifiers else value + np.uint64(shift),
        active,
    )


TRANSFERS: dict[str, Handler] = {
    "ld": _load, "st": _store, "mov": _move, "cvta": _to_generic, "cp": copy_async,
    "shfl": shuffle,
}  # fmt: skip
