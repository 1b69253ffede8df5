"""Files that were tampered with: checkpoints, programs, data sets, arrays. Whatever the bytes are,
the reader gives what they say or one typed error; a changed program is never taken for whole.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import netloom as nl
from netloom.compiler.cache import Cache
from netloom.errors import InputError, NetloomError, ProgramError, UsageError
from netloom.frontends import datasets
from netloom.runtime.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from netloom.runtime.cuda.program import DIGEST_BYTES, HEADER, MAGIC, parse_program
from netloom.runtime.program import verify_file

from .mutation import mutate_bytes

TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "empty": np.zeros((0, 3), np.int32),
    "mask": np.array([True, False]),
}
ODD = (None, True, -1, 0, 1.5, 1 << 70, "", "F32", [], {}, [[]], {"a": 1}, "\0", float("nan"))


def spoil(value: Any, rng: random.Random) -> Any:
    """JSON with one part replaced, taken out or moved."""
    places: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        current = stack.pop()
        keys = (
            current.keys()
            if isinstance(current, dict)
            else range(len(current))
            if isinstance(current, list)
            else ()
        )
        places += [(current, key) for key in keys]
        stack += [current[key] for key in keys]
    if not places:
        return rng.choice(ODD)
    holder, key = rng.choice(places)
    match rng.randrange(3):
        case 0:
            del holder[key]
        case 1:
            other, name = rng.choice(places)
            if name in other if isinstance(other, dict) else name < len(other):
                holder[key] = json.loads(json.dumps(other[name]))
        case _:
            holder[key] = rng.choice(ODD)
    return value


# -- checkpoints -----------------------------------------------------------------------------------


def safetensors(folder: Path) -> bytes:
    write_checkpoint(folder / "c", Checkpoint(TENSORS, {"epoch": 3}))
    return (folder / "c").read_bytes()


def npz(folder: Path, save: Callable[..., None] = np.savez) -> bytes:
    with (folder / "c").open("wb") as file:
        save(file, **TENSORS)
    return (folder / "c").read_bytes()


def packed_npz(folder: Path) -> bytes:
    return npz(folder, np.savez_compressed)


def is_read(path: Path) -> bool:
    try:
        return bool(read_checkpoint(path)) or True
    except ProgramError as error:
        assert str(error)
        return False


@pytest.mark.parametrize(
    ("make", "name"), [(safetensors, "c.safetensors"), (npz, "c.npz"), (packed_npz, "p.npz")]
)
def test_checkpoints_of_changed_bytes(
    make: Callable[[Path], bytes], name: str, tmp_path: Path, shapes: int
) -> None:
    data, rng = make(tmp_path), random.Random(name)
    (tmp_path / name).write_bytes(data)
    assert is_read(tmp_path / name)  # the control
    refused = 0
    for _ in range(10 * shapes):
        (tmp_path / name).write_bytes(mutate_bytes(data, rng))
        refused += not is_read(tmp_path / name)
    assert refused > shapes


def test_checkpoints_of_changed_headers(tmp_path: Path, shapes: int) -> None:
    data, rng = safetensors(tmp_path), random.Random(0)
    size = int.from_bytes(data[:8], "little")
    for _ in range(10 * shapes):
        header = spoil(json.loads(data[8 : 8 + size]), rng)
        text = json.dumps(header).encode()
        (tmp_path / "d").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
        is_read(tmp_path / "d")


def lying_npy(shape: str) -> bytes:
    """A .npz file whose array claims a shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
    return file.getvalue()


@pytest.mark.parametrize(
    "shape", ["(1 << 60,)", "(1152921504606846976,)", "(-1,)", "(10**9, 10**9)", "'x'", "(2,)", "("]
)
def test_arrays_that_lie_about_their_size(shape: str, tmp_path: Path) -> None:
    (tmp_path / "c.npz").write_bytes(lying_npy(shape))
    assert not is_read(tmp_path / "c.npz")


# -- programs --------------------------------------------------------------------------------------


