"""CPUs as netloom sees them: instruction-set levels, what each needs and holds."""

from __future__ import annotations

from dataclasses import dataclass

from netloom.errors import UsageError

from ...loops.plan import Machine
from .architecture import AARCH64, X86_64, Architecture
from .features import present_features


@dataclass(frozen=True)
class Cpu:
    """One instruction-set level: LLVM's name and extra features, what a machine must have,
    registers for tiling.
    """

    name: str
    llvm_name: str
    llvm_features: str
    required: tuple[str, ...]
    has_fma: bool
    machine: Machine
    architecture: Architecture = X86_64
    has_rounding: bool = True  # floor, ceil, trunc and round are instructions
    has_scaling: bool = False  # so is x * 2^n
    has_dots: bool = False  # and the sum of four products of bytes
    masked_bytes: tuple[int, ...] = ()  # sizes of elements of which vectors are loaded in part

    @property
    def is_here(self) -> bool:
        """Whether this machine has every feature."""
        return self.architecture.is_native and (
            not self.required or present_features().issuperset(self.required)
        )


_V2 = ("ssse3", "sse4.1", "sse4.2", "popcnt")
_V3 = ("avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

CPUS: dict[str, Cpu] = {  # of each architecture, the lowest first
    cpu.name: cpu
    for cpu in (
        Cpu(
            "x86-64",
            "x86-64",
            "",
            (),
            False,
            Machine(vectors=4, has_dots=True, has_masks=False),
            has_rounding=False,
        ),
        Cpu(
            "x86-64-v2",
            "x86-64-v2",
            "",
            _V2,
            False,
            Machine(vectors=4, has_dots=True, has_masks=False),
        ),
        Cpu(
            "x86-64-v3",
            "x86-64-v3",
            "",
            _V3,
            True,
            Machine(vectors=8, has_dots=True, has_masks=False),
            masked_bytes=(4, 8),
        ),
        # LLVM tunes this level for 256-bit vectors; netloom's tiles are made for whole 512-bit
        # registers.
        Cpu(
            "x86-64-v4",
            "x86-64-v4",
            "-prefer-256-bit",
            _V4,
            True,
            Machine(vectors=32, has_dots=True),
            has_scaling=True,
            masked_bytes=(1, 2, 4, 8),
        ),
        Cpu(
            "x86-64-v4-vnni",
            "x86-64-v4",
            "-prefer-256-bit,+avx512vnni",
            (*_V4, "avx512vnni"),
            True,
            Machine(vectors=32, has_dots=True),
            has_scaling=True,
            has_dots=True,
            masked_bytes=(1, 2, 4, 8),
        ),
        # The same instructions; strategies are chosen for a machine that reads slowly from beyond its
        # L2 cache. FP16 and AMX, which no code of this level uses, tell such machines from others.
        Cpu(
            "sapphirerapids",
            "x86-64-v4",
            "-prefer-256-bit,+avx512vnni",
            (*_V4, "avx512vnni", "avx512fp16", "amx-tile"),
            True,
            Machine(vectors=32, has_dots=True),
            has_scaling=True,
            has_dots=True,
            masked_bytes=(1, 2, 4, 8),
        ),
        # 32 NEON registers of 4 lanes
        Cpu(
            "aarch64",
            "generic",
            "",
            (),
            True,
            Machine(vectors=8, has_dots=True, has_masks=False),
            AARCH64,
        ),
    )
}


def cpu_named(name: str) -> Cpu:
    """The level of that name; ``host`` is the highest that this machine has."""
    if name == "host":
        return host_cpu()
    if name not in CPUS:
        raise UsageError(
            f"there is no CPU level {name[:80]!r}.", hint=f"Choose host, {', '.join(CPUS)}."
        )
    return CPUS[name]


def cpus_named(names: str) -> tuple[Cpu, ...]:
    """The levels of a list such as ``x86-64,x86-64-v3``, each once, the lowest first: whatever the
    list's order.

    UsageError for unknown names, and for levels of two architectures, which cannot be in one file.
    """
    wanted = {cpu_named(name) for name in names.split(",")}
    if len({cpu.architecture for cpu in wanted}) > 1:
        raise UsageError(
            f"the CPU levels {names[:200]} are of two architectures.",
            hint="Compile a file for each.",
        )
    return tuple(cpu for cpu in CPUS.values() if cpu in wanted)


def host_cpus() -> tuple[Cpu, ...]:
    """The levels that this machine has, the lowest first."""
    return tuple(cpu for cpu in CPUS.values() if cpu.is_here)


def host_cpu() -> Cpu:
    """The highest level that this machine has."""
    found = host_cpus()
    if not found:
        raise UsageError(
            "netloom has no code for this machine's processor.",
            hint=f"It compiles for {', '.join(CPUS)}.",
        )
    return found[-1]
