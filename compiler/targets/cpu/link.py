"""Objects -> a shared object, through the linker that the machine has: ld, cc, ld.lld, or the one
in the ziglang wheel; for another architecture the tools of that name (aarch64-linux-gnu-ld), ld.lld
or the one in the wheel.

The C library is represented by stand-ins that list the functions a program may use with their
oldest symbol versions. So the result does not depend on the C library of the machine that links
(nor on its development files), needs nothing newer than GLIBC_2.17, and a call to any other
function is an error here instead of on the user's machine.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from netloom import abi
from netloom.environment import tool_environment
from netloom.errors import LinkError

from .architecture import X86_64, Architecture

_SECONDS = 600  # after which a linker is given up
_MATH = (
    "acos", "asin", "atan", "atan2", "ceil", "copysign", "cos", "cosh", "erf", "exp", "exp2",
    "expm1", "fabs",
    "floor", "fma", "fmax", "fmin", "fmod", "ldexp", "log", "log10", "log1p", "log2", "nearbyint",
    "pow",
    "rint", "round", "sin", "sinh", "sqrt", "tan", "tanh", "trunc",
)  # fmt: skip


@dataclass(frozen=True)
class Library:
    """A library that every Linux machine with glibc has: functions by the version of their
    symbols.
    """

    name: str
    functions: Mapping[str, tuple[str, ...]]


LIBRARIES = (
    Library(
        "libc.so.6",
        {
            "GLIBC_2.2.5": (
                "bcmp",
                "calloc",
                "free",
                "getenv",
                "getpid",
                "madvise",
                "memcmp",
                "memcpy",
                "memmove",
                "memset",
                "mmap",
                "mprotect",
                "munmap",
                "posix_memalign",
                "snprintf",
                "strcmp",
                "strlen",
            ),
            "GLIBC_2.3.4": ("sched_getaffinity", "sched_setaffinity"),
            "GLIBC_2.6": ("sched_getcpu",),
            "GLIBC_2.17": ("clock_gettime",),
        },
    ),
    Library(
        "libm.so.6", {"GLIBC_2.2.5": tuple(name + suffix for name in _MATH for suffix in ("", "f"))}
    ),
    Library(
        "libpthread.so.0",
        {
            "GLIBC_2.2.5": (
                "pthread_create",
                "pthread_join",
                "pthread_mutex_lock",
                "pthread_mutex_unlock",
                "pthread_sigmask",
            ),
            "GLIBC_2.3.2": ("pthread_cond_broadcast", "pthread_cond_wait"),
        },
    ),
)


def link_shared_object(
    objects: Sequence[Path], output: Path, folder: Path, architecture: Architecture
) -> None:
    """Links objects into ``output``, which exports nl_get_api alone; ``folder`` is private room
    for temporary files.
    """
    from .stand_ins import write_stand_in

    command = find_linker(architecture)
    libraries = [write_stand_in(command, library, folder, architecture) for library in LIBRARIES]
    exports = folder / "exports.map"
    exports.write_text(f"{{ global: {abi.ENTRY_POINT}; local: *; }};\n")
    arguments = [
        "-shared",
        "--build-id=none",
        "--hash-style=gnu",
        "-z",
        "relro",
        "-z",
        "now",
        "-z",
        "noexecstack",
        "-z",
        "defs",
        "--strip-all",
        "--as-needed",
        f"--version-script={exports}",
        "-o",
        str(output),
        *map(str, objects),
        *map(str, libraries),
    ]
    run_linker(command, arguments)


@dataclass(frozen=True)
class Linker:
    """A command; ``is_driver``: a compiler driver, which hands its linker what follows -Wl."""

    command: tuple[str, ...]
    is_driver: bool = False

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells it from another linker: the command, and its file's size and time."""
        try:
            status = os.stat(self.command[0])
        except OSError:  # running it will say why
            return self.command
        return (*self.command, str(status.st_size), str(status.st_mtime_ns))

    def line(self, arguments: Sequence[str]) -> list[str]:
        if not self.is_driver:
            return [*self.command, *arguments]
        wrapped = [part for argument in arguments for part in ("-Xlinker", argument)]
        return [*self.command, "-shared", "-nostdlib", *wrapped]


def find_linker(architecture: Architecture = X86_64) -> Linker:
    """The first linker there is for the architecture; LinkError if there is none."""
    cross = f"{architecture.name}-linux-gnu-"
    own = (
        (("ld", False), ("cc", True))
        if architecture.is_native
        else ((f"{cross}ld", False), (f"{cross}gcc", True))
    )
    for name, is_driver in (*own, ("ld.lld", False)):
        if path := shutil.which(name):
            return Linker((path,), is_driver)
    if importlib.util.find_spec("ziglang"):
        return Linker((sys.executable, "-m", "ziglang", "ld.lld"))
    if architecture.is_native:
        raise LinkError(
            "No linker was found: neither ld, nor cc, nor ld.lld, nor the ziglang package.",
            hint="Install binutils, or run: pip install ziglang. Programs in process need no "
            "linker.",
        )
    raise LinkError(
        f"No linker for {architecture.name} was found: neither {cross}ld, nor {cross}gcc, nor "
        "ld.lld, nor the ziglang package.",
        hint=f"Install binutils-{architecture.name}-linux-gnu, or run: pip install ziglang. An "
        "object (.o) needs no linker.",
    )


def run_linker(linker: Linker, arguments: Sequence[str]) -> None:
    try:
        result = subprocess.run(
            linker.line(arguments),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            env=tool_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LinkError(f"The linker {linker.command[0]} could not be run: {error}.") from error
    if result.returncode:
        raise LinkError(f"The linker {linker.command[0]} failed: {result.stderr.strip()[:2000]}")


def symbol_versions(library: Library, architecture: Architecture) -> dict[str, list[str]]:
    """A library's functions by version: none is older than the architecture's first glibc."""
    found: dict[str, list[str]] = {}
    for version, names in library.functions.items():
        numbers = tuple(map(int, version.removeprefix("GLIBC_").split(".")))
        found.setdefault(
            f"GLIBC_{'.'.join(map(str, max(numbers, architecture.oldest_glibc)))}", []
        ).extend(names)
    return found
