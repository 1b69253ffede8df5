"""A program's kernels by name. What a program must know of a kernel besides its code is its outline;
the loops themselves are built only where they are needed: for code that the cache lacks, or texts.

An outline is kept in the cache under all that decides the loops: the text of the kernel's graph, the
machine that they are tiled for, the compiler's sources, and what computes the numbers that stand in
them (Python, NumPy, the C library). Kernels that hold an op from outside the compiler are never
looked up, because no key has its source. Loops that do not have the digest of their outline are a
defect, and an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from netloom.errors import VerificationError

from .cache import Cache, compiler_version
from .dim import Extent, Symbol, parse_extent
from .graph import Graph
from .loops.build import Machine, build_kernel
from .loops.ir import Kernel
from .loops.text import print_kernel
from .ops import OWN


@dataclass(frozen=True)
class Outline:
    """What launching a kernel takes: its free dims in order, its work items, and the SHA-256 of
    its loops' text.
    """

    symbols: tuple[Symbol, ...]
    items: Extent
    digest: str


class KernelTable(Mapping[str, Kernel]):
    """Kernels by name. Loops are built from a kernel's graph when they are asked for."""

    def __init__(self, machine: Machine, store: Cache) -> None:
        self.machine, self.store = machine, store
        self.digests: dict[str, str] = {}  # of the loops' texts, by name
        self._bodies: dict[str, Graph] = {}
        self._loops: dict[str, Kernel] = {}  # by digest
        self._unsaved: dict[tuple[str, ...], bytes] = {}

    def outline(self, body: Graph, text: str) -> Outline:
        """The outline of a graph with this text (without labels)."""
        key = _key(body, text, self.machine)
        data = self.store.get(*key) if key else None
        found = _read(data) if data is not None else None
        if found is not None:
            return found
        kernel = build_kernel("kernel", body, self.machine)
        made = Outline(kernel.symbols, kernel.items, _digest(kernel))
        self._loops.setdefault(made.digest, kernel)
        if key and _read(_written(made)) == made:
            self._unsaved[key] = _written(made)
        return made

    def add(self, name: str, body: Graph, outline: Outline) -> None:
        self._bodies[name], self.digests[name] = body, outline.digest

    def save(self) -> None:
        """Keep the outlines that the cache lacked; to be called when the kernels' code is there."""
        for key, data in self._unsaved.items():
            self.store.put(data, *key)
        self._unsaved.clear()

    def __getitem__(self, name: str) -> Kernel:
        digest = self.digests[name]
        if digest not in self._loops:
            kernel = build_kernel("kernel", self._bodies[name], self.machine)
            if _digest(kernel) != digest:
                raise VerificationError("its loops are not those that its outline describes",
                                        node=name, hint="Run: netloom cache clear.")  # fmt: skip
            self._loops[digest] = kernel
        return self._loops[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(self.digests)

    def __len__(self) -> int:
        return len(self.digests)


def _key(body: Graph, text: str, machine: Machine) -> tuple[str, ...]:
    """All that decides the loops; empty if something does that has no place in a key."""
    if not all(node.op in OWN for _, node in body.walk()):
        return ()
    return ("outline", compiler_version(), _numbers_version(), repr(machine), text)


@cache
def _numbers_version() -> str:
    """What computes the constants that are written into loops."""
    return (
        f"Python {platform.python_version()}, NumPy {np.__version__}, "
        f"{os.confstr('CS_GNU_LIBC_VERSION')}"
    )


def _digest(kernel: Kernel) -> str:
    return hashlib.sha256(print_kernel(kernel, "kernel").encode()).hexdigest()


def _written(outline: Outline) -> bytes:
    symbols = [(s.name, s.lo, s.hi if s.hi is None else str(s.hi)) for s in outline.symbols]
    return json.dumps([symbols, str(outline.items), outline.digest]).encode()


def _read(data: bytes) -> Outline | None:
    """The inverse of ``_written``; None for what it cannot have written."""
    try:
        rows, items, digest = json.loads(data)
        symbols = tuple(Symbol(name, lo, hi if hi is None else int(hi)) for name, lo, hi in rows)
        by_name = {symbol.name: symbol for symbol in symbols}
        return Outline(symbols, parse_extent(items, by_name), digest)
    except (ValueError, TypeError):
        return None


__all__ = ["KernelTable", "Outline"]
