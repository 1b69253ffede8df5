"""The ctypes binding of the C interface, generated from netloom/abi.py, and owners of its handles.

A handle is destroyed when its owner is collected; contexts and states keep their model, and a model
its code. Calls release the GIL.
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

from netloom import abi
from netloom.environment import most_threads
from netloom.errors import CpuFeatureError, InputError, NetloomError, ProgramError, UsageError

from .program import Manifest, check_architecture, check_file, parse_manifest

_SCALARS: Final = {
    "void": None,
    "uint8_t": ctypes.c_uint8,
    "uint16_t": ctypes.c_uint16,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "const char *": ctypes.c_char_p,
}
_HOOKS: Final = {hook.name for hook in abi.HOOKS}
_STRUCTS: dict[str, Any] = {}


def _ctype(spelling: str) -> Any:
    if spelling in _SCALARS:
        return _SCALARS[spelling]
    return ctypes.c_void_p if spelling.endswith("*") or spelling in _HOOKS else _STRUCTS[spelling]


def _structure(record: abi.Record) -> Any:
    fields = [(field.name, _ctype(field.type)) for field in record.fields]
    _STRUCTS[record.name] = type(
        record.name, (ctypes.Structure,), {"_fields_": fields, "__doc__": record.doc}
    )
    return _STRUCTS[record.name]


for _record in abi.DLPACK_RECORDS:
    _structure(_record)
DLTensor: Any = _STRUCTS["DLTensor"]
Options: Any = _structure(abi.OPTIONS)


class Api:
    """The table of functions of one program; ``owner`` keeps the code in memory."""

    def __init__(self, entry_point: int, owner: Any) -> None:
        get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(entry_point)
        table = get_api(abi.ABI_VERSION)
        if not table:
            raise ProgramError(
                f"The program does not offer interface version {abi.ABI_VERSION}.",
                hint="Compile the model again.",
            )
        pointers = (ctypes.c_void_p * len(abi.FUNCTIONS)).from_address(table + 8)
        self.owner = owner
        self.functions = {
            f.name: _prototype(f)(address)
            for f, address in zip(abi.FUNCTIONS, pointers, strict=True)
        }

    def __getitem__(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = self.functions[name]
        return function

    def open(self, name: str, *arguments: Any) -> int:
        """Calls a function whose last arguments are (handle out, error text); the handle, or the
        error raised.
        """
        handle, text = ctypes.c_void_p(), ctypes.create_string_buffer(abi.ERROR_CAPACITY)
        code = self.functions[name](*arguments, ctypes.byref(handle), text, abi.ERROR_CAPACITY)
        if code:
            raise error_of(code, text.value.decode(errors="replace"))
        return int(handle.value or 0)


@cache
def _prototype(signature: abi.Signature) -> Any:
    return ctypes.CFUNCTYPE(
        _ctype(signature.result), *(_ctype(argument.type) for argument in signature.arguments)
    )


def error_of(code: int, text: str) -> Exception:
    """The exception for an error code."""
    classes: dict[int, type[NetloomError]] = {
        abi.CODE["NL_ERROR_INPUT"]: InputError,
        abi.CODE["NL_ERROR_INDEX"]: InputError,
        abi.CODE["NL_ERROR_CPU"]: CpuFeatureError,
        abi.CODE["NL_ERROR_UNSUPPORTED"]: UsageError,
        abi.CODE["NL_ERROR_ARGUMENT"]: UsageError,
    }
    if code == abi.CODE["NL_ERROR_MEMORY"]:
        return MemoryError(text)
    if code == abi.CODE["NL_ERROR_BUSY"]:
        return UsageError("The context is in use by another thread.")
    return classes.get(code, ProgramError)(text or f"The program failed with code {code}.")


class Library:
    """A shared object in memory, unloaded when nothing uses it any more."""

    def __init__(self, path: Path) -> None:
        try:
            library = ctypes.CDLL(_loader_name(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
            self.entry_point = (
                ctypes.cast(getattr(library, abi.ENTRY_POINT), ctypes.c_void_p).value or 0
            )
        except (OSError, AttributeError) as error:
            raise ProgramError(f"The program {str(path)!r} cannot be loaded: {error}.") from error
        weakref.finalize(self, _ctypes.dlclose, library._handle).atexit = False


# of each path, in the order in which they were seen
_versions: dict[str, list[tuple[int, ...]]] = {}


def _loader_name(path: Path) -> str:
    """A name that the loader has not seen with other contents: it takes equal names for the same
    library.

    A file that was replaced since it was first opened gets one more "./" before its name.
    """
    status = path.stat()
    identity = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
    seen = _versions.setdefault(str(path), [])
    if identity not in seen:
        seen.append(identity)
    return f"{path.parent}/{'./' * seen.index(identity)}{path.name}"


class Model:
    """An open program."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.handle = api.open("open")
        weakref.finalize(self, _destroy, api, "close", self.handle).atexit = False
        self.manifest: Manifest = parse_manifest(api["metadata_json"](self.handle).decode())

    @staticmethod
    def load(path: Path) -> Model:
        """Opens a shared object after checking the file."""
        check_file(path)
        check_architecture(path)
        library = Library(path)
        return Model(Api(library.entry_point, library))


