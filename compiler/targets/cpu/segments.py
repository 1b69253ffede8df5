"""Constants -> segments -> the weights image of a program.

A segment is bytes, or one element repeated. Long runs of one element become fills (without
materialising splats), so a network of splats stays small on disk; when the program is opened, fills
expand into anonymous memory. A constant that is one bytes segment is used where it lies. Equal
constants are stored once. The same constants give the same bytes. What is packed (an array whose
elements lie otherwise in memory) is put in order when it is written, a part after another, so that
there is never a copy of all weights.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ...constant import Constant
from ...program import ALIGNMENT

WEIGHTS_SYMBOL = "nl_weights"  # the image of a shared object
SHORTEST_FILL = 4096  # bytes: shorter runs stay bytes
_BLOCK = 512  # bytes: every run of SHORTEST_FILL bytes holds at least 7 aligned blocks
_CHUNK = 4096  # blocks that are compared at a time
_PART = (
    1 << 20
)  # bytes of a packed array that are put in order at a time: the second cache holds it
_AHEAD = 4  # parts that wait to be written
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

ByteArray: TypeAlias = npt.NDArray[np.uint8]
Buffer: TypeAlias = bytes | memoryview


@dataclass(frozen=True, eq=False)
class Bytes:
    """The bytes of an array's elements in order (a view, not a copy)."""

    array: npt.NDArray[Any]

    @property
    def size(self) -> int:
        return self.array.nbytes

    @property
    def data(self) -> ByteArray:
        """All bytes; a copy if the elements lie otherwise in memory."""
        return _ordered(self.array)

    def parts(self) -> Iterator[npt.NDArray[Any]]:
        """The array; one that has to be put in order is cut along its first axes."""
        array, inner, axes = self.array, self.size, 0  # inner: bytes behind so many axes
        while inner > _PART and not array.flags.c_contiguous:
            inner //= array.shape[axes]
            axes += 1
        if axes == 0:
            yield array
            return
        step = max(1, _PART // inner)
        for place in np.ndindex(array.shape[: axes - 1]):
            for start in range(0, array.shape[axes - 1], step):
                yield array[place][start : start + step]


@dataclass(frozen=True)
class Fill:
    """One element's bytes, ``count`` times."""

    element: bytes
    count: int

    @property
    def size(self) -> int:
        return len(self.element) * self.count

    @property
    def pattern(self) -> int:
        """The element repeated to 8 bytes, as a little-endian number."""
        return int.from_bytes(self.element * (8 // len(self.element)), "little")


Segment: TypeAlias = Bytes | Fill


def encode(constant: Constant) -> tuple[Segment, ...]:
    """The segments of a constant, in memory order."""
    array = constant.array
    if constant.is_splat and array.nbytes >= SHORTEST_FILL:
        return (Fill(np.asarray(constant.splat_value).tobytes(), array.size),)
    unsigned = array.view(_UNSIGNED[array.dtype.itemsize])
    if not array.flags.c_contiguous and not _may_have_long_runs(unsigned):
        return (Bytes(array),)
    words = np.ascontiguousarray(unsigned).reshape(-1)
    segments: list[Segment] = []
    end = 0
    for start, stop in _long_runs(words):
        if start > end:
            segments.append(Bytes(words[end:start]))
        segments.append(Fill(words[start].tobytes(), stop - start))
        end = stop
    if end < words.size or not segments:
        segments.append(Bytes(words[end:]))
    return tuple(segments)


def decode(segments: Sequence[Segment]) -> bytes:
    """The bytes that the segments stand for: the meaning of the encoding."""
    return b"".join(
        s.array.tobytes() if isinstance(s, Bytes) else s.element * s.count for s in segments
    )


def _may_have_long_runs(words: npt.NDArray[Any]) -> bool:
    """False only if there is no long run, which holds whole blocks one behind another: looks at the
    ends of blocks, as the elements in order have them, and copies nothing else.
    """
    length = _BLOCK // words.itemsize
    starts = np.arange(words.size // length) * length
    first, last = (
        words[np.unravel_index(places, words.shape)] for places in (starts, starts + length - 1)
    )
    likely = first == last
    for _ in range(SHORTEST_FILL // _BLOCK - 2):
        likely = likely[1:] & likely[:-1]  # of so many blocks in a row
    return bool(likely.any())


def _long_runs(words: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Maximal [start, stop) of equal elements with at least SHORTEST_FILL bytes, in order."""
    length = _BLOCK // words.itemsize
    least = SHORTEST_FILL // words.itemsize
    end = 0
    for first, last in _uniform_blocks(words, length):
        start, stop = first * length, last * length
        while start > end and words[start - 1] == words[start]:
            start -= 1
        while stop < words.size and words[stop] == words[start]:
            stop += 1
        if stop - start >= least:
            yield start, stop
            end = stop


def _uniform_blocks(words: npt.NDArray[Any], length: int) -> Iterator[tuple[int, int]]:
    """Maximal [first, last) of whole blocks that hold one value, where they are enough for a
    long run.
    """
    blocks = words[: words.size // length * length].reshape(-1, length)
    uniform = np.zeros(len(blocks), bool)
    for start in range(0, len(blocks), _CHUNK):
        chunk = blocks[start : start + _CHUNK]
        likely = np.flatnonzero(chunk[:, 0] == chunk[:, -1])
        uniform[start + likely] = (chunk[likely] == chunk[likely, :1]).all(axis=1)
    values = blocks[:, 0]
    joined = uniform[1:] & uniform[:-1] & (values[1:] == values[:-1])
    firsts = np.flatnonzero(uniform & ~np.concatenate(([False], joined)))
    lasts = np.flatnonzero(uniform & ~np.concatenate((joined, [False]))) + 1
    enough = lasts - firsts >= SHORTEST_FILL // _BLOCK - 1
    yield from zip(firsts[enough].tolist(), lasts[enough].tolist(), strict=True)


@dataclass(frozen=True)
class Piece:
    """A segment with the place of its bytes in the image (0 for a fill)."""

    segment: Segment
    offset: int


@dataclass(frozen=True)
class Placement:
    """Where a constant is: in place at an offset of the image, or expanded from pieces."""

    size: int
    pieces: tuple[Piece, ...]

    @property
    def in_place(self) -> bool:
        return self.size == 0 or (
            len(self.pieces) == 1 and isinstance(self.pieces[0].segment, Bytes)
        )


@dataclass(frozen=True)
class Weights:
    """All constants of a program: constant number i is ``placements[indices[i]]``."""

    indices: tuple[int, ...]
    placements: tuple[Placement, ...]
    size: int  # of the image, in bytes

    def chunks(self) -> Iterator[Buffer]:
        """The image from front to back; a thread puts parts in order ahead of the reader."""
        ahead: deque[Future[ByteArray]] = deque()
        with ThreadPoolExecutor(1) as pool:
            for part in self._parts():
                ahead.append(pool.submit(_ordered, part))
                if len(ahead) > _AHEAD:
                    yield ahead.popleft().result().data
            while ahead:
                yield ahead.popleft().result().data

    def _parts(self) -> Iterator[npt.NDArray[Any]]:
        """Every bytes segment at its offset, zeros between."""
        position = 0
        for placement in self.placements:
            for piece in placement.pieces:
                if isinstance(piece.segment, Bytes):
                    yield np.zeros(piece.offset - position, np.uint8)
                    yield from piece.segment.parts()
                    position = piece.offset + piece.segment.size
        yield np.zeros(self.size - position, np.uint8)


def _ordered(array: npt.NDArray[Any]) -> ByteArray:
    """The bytes of an array's elements in order; a copy only if they lie otherwise."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def lay_out(constants: Sequence[Constant]) -> Weights:
    """Encodes constants and gives every bytes segment an aligned place in one image."""
    number = {constant: place for place, constant in enumerate(dict.fromkeys(constants))}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # copying needs no interpreter
        encoded = list(pool.map(encode, number))
    placements: list[Placement] = []
    size = 0
    for segments in encoded:
        pieces = []
        for segment in segments:
            pieces.append(Piece(segment, size if isinstance(segment, Bytes) else 0))
            if isinstance(segment, Bytes):
                size = aligned(size + segment.size)
        placements.append(Placement(sum(piece.segment.size for piece in pieces), tuple(pieces)))
    return Weights(tuple(number[constant] for constant in constants), tuple(placements), size)


def aligned(size: int) -> int:
    """The least multiple of ALIGNMENT that is at least size."""
    return -(-size // ALIGNMENT) * ALIGNMENT
