"""Kernels -> objects: the same bytes from every cache and number of processes, and no fault of
either stops a compile.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import netloom as nl
from netloom.compiler.cache import Cache
from netloom.compiler.dim import Symbol
from netloom.compiler.driver import plan_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.loops.ir import Kernel
from netloom.compiler.loops.parse import parse_kernel
from netloom.compiler.loops.text import print_kernel
from netloom.compiler.targets.cpu import kernel_compiler, kernel_objects, worker_pool
from netloom.compiler.targets.cpu.jit import load_in_process
from netloom.compiler.targets.cpu.kernel_objects import compile_kernel_objects
from netloom.compiler.targets.cpu.llvm import compile_kernels, kernels_as_llvm
from netloom.compiler.targets.cpu.machine import CPUS, Cpu, host_cpu
from netloom.compiler.targets.cpu.variant import Variant
from netloom.compiler.targets.cpu.worker_pool import compile_texts
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.errors import ToolchainError, VerificationError
from netloom.runtime.session import Session

ROOT = Path(__file__).parents[4]
CPU = host_cpu()
NETWORK = """
from tests.compiler.targets.cpu.test_kernel_objects import sums

def graph():
    return sums(26)
"""


def sums(count: int) -> Graph:
    """Sums over rows of 2, 3, ... numbers: as many different kernels as ``count``."""
    b = Builder("sums")
    x = b.input(TensorType(FLOAT32, (5, 40)), "x")
    parts = [
        b("slice", x, start=(0, 0), size=(5, size), step=(1, 1)) for size in range(2, count + 2)
    ]
    return b.build([b("reduce_sum", part, axes=(1,)) for part in parts])


@pytest.fixture(scope="module")
def kernels() -> dict[str, Kernel]:
    return dict(plan_graph(sums(26)).program.kernels)


@pytest.fixture(scope="module")
def expected(kernels: dict[str, Kernel]) -> tuple[bytes, ...]:
    """Compiled in this process, without a cache."""
    return compile_kernel_objects(kernels, digests_of(kernels), CPU, 1, Cache(None))


def digests_of(kernels: Mapping[str, Kernel]) -> dict[str, str]:
    return {
        name: hashlib.sha256(print_kernel(kernel, "kernel").encode()).hexdigest()
        for name, kernel in kernels.items()
    }


def forget(name: str, data: bytes) -> None:
    """Keep no object."""


def some(kernels: dict[str, Kernel], count: int) -> dict[str, Kernel]:
    return {name: kernels[name] for name in sorted(kernels)[:count]}


# -- the same bytes --------------------------------------------------------------------------------


def test_one_object_a_kernel_under_its_name(
    kernels: dict[str, Kernel], expected: tuple[bytes, ...]
) -> None:
    assert len(kernels) > 2 * kernel_objects.KERNELS_PER_PROCESS
    for name, data in zip(sorted(kernels), expected, strict=True):
        assert data.count(name.encode() + b"\0") == 1 and b"kernel_" not in data


def test_objects_run(expected: tuple[bytes, ...]) -> None:
    compiled = plan_graph(sums(26))
    session = Session.in_process(
        load_in_process([Variant(compiled.program, expected, CPU.required)]), threads=1
    )
    x = np.arange(200, dtype=np.float32).reshape(5, 40)
    for size, found in enumerate(session(x), 2):
        assert np.array_equal(found, x[:, :size].sum(axis=1))


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_give_the_same_bytes(
    workers: int, kernels: dict[str, Kernel], expected: tuple[bytes, ...]
) -> None:
    assert (
        compile_kernel_objects(kernels, digests_of(kernels), CPU, workers, Cache(None)) == expected
    )


def test_the_cache_gives_the_same_bytes(kernels: dict[str, Kernel], expected: tuple[bytes, ...],
                                        tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Cold, half warm (other objects first, under other names) and warm, where nothing is
    verified or compiled.
    """
    cache = Cache(tmp_path)
    first = some(kernels, 7)
    renamed = {f"other_{name}": kernel for name, kernel in first.items()}
    compile_kernel_objects(renamed, digests_of(renamed), CPU, 1, cache)
    assert len(cache.entries()) == 7
    assert compile_kernel_objects(kernels, digests_of(kernels), CPU, 1, cache) == expected
    assert len(cache.entries()) == len(kernels)
    monkeypatch.setattr(
        kernel_compiler, "kernels_as_llvm", lambda *_: pytest.fail("compiled again")
    )
    monkeypatch.setattr(kernel_compiler, "verify_kernel", lambda *_: pytest.fail("verified again"))
    assert compile_kernel_objects(kernels, digests_of(kernels), CPU, 2, cache) == expected


