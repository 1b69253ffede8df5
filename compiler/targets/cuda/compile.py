"""Kernel source -> PTX -> cubins, without a driver: the one module that knows numba-cuda's and
nvJitLink's interfaces.

PTX is made for the oldest architecture, and each architecture's cubin is linked from it, unless the
kernel has a source of the architecture's own. A cubin passes the gates or is
refused: no float64 instruction unless the kernel's types hold one, no spills, no stack, no products
that wait more than they say, no more shared memory than a block can have. Results are cached by content.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import importlib.metadata
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from netloom.errors import ToolchainError, VerificationError

from ...cache import Cache, default_cache
from ...tensor_type import BFLOAT16, BOOL, FLOAT16, FLOAT64, DType
from .source import KernelSource

ARCHITECTURES = ("sm_80", "sm_90a")  # general PTX is made for the first
_CAPABILITIES = {"sm_80": (8, 0), "sm_90a": (9, 0, "a")}
# bytes of a block's shared memory: without asking for more at launch, and at most (CUDA C++
# Programming Guide 13.0, table of compute capabilities)
STATIC_SHARED = 48 << 10
_MOST_SHARED = {"sm_80": 163 << 10, "sm_90a": 227 << 10}
_PACKAGES = ("numba", "numba-cuda", "llvmlite", "nvidia-nvjitlink")
_HINT = "Install netloom[cuda]."
_SHARED_ARRAY = re.compile(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d+)\];")


@dataclass(frozen=True)
class Binary:
    """A kernel for one architecture. ``shared``: bytes of a block's memory; ``is_dynamic``: whether
    they must be asked for at launch."""

    architecture: str
    cubin: bytes
    registers: int
    shared: int
    is_dynamic: bool = False


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel's code: PTX for reading and the emulator, cubins for devices."""

    name: str  # of the entry in PTX and cubins
    ptx: str  # for the oldest architecture
    binaries: tuple[Binary, ...]


@cache
def versions() -> Mapping[str, str]:
    """The tools' versions; ToolchainError if one is missing."""
    try:
        return {name: importlib.metadata.version(name) for name in _PACKAGES}
    except importlib.metadata.PackageNotFoundError as error:
        raise ToolchainError(
            f"the cuda target needs the package {error.name}, which is not installed.", hint=_HINT
        ) from error


def is_available() -> bool:
    """Whether kernels can be compiled here."""
    try:
        return bool(versions())
    except ToolchainError:
        return False


def compile_kernel(
    source: KernelSource,
    architectures: Sequence[str] = ARCHITECTURES,
    cache_folder: Path | None = None,
) -> CompiledKernel:
    """The kernel's code for these architectures, kept in the user's cache or in another folder.
    VerificationError names a gate that it does not pass.

    A kernel that spills where several of its blocks share a multiprocessor's registers gets those
    of fewer blocks.
    """
    try:
        return _compiled(source, architectures, store_of(cache_folder))
    except VerificationError:
        if source.blocks == 1:
            raise
        return compile_kernel(
            replace(source, blocks=source.blocks - 1), architectures, cache_folder
        )


def _compiled(source: KernelSource, architectures: Sequence[str], store: Cache) -> CompiledKernel:
    name = f"k_{hashlib.sha256(source.key.encode()).hexdigest()[:24]}"
    binaries = tuple(_best_binary(source, name, a, store) for a in architectures)
    general = replace(source, special=())
    return CompiledKernel(name, _checked_ptx(general, name, ARCHITECTURES[0], store), binaries)


def _best_binary(source: KernelSource, name: str, architecture: str, store: Cache) -> Binary:
    """Of the first of the architecture's own sources that passes the gates; else of the last, the
    general one. One that the oldest has too is linked from the oldest's PTX.
    """
    *own, general = source.of(architecture)
    for special in own:
        is_shared = (ARCHITECTURES[0], special) in source.special
        target = ARCHITECTURES[0] if is_shared else architecture
        with suppress(VerificationError):
            return _binary(special, name, target, architecture, store)
    return _binary(general, name, ARCHITECTURES[0], architecture, store)


