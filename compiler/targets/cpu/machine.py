"""CPUs as netloom sees them: instruction-set levels, what each needs and holds."""

from __future__ import annotations

from dataclasses import dataclass

from netloom.errors import UsageError

from ...loops.build import Machine


@dataclass(frozen=True)
class Cpu:
    """One instruction-set level: LLVM's name and extra features, what a machine must have, registers for tiling."""

    name: str
    llvm_features: str
    required: tuple[str, ...]
    has_fma: bool
    machine: Machine


_V3 = ("avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

CPUS: dict[str, Cpu] = {
    cpu.name: cpu
    for cpu in (
        Cpu("x86-64-v2", "", ("ssse3", "sse4.1", "sse4.2", "popcnt"), False, Machine(vectors=4)),
        Cpu("x86-64-v3", "", _V3, True, Machine(vectors=8)),
        # LLVM tunes this level for 256-bit vectors; netloom's tiles are made for whole 512-bit registers.
        Cpu("x86-64-v4", "-prefer-256-bit", _V4, True, Machine(vectors=32)),
    )
}


def cpu_named(name: str) -> Cpu:
    """The level of that name; ``host`` is the highest that this machine has."""
    if name == "host":
        return host_cpu()
    if name not in CPUS:
        raise UsageError(f"there is no CPU level {name!r}.", hint=f"Choose host, {', '.join(CPUS)}.")
    return CPUS[name]


def host_cpu() -> Cpu:
    """The highest level of which this machine has every feature."""
    import llvmlite.binding as llvm

    present = llvm.get_host_cpu_features()
    names = [cpu for cpu in CPUS.values() if all(present.get(feature, False) for feature in cpu.required)]
    if not names:
        raise UsageError("this machine is older than x86-64-v2, the oldest level that netloom compiles for.")
    return names[-1]
