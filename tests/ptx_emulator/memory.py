"""Memory that knows who touched it: bounds, alignment, first writes, and races between barriers.

A cell is as large as the smallest access. Two accesses of a cell race if one is a write, the
threads differ, and no barrier of their block lies between them; threads of different blocks have no
barrier at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Lanes = npt.NDArray[np.int64]
MANY = -2  # more than one reader
SHARED_WINDOW = 1 << 24  # the generic address of shared memory


def distinct(values: Lanes) -> Lanes:
    """In rising order; a tenth of the time of np.unique, which hashes first."""
    found = np.sort(values)
    is_new = np.ones(found.size, bool)
    np.not_equal(found[1:], found[:-1], out=is_new[1:])
    return found[is_new]


class MemoryFault(Exception):
    """An access that a GPU would punish, or worse, would not."""


@dataclass
class BankTraffic:
    """Shared memory's 32 banks of 4 bytes: ``cycles`` that warps' accesses took, and the
    ``least`` that they could take.
    """

    cycles: int = 0
    least: int = 0

    def note(self, offsets: Lanes, width: int, lanes: Lanes) -> None:
        """One instruction. A bank gives one word a cycle; 8- and 16-byte accesses go by halves
        and quarters of a warp.
        """
        number = max(width // 4, 1)
        group = np.repeat(lanes // (128 // max(width, 4)), number)
        words = (offsets[:, None] // 4 + np.arange(number)).reshape(-1)
        keys = distinct(group << 32 | words)  # equal words are one
        banks = (keys >> 32) * 32 + keys % 32
        slowest = np.bincount(banks, minlength=32 * (int(group.max()) + 1)).reshape(-1, 32).max(1)
        self.cycles += int(slowest.sum())
        self.least += int(np.count_nonzero(slowest))


@dataclass
class _Shadow:
    """Per cell: the last writer and its epoch, the last reader (or MANY) and its epoch; -1 for
    never.
    """

    writer: Lanes
    write_epoch: Lanes
    reader: Lanes
    read_epoch: Lanes

    @staticmethod
    def of(cells: int) -> _Shadow:
        return _Shadow(*(np.full(cells, -1, np.int64) for _ in range(4)))


class Space:
    """Bytes with a shadow. ``across_blocks``: whether threads of all blocks meet here."""

    def __init__(
        self, name: str, data: npt.NDArray[np.uint8], cell: int, threads: int, across_blocks: bool
    ) -> None:
        self.name, self.data, self.cell, self.threads, self.across_blocks = (
            name,
            data,
            cell,
            threads,
            across_blocks,
        )
        self.shadow = _Shadow.of(-(-data.size // cell))
        self.is_checked_for_races = True
        self.is_read_only = False
        # copies to each cell that nobody has waited for
        self.under_way = np.zeros(self.shadow.writer.size, np.int64)
        # products that read it, which nobody has waited for
        self.products = np.zeros(self.shadow.writer.size, np.int64)
        # since it was written, for products
        self.is_fenced = np.zeros(self.shadow.writer.size, bool)

    def _cells(self, offsets: Lanes, width: int) -> tuple[Lanes, int]:
        number = max(1, width // self.cell)
        return (offsets[:, None] // self.cell + np.arange(number)).reshape(-1), number

    def check(self, offsets: Lanes, width: int) -> None:
        bad = (offsets < 0) | (offsets + width > self.data.size)
        if bad.any():
            raise MemoryFault(
                f"{self.name}: an access at byte {int(offsets[bad][0])} of {self.data.size}"
            )
        if (offsets % width).any():
            raise MemoryFault(f"{self.name}: a misaligned access of {width} bytes")

    def _check_copies(self, offsets: Lanes, width: int) -> None:
        if self.under_way.any() and self.under_way[self._cells(offsets, width)[0]].any():
            raise MemoryFault(
                f"{self.name}: an access to what a copy that nobody has waited for writes"
            )

    def fence(self, lanes: Lanes) -> None:
        """What these threads wrote may be read by products, behind a barrier."""
        self.is_fenced |= np.isin(self.shadow.writer, lanes)

    def load_for_products(
        self, offsets: Lanes, lanes: Lanes, epochs: Lanes
    ) -> npt.NDArray[np.uint8]:
        """[words, 4] bytes, that nothing may write until ``end_products``."""
        data = self.load(offsets, 4, lanes, epochs)
        cells = self._cells(offsets, 4)[0]
        if not self.is_fenced[cells].all():
            raise MemoryFault(f"{self.name}: a product reads what its writer has not fenced")
        np.add.at(self.products, cells, 1)
        return data

    def end_products(self, offsets: Lanes, lanes: Lanes, epochs: Lanes) -> None:
        """They have read it: to be overwritten behind a barrier."""
        np.subtract.at(self.products, self._cells(offsets, 4)[0], 1)
        self._note_read(offsets, 4, lanes, epochs)

    def begin_copy(self, offsets: Lanes, width: int, lanes: Lanes, epochs: Lanes) -> None:
        """A write that will happen at some time until it is waited for."""
        self.check(offsets, width)
        self._check_copies(offsets, width)
        self._note_write(offsets, width, lanes, epochs)
        np.add.at(self.under_way, self._cells(offsets, width)[0], 1)

    def end_copy(
        self, offsets: Lanes, values: npt.NDArray[np.uint8], lanes: Lanes, epochs: Lanes
    ) -> None:
        """The write has happened: to be seen by other threads behind a barrier."""
        cells, number = self._cells(offsets, values.shape[1])
        self.under_way[cells] -= 1
        self.shadow.writer[cells], self.shadow.write_epoch[cells] = (
            np.repeat(lanes, number),
            np.repeat(epochs, number),
        )
        self.data[offsets[:, None] + np.arange(values.shape[1])] = values

    def load(
        self, offsets: Lanes, width: int, lanes: Lanes, epochs: Lanes
    ) -> npt.NDArray[np.uint8]:
        """[lanes, width] bytes."""
        self.check(offsets, width)
        self._check_copies(offsets, width)
        if self.is_checked_for_races:
            self._note_read(offsets, width, lanes, epochs)
        return self.data[offsets[:, None] + np.arange(width)]

    def store(
        self, offsets: Lanes, values: npt.NDArray[np.uint8], lanes: Lanes, epochs: Lanes
    ) -> None:
        width = values.shape[1]
        self.check(offsets, width)
        self._check_copies(offsets, width)
        if self.is_read_only and len(offsets):
            raise MemoryFault(f"{self.name}: a store to an input")
        if self.is_checked_for_races:
            self._note_write(offsets, width, lanes, epochs)
        self.data[offsets[:, None] + np.arange(width)] = values

    def _is_unordered(
        self, other: Lanes, other_epoch: Lanes, lanes: Lanes, epochs: Lanes
    ) -> npt.NDArray[np.bool_]:
        """Whether an earlier access by ``other`` has no barrier between it and this one."""
        same_block = other // self.threads == lanes // self.threads
        is_many = other == MANY
        differs = (other != lanes) & (other != -1)
        near = other_epoch == epochs
        return differs & np.where(
            is_many | same_block, near | (is_many & self.across_blocks), self.across_blocks
        )

    def _note_read(self, offsets: Lanes, width: int, lanes: Lanes, epochs: Lanes) -> None:
        if self.is_read_only:
            return
        cells, number = self._cells(offsets, width)
        lanes, epochs = np.repeat(lanes, number), np.repeat(epochs, number)
        s = self.shadow
        writer, reader = s.writer[cells], s.reader[cells]
        if not self.across_blocks and (writer == -1).any():
            raise MemoryFault(f"{self.name}: a read of memory that was never written")
        if self._is_unordered(writer, s.write_epoch[cells], lanes, epochs).any():
            raise MemoryFault(
                f"{self.name}: a race: a read of what another thread wrote without a barrier between"
            )
        is_shared = (s.read_epoch[cells] == epochs) & (reader != lanes) & (reader != -1)
        now = np.where(is_shared, MANY, lanes)
        s.reader[cells] = now
        s.reader[cells[s.reader[cells] != now]] = MANY
        s.read_epoch[cells] = epochs

    def _note_write(self, offsets: Lanes, width: int, lanes: Lanes, epochs: Lanes) -> None:
        cells, number = self._cells(offsets, width)
        lanes, epochs = np.repeat(lanes, number), np.repeat(epochs, number)
        s = self.shadow
        if distinct(cells).size < cells.size:
            raise MemoryFault(f"{self.name}: a race: two threads write one place at once")
        if self.products.any() and self.products[cells].any():
            raise MemoryFault(
                f"{self.name}: a write to what a product reads that nobody has waited for"
            )
        if self._is_unordered(s.writer[cells], s.write_epoch[cells], lanes, epochs).any():
            raise MemoryFault(
                f"{self.name}: a race: two threads write one place without a barrier between"
            )
        if self._is_unordered(s.reader[cells], s.read_epoch[cells], lanes, epochs).any():
            raise MemoryFault(
                f"{self.name}: a race: a write to what another thread read without a barrier between"
            )
        s.writer[cells], s.write_epoch[cells], self.is_fenced[cells] = lanes, epochs, False
