"""Keeps a run on a GPU going: it starts a measuring process, and another one when that dies or
hangs.

A kernel that never ends, or one that breaks the device's context, takes its process along; what
measures goes on behind it, because a job's name is in the results before it runs. Nothing outlasts
the seconds of a run by more than GRACE.
"""

from __future__ import annotations

import enum
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from netloom.benchmarks.gpu_measure import COMPILED, LOST
from netloom.benchmarks.gpu_results import BEGUN, Results, read_results
from netloom.errors import DeviceError

BEGINNING = 120.0  # seconds until the first job, PyTorch's import included
KERNEL = 90.0  # seconds that a job may take
COMPILING = 300.0  # the same where torch.compile takes part
GRACE = 30.0  # for what was begun in time
_PERIOD = 0.25
_ENDING = 5.0  # seconds that a killed process may take to end: one in the driver's hands ends late
_TRIES, _PAUSE = 3, 5.0  # of a device that a job has taken along, and seconds before each


class _Stopped(enum.Enum):
    """Why a process was stopped: what it says of the job that it was at."""

    LATE = "it took too long"
    OVER = "the run's time was over"


def supervise(
    command: Sequence[str],
    path: Path,
    seconds: float,
    say: Callable[[str], None] = print,
    patience: Callable[[Results], float] | None = None,
) -> int:
    """The exit code of the last measuring process, 1 if it was stopped when the time was over.
    ``command``: what starts one, to which ``--seconds`` is added; ``path``: its results;
    ``patience``: how long they may stay as they are.
    """
    allowed = patience or patience_with
    end, tries = time.monotonic() + seconds, 0
    while True:
        before = _marks(read_results(path))
        left = max(end - time.monotonic(), 0.0)
        process = subprocess.Popen([*command, "--seconds", f"{left:.0f}"])
        try:
            ending = _wait(process, path, allowed, say, end + GRACE)
        finally:
            _stop(process)
        found = read_results(path)
        if tries and ending == DeviceError.exit_code and _marks(found) == before:
            say("the device is not back yet.")
            tries -= 1
            time.sleep(_PAUSE)
            continue
        if isinstance(ending, int) and ending != LOST and ending >= 0:
            return ending
        if ending is _Stopped.OVER:  # no fault of the job's, which the next run begins again
            say(f"the time was over during {_last(found) or 'the beginning'}.")
            return 1
        if _marks(found) == before:
            say("a measuring process ended before it began anything.")
            return LOST
        _give_reason(found, path, ending)
        if time.monotonic() >= end + GRACE:
            say(f"the time was over behind {_last(found)}.")
            return 1
        say(f"the measuring process ended during {_last(found)}; another one goes on.")
        tries = _TRIES


def _give_reason(results: Results, path: Path, ending: int | _Stopped) -> None:
    """The last job's, if its process could not write one."""
    last = results.outcomes[_last(results)]
    reason = ending.value if isinstance(ending, _Stopped) else f"exit code {ending}"
    if last.failure == BEGUN:
        results.put(replace(last, failure=f"its process ended: {reason}."))
        results.write(path)


def patience_with(results: Results) -> float:
    """Seconds that the job which was begun last may take."""
    last = _last(results)
    if not last:
        return BEGINNING
    return COMPILING if last.endswith(COMPILED) else KERNEL


def _wait(
    process: subprocess.Popen[bytes], path: Path, patience: Callable[[Results], float],
    say: Callable[[str], None], deadline: float,
) -> int | _Stopped:  # fmt: skip
    """A process's exit code, or why it was stopped: its results stayed as they were, or the
    deadline, however often they change."""
    changed, since, allowed = _changed(path), time.monotonic(), BEGINNING
    while process.poll() is None:
        time.sleep(_PERIOD)
        if (now := _changed(path)) != changed:
            changed, since, allowed = now, time.monotonic(), patience(read_results(path))
        if time.monotonic() > deadline:
            return _Stopped.OVER
        if time.monotonic() > since + allowed:
            say(f"nothing new in {time.monotonic() - since:.0f} s.")
            return _Stopped.LATE
    return process.returncode


def _stop(process: subprocess.Popen[bytes]) -> None:
    """At once if the driver lets it go."""
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_ENDING)


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _marks(results: Results) -> list[tuple[str, str, str]]:
    """What another process would find done."""
    return [(o.name, o.digest, o.failure) for o in results.outcomes.values()]


def _last(results: Results) -> str:
    return next(reversed(results.outcomes), "")