def ptx_of(source: KernelSource, name: str, architecture: str) -> str:
    """The checked PTX of a source for an architecture, from the user's cache if it is there."""
    return _checked_ptx(source, name, architecture, default_cache())


def _checked_ptx(source: KernelSource, name: str, architecture: str, store: Cache) -> str:
    key = ("cuda ptx", *_content(source, name, architecture))
    known = store.get(*key)
    if known is not None:
        return known.decode()
    text = make_ptx(source, name, architecture)
    check_ptx(text, source)
    store.put(text.encode(), *key)
    return text


def make_ptx(source: KernelSource, name: str, architecture: str) -> str:
    """PTX with one entry of that name."""
    versions()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("numba").setLevel(logging.ERROR)
        compiler = importlib.import_module("numba.cuda.compiler")
        intrinsics = importlib.import_module("netloom.compiler.targets.cuda.intrinsics")
        function = _function(source, intrinsics)
        types = importlib.import_module("numba.types")
        pointers = [intrinsics.pointer_type(dtype) for dtype in source.arguments]
        signature = (*pointers, *([types.int32] * source.symbols), types.CPointer(types.int32))
        bounds = (source.threads, source.blocks)
        with _garbage_kept():
            ptx, _ = compiler.compile(
                function,
                signature,
                device=False,
                abi="numba",
                cc=_CAPABILITIES[architecture],
                launch_bounds=bounds,
            )
    entry = re.search(r"\.visible \.entry (\w+)\(", ptx)
    if entry is None:
        raise ToolchainError("numba-cuda gave PTX without an entry.")
    return re.sub(
        r"\.common \.global [^\n]*NumbaEnv[^\n]*\n", "", ptx.replace(entry.group(1), name)
    )


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Numba makes so many small objects that Python's search for garbage among them takes a seventh of
    the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _function(source: KernelSource, intrinsics: Any) -> Any:
    """The source's function over its intrinsics and literals."""
    names = {name: intrinsics.intrinsic_named(name) for name in source.intrinsics}
    types = importlib.import_module("numba.types")
    literals = {name: _scalar(dtype, bits) for name, dtype, bits in source.numbers}
    scope: dict[str, Any] = {**names, **literals, "int32": types.int32, "range": range}
    exec(compile(source.text, "<kernel>", "exec"), scope)  # noqa: S102  (the text is ours: no name of a model is in it)
    return scope["kernel"]


def _scalar(dtype: DType, bits: bytes) -> Any:
    if dtype in (FLOAT16, BFLOAT16):
        return np.frombuffer(bits, np.uint16)[0]
    value = np.frombuffer(bits, dtype.numpy)[0]
    return bool(value) if dtype is BOOL else value


def check_ptx(ptx: str, source: KernelSource) -> None:
    """VerificationError if the PTX holds float64 instructions that its types do not, or memory
    of a thread's own.
    """
    has_double = FLOAT64 in source.arguments or "float64" in " ".join(source.intrinsics)
    if not has_double and re.search(r"\.f64\b", ptx):
        raise VerificationError(
            "a kernel without float64 values was compiled to float64 instructions."
        )
    if re.search(r"\.local\b", ptx):
        raise VerificationError("a kernel was compiled to code that uses local memory.")


def _binary(
    source: KernelSource, name: str, target: str, architecture: str, store: Cache
) -> Binary:
    """A source's binary, by PTX for the target."""
    key = ("cuda binary", architecture, *_content(source, name, target))
    known = store.get(*key)
    if known is not None:
        facts, _, cubin = known.partition(b"\n")
        return Binary(cubin=cubin, **json.loads(facts))
    made = link(_checked_ptx(source, name, target, store), name, architecture)
    record = {key: value for key, value in asdict(made).items() if key != "cubin"}
    store.put(json.dumps(record, sort_keys=True).encode() + b"\n" + made.cubin, *key)
    return made


