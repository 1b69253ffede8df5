"""Times of layers on this machine, measured by a process of its own (timing_worker.py) that may
crash or be stopped.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Timer as Alarm

import llvmlite.binding as llvm

from netloom.environment import worker_environment
from netloom.errors import UsageError

from ...cache import Cache
from ...strategies.machines import machine_entry
from ...tuning import Layer, Times
from .llvm_version import llvm_version
from .machine import Cpu
from .worker import READY, read_block, write_block

_COMMAND = (sys.executable, "-P", "-m", f"{__package__}.timing_worker")


class LayerTimer:
    """Measures layers at a CPU level on so many threads; UsageError if this machine cannot run
    that level.
    """

    def __init__(
        self, cpu: Cpu, threads: int, cache: Cache, command: Sequence[str] = _COMMAND
    ) -> None:
        present = llvm.get_host_cpu_features()
        if missing := [feature for feature in cpu.required if not present.get(feature, False)]:
            raise UsageError(f"{cpu.name} cannot be tuned for on this machine, which lacks "
                             f"{', '.join(missing)}.",
                             hint="Leave --tune out, or compile on such a machine.")  # fmt: skip
        self._cpu, self._threads, self._cache, self._command = cpu, threads, cache, command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def identity(self) -> str:
        """The machine, the level, the threads and LLVM's version."""
        machine = f"{processor()} ({llvm.get_host_cpu_name()}), {self._cpu.name}"
        return f"{machine}, {self._threads} threads, {llvm_version()}"

    @property
    def cached(self) -> int:
        """The largest cache of the level's entry in the machine table."""
        return machine_entry(self._cpu.name).l3

    def measure(self, layer: Layer, strategies: Sequence[str], seconds: float) -> Times:
        """The time of each strategy, None for one that fails or kills the process; missing where
        the seconds are over.
        """
        end = time.monotonic() + seconds
        found = self._answer(layer, strategies, end)
        if found is not None or len(strategies) == 1:
            return found or ({} if time.monotonic() >= end else dict.fromkeys(strategies))
        times: dict[str, float | None] = {}
        for name in strategies:  # one of them killed the process: each gets one of its own
            if time.monotonic() < end:
                times |= self.measure(layer, [name], end - time.monotonic())
        return times

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        self._process.wait()
        self._process = None

    def _answer(self, layer: Layer, strategies: Sequence[str], end: float) -> Times | None:
        """What the process says; None if it died, or was killed because the time is over."""
        folder = self._cache.folder
        request = {**asdict(layer), "strategies": list(strategies), "cpu": self._cpu.name,
                   "threads": self._threads,
                   "cache": str(folder) if folder is not None else None}  # fmt: skip
        try:
            process = self._started()
        except OSError:  # no room for a process
            return None
        alarm = Alarm(max(end - time.monotonic(), 0), process.kill)
        alarm.start()
        try:
            answer = _exchange(process, json.dumps(request).encode())
        finally:
            alarm.cancel()
        if answer is None:
            self.close()
            return None
        found = json.loads(answer)
        return {**found["seconds"], **dict.fromkeys(found["failed"])}

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # a terminal's SIGINT goes to the caller, who stops the process
                env=worker_environment(), process_group=0,
            )  # fmt: skip
        return self._process


def _exchange(process: subprocess.Popen[bytes], request: bytes) -> bytes | None:
    """The answer to a request (READY stands before the first); None if the process is gone."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it has died, which the missing answer shows
        write_block(process.stdin, request)
    answer = read_block(process.stdout)
    return read_block(process.stdout) if answer == READY else answer


def processor(root: Path = Path("/")) -> str:
    """The processor's name as the system tells it, or "unknown"."""
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        "unknown",
    )


__all__ = ["LayerTimer", "processor"]
