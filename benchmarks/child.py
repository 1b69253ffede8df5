"""A command in a process of its own: how long it takes, and how much memory it and its descendants
hold at most.

Memory is sampled from /proc: a page that several processes share counts once in all (its
proportional share in each), and the largest process is told apart. Sampling takes time, so a run is
either timed or sampled.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from netloom.errors import UsageError

PERIOD = 0.02  # seconds between two samples


@dataclass(frozen=True)
class Memory:
    """Bytes at most: of all processes together, and of the largest one."""

    together: int
    largest: int


def netloom_command(cache: Path, *words: str | Path) -> list[str]:
    """``netloom WORDS`` with its cache in a folder of its own; Python keeps what it compiles of
    netloom's sources, as for any package that is installed.
    """
    return [
        "env",
        "-u",
        "PYTHONDONTWRITEBYTECODE",
        f"NETLOOM_CACHE={cache}",
        sys.executable,
        "-m",
        "netloom",
        *map(str, words),
    ]


def seconds_of(command: Sequence[str]) -> float:
    """From the start to the end of a command that must succeed."""
    start = time.perf_counter()
    _check(command, subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode)
    return time.perf_counter() - start


def output_of(command: Sequence[str]) -> str:
    """What a command that must succeed prints."""
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    _check(command, result.returncode)
    return result.stdout


def compile_seconds(models: Sequence[str], target: Path, repeats: int) -> tuple[float, ...]:
    """``netloom compile`` of one model after another: seconds (medians), the first with a new cache
    folder each time, and the others with what those before left.
    """
    found: list[list[float]] = [[] for _ in models]
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="netloom-") as cache:
            for model, seconds in zip(models, found, strict=True):
                command = netloom_command(Path(cache), "compile", model, "-o", target)
                seconds.append(seconds_of(command))
    return tuple(map(statistics.median, found))


def memory_of(command: Sequence[str]) -> Memory:
    """What a command that must succeed holds."""
    together = largest = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            samples = [_sample(pid) for pid in _family(process.pid)]
            together = max(together, sum(share for share, _ in samples))
            largest = max([largest, *(peak for _, peak in samples)])
            time.sleep(PERIOD)
    _check(command, process.returncode)
    return Memory(together, largest)


def _check(command: Sequence[str], status: int) -> None:
    if status:
        raise UsageError(
            f"{' '.join(command)[:300]} ended with status {status}.",
            hint="Its error is printed above.",
        )


def _family(root: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _sample(pid: int) -> tuple[int, int]:
    """Bytes of a process now (its share of what is shared), and at most so far (all that it
    maps).
    """
    folder = Path(f"/proc/{pid}")
    with suppress(OSError):
        return kilobytes(folder / "smaps_rollup", "Pss:") << 10, kilobytes(
            folder / "status", "VmHWM:"
        ) << 10
    return 0, 0


def kilobytes(file: Path, key: str) -> int:
    """What a file of /proc says behind a key; 0 without such a line."""
    line = next((line for line in file.read_text().splitlines() if line.startswith(key)), "")
    return int(line.split()[1]) if line else 0
