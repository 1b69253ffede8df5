"""What a measurement on this machine must be read with: which processor it is, and what makes its
times scatter.

Everything is read from files below ``root`` (/proc and /sys); what the system does not tell is left
out.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

BUSY = 0.2  # of all processors: a load average above this means that others are at work


def processor(root: Path = Path("/")) -> str:
    """The processor's name."""
    lines = _text(root / "proc/cpuinfo").splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def warnings(threads: int = 1, root: Path = Path("/"), processors: int | None = None) -> list[str]:
    """One sentence for each reason to doubt times of so many threads; ``processors``: those that
    may be used.
    """
    count = processors or len(os.sched_getaffinity(0))
    found = [
        _load(root, count),
        _governor(root),
        _boost(root),
        _siblings(root, threads),
        _virtual(root),
    ]
    if threads > count:
        found.append(f"{threads} threads share {count} processors.")
    return [sentence for sentence in found if sentence]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _load(root: Path, processors: int) -> str:
    words = _text(root / "proc/loadavg").split()
    if not words or float(words[0]) <= BUSY * processors:
        return ""
    return (
        f"the load average is {float(words[0]):.2f} before the measurement: other work disturbs it."
    )


def _governor(root: Path) -> str:
    governor = _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return (
        f"the clock follows the load (governor {governor})."
        if governor not in ("", "performance")
        else ""
    )


def _boost(root: Path) -> str:
    is_boosted = (
        _text(root / "sys/devices/system/cpu/cpufreq/boost") == "1"
        or _text(root / "sys/devices/system/cpu/intel_pstate/no_turbo") == "0"
    )
    return "the clock rises while few cores work and the chip is cool." if is_boosted else ""


def _siblings(root: Path, threads: int) -> str:
    has_siblings = _text(root / "sys/devices/system/cpu/smt/active") == "1"
    return "pairs of processors share one core's units." if has_siblings and threads > 1 else ""


def _virtual(root: Path) -> str:
    flags = next(
        (line for line in _text(root / "proc/cpuinfo").splitlines() if line.startswith("flags")), ""
    )
    return (
        "this is a virtual machine: neighbours and the clock are out of sight."
        if "hypervisor" in flags.split()
        else ""
    )
