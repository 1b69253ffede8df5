"""Keeps a run on a GPU going: it starts a measuring process, and another one when that dies or
hangs.

A kernel that never ends, or one that breaks the device's context, takes its process along; what
measures goes on behind it, because a job's name is in the results before it runs. Nothing outlasts
the seconds of a run by more than GRACE.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from netloom.benchmarks.gpu_measure import COMPILED, LOST
from netloom.benchmarks.gpu_results import BEGUN, Results, read_results

BEGINNING = 120.0  # seconds until the first job, PyTorch's import included
KERNEL = 90.0  # seconds that a job may take
COMPILING = 300.0  # the same where torch.compile takes part
GRACE = 30.0  # for what was begun in time
_PERIOD = 0.25


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
    end = time.monotonic() + seconds
    while True:
        before = _marks(read_results(path))
        left = max(end - time.monotonic(), 0.0)
        process = subprocess.Popen([*command, "--seconds", f"{left:.0f}"])
        try:
            code = _wait(process, path, allowed, say, end + GRACE)
        finally:
            process.kill()
            process.wait()
        if code not in (LOST, None) and code >= 0:
            return code
        found = read_results(path)
        if _marks(found) == before:
            say("a measuring process ended before it began anything.")
            return code if code is not None and code > 0 else LOST
        _give_reason(found, path, "it took too long" if code is None else f"exit code {code}")
        if time.monotonic() >= end + GRACE:
            say(f"the time was over during {_last(found)}.")
            return 1
        say(f"the measuring process ended during {_last(found)}; another one goes on.")


def _give_reason(results: Results, path: Path, reason: str) -> None:
    """The last job's, if its process could not write one."""
    last = results.outcomes[_last(results)]
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
) -> int | None:  # fmt: skip
    """A process's exit code; None if it was stopped because its results stayed as they were, or at
    the deadline."""
    changed, since, allowed = _changed(path), time.monotonic(), BEGINNING
    while process.poll() is None:
        time.sleep(_PERIOD)
        if (now := _changed(path)) != changed:
            changed, since, allowed = now, time.monotonic(), patience(read_results(path))
        elif time.monotonic() > min(since + allowed, deadline):
            say(f"nothing new in {time.monotonic() - since:.0f} s.")
            process.kill()
            process.wait()
            return None
    return process.returncode


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _marks(results: Results) -> list[tuple[str, str, str]]:
    """What another process would find done."""
    return [(o.name, o.digest, o.failure) for o in results.outcomes.values()]


def _last(results: Results) -> str:
    return next(reversed(results.outcomes), "")
