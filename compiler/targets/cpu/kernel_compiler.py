"""Kernels that the cache lacks -> their objects: verified, written as LLVM text and compiled, each
under one name that all have until they get their own (kernel_objects.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ...loops.ir import Kernel
from ...loops.verify import verify_kernel
from .kernel_objects import SYMBOL
from .llvm import kernels_as_llvm
from .machine import Cpu
from .worker_pool import Keep, compile_texts


def compile_missing(
    kernels: Mapping[str, Kernel], cpu: Cpu, processes: int, keep: Keep
) -> list[bytes]:
    """The object of each kernel, in order; arguments and errors are those of ``compile_texts``
    (worker_pool.py), and VerificationError names a kernel that breaks the loop IR's rules.
    """
    return compile_texts(_texts(kernels, cpu), cpu, processes, keep)


def _texts(kernels: Mapping[str, Kernel], cpu: Cpu) -> Iterator[tuple[str, str]]:
    for name, kernel in kernels.items():
        verify_kernel(replace(kernel, name=name))
        yield name, kernels_as_llvm({SYMBOL: kernel}, cpu)
