"""Processor architectures: what host code, kernels and files of programs for one have in common,
whatever the level.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

from netloom.abi import ELF_MACHINES


@dataclass(frozen=True)
class Architecture:
    """``name``: LLVM's and Linux's; ``baseline``: LLVM's name of what every
    machine of it has; ``has_large_sections``: for data beyond the code's reach;
    ``oldest_glibc``: the first version; ``page``: bytes of the largest pages that its machines
    have; ``store_fence``: LLVM's name of what orders stores past the caches before later ones,
    where the architecture does not order them."""

    name: str
    baseline: str
    has_large_sections: bool
    oldest_glibc: tuple[int, ...]
    page: int
    store_fence: str = ""

    @property
    def triple(self) -> str:
        """LLVM's name of this architecture under Linux."""
        return f"{self.name}-unknown-linux-gnu"

    @property
    def elf_machine(self) -> int:
        """Its number in ELF files."""
        return ELF_MACHINES[self.name]

    @property
    def is_native(self) -> bool:
        """Whether this machine is one."""
        return platform.machine() == self.name


X86_64 = Architecture("x86_64", "x86-64", True, (2, 2, 5), 1 << 12, "llvm.x86.sse.sfence")
AARCH64 = Architecture("aarch64", "generic", False, (2, 17), 1 << 16)
