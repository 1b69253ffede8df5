"""Processor architectures: what host code, kernels and files of programs for one have in common, whatever the level."""

from __future__ import annotations

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """``name``: LLVM's and Linux's; ``elf_machine``: its number in ELF files; ``baseline``: LLVM's name of what every
    machine of it has; ``has_large_sections``: for data beyond the code's reach; ``oldest_glibc``: the first version."""

    name: str
    elf_machine: int
    baseline: str
    has_large_sections: bool
    oldest_glibc: tuple[int, ...]

    @property
    def triple(self) -> str:
        """LLVM's name of this architecture under Linux."""
        return f"{self.name}-unknown-linux-gnu"

    @property
    def is_native(self) -> bool:
        """Whether this machine is one."""
        return NATIVE_NAMES.get(platform.machine(), platform.machine()) == self.name


NATIVE_NAMES = {"AMD64": "x86_64", "amd64": "x86_64", "arm64": "aarch64"}  # of other systems

X86_64 = Architecture("x86_64", 62, "x86-64", True, (2, 2, 5))
AARCH64 = Architecture("aarch64", 183, "generic", False, (2, 17))