def _destroy(api: Api, name: str, handle: int) -> None:
    api[name](handle)


class Context:
    """Intermediate memory and threads: for one caller at a time. ``calls``: what a session has
    prepared for calls in it.
    """

    __slots__ = ("__weakref__", "calls", "handle", "model")

    def __init__(self, model: Model, threads: int) -> None:
        options = Options(size=ctypes.sizeof(Options), threads=threads)
        self.model = model
        self.calls: dict[tuple[Any, ...], Any] = {}
        handle, text = ctypes.c_void_p(), ctypes.create_string_buffer(abi.ERROR_CAPACITY)
        code = model.api["context_create"](
            model.handle, ctypes.addressof(options), ctypes.byref(handle), text, abi.ERROR_CAPACITY
        )
        if code:
            raise error_of(code, text.value.decode(errors="replace"))
        self.handle = int(handle.value or 0)
        weakref.finalize(self, _destroy_with, model, "context_destroy", self.handle)

    def error(self, code: int) -> Exception:
        """What the last failed call says."""
        return error_of(code, self.model.api["last_error"](self.handle).decode(errors="replace"))


def _destroy_with(model: Model, name: str, handle: int) -> None:
    """The model is an argument so that it outlives the handle."""
    model.api[name](handle)


class StateHandle:
    """Parameters, optimizer state, generator key and step count."""

    __slots__ = ("__weakref__", "handle", "model")

    def __init__(self, model: Model, handle: int) -> None:
        self.model, self.handle = model, handle
        weakref.finalize(self, _destroy_with, model, "state_destroy", handle)


def default_threads(manifest: Manifest) -> int:
    """The processors that the process may use, bounded by the cgroup's quota, NETLOOM_THREADS
    and the program.
    """
    counts = [len(os.sched_getaffinity(0)), _quota(), most_threads(), manifest.threads]
    return max(1, min(count for count in counts if count))


def _quota() -> int | None:
    """Whole processors of the cgroup's quota (version 2, or 1), rounded up; None: no quota."""
    quotas = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if not controllers:
            quotas += [
                _read_quota(folder / "cpu.max")
                for folder in _upwards(Path("/sys/fs/cgroup"), place)
            ]
        elif "cpu" in controllers.split(","):
            for folder in _upwards(Path("/sys/fs/cgroup") / controllers, place):
                quotas.append(
                    _read_quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
                )
    return min((quota for quota in quotas if quota), default=None)


def _upwards(root: Path, place: str) -> list[Path]:
    folder = root / place.lstrip("/")
    return [
        folder,
        *(parent for parent in folder.parents if parent == root or root in parent.parents),
    ]


def _read_quota(*paths: Path) -> int | None:
    try:
        quota, period, *_ = " ".join(path.read_text() for path in paths).split()
        return max(1, -(-int(quota) // int(period))) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such file, or "max"
        return None
