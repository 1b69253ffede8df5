"""Faults of the machine and of other processes: killed, interrupted, disk full, memory short, many
at once.

Files appear whole or not at all, a fault leaves nothing behind, and the message and exit code are
those of README.md.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from netloom.errors import InputError
from netloom.runtime.session import Session, load

from ..cli.calling import ROOT, call, spawn, start

NETWORK = """
import netloom as nl

@nl.network
def small(x):
    return nl.dense(nl.relu(nl.dense(x, 3000)), 4)

def graph():
    return small.graph(x=nl.tensor("N", 4))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.py, and its program net.so with 108 kB of weights."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "net.py").write_text(NETWORK, encoding="utf-8")
    call("compile", f"{folder}/net.py:graph", "-o", folder / "net.so")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- killed and interrupted ------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2])
def test_killed_while_writing_leaves_old_or_new(delay: float, place: Path, tmp_path: Path) -> None:
    """kill -9 at any moment: the program is the old one, whole. What was left lying is swept by
    the next compile.
    """
    target = tmp_path / "m.so"
    call("compile", f"{place}/net.py:graph", "-o", target)
    old = target.read_bytes()
    process = start(
        "compile",
        "net.py:graph",
        "-o",
        target,
        "--cpu",
        "x86-64-v2",
        folder=place,
        TMPDIR=str(tmp_path),
    )
    while process.poll() is None and not any(
        name.startswith(("netloom-", ".netloom-")) for name in names(tmp_path)
    ):
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    process.communicate()
    found = target.read_bytes()
    assert found == old or call("inspect", target, "--verify").exit_code == 0
    call("compile", f"{place}/net.py:graph", "-o", target)
    assert [name for name in names(tmp_path) if name.startswith(".netloom-")] == []
    assert target.read_bytes() == old


def test_stale_temporaries_are_swept_and_others_kept(place: Path, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".netloom-{dead.pid}-0123.tmp").write_bytes(b"stale")
    (tmp_path / f".netloom-{os.getpid()}-0123.tmp").write_bytes(b"of a living process")
    call("compile", f"{place}/net.py:graph", "-o", tmp_path / "m.ll")
    assert names(tmp_path) == [f".netloom-{os.getpid()}-0123.tmp", "m.ll"]


