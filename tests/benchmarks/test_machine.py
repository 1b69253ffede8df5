"""The entry of a machine: peaks and a system that are made up, and the barrier at toy size."""

from __future__ import annotations

from pathlib import Path

import pytest

from netloom.benchmarks.machine import barrier_seconds, cache_sizes, copy_rate, measure_entry
from netloom.benchmarks.peaks import Peaks
from netloom.compiler.strategies.machines import machine_entry

PEAKS = Peaks(
    clock=3.0, flops={1: 96.0}, copy={1: 20.04}, read={1: 24.06}, chains=28, cpu="x86-64-v4"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for index, (level, kind,
                size) in enumerate((("1", "Data", "48K"), ("1", "Instruction", "32K"),
                                    ("2", "Unified", "2048K"),
                                                 ("3", "Unified", "96M"))):  # fmt: skip
        folder = tmp_path / "sys/devices/system/cpu/cpu0/cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name\t: Example 9000\n")
    return tmp_path


def test_caches(root: Path, tmp_path: Path) -> None:
    assert cache_sizes(root) == {1: 48 << 10, 2: 2 << 20, 3: 96 << 20}
    assert cache_sizes(tmp_path / "nothing") == {}


def test_an_entry(root: Path) -> None:
    entry = measure_entry(root, lambda: PEAKS, lambda size: size / 1e6, lambda: 1.234e-6)
    assert (entry.cpu, entry.source, entry.lanes, entry.registers) == (
        "x86-64-v4",
        "measured: Example 9000",
        16,
        32,
    )
    assert (entry.clock, entry.products, entry.read, entry.copy) == (3.0, 16.0, 24.1, 20.0)
    assert entry.cached == 25.2  # of a copy of a quarter of the last-level cache
    assert (entry.l1, entry.l2, entry.l3, entry.barrier) == (48 << 10, 2 << 20, 96 << 20, 1.2e-6)


def test_what_the_system_does_not_tell_is_the_level_s(tmp_path: Path) -> None:
    known = machine_entry("x86-64-v4")
    entry = measure_entry(tmp_path, lambda: PEAKS, lambda _: 80.0, lambda: 0.0)
    assert (entry.l1, entry.l2, entry.l3) == (known.l1, known.l2, known.l3)


def test_the_barrier_is_what_two_threads_take_beyond_one() -> None:
    """A chain of 4 takes 8 s on one thread and 10 on two: its kernels are one item each, so no
    time is saved.
    """
    times = iter([0.0, 9.0, 10.0, 18.0, 20.0, 31.0, 40.0, 50.0])
    assert barrier_seconds(lambda: next(times), rounds=2, length=4) == pytest.approx(0.5)


def test_the_rate_of_a_copy() -> None:
    """4,096 bytes in the quicker of two rounds of 4 and 2 us."""
    times = iter([0.0, 4e-6, 5e-6, 7e-6])
    assert copy_rate(4096, lambda: next(times), rounds=2) == pytest.approx(2.048)
