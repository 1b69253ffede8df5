"""Checkpoints: named tensors and metadata <-> a safetensors file.

Writing is atomic: a reader (or the next start after a crash) sees the old file or the new one,
never a torn one. Reading trusts nothing: header, offsets, dtypes and shapes are checked, and any
fault is a ProgramError. No pickle.
"""

from __future__ import annotations

import json
import os
import struct
import tokenize
import uuid
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from netloom.disk import sync_folder
from netloom.errors import ProgramError, UsageError

from .buffer import numpy_dtype

Array: TypeAlias = npt.NDArray[Any]
VERSION = 1
_METADATA_KEY = "netloom.checkpoint"
_HEADER_LIMIT = 100 << 20  # bytes, as in the format's own definition
# what NumPy and zipfile raise for files of arrays that are damaged or encrypted
DAMAGES: Final = (
    KeyError, TypeError, AttributeError, EOFError, RuntimeError, SyntaxError, OverflowError,
    ValueError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_CODES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_CODE_OF = {name: code for code, name in _CODES.items()}


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and what the trainer noted down; ``metadata`` is empty for files from
    elsewhere.
    """

    tensors: Mapping[str, Array]
    metadata: Mapping[str, Any] = field(default_factory=dict)


# -- writing ---------------------------------------------------------------------------------------


def write_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a safetensors file atomically; metadata must be JSON. OSError if the disk refuses,
    the old file intact; UsageError if no file can be there.
    """
    check_writable(path)
    target = Path(path)
    _sweep(target)
    temporary = target.parent / f".{target.name}.{os.getpid()}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            _write_tensors(file, checkpoint)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def _path(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise UsageError(f"a checkpoint cannot be named {path!r}.", hint="Give a path.") from None


def check_writable(path: str | os.PathLike[str]) -> None:
    """UsageError if a checkpoint cannot be written there; called before the work starts."""
    target = _path(path)
    is_taken = target.exists() and not target.is_file()  # by a folder or a device
    if is_taken or not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise UsageError(
            f"no checkpoint can be written to {str(target)!r}.",
            hint="Name a file in a writable folder.",
        )


def _write_tensors(file: Any, checkpoint: Checkpoint) -> None:
    note = json.dumps({"version": VERSION, **checkpoint.metadata})
    header: dict[str, Any] = {"__metadata__": {_METADATA_KEY: note}}
    arrays = [np.ascontiguousarray(array) for array in checkpoint.tensors.values()]
    offset = 0
    for (name, original), array in zip(checkpoint.tensors.items(), arrays, strict=True):
        header[name] = {
            "dtype": _CODE_OF[array.dtype.name],
            "shape": list(np.shape(original)),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for array in arrays:
        file.write(array.reshape(-1).view(np.uint8).data if array.size else b"")


def _sweep(target: Path) -> None:
    """Remove temporaries of this file that dead processes left behind."""
    for stale in target.parent.glob(f".{_escaped(target.name)}.*.tmp"):
        parts = stale.name.rsplit(".", 3)
        if parts[1].isdecimal() and not _is_alive(int(parts[1])):
            stale.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


# -- reading ---------------------------------------------------------------------------------------


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a safetensors or .npz file; ProgramError says what is wrong with a damaged or foreign
    one.
    """
    place = _path(path)
    try:
        is_npz = place.suffix == ".npz"
        return Checkpoint(read_npz(place)) if is_npz else _read_safetensors(place)
    except OSError as error:
        raise ProgramError(
            f"the checkpoint {str(place)!r} cannot be read: {error.strerror or error}."
        ) from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        struct.error,
        RecursionError,
    ) as error:
        raise ProgramError(f"{str(place)!r} is not a valid checkpoint: {error}.") from error


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, Array]:
    """The arrays of a .npz file, or those of the given names that it holds.

    ValueError says what is wrong with a file that is none or is damaged; OSError if it cannot be
    read.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            wanted = [name for name in archive.files if names is None or name in names]
            _check_packing(archive.zip.infolist())
            arrays = {name: archive[name] for name in wanted}
    except MemoryError as error:
        raise ValueError("an array does not fit in memory") from error
    except DAMAGES as error:
        raise ValueError(str(error) or "it is cut off") from error
    if strange := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{strange[0]!r} is not an array")
    return arrays


def _check_packing(entries: list[zipfile.ZipInfo]) -> None:
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if any(entry.compress_type not in known for entry in entries):
        raise ValueError("it is packed in a way that NumPy does not write")


def _read_safetensors(path: Path) -> Checkpoint:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(_HEADER_LIMIT, size - 8):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        header = json.loads(file.read(length), object_pairs_hook=_without_duplicates)
        data = file.read()
    note = header.pop("__metadata__", {}).get(_METADATA_KEY)
    _check_cover(header, len(data))
    tensors = {name: _tensor(entry, data) for name, entry in header.items()}
    return Checkpoint(tensors, _metadata(note))


def _metadata(note: str | None) -> Mapping[str, Any]:
    if note is None:
        return {}
    metadata = json.loads(note)
    version = metadata.pop("version")
    if version != VERSION:
        raise ValueError(f"its version is {version}, and this netloom reads version {VERSION}")
    return dict(metadata)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in its header")
    return found


def _check_cover(header: Mapping[str, Any], size: int) -> None:
    """The tensors must lie one after another and fill the data exactly."""
    position = 0
    for begin, end in sorted(tuple(entry["data_offsets"]) for entry in header.values()):
        if begin != position or end < begin:
            raise ValueError(f"its tensors do not lie one after another at byte {position}")
        position = end
    if position != size:
        raise ValueError(f"its tensors take {position} bytes, but {size} are there")


def _tensor(entry: Mapping[str, Any], data: bytes) -> Array:
    dtype = numpy_dtype(_CODES[entry["dtype"]])
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if not all(type(extent) is int and extent >= 0 for extent in shape):
        raise ValueError(f"{shape} is not a shape")
    count = 1
    for extent in shape:
        count *= extent
    if count * dtype.itemsize != end - begin:
        raise ValueError(f"a tensor of shape {shape} does not have {end - begin} bytes")
    array = np.frombuffer(data, dtype, count, begin).reshape(shape)
    return array.view(np.uint8) != 0 if dtype == np.bool_ else array.copy()
