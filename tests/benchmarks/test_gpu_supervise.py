"""A run on a GPU goes on when its process dies or hangs: with small processes that write results."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from netloom.benchmarks import gpu_supervise
from netloom.benchmarks.gpu_measure import LOST
from netloom.benchmarks.gpu_results import BEGUN, Outcome, Results, read_results
from netloom.benchmarks.gpu_supervise import patience_with, supervise

# a measuring process: each job does what its name says; after the last one it ends with a code
_PROCESS = f"""
import os, signal, sys, time
from pathlib import Path
from netloom.benchmarks.gpu_results import BEGUN, Outcome, read_results
path, code, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")
assert sys.argv[-2] == "--seconds" and 0 <= float(sys.argv[-1]) <= 50
results = read_results(path)
for name in names:
    if results.is_done(name, "d"):
        continue
    results.put(Outcome(name, "d", failure=BEGUN))
    results.write(path)
    if name == "hang":
        time.sleep(60)
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    results.put(Outcome(name, "d", failure="lost" if name == "lose" else ""))
    results.write(path)
    if name == "lose":
        sys.exit({LOST})
sys.exit(code)
"""


def patience(results: Results) -> float:
    """A moment for what hangs, all that a slow machine needs for the rest."""
    return 0.3 if next(reversed(results.outcomes)) == "hang" else 40.0


def run(path: Path, names: str, code: int = 0) -> tuple[int, list[str]]:
    said: list[str] = []
    command = [sys.executable, "-c", _PROCESS, str(path), str(code), names]
    return supervise(command, path, 50.0, said.append, patience), said


def test_a_process_that_ends_is_the_end(tmp_path: Path) -> None:
    assert run(tmp_path / "r.json", "a,b", 1) == (1, [])
    assert list(read_results(tmp_path / "r.json").outcomes) == ["a", "b"]


def test_another_goes_on_behind_what_broke_one(tmp_path: Path) -> None:
    """A fault of the process, and a device that is lost."""
    code, said = run(tmp_path / "r.json", "a,crash,b,lose,c")
    assert code == 0 and len(said) == 2
    assert "during crash; another one goes on" in said[0] and "during lose" in said[1]
    results = read_results(tmp_path / "r.json")
    assert sorted(results.outcomes) == ["a", "b", "c", "crash", "lose"]
    assert results.failures == {"crash": "its process ended: exit code -11.", "lose": "lost"}


def test_what_hangs_is_stopped(tmp_path: Path) -> None:
    code, said = run(tmp_path / "r.json", "hang,a")
    assert code == 0 and said[0].startswith("nothing new in ") and "during hang" in said[1]
    assert read_results(tmp_path / "r.json").failures == {
        "hang": "its process ended: it took too long."
    }


def test_nothing_outlasts_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun in time has GRACE; the clock here is an hour later as soon as it has begun."""
    path = tmp_path / "r.json"
    later = SimpleNamespace(
        monotonic=lambda: time.monotonic() + 3600 * path.exists(), sleep=time.sleep
    )
    monkeypatch.setattr(gpu_supervise, "time", later)
    monkeypatch.setattr(gpu_supervise, "patience_with", lambda _: 1e6)
    command = [sys.executable, "-c", _PROCESS, str(path), "0", "hang,a"]
    said: list[str] = []
    assert supervise(command, path, 50.0, said.append) == 1
    assert said == ["the time was over during hang."]
    assert read_results(path).failures == {"hang": BEGUN}  # not its fault: it is begun again


def test_results_that_change_all_the_time_do_not_put_off_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, passed = tmp_path / "r.json", iter(range(20))

    def sleep(_: float) -> None:
        Results().write(path)
        os.utime(path, ns=(0, next(passed)))

    clock = SimpleNamespace(monotonic=lambda: 7.0, sleep=sleep)
    monkeypatch.setattr(gpu_supervise, "time", clock)
    process: Any = SimpleNamespace(poll=lambda: None)
    ending = gpu_supervise._wait(process, path, lambda _: 1e6, print, deadline=6.0)
    assert ending is gpu_supervise._Stopped.OVER


def test_a_device_that_a_job_has_taken_along_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process loses it, two find none, the last one goes on; without a loss nobody waits."""
    path, gone = tmp_path / "r.json", tmp_path / "gone"
    monkeypatch.setattr(gpu_supervise, "_PAUSE", 0.0)
    absent = f"""
from pathlib import Path
gone = Path({str(gone)!r})
if Path({str(path)!r}).exists() and len(gone.read_bytes() if gone.exists() else b'') < 2:
    gone.open('ab').write(b'.')
    raise SystemExit(4)
"""
    command = [sys.executable, "-c", absent + _PROCESS, str(path), "0", "lose,a"]
    said: list[str] = []
    assert supervise(command, path, 50.0, said.append, patience) == 0
    assert said[1:] == ["the device is not back yet."] * 2
    assert list(read_results(path).outcomes) == ["lose", "a"]
    missing = [sys.executable, "-c", "raise SystemExit(4)"]
    assert supervise(missing, path, 50.0, said.append, patience) == 4 and len(said) == 3


def test_processes_that_begin_nothing_are_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Results()
    found.put(Outcome("a", "d", failure=BEGUN))
    found.write(tmp_path / "r.json")
    for ending in (f"sys.exit({LOST})", "os.abort()"):
        said: list[str] = []
        command = [sys.executable, "-c", f"import os, sys; {ending}"]
        assert supervise(command, tmp_path / "r.json", 50.0, said.append) == LOST
        assert said == ["a measuring process ended before it began anything."]
    monkeypatch.setattr(gpu_supervise, "BEGINNING", 0.3)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert supervise(command, tmp_path / "r.json", 50.0, said.append) == LOST


def test_compiling_peers_are_waited_for_longer() -> None:
    found = Results()
    times = [patience_with(found)]
    for name in ("resnet n1", "resnet n1 compiled"):
        found.put(Outcome(name, "d"))
        times.append(patience_with(found))
    assert times == [gpu_supervise.BEGINNING, gpu_supervise.KERNEL, gpu_supervise.COMPILING]
