"""A model's path -> its bytes, at once or by a thread while the caller goes on: importing what
understands them takes as long as reading them. So this file imports nothing of that.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import stat
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from netloom.errors import ModelError, UsageError

from .names import printable

# protobuf reads no more; larger models keep their weights in external data
LARGEST_FILE: Final = (1 << 31) - 1
NOT_A_MODEL: Final = (
    "Give a binary .onnx file; onnx.checker.check_model shows whether a file is one."
)


@dataclass(frozen=True)
class Reading:
    """A file that is being read; ``digest``: the SHA-256 of its contents in hexadecimal;
    ``outside``: the files beside it that its tensors were read from."""

    path: Path
    contents: Future[memoryview]
    digest: Future[str]
    outside: set[str] = field(default_factory=set)


def read_ahead(path: Path) -> Reading:
    """Begins to read a model's file; whoever asks for its contents gets the errors too."""
    pool = ThreadPoolExecutor(1)
    contents = pool.submit(read_bytes, path)
    digest = pool.submit(lambda: hashlib.sha256(contents.result()).hexdigest())
    pool.shutdown(wait=False)
    return Reading(path, contents, digest)


def read_bytes(path: Path) -> memoryview:
    """The bytes of a regular file, read-only; the open never waits for a pipe. UsageError if it
    cannot be read, ModelError if it cannot be a model.
    """
    name = printable(str(path))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{name} cannot be read: {reason}.", hint="Check the path.") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ModelError(f"{name} is {kind}, not a model.", hint=NOT_A_MODEL)
        if status.st_size > LARGEST_FILE:
            raise ModelError(
                f"{name} holds {status.st_size} bytes; a model file holds at most {LARGEST_FILE}.",
                hint="Save it with external data (onnx.save with save_as_external_data).",
            )
        return _contents(descriptor, status.st_size)
    finally:
        os.close(descriptor)


def _contents(descriptor: int, size: int) -> memoryview:
    """A copy of a file's bytes, up to its size: a mapped file that shrinks would end the process.
    It lies in large pages, because entering small ones takes as long as reading.
    """
    if size == 0:
        return memoryview(b"")
    room = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel may have none
        room.madvise(mmap.MADV_HUGEPAGE)
    data, done = memoryview(room), 0
    while part := os.preadv(descriptor, [data[done:]], done):
        done += part
    return data[:done].toreadonly()
