"""Copies from the device's memory to a block's that do not wait: ``copy_4(s, i, p, j, condition)``,
``commit()``, ``arrive_2()``.

PTX ISA 8.0, section 9.7.8.24: what a thread copied it may read when it has waited for the copies'
group; other threads may after a barrier behind that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from ....tensor_type import FLOAT32
from ...cpu.lowering.representation import I32, I64
from .define import Operand, define, pointer_type
from .memory import element_at, shared_address

_GLOBAL = 1  # LLVM's address space of the device's memory


def _effect(b: Any, code: str, constraints: str, *operands: Operand) -> None:
    """An instruction that is there for what it does to memory."""
    kind = ir.FunctionType(ir.VoidType(), [x.type for x in operands])
    b.asm(kind, code, ",".join(filter(None, (constraints, "~{memory}"))), list(operands), True)


def copy(rest: str) -> Any:
    """``copy_WORDS(s, i, p, j, condition)``: 1 or 4 float32 from p[j] on to s[i] on; zeros, without
    a read, where the condition does not hold. Four are aligned, and pass by the L1 cache."""
    words = int(rest)
    code = f"cp.async.{'cg' if words == 4 else 'ca'}.shared.global [$0], [$1], {4 * words}, $2;"
    pointer = pointer_type(FLOAT32)

    def emit(
        b: Any, target: Operand, place: Operand, source: Operand, index: Operand, condition: Operand
    ) -> None:
        address = b.add(shared_address(b, target), b.shl(place, I32(2)))
        start = b.addrspacecast(
            element_at(b, source, index), ir.PointerType(source.type.pointee, _GLOBAL)
        )
        _effect(
            b,
            code,
            "r,l,r",
            address,
            b.ptrtoint(start, I64),
            b.select(condition, I32(4 * words), I32(0)),
        )

    return define(types.void, [pointer, types.int32, pointer, types.int32, types.boolean], emit)


def arrive(rest: str) -> Any:
    """``arrive_N()``: waits for this thread's copies, but for those of the last N groups."""
    return define(types.void, [], lambda b: _effect(b, f"cp.async.wait_group {int(rest)};", ""))


def _commit() -> Any:
    return define(types.void, [], lambda b: _effect(b, "cp.async.commit_group;", ""))


FAMILIES = {"copy": copy, "arrive": arrive}
PLAIN: dict[str, Callable[[], Any]] = {"commit": _commit}
