"""A run on a GPU goes on when its process dies or hangs: with small processes that write results."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

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
    assert said[-1] == "the time was over during hang."
    assert list(read_results(path).failures) == ["hang"]


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
