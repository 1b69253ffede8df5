"""What a recorded file holds, whoever put which part of it in order, and what goes wrong."""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom import abi
from netloom.compiler.constant import Data
from netloom.compiler.scaled import Scaled
from netloom.compiler.targets.cpu import recorded_file, segments
from netloom.compiler.targets.cpu.recorded_file import write_recorded

TRAILER = struct.calcsize(abi.TRAILER_FORMAT)


def contents() -> list[Data]:
    """More arrays than wait at a time: in order, turned, products, and one without elements."""
    random = np.random.default_rng(0)
    whole: npt.NDArray[Any] = random.standard_normal((40, 300, 70), dtype=np.float32)
    turned: list[Data] = [array.T for array in whole]
    factor = np.broadcast_to(np.float32(3), (300, 70))
    products: list[Data] = [Scaled(array, factor) for array in whole[:9]]
    return [np.frombuffer(b"front", np.uint8), *turned, np.zeros(0, np.uint8), *products]


def bytes_of(data: Data) -> bytes:
    return (data.array * data.factor if isinstance(data, Scaled) else data).tobytes()


def test_parts_lie_in_order_before_a_trailer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded_file, "_SENT", 1 << 20)
    made: list[int] = []
    order = segments.in_order

    def counted(data: Data) -> segments.ByteArray:
        made.append(threading.get_ident())
        return order(data)

    monkeypatch.setattr(recorded_file, "in_order", counted)
    arrays = contents()
    expected = b"".join(map(bytes_of, arrays))
    write_recorded(tmp_path / "f", iter(arrays), len(expected))
    data = (tmp_path / "f").read_bytes()
    assert data[:-TRAILER] == expected
    assert struct.unpack(abi.TRAILER_FORMAT, data[-TRAILER:]) == (
        abi.TRAILER_MAGIC, abi.ABI_VERSION, 0, len(data), hashlib.sha256(expected).digest(),
    )  # fmt: skip
    assert not (tmp_path / "f").stat().st_mode & 0o002
    assert len(made) == len(arrays) + 1  # each once, and the trailer
    assert threading.get_ident() in made  # of the trailer; the others are left to threads
    assert made.count(threading.get_ident()) == 1


@pytest.mark.parametrize("name", ["posix_fallocate", "pwrite", "fdatasync", "fsync"])
def test_every_error_of_the_disk_is_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that the disk tells while the file is written: the last call would not hear it."""
    monkeypatch.setattr(recorded_file, "_SENT", 1 << 20)
    call, calls = getattr(os, name), []

    def fail_once(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(28, os.strerror(28))
        return call(*arguments)

    monkeypatch.setattr(recorded_file.os, name, fail_once)
    arrays = contents()
    with pytest.raises(OSError, match="No space left"):
        write_recorded(tmp_path / "f", arrays, sum(array.nbytes for array in arrays))


def test_a_file_that_is_there_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_recorded(tmp_path / "f", [], 0)
    assert (tmp_path / "f").read_bytes() == b"old"
