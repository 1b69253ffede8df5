"""Kernels -> objects: one for each kernel, out of the cache or compiled, in this process or in
others.

An object depends on the text of the kernel's loops, the CPU level and the compiler only: it is
compiled under a name of fixed length and gets the kernel's own name afterwards, so programs share
cached objects. The bytes are the same whatever the cache held and however many processes there were. A kernel is
verified before it is compiled; the objects in the cache are of kernels that were.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from netloom.environment import most_workers
from netloom.errors import VerificationError

from ...cache import Cache, compiler_version, default_cache
from ...loops.ir import Kernel
from .llvm_version import llvm_version
from .machine import Cpu

KERNELS_PER_PROCESS = 6  # to compile, for which starting processes pays
SYMBOL = "kernel".ljust(128, "_")  # what every kernel is called while it is compiled


def compile_kernel_objects(
    kernels: Mapping[str, Kernel],
    digests: Mapping[str, str],
    cpu: Cpu,
    workers: int | None = None,
    cache: Cache | None = None,
) -> tuple[bytes, ...]:
    """Relocatable objects that define the kernels under their names, in the order of the names.

    ``digests``: of the texts of their loops, all under one name (kernel_table.py). Of ``kernels``
    only those are looked at that the cache lacks.
    ``workers``: the most processes that compile (default: NETLOOM_WORKERS, else one a processor);
    with 1 this process does. VerificationError names a kernel that breaks the loop IR's rules,
    ToolchainError one that cannot be compiled.
    """
    store = cache if cache is not None else default_cache()
    keys = {name: _key(digests[name], cpu) for name in sorted(kernels)}
    found = {name: store.get(*key) for name, key in keys.items()}
    missing = {name: kernels[name] for name, data in found.items() if data is None}
    if missing:
        from .kernel_compiler import compile_missing

        made = compile_missing(
            missing,
            cpu,
            _processes(len(missing), workers),
            lambda n, data: store.put(data, *keys[n]),
        )
        found |= dict(zip(missing, made, strict=True))
        store.trim()
    return tuple(_named(data, name) for name, data in found.items() if data is not None)


def _key(digest: str, cpu: Cpu) -> tuple[str, ...]:
    """All that decides an object's bytes."""
    return (
        "kernel",
        compiler_version(),
        llvm_version(),
        cpu.architecture.name,
        cpu.llvm_name,
        cpu.llvm_features,
        digest,
    )


def _processes(kernels: int, workers: int | None) -> int:
    """How many processes compile; 0 for a thread of this one, which does as well as one process."""
    most = workers or most_workers() or len(os.sched_getaffinity(0))
    count = min(most, kernels // KERNELS_PER_PROCESS)
    return count if count > 1 else 0


def _named(data: bytes, name: str) -> bytes:
    """The object with its kernel called ``name``: in the table of strings a shorter name takes
    the place, and zeros the rest.
    """
    old, new = SYMBOL.encode(), name.encode()
    if len(new) > len(old) or data.count(old) != 1:
        raise VerificationError(
            f"an object cannot be called by a name of {len(new)} letters.", node=name
        )
    return data.replace(old, new.ljust(len(old), b"\0"))
