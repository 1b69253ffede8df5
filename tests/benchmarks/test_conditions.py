"""Reasons to doubt a measurement, from made-up systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from netloom.benchmarks.conditions import processor, warnings

CASES = {
    "load": ("proc/loadavg", "0.90 0.50 0.40 1/200 77\n", "load average is 0.90"),
    "governor": (
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
        "powersave\n",
        "governor powersave",
    ),
    "boost": ("sys/devices/system/cpu/cpufreq/boost", "1\n", "clock rises"),
    "turbo": ("sys/devices/system/cpu/intel_pstate/no_turbo", "0\n", "clock rises"),
    "siblings": ("sys/devices/system/cpu/smt/active", "1\n", "share one core"),
    "virtual": (
        "proc/cpuinfo",
        "model name\t: Chip 9000\nflags\t\t: fpu hypervisor avx2\n",
        "virtual machine",
    ),
}
QUIET = {
    "proc/loadavg": "0.05 0.50 0.40 1/200 77\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpufreq/boost": "0\n",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "1\n",
    "sys/devices/system/cpu/smt/active": "0\n",
    "proc/cpuinfo": "model name\t: Chip 9000\nflags\t\t: fpu avx2\n",
}


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("name", CASES)
def test_each_reason_is_found_by_itself(name: str, tmp_path: Path) -> None:
    path, text, says = CASES[name]
    (found,) = warnings(2, system(tmp_path, QUIET | {path: text}), processors=2)
    assert says in found


def test_a_quiet_machine_and_an_unknown_one_give_none(tmp_path: Path) -> None:
    assert warnings(2, tmp_path, processors=2) == []
    assert warnings(2, system(tmp_path, QUIET), processors=2) == []
    assert processor(tmp_path) == "Chip 9000"


def test_more_threads_than_processors(tmp_path: Path) -> None:
    assert warnings(3, tmp_path, processors=2) == ["3 threads share 2 processors."]
    assert (
        warnings(
            1, system(tmp_path, QUIET | {"sys/devices/system/cpu/smt/active": "1\n"}), processors=2
        )
        == []
    )
