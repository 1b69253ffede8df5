"""Contenders side by side: each in a process of its own, in rounds of blocks, compared by ratios of
medians.

A round gives every contender one block (a pause, two calls discarded, then timed calls), in turning
order. Machines are noisy: a time means something only beside another of the same round, so a ratio
is the median over rounds of the quotient of the blocks' medians, with its 10th and 90th percentile.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from netloom.errors import UsageError

Array = npt.NDArray[Any]
IDLE = 0.1  # seconds before a block: a peer's threads go on spinning for a while after a call


@dataclass(frozen=True)
class Contender:
    """``name`` in tables; ``engine`` of benchmarks/contender.py; the file that it loads."""

    name: str
    engine: str
    file: Path
    threads: int


@dataclass
class Result:
    """Times in seconds, one list a round; ``ready``: seconds to load and run once;
    ``peak_bytes`` of the process.
    """

    contender: Contender
    version: str
    ready: float
    rounds: list[list[float]] = field(default_factory=list)
    outputs: dict[str, Array] = field(default_factory=dict)
    peak_bytes: int = 0

    @property
    def milliseconds(self) -> float:
        """The median of all timed calls."""
        return float(np.median(np.concatenate([np.asarray(r) for r in self.rounds]))) * 1e3

    def percentiles(self) -> dict[str, float]:
        """min, mean, p50, p90, p95, p99 in milliseconds."""
        times = np.concatenate([np.asarray(r) for r in self.rounds]) * 1e3
        row = {f"p{p}_ms": float(np.percentile(times, p)) for p in (50, 90, 95, 99)}
        return {"min_ms": float(times.min()), "mean_ms": float(times.mean()), **row}

    def ratio_to(self, other: Result) -> tuple[float, float, float]:
        """How many times faster this contender is: the median over rounds, p10 and p90."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        quotients = [float(np.median(theirs) / np.median(ours)) for ours, theirs in pairs]
        low, middle, high = np.percentile(quotients, (10, 50, 90))
        return float(middle), float(low), float(high)


class _Process:
    """A running contender."""

    def __init__(self, contender: Contender, feeds: Path) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "netloom.benchmarks.contender", contender.engine,
                   str(contender.file), str(feeds), str(contender.threads)]  # fmt: skip
        self.contender = contender
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # fmt: skip  (a terminal's SIGINT is for this process alone)
            process_group=0,
        )
        try:
            first = self._answer()
        except BaseException:  # SIGINT too: nobody else knows the process yet
            self.process.kill()
            self.process.communicate()
            raise
        self.result = Result(contender, first["version"], first["ready_s"])

    def ask(self, line: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise UsageError(f"the contender {self.contender.name} ended with status {self.process.wait()}.",
                             hint="Its error is printed above.")  # fmt: skip
        answer = json.loads(line)
        if "fault" in answer:
            raise UsageError(
                f"the contender {self.contender.name} cannot run it: {answer['fault'][:300]}"
            )
        return answer

    def __enter__(self) -> _Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        if kind:
            self.process.kill()
        self.process.wait(timeout=60)
        self.process.stdout.close()


def run(
    contenders: Sequence[Contender],
    feeds: Mapping[str, Array],
    folder: Path,
    rounds: int = 20,
    calls: int = 5,
) -> list[Result]:
    """Times and outputs of all contenders over the same inputs; ``folder`` is for files between
    the processes.
    """
    feeds_file = folder / "feeds.npz"
    np.savez(feeds_file, **feeds)  # type: ignore[arg-type]
    processes: list[_Process] = []
    try:
        for contender in contenders:  # one by one: if one fails, those before it are ended
            processes.append(_Process(contender, feeds_file))
        for number in range(rounds):
            turn = number % len(processes)
            for process in processes[turn:] + processes[:turn]:
                process.result.rounds.append(process.ask(f"block {calls} {IDLE}"))
        for process in processes:
            target = folder / "outputs.npz"
            process.result.peak_bytes = process.ask(f"outputs {target}")["peak_bytes"]
            process.result.outputs = dict(np.load(target, allow_pickle=False))
    finally:
        for process in processes:
            process.__exit__(*(sys.exc_info() if sys.exc_info()[0] else (None, None, None)))
    return [process.result for process in processes]


def relative_error(found: Array, expected: Array) -> float:
    """||found - expected|| / ||expected||, in float64."""
    a, b = np.asarray(found, np.float64).reshape(-1), np.asarray(expected, np.float64).reshape(-1)
    return float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1.0))
