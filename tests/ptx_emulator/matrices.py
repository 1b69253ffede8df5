"""Products of small matrices: by a warp (mma) and by four (wgmma), and what feeds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .handlers import Array, Handler
from .memory import MemoryFault
from .parse import Instruction
from .warpgroups import fence, warpgroup_product

if TYPE_CHECKING:
    from .machine import Machine

WARP = 32


def _warps(m: Machine, i: Instruction, active: Array) -> Array:
    """The active lanes as [warps, 32]; an instruction of whole warps must find them whole."""
    whole = (
        m.lanes[active].reshape(-1, WARP) if active.size % WARP == 0 else np.zeros((1, 2), np.int64)
    )
    if (whole[:, 0] % WARP).any() or (np.diff(whole, axis=1) != 1).any() or m.threads % WARP:
        raise MemoryFault(f"{i.operation}: some threads of a warp are elsewhere")
    return whole


def _load_matrices(m: Machine, i: Instruction, active: Array) -> None:
    """ldmatrix x4: lane 8 j + r names row r (16 bytes) of matrix j; lane l gets word l % 4 of
    row l / 4 of each. With .trans, of halves of words: the two of column l / 4 of rows 2 (l % 4) and
    2 (l % 4) + 1.
    """
    is_turned = i.modifiers == ("sync", "aligned", "m8n8", "x4", "trans", "shared", "b16")
    if not is_turned and i.modifiers != ("sync", "aligned", "m8n8", "x4", "shared", "b16"):
        raise ValueError(f"the emulator does not know {i.text!r}")
    warps = _warps(m, i, active)
    ((space, offsets, _),) = m.access(i, i.operands[1], 16, active)
    data = space.load(offsets, 16, m.lanes[active], m.epochs[active])
    # [warp, matrix, row, word]
    words = np.ascontiguousarray(data).view(np.uint32).reshape(len(warps), 4, 8, 4)
    if is_turned:
        halves = words.view(np.uint16).reshape(len(warps), 4, 8, 8).transpose(0, 1, 3, 2)
        words = np.ascontiguousarray(halves).view(np.uint32).reshape(len(warps), 4, 8, 4)
    for place, target in enumerate(i.operands[0]):
        m.write(target, words[:, place].reshape(-1), active)


def _multiply_matrices(m: Machine, i: Instruction, active: Array) -> None:
    """mma.sync.m16n8: the products are exact, each sum is rounded once (tensor cores truncate,
    and their order is theirs).
    """
    shapes = {("m16n8k8", "tf32"): _from_tf32, ("m16n8k16", "bf16"): _from_bfloat16}
    key = (i.modifiers[2], i.modifiers[6]) if len(i.modifiers) == 9 else ("", "")
    if key not in shapes:
        raise ValueError(f"the emulator does not know {i.text!r}")
    warps = len(_warps(m, i, active))

    def operand(number: int, kind: str) -> Array:
        names = i.operands[number]
        assert isinstance(names, tuple)
        # [warp, register, group, place]
        return np.stack([m.read(name, kind, active).reshape(warps, 8, 4) for name in names], 1)

    # [warp, register, group, place, element of a word]
    a, b = (shapes[key](operand(number, "b32")) for number in (1, 2))
    # registers: k, then rows
    left = a.reshape(warps, 2, 2, 8, -1).transpose(0, 2, 3, 1, 4).reshape(warps, 16, -1)
    right = b.reshape(warps, 2, 8, -1).transpose(0, 1, 3, 2).reshape(warps, -1, 8)
    # [warp, row half, column of two, row, pair]
    sums = operand(3, "f32").astype(np.float64).reshape(warps, 2, 2, 8, 4)
    products = (left @ right).reshape(warps, 2, 8, 4, 2).transpose(0, 1, 4, 2, 3)
    result = (sums + products).astype(np.float32).reshape(warps, 4, -1)
    for place, target in enumerate(i.operands[0]):
        m.write(target, result[:, place].reshape(-1), active)


def _from_tf32(words: Array) -> Array:
    """Tensor cores do not read the low 13 bits."""
    return (
        np.ascontiguousarray(words & np.uint32(0xFFFFE000))
        .view(np.float32)
        .astype(np.float64)[..., None]
    )


def _from_bfloat16(words: Array) -> Array:
    halves = np.stack([words << np.uint32(16), words & np.uint32(0xFFFF0000)], -1)
    return halves.view(np.float32).astype(np.float64)


MATRICES: dict[str, Handler] = {
    "ldmatrix": _load_matrices, "mma": _multiply_matrices,
    "wgmma": warpgroup_product, "fence": fence,
}  # fmt: skip
