"""Checkpoint files: agreement with the safetensors package, damage, atomic writing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from netloom.errors import ProgramError, UsageError
from netloom.runtime import checkpoint
from netloom.runtime.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "scalar": np.array(1.5),
    "empty": np.zeros((0, 3), np.int32),
    "key": np.array([1, 2, 3, 2**32 - 1], np.uint32), "mask": np.array([True, False]),
    "turned": np.arange(6, dtype=np.int64).reshape(2, 3).T, 'odd "name"\n%s': np.int8([1]),
}  # fmt: skip


def equal(first: Any, second: Any) -> bool:
    return first.keys() == second.keys() and all(
        first[n].dtype == second[n].dtype and np.array_equal(first[n], second[n]) for n in first
    )


def test_round_trip(tmp_path: Path) -> None:
    tensors = {**TENSORS, "half": np.array([1, 2.5], ml_dtypes.bfloat16)}
    write_checkpoint(tmp_path / "c", Checkpoint(tensors, {"epoch": 3, "loss_sum": 0.1}))
    found = read_checkpoint(tmp_path / "c")
    assert equal(found.tensors, tensors) and found.metadata == {"epoch": 3, "loss_sum": 0.1}
    assert all(array.flags.writeable for array in found.tensors.values())


def test_agrees_with_the_safetensors_package(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "ours", Checkpoint(TENSORS, {}))
    assert equal(load_file(tmp_path / "ours"), TENSORS)
    save_file(
        {name: np.array(array, order="C") for name, array in TENSORS.items()}, tmp_path / "theirs"
    )
    found = read_checkpoint(tmp_path / "theirs")
    assert equal(found.tensors, TENSORS) and found.metadata == {}


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", Checkpoint({"a": np.arange(3.0)}, {}))
    whole = (tmp_path / "c").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "c").write_bytes(whole[:length])
        with pytest.raises(ProgramError, match="valid checkpoint"):
            read_checkpoint(tmp_path / "c")


def headed(text: bytes, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 8,
        headed(b"[]"),
        headed(b"null"),
        headed(b"{"),
        headed(b"[" * 100_000),
        headed(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}', b"12345678"),
        headed(b'{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}', b"12345678"),
        headed(b'{"a":{"dtype":"F32","shape":[-1,-2],"data_offsets":[0,8]}}', b"12345678"),
        headed(b'{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', b"12345678"),
        headed(b'{"a":{"dtype":"F32","shape":[true,2],"data_offsets":[0,8]}}', b"12345678"),
        headed(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}', b"12345678"),
        headed(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"123456789"),
        headed(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}', b"12345678"),
        headed(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],'
               b'"data_offsets":[4,8]}}', b"12345678"),
        headed(b'{"__metadata__":{"netloom.checkpoint":"{\\"version\\":99}"}}'),
        headed(b'{"__metadata__":{"netloom.checkpoint":"[]"}}'),
        headed(b'{"__metadata__":[]}'),
    ],
)  # fmt: skip
def test_hostile_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(ProgramError, match="valid checkpoint"):
        read_checkpoint(tmp_path / "c")


def test_missing_files_and_pickles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="cannot be read"):
        read_checkpoint(tmp_path / "missing")
    np.savez(tmp_path / "p.npz", a=np.array([{}], object))
    with pytest.raises(ProgramError, match="valid checkpoint"):
        read_checkpoint(tmp_path / "p.npz")
    (tmp_path / "q.npz").write_bytes(b"PK\3\4 not a zip")
    with pytest.raises(ProgramError):
        read_checkpoint(tmp_path / "q.npz")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c"
    write_checkpoint(file, Checkpoint({"a": np.zeros(3)}, {}))
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(file, Checkpoint({"a": np.ones(3)}, {}))
    assert file.read_bytes() == before and os.listdir(tmp_path) == ["c"]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    for path in (pipe, tmp_path, tmp_path / "missing" / "c"):
        with pytest.raises(UsageError, match="no checkpoint can be written"):
            write_checkpoint(path, Checkpoint({"a": np.zeros(3)}, {}))
    assert list(tmp_path.iterdir()) == [pipe]


def test_killed_at_any_moment_leaves_old_or_new(tmp_path: Path) -> None:
    """A child process rewrites the file and is killed at a random moment; what is left is always
    whole.
    """
    file = tmp_path / "c"
    program = (
        "import sys, numpy as np\nfrom netloom.runtime.checkpoint import *\n"
        "i = 0\nwhile True:\n    write_checkpoint(sys.argv[1], Checkpoint({'a': np.full(100_000, "
        "i)}, {'i': i}))\n"
        "    i += 1\n    print(i, flush=True)\n"
    )
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            for _ in range(5):
                child.stdout.readline()
            child.kill()
        found = read_checkpoint(file)
        assert (found.tensors["a"] == found.metadata["i"]).all()
    write_checkpoint(file, Checkpoint({}, {}))
    assert os.listdir(tmp_path) == ["c"]  # what the killed ones left is swept
