"""CPU features by LLVM's names, as cpuid reports them; a program checks the ones it needs when it
is opened (host_features.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from netloom.errors import ToolchainError


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


_LINUX_NAMES = {
    "sse4.1": "sse4_1", "sse4.2": "sse4_2", "bmi": "bmi1", "lzcnt": "abm",
    "avx512vnni": "avx512_vnni", "avx512vbmi2": "avx512_vbmi2", "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq", "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16", "avxvnni": "avx_vnni", "amx-bf16": "amx_bf16",
    "amx-tile": "amx_tile", "amx-int8": "amx_int8", "sse3": "pni", "pclmul": "pclmulqdq",
}  # fmt: skip
_PROCESSORS = Path("/proc/cpuinfo")


@cache
def present_features() -> frozenset[str]:
    """The features of this x86-64 machine that code may use, by LLVM's names: on Linux those of
    FEATURES that /proc/cpuinfo lists, elsewhere all that LLVM finds."""
    flags = _flags()
    if flags is not None:
        return frozenset(name for name in FEATURES if _LINUX_NAMES.get(name, name) in flags)
    import llvmlite.binding as llvm

    return frozenset(name for name, is_there in llvm.get_host_cpu_features().items() if is_there)


def _flags() -> frozenset[str] | None:
    """Linux's names of the first processor's features; None where it does not list them."""
    with contextlib.suppress(OSError), _PROCESSORS.open(encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, words = line.partition(":")
            if name.strip() == "flags":
                return frozenset(words.split())
    return None


def required_features(names: Sequence[str]) -> tuple[str, ...]:
    """The names to check, sorted, without those that every x86-64 machine has; ToolchainError
    for unknown names.
    """
    unknown = sorted(set(names) - BASELINE - FEATURES.keys())
    if unknown:
        raise ToolchainError(f"The CPU features {', '.join(unknown)} are unknown.",
                             hint=f"Known are {', '.join(sorted(FEATURES))}.")  # fmt: skip
    return tuple(sorted(set(names) - BASELINE))
