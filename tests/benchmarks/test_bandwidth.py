"""Copies and memory-bound kernels: what they move and what they say of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from netloom.benchmarks import bandwidth, peaks
from netloom.benchmarks.bandwidth import CASES, Row
from netloom.benchmarks.operations import stored_bytes
from netloom.benchmarks.peaks import Peaks
from netloom.benchmarks.report import Files
from netloom.compiler.graph import Builder

from .conftest import MACHINE, tables

SIZE = 1 << 20


@pytest.mark.parametrize("reads", peaks.READS)
def test_copies_write_what_they_read(reads: int) -> None:
    copy = peaks.copier(reads, 2, SIZE)
    copy.call()
    (result,) = copy.call.outputs.values()
    assert (result == (-1 if reads == 1 else reads)).all()
    assert copy.moved == (reads + 1) * result.nbytes and result.nbytes == SIZE


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_kernel_reads_as_much_for_what_it_writes_as_its_copy(case: bandwidth.Case) -> None:
    for elements in (bandwidth.SIZE // 4, SIZE // 4):
        b = Builder("kernel")
        output = case.make(b, elements)
        read, written = (
            sum(stored_bytes(value, {}) for value in values) for values in (b.inputs, (output,))
        )
        assert case.reads == min(bandwidth.ALL, read // written)  # indices are few
        assert (
            0.75 * 4 * elements
            < max(stored_bytes(value, {}) for value in (*b.inputs, output))
            <= 4 * elements
        )


def test_a_kernel_beside_its_copy() -> None:
    case = next(case for case in CASES if case.reads == 4)
    row = bandwidth.measure(case, 1, SIZE, 3)
    assert 0 < row.part[1] <= row.part[0] <= row.part[2]
    assert row.shape == "1x64x56x56" and row.megabytes == pytest.approx(
        1.25 * 4 * 64 * 56 * 56 / 1e6
    )
    assert row.gigabytes == pytest.approx(row.megabytes / row.milliseconds)


def test_the_files(machine: Peaks, tmp_path: Path) -> None:
    bandwidth.main(
        [
            "-o",
            str(tmp_path),
            "--threads",
            "1",
            "--rounds",
            "1",
            "--megabytes",
            "0.5",
            "--kernels",
            "relu",
        ]
    )
    data, text = tables(tmp_path, "bandwidth")
    assert [row["kernel"] for row in data["rows"]] == [
        "relu",
        "bias + relu",
    ] and "| relu | 131072 | 1:1 | 1 |" in text
    rows = [Row("relu", "8", 1, 1, 1.0, 1.0, 1.0, 1.0, (part, part, part)) for part in (85.0, 84.0)]
    bandwidth.write(Files(tmp_path, "bandwidth"), MACHINE, rows)
    assert "1 of 2 goals are met." in tables(tmp_path, "bandwidth")[1]