def test_sigint_while_compiling_leaves_nothing(place: Path, tmp_path: Path) -> None:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    scratch.mkdir()
    process = start(
        "compile", "net.py:graph", "-o", out / "m.so", "-v", folder=place, TMPDIR=str(scratch)
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("precision float32")  # compiling has begun
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "netloom: stopped." in err
    assert names(out) == [] and names(scratch) == []


# -- the disk --------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from netloom.cli import main
main(sys.argv[2:])
"""


def with_file_limit(limit: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line where no file may grow beyond the limit: writes fail part way, as on a
    full disk.
    """
    command = [sys.executable, "-c", LIMITED, str(limit), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("limit", [0, 4096, 50_000])
@pytest.mark.parametrize("verb", ["compile", "export", "run"])
def test_a_write_that_fails_leaves_the_old_file(
    verb: str, limit: int, place: Path, tmp_path: Path
) -> None:
    target = tmp_path / "m.so"
    target.write_bytes(b"old")
    arguments = {
        "compile": ("compile", f"{place}/net.py:graph", "-o", target),
        "export": ("export", f"{place}/net.py:graph", "-o", target),
        "run": ("run", place / "net.so", "--dim", "N=10000", "--out", f"y={target}"),
    }[verb]
    done = with_file_limit(limit, *arguments)
    assert done.returncode in (2, 4, 5), done
    assert (
        done.stderr.count("netloom: ") == 1
        and "Traceback" not in done.stderr
        and "defect" not in done.stderr
    ), done.stderr
    assert names(tmp_path) == ["m.so"] and target.read_bytes() == b"old"


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    place: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones((8, 4), np.float32), y=np.zeros(8, np.int64))
    target = tmp_path / "c.safetensors"
    target.write_bytes(b"old")
    done = with_file_limit(10_000, "train", f"{place}/net.py:graph", "--data", tmp_path / "d.npz", "--optimizer", "sgd",
                           "--checkpoint", target)  # fmt: skip
    assert (
        done.returncode == 5
        and done.stderr.startswith("netloom: ")
        and "Traceback" not in done.stderr
    )
    assert names(tmp_path) == ["c.safetensors", "d.npz"] and target.read_bytes() == b"old"


def test_control_of_the_file_limit(place: Path, tmp_path: Path) -> None:
    """With room enough the same calls succeed."""
    assert (
        with_file_limit(
            1 << 24, "compile", f"{place}/net.py:graph", "-o", tmp_path / "m.so"
        ).returncode
        == 0
    )
    assert with_file_limit(1 << 24, "run", tmp_path / "m.so").returncode == 0


# -- many at once ----------------------------------------------------------------------------------


def test_concurrent_compilers_of_one_file_all_succeed(place: Path, tmp_path: Path) -> None:
    processes = [
        start("compile", "net.py:graph", "-o", tmp_path / "m.so", folder=place) for _ in range(3)
    ]
    assert [process.communicate(timeout=120) and process.returncode for process in processes] == [
        0,
        0,
        0,
    ]
    assert names(tmp_path) == ["m.h", "m.so"]
    call("inspect", tmp_path / "m.so", "--verify")
    assert (tmp_path / "m.so").read_bytes() == (place / "net.so").read_bytes()


def test_results_do_not_depend_on_threads(place: Path, tmp_path: Path) -> None:
    results = []
    for threads in (1, 2, 3, 8):
        call(
            "run",
            place / "net.so",
            "--dim",
            "N=33",
            "--threads",
            str(threads),
            "--out",
            f"y={tmp_path}/y.npy",
        )
        results.append((tmp_path / "y.npy").read_bytes())
    assert len(set(results)) == 1
    call("run", place / "net.so", "--dim", "N=33", "--seed", "1", "--out", f"y={tmp_path}/y.npy")
    assert (tmp_path / "y.npy").read_bytes() not in results  # the control


def test_the_same_model_gives_the_same_bytes(place: Path, tmp_path: Path) -> None:
    spawn(
        "compile",
        "net.py:graph",
        "-o",
        tmp_path / "m.so",
        folder=place,
        PYTHONHASHSEED="7",
        TMPDIR=str(tmp_path),
    )
    assert (tmp_path / "m.so").read_bytes() == (place / "net.so").read_bytes()
    call("compile", f"{place}/net.py:graph", "-o", tmp_path / "m.so", "--threads", "1")
    # the control: another option
    assert (tmp_path / "m.so").read_bytes() != (place / "net.so").read_bytes()


# -- memory ----------------------------------------------------------------------------------------

SHORT = """
import resource, sys
import numpy as np
from netloom.runtime.session import load
session = load(sys.argv[1], threads=1)
x = np.ones((3, 4), np.float32)
before = session(x)
resource.setrlimit(resource.RLIMIT_AS, (2 << 30,) * 2)
try:
    session(np.broadcast_to(np.float32(1), (1, 4)).repeat(500_000, axis=0))
except MemoryError as error:
    print(error)
print(np.array_equal(session(x), before))
"""


def test_too_little_memory_is_an_error_with_the_size(place: Path) -> None:
    """The arena for 500,000 rows of 3,000 numbers cannot be had; the session stays usable."""
    command = [sys.executable, "-c", SHORT, str(place / "net.so")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    message, same = done.stdout.splitlines()
    assert any(
        word.isdigit() and int(word) >= 500_000 * 3000 * 4
        for word in message.replace(",", " ").split()
    ), message
    assert same == "True"


def test_runs_leak_nothing(place: Path) -> None:
    session = load(place / "net.so", threads=2)
    x, wrong = np.ones((3, 4), np.float32), np.ones((3, 5), np.float32)

    def runs(count: int) -> None:
        for _ in range(count):
            session(x)
            with pytest.raises(InputError):
                session(wrong)

    runs(200)
    assert not leaks(lambda: runs(5000), 2 << 20)


def test_compiling_and_forgetting_leaks_nothing(place: Path) -> None:
    from netloom.cli.models import load_graph
    from netloom.cli.options import Binding
    from netloom.compiler.driver import plan_graph
    from netloom.compiler.targets.cpu.jit import load_in_process
    from netloom.compiler.targets.cpu.variant import Variant

    compiled = plan_graph(load_graph(f"{place}/net.py:graph", Binding()))
    objects = compiled.objects

    def cycles(count: int) -> None:
        for _ in range(count):
            image = load_in_process([Variant(compiled.program, objects, compiled.cpu.required)])
            Session.in_process(image, threads=1)(np.ones((3, 4), np.float32))
            del image
            gc.collect()

    cycles(4)
    assert not leaks(lambda: cycles(8), 1 << 20)  # the code of one program alone is 200 kB


def leaks(work: Callable[[], None], least: int) -> bool:
    """Whether memory grows by so many bytes each time: what else the process holds does not."""

    def growth() -> int:
        before = resident()
        work()
        return resident() - before

    return all(growth() >= least for _ in range(3))


def resident() -> int:
    """Bytes in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf(
        "SC_PAGE_SIZE"
    )
