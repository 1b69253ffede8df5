"""Conversions between types of numbers, with their rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .handlers import Array, Handler, dtype_of
from .parse import Instruction

if TYPE_CHECKING:
    from .machine import Machine

_ROUND: dict[str, Callable[[Array], Array]] = {
    "rmi": np.floor,
    "rpi": np.ceil,
    "rzi": np.trunc,
    "rni": np.rint,
}


def _convert(m: Machine, i: Instruction, active: Array) -> None:
    target, source = i.modifiers[-2:]
    if target in ("tf32", "bf16x2"):
        _convert_rounding(m, i, active)
        return
    value = m.read(i.operands[1], source, active)
    rounding = next((r for r in i.modifiers if r in _ROUND), None)
    if rounding:
        value = _ROUND[rounding](value)
    to = dtype_of(target)
    if value.dtype.kind == "f" and to.kind in "iu":
        info = np.iinfo(to)
        wide = np.nan_to_num(value.astype(np.float64), nan=0.0)
        result = np.where(
            wide >= float(info.max), info.max, np.where(wide <= float(info.min), info.min, 0)
        ).astype(to)
        inside = (wide > float(info.min)) & (wide < float(info.max))
        result[inside] = wide[inside].astype(to)
        m.write(i.operands[0], result, active)
        return
    if "sat" in i.modifiers:
        raise ValueError(f"the emulator does not know {i.text!r}")
    m.write(i.operands[0], value.astype(to), active)


def _convert_rounding(m: Machine, i: Instruction, active: Array) -> None:
    """cvt.rna.tf32.f32: to nearest of 10 bits, halves away from zero. cvt.rn.bf16x2.f32: two, the
    first operand's above. NaN gives the canonical one."""
    match i.modifiers:
        case ("rna", "tf32", "f32"):
            x = m.read(i.operands[1], "f32", active)
            value = (x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
            m.write(i.operands[0], np.where(np.isnan(x), np.uint32(0x7FFFFFFF), value), active)
        case ("rn", "bf16x2", "f32"):
            high, low = (
                _bfloat16_bits(m.read(operand, "f32", active)) for operand in i.operands[1:3]
            )
            m.write(i.operands[0], high << np.uint32(16) | low, active)
        case _:
            raise ValueError(f"the emulator does not know {i.text!r}")


def _bfloat16_bits(x: Array) -> Array:
    """To nearest, halves to even."""
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), rounded)


CONVERSIONS: dict[str, Handler] = {"cvt": _convert}