def test_every_change_of_a_program_is_found(tmp_path: Path, shapes: int) -> None:
    nl.compile(nl.zoo.mlp(features=4, hidden=(3,), classes=2)).save(tmp_path / "m.so")
    data, rng = (tmp_path / "m.so").read_bytes(), random.Random(0)
    verify_file(tmp_path / "m.so")  # the control
    for _ in range(3 * shapes):
        if (changed := mutate_bytes(data, rng)) != data:
            (tmp_path / "m.so").write_bytes(changed)
            with pytest.raises(ProgramError):
                verify_file(tmp_path / "m.so")


def device_program(manifest: Any, blobs: bytes) -> bytes:
    text = json.dumps(manifest).encode()
    body = HEADER.pack(MAGIC, len(text)) + text + blobs
    return body + hashlib.sha256(body).digest()


PORT = {"name": "x", "dtype": "float32", "shape": ["N", 2], "extents": [[[1, ["N"]]], 2]}
MANIFEST: dict[str, Any] = {
    "name": "m", "architectures": ["sm_80"], "strategies": [], "tuning": None, "tools": {},
    "options": {}, "source_hash": "", "dims": [{"name": "N", "lo": 1, "hi": None}],
    "kernels": [{"name": "k", "threads": 32, "cubins": {"sm_80": [0, 4]}, "form": "f",
                 "registers": {"sm_80": 8}, "shared": 0, "checks_indices": False,
                 "dynamic_shared": {}}],
    "constants": [{"dtype": "float32", "shape": [3], "data": [0, 4]}],
    "states": [{"name": "s", "initial": 0}],
    "entries": [{"name": "run", "inputs": [PORT], "outputs": [{**PORT, "name": "y"}], "slots": [8],
                 "launches": [{"kernel": 0, "buffers": [["input", 0], ["output", 0]],
                               "extents": [[[1, ["N"]]]], "items": 1, "label": "l"}]}],
}  # fmt: skip


def test_device_programs_of_changed_manifests(shapes: int) -> None:
    """With a digest that fits: it protects from damage, not from an author."""
    rng = random.Random(0)
    assert parse_program(device_program(MANIFEST, bytes(2000))).name == "m"  # the control
    refused = 0
    for _ in range(20 * shapes):
        manifest = spoil(json.loads(json.dumps(MANIFEST)), rng)
        try:
            parse_program(device_program(manifest, bytes(2000)))
        except ProgramError:
            refused += 1
    assert refused > shapes


def test_device_programs_of_changed_bytes(shapes: int) -> None:
    data, rng = device_program(MANIFEST, bytes(64)), random.Random(1)
    assert len(data) > DIGEST_BYTES
    for _ in range(10 * shapes):
        if (changed := mutate_bytes(data, rng)) != data:
            with pytest.raises(ProgramError):
                parse_program(changed)


def test_every_change_of_a_cache_entry_is_found(tmp_path: Path, shapes: int) -> None:
    cache, rng = Cache(tmp_path / "cache"), random.Random(0)
    cache.put(b"kernel" * 20, "key")
    (entry,) = cache.entries()
    data = entry.path.read_bytes()
    assert cache.get("key") == b"kernel" * 20  # the control
    for _ in range(5 * shapes):
        if (changed := mutate_bytes(data, rng)) != data:
            entry.path.write_bytes(changed)
            assert cache.get("key") is None


# -- data sets -------------------------------------------------------------------------------------


def write_mnist(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("t10k", 3)):
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            values = rng.integers(0, 10, shape, np.uint8)
            header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(
                gzip.compress(header + values.tobytes())
            )
    return sorted(folder.iterdir())


def test_data_sets_of_changed_bytes(tmp_path: Path, shapes: int) -> None:
    files, rng = write_mnist(tmp_path), random.Random(0)
    assert datasets.mnist(tmp_path).x.shape == (6, 1, 28, 28)  # the control
    for _ in range(5 * shapes):
        path = rng.choice(files)
        data = path.read_bytes()
        plain = gzip.decompress(data)
        is_packed = rng.random() < 0.5
        head = mutate_bytes(plain[:16], rng) + plain[16:]
        path.write_bytes(mutate_bytes(data, rng) if is_packed else gzip.compress(head))
        try:
            datasets.mnist(tmp_path)
        except NetloomError as error:
            assert isinstance(error, UsageError | InputError)
        path.write_bytes(data)