def test_levels_share_objects_if_they_have_the_same_instructions(
    kernels: dict[str, Kernel], tmp_path: Path
) -> None:
    found = [
        compile_kernel_objects(some(kernels, 2), digests_of(kernels), cpu, 1, Cache(tmp_path))
        for cpu in CPUS.values()
    ]
    targets = {(cpu.llvm_name, cpu.llvm_features) for cpu in CPUS.values()}
    assert len(targets) == len(CPUS) - 1  # sapphirerapids is x86-64-v4-vnni
    assert len(Cache(tmp_path).entries()) == 2 * len(targets)
    alike = ("x86-64-v4", "x86-64-v4-vnni", "sapphirerapids")  # but for sums of products of bytes
    assert len(set(found)) == len(CPUS) - len(alike) + 1


def test_programs_have_the_same_bytes(tmp_path: Path) -> None:
    """From processes with different caches, folders, PYTHONHASHSEED and worker counts; and from
    a warm cache.
    """
    runs = [("1", "1", "a"), ("2", "2", "b"), ("3", "2", "b"), ("4", "1", "off")]
    programs = []
    for number, (seed, workers, cache) in enumerate(runs):
        folder = tmp_path / f"folder{number}"
        folder.mkdir()
        (folder / "net.py").write_text(NETWORK, encoding="utf-8")
        place = cache if cache == "off" else str(tmp_path / cache)
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed,
                     "NETLOOM_WORKERS": workers,
                     "NETLOOM_CACHE": place, "TMPDIR": str(folder)}  # fmt: skip
        subprocess.run([sys.executable, "-m", "netloom", "compile", "net.py:graph", "-o", "m.so"],
                       cwd=folder, env=variables,
                       check=True, capture_output=True)  # fmt: skip
        programs.append((folder / "m.so").read_bytes())
    assert len(set(programs)) == 1
    # so that both workers ran
    assert len(Cache(tmp_path / "a").entries()) == len(Cache(tmp_path / "b").entries()) >= 24


def test_the_text_decides_the_code(kernels: dict[str, Kernel]) -> None:
    """So that it may stand for the kernel in the cache's keys: parsed, it gives the same code."""
    network = plan_graph(nl.zoo.lenet5().inference_form()).program.kernels
    for name, kernel in {**some(kernels, 2), **network}.items():
        parsed = parse_kernel(print_kernel(kernel, "kernel"))
        assert kernels_as_llvm({name: kernel}, CPU) == kernels_as_llvm({name: parsed}, CPU)


