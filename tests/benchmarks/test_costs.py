"""Costs beside an inference's time, of a small model; and processes that are watched."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from netloom.benchmarks import child, costs
from netloom.benchmarks.peaks import Peaks
from netloom.errors import UsageError

from .conftest import tables

PARENT = """
import subprocess, sys
held = bytearray(b"x" * (60 << 20))
subprocess.run([sys.executable, "-c", "held = bytearray(b'x' * (40 << 20)); import time; time.sleep(0.3)"], check=True)
"""


def test_memory_is_that_of_all_descendants_together() -> None:
    found = child.memory_of([sys.executable, "-c", PARENT])
    assert 100 << 20 <= found.together < 200 << 20
    assert 60 << 20 <= found.largest < 150 << 20


def test_a_command_that_fails_is_named() -> None:
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    for watch in (child.seconds_of, child.memory_of, child.output_of):
        with pytest.raises(UsageError, match="SystemExit.* ended with status 3"):
            watch(command)


def test_cold_is_an_empty_cache_and_again_what_that_left(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = []
    run = child.seconds_of

    def watched(command: Sequence[str]) -> float:
        (cache,) = (word for word in command if word.startswith("NETLOOM_CACHE="))
        before.append(len(list(Path(cache.removeprefix("NETLOOM_CACHE=")).rglob("*"))))
        return run(command)

    monkeypatch.setattr(child, "seconds_of", watched)
    cold, again = child.compile_seconds([str(model)] * 2, tmp_path / "a.so", 1)
    assert before[0] == 0 < before[1] and min(cold, again) > 0 and (tmp_path / "a.so").exists()


def test_compiling(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        costs, "compile_seconds", lambda models, target, repeats: (1.4, 0.3, 0.9)[: len(models)]
    )
    found = {item.name: item for item in costs.compiling(str(model), tmp_path, 1)}
    weights = found[f"weights of {model}"]
    assert weights.value * 1e6 == 4 * (4 * 9 + 4 + 3 * 64 + 3)
    memory = found[f"memory while compiling {model}, all processes"]
    assert 30 < memory.value < 1000 and memory.goal == pytest.approx(500 + 3 * weights.value)
    assert found["size of the .so over the weights"].value == pytest.approx(
        (tmp_path / "memory.so").stat().st_size / weights.value / 1e6
    )
    assert found[f"compile {model} with other weights, from the cache"].value == 0.9
    assert (
        found[f"compile {model}, cold"].is_met
        and found[f"compile {costs.TINY} (a tiny CNN), cold"].is_met
    )


def test_the_other_parts(model: Path, machine: Peaks, tmp_path: Path) -> None:
    costs.main(
        [
            "-o",
            str(tmp_path),
            "--network",
            str(model),
            "--repeats",
            "1",
            "--parts",
            "open,import,call",
        ]
    )
    data, text = tables(tmp_path, "costs")
    found = {row["name"]: row["value"] for row in data["rows"]}
    assert (
        0 < found[f"of this, opening {model}"]
        and 0 < found[f"steady time of {model}, one thread"] < 1000
    )
    assert 0 < found["import netloom"] < found["import netloom.runtime.session (netloom.load)"]
    assert (
        0 < found["one call from Python, bound buffers"] < 1000
        and 0 < found.get("one call from C", 1.0) < 1000
    )
    assert "| one call from Python, bound buffers | " in text
