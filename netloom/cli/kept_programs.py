"""Whole programs, kept by the model's file and the options that they were compiled from: compiling
the same again is a copy.

A program lies in a folder of the cache as it was written, under the digest that its own trailer
records (netloom/abi.py), which is compared while it is copied. What must be known besides is an
entry of the cache. The digest of a model takes longer than reading it, so it is waited for only
where a model of the same size was compiled in the same way before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import netloom
from netloom import abi
from netloom.compiler.cache import Cache, compiler_version, default_cache, digest_of_sources
from netloom.compiler.targets.cpu.features import present_features
from netloom.compiler.targets.cpu.llvm_version import identity_of, llvm_version
from netloom.compiler.targets.cpu.whole_files import replace_program
from netloom.frontends import onnx as frontend
from netloom.frontends.onnx.model_bytes import Reading

LIMIT = 1 << 30  # bytes of all programs that are kept
LARGEST = LIMIT // 4  # bytes of a program that is kept
_BLOCK = 1 << 20  # bytes that are copied at a time
_AHEAD = 8  # blocks that are copied before they are in the digest


class _Damaged(Exception):
    """A program does not have the digest under which it was kept."""


@dataclass(frozen=True)
class Request:
    """A model's file and what it is compiled with, options and linker, as texts. Together with the machine's
    features and the versions of all that takes part, these decide every byte of the program.
    """

    model: Reading
    options: Sequence[str]

    def answer(self, target: Path) -> Mapping[str, Any] | None:
        """What was said of the program when it was kept, once it lies at ``target`` with its
        header; None, and no file, if it is not kept.
        """
        store = default_cache()
        if store.get(*self._sized) is None or (found := store.get(*self._named)) is None:
            return None
        entry = json.loads(found)
        programs = programs_of(store)
        if (program := programs.open_file(entry["digest"])) is None:
            return None
        with program:
            try:
                replace_program(target, lambda place: _copy(program, place, entry), entry["header"])
            except _Damaged:
                programs.remove(entry["digest"])
                return None
        said: dict[str, Any] = entry["said"]
        return said

    def keep(self, target: Path, digest: bytes, said: Mapping[str, Any]) -> None:
        """Keep the program at ``target``, whose contents have this digest, and what to say of it;
        unless it is large, or its model read other files.
        """
        with contextlib.suppress(OSError):  # a cache is only ever a saving
            self._keep(target, digest, said)

    def _keep(self, target: Path, digest: bytes, said: Mapping[str, Any]) -> None:
        store, size = default_cache(), target.stat().st_size - abi.TRAILER_SIZE
        if store.folder is None or size > LARGEST or self.model.outside:
            return
        header = target.with_suffix(".h").read_text(encoding="utf-8")
        entry = {"digest": digest.hex(), "size": size, "header": header, "said": dict(said)}
        programs = programs_of(store)
        programs.put_file(target, digest.hex())
        programs.trim(LIMIT, LIMIT // 4)
        store.put(json.dumps(entry, sort_keys=True).encode(), *self._named)
        store.put(b"", *self._sized)

    @property
    def _named(self) -> tuple[str, ...]:
        return "program", self.model.digest.result(), *self._how

    @property
    def _sized(self) -> tuple[str, ...]:
        return "program of a size", str(len(self.model.contents.result())), *self._how

    @cached_property
    def _how(self) -> tuple[str, ...]:
        sources = [digest_of_sources(package.__path__[0]) for package in (netloom, frontend)]
        packages = (" ".join(identity_of(name, "__init__.py")) for name in ("onnx", "numpy"))
        features = " ".join(sorted(present_features()))
        return compiler_version(), *sources, llvm_version(), *packages, features, *self.options


def programs_of(store: Cache) -> Cache:
    """The programs that are kept in a cache."""
    return Cache(None if store.folder is None else store.folder / "programs")


def _copy(program: BinaryIO, place: Path, entry: Mapping[str, Any]) -> None:
    """Copies a program to a new file and sends it to the disk; _Damaged if it is not the one that
    was kept.
    """
    digest, left = hashlib.sha256(), entry["size"]
    ahead: deque[Future[None]] = deque()
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o775)
    with open(descriptor, "wb", buffering=0) as copy, ThreadPoolExecutor(1) as pool:
        os.posix_fallocate(descriptor, 0, left + abi.TRAILER_SIZE)
        while block := program.read(min(_BLOCK, left)):
            ahead.append(pool.submit(digest.update, block))
            left -= copy.write(block)
            if len(ahead) > _AHEAD:
                ahead.popleft().result()
        while ahead:
            ahead.popleft().result()
        if left or digest.hexdigest() != entry["digest"]:
            raise _Damaged
        copy.write(abi.trailer(entry["size"], digest.digest()))
        os.fsync(descriptor)


__all__ = ["LIMIT", "Request", "programs_of"]
