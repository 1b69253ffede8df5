"""The contents of a program, as arrays one behind the other -> a new file with a trailer
(netloom/abi.py) that records its size and digest.

Threads put the elements of an array in order and write them where they belong, while the caller's
computes the digest: each byte is touched by one of them while it is in the cache, and no array is
in order as a whole. The file is on the disk when the call returns; it is sent there from half way
on, so that little is left to wait for at the end.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from netloom import abi

from ...constant import Data
from .segments import ByteArray, in_order

_AHEAD = 8  # arrays that are written before their digest is computed
_SENT = 64 << 20  # bytes after which those before are sent to the disk


def write_recorded(path: Path, contents: Iterable[Data], size: int) -> bytes:
    """Writes a new file of ``size`` bytes and the trailer; the SHA-256 of the contents. Others must
    not be able to write what will run as code. OSError if the disk is
    full, before anything is written where it can say so.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o775)
    try:
        os.posix_fallocate(
            descriptor, 0, size + abi.TRAILER_SIZE
        )  # half the work of letting the file grow
        digest = _write_all(descriptor, contents)
        _write(descriptor, np.frombuffer(abi.trailer(size, digest), np.uint8), size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return digest


def _write_all(descriptor: int, contents: Iterable[Data]) -> bytes:
    """Writes the arrays one behind the other; their SHA-256."""
    digest, place, sent = hashlib.sha256(), 0, 0
    ahead: deque[Future[ByteArray]] = deque()
    sends: list[Future[None]] = []
    writers = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    with writers, ThreadPoolExecutor(1) as sending:
        for array in contents:
            ahead.append(writers.submit(_write, descriptor, array, place))
            place += array.nbytes
            if len(ahead) > _AHEAD:
                digest.update(ahead.popleft().result().data)
            if place - sent >= _SENT:
                sends.append(sending.submit(os.fdatasync, descriptor))
                sent = place
        while ahead:
            digest.update(ahead.popleft().result().data)
        for send in sends:
            send.result()  # the disk's error is told once
    return digest.digest()


def _write(descriptor: int, array: Data, place: int) -> ByteArray:
    """Writes the elements in order at a place of the file; the bytes written."""
    data = in_order(array)
    done = 0
    while done < data.size:
        done += os.pwrite(descriptor, data[done:].data, place + done)
    return data


__all__ = ["write_recorded"]
