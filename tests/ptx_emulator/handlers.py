"""What executes an instruction: a handler, which reads, computes and writes the active lanes.

The families lie in files of their own, each with a table from the operation to its handler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .parse import Instruction

if TYPE_CHECKING:
    from .machine import Machine

Array: TypeAlias = npt.NDArray[Any]
Handler: TypeAlias = "Callable[[Machine, Instruction, Array], None]"
_TYPES = {"pred": "?", "f16": "f2", "f32": "f4", "f64": "f8"} | {
    f"{kind}{bits}": f"{'i' if kind == 's' else 'u'}{bits // 8}"
    for kind in "sub"
    for bits in (8, 16, 32, 64)
}
_DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(code) for name, code in _TYPES.items()}


def dtype_of(name: str) -> np.dtype[Any]:
    return _DTYPES[name]


def plain(function: Callable[..., Array], arity: int) -> Handler:
    """All operands and the result have the instruction's type."""

    def handler(m: Machine, i: Instruction, active: Array) -> None:
        kind = i.modifiers[-1]
        values = [m.read(operand, kind, active) for operand in i.operands[1 : 1 + arity]]
        m.write(i.operands[0], np.asarray(function(*values)).astype(dtype_of(kind)), active)

    return handler
