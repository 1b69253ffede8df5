"""Kernels -> objects. The order and the split depend on the kernels only, so the bytes do too."""

from __future__ import annotations

from collections.abc import Mapping

from ...loops.ir import Kernel
from .llvm import compile_kernels
from .machine import Cpu

KERNELS_PER_OBJECT = 16


def compile_in_workers(kernels: Mapping[str, Kernel], cpu: Cpu) -> list[bytes]:
    """Relocatable objects that define all kernels."""
    names = sorted(kernels)
    parts = [names[i : i + KERNELS_PER_OBJECT] for i in range(0, len(names), KERNELS_PER_OBJECT)]
    return [compile_kernels({name: kernels[name] for name in part}, cpu) for part in parts]
