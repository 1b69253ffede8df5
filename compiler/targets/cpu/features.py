"""CPU features by LLVM's names, as cpuid reports them; a program checks the ones it needs when it
is opened.

``emit_missing_feature`` writes the check for x86-64. It runs on any such machine: code that needs a
feature is never reached where the processor or the operating system (XCR0) lacks it. A level that
needs nothing beyond its baseline is not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from netloom.errors import ToolchainError

from .host import I32, I64, PTR, Function, Word


@dataclass(frozen=True)
class Feature:
    """Bit ``bit`` of register ``register`` (0 eax, 1 ebx, 2 ecx, 3 edx) of a cpuid leaf, and the
    XCR0 bits it needs.
    """

    leaf: int
    subleaf: int
    register: int
    bit: int
    state: int = 0


_AVX, _AVX512, _AMX = 0x6, 0xE6, 0x60000

# of every x86-64 machine
BASELINE = frozenset({"64bit", "x87", "cmov", "cx8", "fxsr", "mmx", "sse", "sse2"})

FEATURES = {
    "sse3": Feature(1, 0, 2, 0), "pclmul": Feature(1, 0, 2, 1), "ssse3": Feature(1, 0, 2, 9),
    "fma": Feature(1, 0, 2, 12, _AVX), "cx16": Feature(1, 0, 2, 13), "sse4.1": Feature(1, 0, 2, 19),
    "sse4.2": Feature(1, 0, 2, 20), "movbe": Feature(1, 0, 2, 22), "popcnt": Feature(1, 0, 2, 23),
    "aes": Feature(1, 0, 2, 25), "xsave": Feature(1, 0, 2, 26), "crc32": Feature(1, 0, 2, 20),
    "avx": Feature(1, 0, 2, 28, _AVX), "f16c": Feature(1, 0, 2, 29, _AVX),
    "bmi": Feature(7, 0, 1, 3), "avx2": Feature(7, 0, 1, 5, _AVX), "bmi2": Feature(7, 0, 1, 8),
    "avx512f": Feature(7, 0, 1, 16, _AVX512), "avx512dq": Feature(7, 0, 1, 17, _AVX512),
    "avx512ifma": Feature(7, 0, 1, 21, _AVX512), "avx512cd": Feature(7, 0, 1, 28, _AVX512),
    "avx512bw": Feature(7, 0, 1, 30, _AVX512), "avx512vl": Feature(7, 0, 1, 31, _AVX512),
    "avx512vbmi": Feature(7, 0, 2, 1, _AVX512), "avx512vbmi2": Feature(7, 0, 2, 6, _AVX512),
    "gfni": Feature(7, 0, 2, 8), "vaes": Feature(7, 0, 2, 9, _AVX), "vpclmulqdq": Feature(7, 0, 2, 10, _AVX),
    "avx512vnni": Feature(7, 0, 2, 11, _AVX512), "avx512bitalg": Feature(7, 0, 2, 12, _AVX512),
    "avx512vpopcntdq": Feature(7, 0, 2, 14, _AVX512), "amx-bf16": Feature(7, 0, 3, 22, _AMX),
    "avx512fp16": Feature(7, 0, 3, 23, _AVX512), "amx-tile": Feature(7, 0, 3, 24, _AMX),
    "amx-int8": Feature(7, 0, 3, 25, _AMX), "avxvnni": Feature(7, 1, 0, 4, _AVX),
    "avx512bf16": Feature(7, 1, 0, 5, _AVX512),
    "sahf": Feature(0x80000001, 0, 2, 0), "lzcnt": Feature(0x80000001, 0, 2, 5),
}  # fmt: skip


def required_features(names: Sequence[str]) -> tuple[str, ...]:
    """The names to check, sorted, without those that every x86-64 machine has; ToolchainError
    for unknown names.
    """
    unknown = sorted(set(names) - BASELINE - FEATURES.keys())
    if unknown:
        raise ToolchainError(f"The CPU features {', '.join(unknown)} are unknown.",
                             hint=f"Known are {', '.join(sorted(FEATURES))}.")  # fmt: skip
    return tuple(sorted(set(names) - BASELINE))


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
