"""LLVM's version, as keys of the cache name it; LLVM itself is imported only where it is unknown.

The cache holds what a library said of itself, under what tells its file from others. So a program
whose code is all in the cache is compiled without LLVM, whose import takes longer than that.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ...cache import default_cache

_FILES = ("__init__.py", "_version.py", "binding/libllvmlite.so")


@cache
def llvm_version() -> str:
    """The versions of LLVM and of its binding."""
    store, files = default_cache(), identity_of("llvmlite", *_FILES)
    found = store.get("llvm", *files) if files else None
    if found is not None:
        return found.decode()
    import llvmlite
    import llvmlite.binding as llvm

    made = f"llvmlite {llvmlite.__version__}, LLVM {'.'.join(map(str, llvm.llvm_version_info))}"
    if files:
        store.put(made.encode(), "llvm", *files)
    return made


def identity_of(package: str, *files: str) -> tuple[str, ...]:
    """Places, sizes and times of a package's files that say which version it is; empty where it
    has others.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return ()
    folder = Path(spec.origin).parent
    try:
        status = [os.stat(folder / name) for name in files]
    except OSError:
        return ()
    return (str(folder), *(f"{s.st_size} {s.st_mtime_ns} {s.st_ino}" for s in status))
