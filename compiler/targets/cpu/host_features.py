"""The names of CPU features -> the host function that looks for them when a program is opened.

It is for x86-64 and runs on any such machine: code that needs a feature is never reached where the
processor or the operating system (XCR0) lacks it. A level that needs nothing beyond its baseline is
not checked.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from .features import FEATURES
from .host import I32, I64, PTR, Function, Word


def emit_missing_feature(
    module: ir.Module, level: int, names: Sequence[str], text: dict[str, ir.Value]
) -> Function:
    """A function ``() -> const char *``: the name (out of ``text``) of a feature that the
    machine lacks, or NULL.
    """
    code = Function(module, f"missing_feature{level}", PTR, {})
    if not names:
        code.return_(0)
        return code
    missing = code.variable(PTR)
    states = code.variable(I64)
    basic = _cpuid(code, 1, 0)[2]
    with code.if_((basic & (1 << 27)).differs(0)):  # OSXSAVE: xgetbv may be executed
        states[0] = _xgetbv(code).unsigned(I64)
    leaves = {base: _cpuid(code, base, 0)[0].unsigned(I64) for base in (0, 0x80000000)}
    registers: dict[tuple[int, int], list[Word]] = {}
    for name in reversed(names):  # the first missing one is reported
        feature = FEATURES[name]
        leaf = (feature.leaf, feature.subleaf)
        if leaf not in registers:
            registers[leaf] = _cpuid(code, *leaf)
        present = (registers[leaf][feature.register].unsigned(I64) & (1 << feature.bit)).differs(0)
        present = present & (leaves[feature.leaf & 0x80000000] >= feature.leaf)
        present = present & (states[0] & feature.state).equals(feature.state)
        missing[0] = code.select(present, missing[0], code.address_of(text[name]), PTR)
    code.return_(missing[0])
    return code


def _cpuid(code: Function, leaf: int, subleaf: int) -> list[Word]:
    result = ir.LiteralStructType([I32] * 4)
    assembly = ir.InlineAsm(
        ir.FunctionType(result, [I32, I32]), "cpuid", "={ax},={bx},={cx},={dx},0,2", True
    )
    signed = leaf - (leaf >> 31 << 32)
    registers = code.builder.call(assembly, [ir.Constant(I32, signed), ir.Constant(I32, subleaf)])
    return [Word(code, code.builder.extract_value(registers, i)) for i in range(4)]


def _xgetbv(code: Function) -> Word:
    result = ir.LiteralStructType([I32, I32])
    assembly = ir.InlineAsm(ir.FunctionType(result, [I32]), "xgetbv", "={ax},={dx},{cx}", True)
    return Word(
        code, code.builder.extract_value(code.builder.call(assembly, [ir.Constant(I32, 0)]), 0)
    )
