"""Logic on bits, shifts, fields of bits, and dot products of bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .handlers import Array, Handler, plain
from .parse import Instruction

if TYPE_CHECKING:
    from .machine import Machine


def _not(m: Machine, i: Instruction, active: Array) -> None:
    value = m.read(i.operands[1], i.modifiers[-1], active)
    m.write(i.operands[0], ~value, active)


def _shift(is_left: bool) -> Handler:
    """Amounts beyond the width shift everything out."""

    def handler(m: Machine, i: Instruction, active: Array) -> None:
        kind = i.modifiers[-1]
        x, by = m.read(i.operands[1], kind, active), m.read(i.operands[2], "u32", active)
        bits = x.itemsize * 8
        least = np.minimum(by, bits - 1).astype(x.dtype)
        value = x << least if is_left else x >> least
        if is_left or x.dtype.kind == "u":
            value = np.where(by >= bits, 0, value).astype(x.dtype)
        m.write(i.operands[0], value, active)

    return handler


def _permute(x: Array, y: Array, selector: Array) -> Array:
    """Bytes of x (0 to 3) and y (4 to 7), picked by the selector's four nibbles; bit 3 of one
    repeats the byte's sign.
    """
    both = y.astype(np.uint64) << np.uint64(32) | x.astype(np.uint64)
    result = np.zeros_like(x)
    for place in range(4):
        nibble = selector >> np.uint32(4 * place) & np.uint32(15)
        byte = (
            both >> (nibble & np.uint32(7)).astype(np.uint64) * np.uint64(8) & np.uint64(255)
        ).astype(np.uint32)
        sign = np.where(byte & 128, 255, 0).astype(np.uint32)
        result |= np.where(nibble & 8, sign, byte).astype(np.uint32) << np.uint32(8 * place)
    return result


def _dot_of_two(is_high: bool) -> Callable[..., Array]:
    """dp2a of unsigned numbers: z + x's two halves times two of y's bytes."""

    def value(x: Array, y: Array, z: Array) -> Array:
        by = y >> np.uint32(16) if is_high else y
        return (
            z
            + (x & np.uint32(0xFFFF)) * (by & np.uint32(255))
            + (x >> np.uint32(16)) * (by >> np.uint32(8) & np.uint32(255))
        )

    return value


def _dp2a(m: Machine, i: Instruction, active: Array) -> None:
    if i.modifiers[1:] != ("u32", "u32"):
        raise ValueError(f"the emulator does not know {i.text!r}")
    plain(_dot_of_two(i.modifiers[0] == "hi"), 3)(m, i, active)


def _insert(m: Machine, i: Instruction, active: Array) -> None:
    """The low ``length`` bits of the first operand put into the second at ``start``."""
    kind = i.modifiers[-1]
    low, into = (m.read(operand, kind, active) for operand in i.operands[1:3])
    start, length = (m.read(operand, "u32", active) & 255 for operand in i.operands[3:5])
    bits = into.itemsize * 8
    ones = (1 << np.minimum(length, bits).astype(object)) - 1
    mask = np.array(
        [(int(o) << int(s)) % (1 << bits) for o, s in zip(ones, start, strict=True)], into.dtype
    )
    moved = np.array(
        [(int(v) << int(s)) % (1 << bits) for v, s in zip(low, start, strict=True)], into.dtype
    )
    m.write(i.operands[0], into & ~mask | moved & mask, active)


def _extract(m: Machine, i: Instruction, active: Array) -> None:
    """Bits [start, start + length), extended by their sign if the type has one."""
    kind = i.modifiers[-1]
    x = m.read(i.operands[1], kind, active)
    start, length = (m.read(operand, "u32", active) & 255 for operand in i.operands[2:4])
    bits = x.itemsize * 8
    inside = np.minimum(length, bits - np.minimum(start, bits))
    up = (bits - np.minimum(start, bits) - inside).astype(x.dtype)
    value = (x << up) >> (bits - inside).astype(x.dtype)
    m.write(i.operands[0], np.where(inside == 0, 0, value).astype(x.dtype), active)


BITS: dict[str, Handler] = {
    "and": plain(np.bitwise_and, 2), "or": plain(np.bitwise_or, 2),
    "xor": plain(np.bitwise_xor, 2), "not": _not,
    "shl": _shift(True), "shr": _shift(False),
    "prmt": plain(_permute, 3), "bfe": _extract, "bfi": _insert, "dp2a": _dp2a,
}  # fmt: skip