def link(ptx: str, name: str, architecture: str) -> Binary:
    """PTX -> cubin by nvJitLink, checked for spills, stack and shared memory."""
    ptx, dynamic = with_dynamic_shared(ptx, architecture)
    try:
        linker = importlib.import_module("cuda.bindings.nvjitlink")
    except ImportError as error:
        raise ToolchainError(f"nvJitLink cannot be loaded: {error}.", hint=_HINT) from error
    handle = linker.create(2, [f"-arch={architecture}", "-Xptxas=-v"])
    try:
        data = ptx.encode()
        try:
            linker.add_data(handle, linker.InputType.PTX, data, len(data), name)
            linker.complete(handle)
        except linker.nvJitLinkError as error:
            raise ToolchainError(
                f"nvJitLink refused a kernel: {_log(linker, handle, 'error')[:400]}"
            ) from error
        cubin = bytearray(linker.get_linked_cubin_size(handle))
        linker.get_linked_cubin(handle, cubin)
        log = _log(linker, handle, "info")
    finally:
        linker.destroy(handle)
    registers, static = _resources(log)
    return Binary(architecture, bytes(cubin), registers, static + dynamic, dynamic > 0)


def with_dynamic_shared(ptx: str, architecture: str) -> tuple[str, int]:
    """PTX whose shared memory is without a size if it is more than STATIC_SHARED, and how many
    bytes its launch must ask for then, else 0; VerificationError if no launch can.

    Compiled PTX declares each array with its size, whatever it is: that is the one place where the
    size stands, and what the emulator runs. The linker takes no more than STATIC_SHARED in this way.
    """
    arrays = _SHARED_ARRAY.findall(ptx)
    total = sum(int(size) for *_, size in arrays)
    if total <= STATIC_SHARED:
        return ptx, 0
    if len(arrays) > 1 or total > _MOST_SHARED[architecture]:
        raise VerificationError(
            f"a kernel needs {total} bytes of shared memory in {len(arrays)} arrays; a block of "
            f"{architecture} has {_MOST_SHARED[architecture]} in one."
        )
    ((alignment, name, _),) = arrays
    outside = f".extern .shared .align {alignment} .b8 {name}[];\n.visible .entry"
    return _SHARED_ARRAY.sub("", ptx).replace(".visible .entry", outside, 1), total


def _log(linker: Any, handle: Any, kind: str) -> str:
    size = getattr(linker, f"get_{kind}_log_size")(handle)
    text = bytearray(size)
    if size:
        getattr(linker, f"get_{kind}_log")(handle, text)
    return text.decode(errors="replace").rstrip("\0")


def _resources(log: str) -> tuple[int, int]:
    """(registers, bytes of shared memory) of a clean kernel."""
    # the assembler's notes on wgmma: products serialized, or waits and fences added to them
    note = re.search(r"\(C75\d\d\)[^\n]*", log)
    if note:
        raise VerificationError(
            f"a kernel's products by warpgroups wait more than they say: {note[0]}"
        )
    used = re.search(r"Used (\d+) registers", log)
    memory = re.search(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log
    )
    if used is None or memory is None:
        raise ToolchainError(f"nvJitLink's log cannot be read: {log[:200]!r}.")
    if any(map(int, memory.groups())):
        raise VerificationError(f"a kernel does not fit its registers: {memory.group(0)}.")
    shared = re.search(r"(\d+) bytes smem", log)
    return int(used.group(1)), int(shared.group(1)) if shared else 0


# -- the cache: entries named by all that decides their contents -----------------------------------


def store_of(folder: Path | None) -> Cache:
    """A folder's cache, else the user's."""
    return default_cache() if folder is None else Cache(folder)


@cache
def _tool_key() -> str:
    here = Path(__file__).parent
    own = b"".join(
        path.read_bytes()
        for path in (*sorted((here / "intrinsics").glob("*.py")), here / "compile.py")
    )
    return json.dumps(versions(), sort_keys=True) + hashlib.sha256(own).hexdigest()


def _content(source: KernelSource, name: str, target: str) -> tuple[str, ...]:
    return _tool_key(), name, target, source.key