@pytest.mark.parametrize("workers", [1, 2])
def test_objects_are_kept_as_they_are_made(workers: int, kernels: dict[str, Kernel], tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """A compile that fails at its last kernel has kept the others."""

    def emit(one: Mapping[str, Kernel], cpu: Cpu) -> str:
        return (
            "no code" if kernels[sorted(kernels)[-1]] in one.values() else kernels_as_llvm(one, cpu)
        )

    monkeypatch.setattr(kernel_compiler, "kernels_as_llvm", emit)
    with pytest.raises(ToolchainError):
        compile_kernel_objects(kernels, digests_of(kernels), CPU, workers, Cache(tmp_path))
    assert len(Cache(tmp_path).entries()) == len(kernels) - 1


# -- faults of the cache ---------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["emptied", "cut", "changed", "swapped"])
def test_damaged_entries_are_made_again(damage: str, kernels: dict[str, Kernel],
                                        expected: tuple[bytes, ...],
                                        tmp_path: Path) -> None:  # fmt: skip
    cache, few = Cache(tmp_path), some(kernels, 3)
    compile_kernel_objects(few, digests_of(few), CPU, 1, cache)
    paths = [entry.path for entry in cache.entries()]
    whole = [path.read_bytes() for path in paths]
    for number, path in enumerate(paths):
        data = bytearray(whole[number])
        data[len(data) // 2] ^= 0x40
        path.write_bytes(
            {
                "emptied": b"",
                "cut": whole[number][:-1],
                "changed": bytes(data),
                "swapped": whole[number - 1],
            }[damage]
        )
    assert compile_kernel_objects(few, digests_of(few), CPU, 1, cache) == expected[:3]
    assert [path.read_bytes() for path in paths] == whole


def test_a_cache_that_cannot_be_written(
    kernels: dict[str, Kernel], expected: tuple[bytes, ...], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        assert (
            compile_kernel_objects(some(kernels, 2), digests_of(kernels), CPU, 1, Cache(place))
            == expected[:2]
        )


# -- faults of processes ---------------------------------------------------------------------------


def processes_of(parent: int) -> list[int]:
    """The workers that a process has started."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            status = (place / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            command = (place / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if place.name.isdecimal() and int(status[1]) == parent and b"targets.cpu.worker" in command:
            found.append(int(place.name))
    return found


def test_no_process_is_left(kernels: dict[str, Kernel], expected: tuple[bytes, ...]) -> None:
    threads = threading.active_count()
    assert compile_kernel_objects(kernels, digests_of(kernels), CPU, 2, Cache(None)) == expected
    assert processes_of(os.getpid()) == [] and threading.active_count() == threads


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_llvm_refuses(processes: int) -> None:
    texts = [
        ("good", "define void @f() { ret void }"),
        ("f_7_bad", "define void @f() { ret i32 0 }"),
    ] * 3
    with pytest.raises(ToolchainError, match=r"^f_7_bad: LLVM refuses this kernel's code: .*"):
        compile_texts(texts, CPU, processes, forget)
    assert processes_of(os.getpid()) == []
    assert len(compile_texts(texts[:1], CPU, processes, forget)) == 1  # the control


def test_a_kernel_that_breaks_a_rule_is_named(kernels: dict[str, Kernel]) -> None:
    broken = replace(kernels[sorted(kernels)[3]], variable=Symbol("w", 5))
    all_ = {**kernels, "broken": broken}
    with pytest.raises(VerificationError, match="^broken: "):
        compile_kernel_objects(all_, digests_of(all_), CPU, 2, Cache(None))
    assert processes_of(os.getpid()) == []


def test_a_worker_that_dies_is_an_error_with_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    started = worker_pool._Worker.object_of

    def killed(worker: worker_pool._Worker, name: str, text: str) -> bytes:
        assert worker.is_ready and worker.process is not None
        worker.process.kill()
        worker.process.wait()
        return started(worker, name, text)

    monkeypatch.setattr(worker_pool._Worker, "object_of", killed)
    with pytest.raises(
        ToolchainError,
        match="^f_1: the process that compiled this kernel died: exit status -9, no message",
    ):
        compile_texts([("f_1", "define void @f() { ret void }")], CPU, 1, forget)


def test_where_no_worker_starts_this_process_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [("f_1", "define void @f() { ret void }")]
    expected = compile_texts(texts, CPU, 0, forget)
    monkeypatch.setattr(worker_pool, "_MODULE", "netloom.no_such_module")
    assert compile_texts(texts, CPU, 1, forget) == expected
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert compile_texts(texts, CPU, 1, forget) == expected


STOPPED = """
import sys
from netloom.compiler.targets.cpu.machine import host_cpu
from netloom.compiler.targets.cpu.worker_pool import compile_texts
def texts():
    for number in range(100_000):
        if number == 4:
            print("started", flush=True)
        yield str(number), "define void @f() { ret void }"
compile_texts(texts(), host_cpu(), 2, lambda *_: None)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_compiler(number: signal.Signals) -> None:
    """Interrupted or killed in the middle: no process is left."""
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None and process.stdout.readline() == b"started\n"
    workers = processes_of(process.pid)
    assert len(workers) == 2
    process.send_signal(number)
    assert process.wait(60) == -number
    process.stdout.close()
    end = time.monotonic() + 60
    while any(Path("/proc", str(worker)).exists() for worker in workers):
        assert time.monotonic() < end, "a worker is left"
        time.sleep(0.01)


def test_killed_compilers_leave_a_cache_that_can_be_used(
    kernels: dict[str, Kernel], expected: tuple[bytes, ...], tmp_path: Path
) -> None:
    """kill -9 as soon as the first entries are there, three times: every entry is whole or
    absent.
    """
    (tmp_path / "net.py").write_text(NETWORK, encoding="utf-8")
    cache = Cache(tmp_path / "cache")
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "NETLOOM_CACHE": str(tmp_path / "cache"),
        "NETLOOM_WORKERS": "1",
    }
    command = [sys.executable, "-m", "netloom", "compile", "net.py:graph", "-o", "m.so"]
    for count in (1, 5):
        process = subprocess.Popen(
            command, cwd=tmp_path, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        while process.poll() is None and len(cache.entries()) < count:
            time.sleep(0.01)
        process.kill()
        process.communicate()
    subprocess.run(command, cwd=tmp_path, env=variables, check=True, capture_output=True)
    warm = (tmp_path / "m.so").read_bytes()
    subprocess.run(
        command,
        cwd=tmp_path,
        env={**variables, "NETLOOM_CACHE": "off"},
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "m.so").read_bytes() == warm


# -- how many processes ----------------------------------------------------------------------------


def test_few_kernels_compile_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NETLOOM_WORKERS", raising=False)
    each = kernel_objects.KERNELS_PER_PROCESS
    assert [
        kernel_objects._processes(count, 8) for count in (0, each - 1, each, 3 * each, 100 * each)
    ] == [0, 0, 0, 3, 8]
    assert kernel_objects._processes(100 * each, 1) == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert kernel_objects._processes(100 * each, None) == 3
    monkeypatch.setenv("NETLOOM_WORKERS", "2")
    assert kernel_objects._processes(100 * each, None) == 2


def test_a_text_is_made_while_llvm_compiles_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without processes, by one thread, which ends with the call."""
    second, threads = threading.Event(), threading.active_count()

    def compile(text: str, *_: str) -> bytes:
        assert second.wait(60), "the second text waits for the first one's object"
        return text.encode()

    def texts() -> Iterator[tuple[str, str]]:
        yield "f", "first"
        yield "g", "second"
        second.set()

    monkeypatch.setattr(worker_pool, "object_of_text", compile)
    interval = sys.getswitchinterval()
    assert compile_texts(texts(), CPU, 0, forget) == [b"first", b"second"]
    assert (sys.getswitchinterval(), threading.active_count()) == (interval, threads)


def test_the_last_of_two_compiles_restores_what_the_first_found() -> None:
    interval = sys.getswitchinterval()
    first, second = worker_pool._short_turns(), worker_pool._short_turns()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.getswitchinterval() < interval
    second.__exit__(None, None, None)
    assert sys.getswitchinterval() == interval


def test_other_code_has_another_object(kernels: dict[str, Kernel]) -> None:
    """The control of all equalities here."""
    assert len({compile_kernels({"f": kernel}, CPU) for kernel in some(kernels, 5).values()}) == 5
