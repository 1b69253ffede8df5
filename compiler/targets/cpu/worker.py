"""A process that compiles: ``python -m netloom.compiler.targets.cpu.worker CPU FEATURES``, LLVM
text in, objects out.

Standard input holds texts, standard output ``READY`` and then an answer for each in order: a status
byte (``DONE`` or ``FAILED``) and an object, or a message. Texts and answers follow their size, 8
bytes, little-endian. The process ends with its input, so it never outlives the one that started it
by more than one text; LLVM's own faults end this process only.
"""

from __future__ import annotations

import struct
import sys
from typing import IO

from .object_code import object_of_text

SIZE = struct.Struct("<Q")
READY, DONE, FAILED = b"r", b"d", b"f"


def write_block(file: IO[bytes], data: bytes) -> None:
    """A size and as many bytes."""
    file.write(SIZE.pack(len(data)))
    file.write(data)
    file.flush()


def read_block(file: IO[bytes]) -> bytes | None:
    """What ``write_block`` wrote; None at the end, or if the other side died in the middle."""
    head = file.read(SIZE.size)
    if len(head) < SIZE.size:
        return None
    (size,) = SIZE.unpack(head)
    data = file.read(size)
    return data if len(data) == size else None


def serve(texts: IO[bytes], answers: IO[bytes], cpu: str, features: str) -> None:
    """Answers every text until the end of the input."""
    write_block(answers, READY)
    while (text := read_block(texts)) is not None:
        try:
            answer = DONE + object_of_text(text.decode(), cpu, features)
        except RuntimeError as error:  # LLVM refuses the text
            answer = FAILED + str(error).encode()
        write_block(answers, answer)


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer, *sys.argv[1:])
