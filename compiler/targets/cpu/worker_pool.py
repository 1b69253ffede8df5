"""LLVM texts -> objects, in processes of their own (worker.py) or in a thread of this one, while the
caller makes the next text.

Who compiles a text has no influence on its object. However the caller's work ends, the processes
and threads end with it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TypeAlias

from netloom.environment import worker_environment
from netloom.errors import ToolchainError

from .machine import Cpu
from .object_code import object_of_text
from .worker import DONE, READY, read_block, write_block

_MODULE = f"{__package__}.worker"
# seconds that a thread waits for the interpreter: LLVM's binding asks for it some forty times a text
_SWITCH = 0.0001

Keep: TypeAlias = "Callable[[str, bytes], None]"


def compile_texts(
    texts: Iterable[tuple[str, str]], cpu: Cpu, processes: int, keep: Keep
) -> list[bytes]:
    """The object of each (name, text), in order; with 0 processes a thread of this one makes them.

    ``keep(name, object)`` is called as soon as there is one, by any thread.
    ToolchainError names the kernel that LLVM refuses, or over which a process died.
    """
    if processes == 0:
        return _compiled_beside(texts, cpu, keep)
    jobs: SimpleQueue[_Job | None] = SimpleQueue()
    results: SimpleQueue[_Result] = SimpleQueue()
    workers: list[_Worker] = []
    threads: list[Thread] = []
    try:
        for _ in range(processes):
            workers.append(_Worker(cpu))
            threads.append(
                Thread(target=_work, args=(workers[-1], jobs, results, keep), daemon=True)
            )
            threads[-1].start()
        count = 0
        for count, (name, text) in enumerate(texts, 1):
            jobs.put(_Job(count, name, text))
        return _collected(results, count)
    finally:
        for worker in workers:
            worker.stop()
            jobs.put(None)
        for thread in threads:
            thread.join()
        for worker in workers:
            worker.close()


def _compiled_beside(texts: Iterable[tuple[str, str]], cpu: Cpu, keep: Keep) -> list[bytes]:
    """The objects from one thread, as LLVM's binding lets in one at a time; LLVM leaves the
    interpreter to the caller.
    """

    def compile(name: str, text: str) -> bytes:
        return _kept(keep, name, _compiled_here(name, text, cpu))

    thread = ThreadPoolExecutor(1)
    try:
        with _short_turns():
            jobs = [thread.submit(compile, name, text) for name, text in texts]
            return [job.result() for job in jobs]
    finally:
        thread.shutdown(cancel_futures=True)


_turns = Lock()
_former: list[float] = []  # the interval that each compile found, in all threads


@contextlib.contextmanager
def _short_turns() -> Iterator[None]:
    """Threads of this process that wait for the interpreter get it soon; the last compile to end
    sets what the first one found.
    """
    with _turns:
        _former.append(sys.getswitchinterval())
        sys.setswitchinterval(_SWITCH)
    try:
        yield
    finally:
        with _turns:
            last = _former.pop()
            sys.setswitchinterval(_SWITCH if _former else last)


@dataclass(frozen=True)
class _Job:
    number: int
    name: str
    text: str


@dataclass(frozen=True)
class _Result:
    number: int
    outcome: bytes | Exception


def _work(
    worker: _Worker, jobs: SimpleQueue[_Job | None], results: SimpleQueue[_Result], keep: Keep
) -> None:
    """What a worker's thread does. Queues of this kind take no lock in Python, so SIGINT cannot
    leave one locked.
    """
    while (job := jobs.get()) is not None and not worker.is_stopped:
        try:
            results.put(
                _Result(job.number, _kept(keep, job.name, worker.object_of(job.name, job.text)))
            )
        except Exception as error:
            results.put(_Result(job.number, error))


def _collected(results: SimpleQueue[_Result], count: int) -> list[bytes]:
    """All objects in order; the first fault in that order is raised."""
    found = {result.number: result.outcome for result in (results.get() for _ in range(count))}
    objects = []
    for number in range(1, count + 1):
        match found[number]:
            case Exception() as error:
                raise error
            case data:
                objects.append(data)
    return objects


def _kept(keep: Keep, name: str, data: bytes) -> bytes:
    keep(name, data)
    return data


def _compiled_here(name: str, text: str, cpu: Cpu) -> bytes:
    try:
        return object_of_text(text, cpu.llvm_name, cpu.llvm_features)
    except RuntimeError as error:
        raise _refused(name, str(error)) from error


def _refused(name: str, message: str) -> ToolchainError:
    return ToolchainError(f"LLVM refuses this kernel's code: {message[:500]}", node=name)


class _Worker:
    """One process, spoken with by one thread at a time."""

    def __init__(self, cpu: Cpu) -> None:
        self.cpu = cpu
        self.is_stopped = False
        self.process: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):  # no room for a process: this one does the work
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, cpu.llvm_name, cpu.llvm_features],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=worker_environment(),
                process_group=0,  # a terminal's SIGINT goes to the caller, who stops the process
            )  # fmt: skip

    @cached_property
    def is_ready(self) -> bool:
        """Whether the process has started and found its modules."""
        if self.process is None:
            return False
        assert self.process.stdout is not None
        return read_block(self.process.stdout) == READY

    def object_of(self, name: str, text: str) -> bytes:
        if not self.is_ready or self.process is None:
            return _compiled_here(name, text, self.cpu)
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has died, which the missing answer shows
            write_block(self.process.stdin, text.encode())
        answer = read_block(self.process.stdout)
        if answer is None:
            raise ToolchainError(
                f"the process that compiled this kernel died: {self._last_words()}.", node=name
            )
        status, contents = answer[:1], answer[1:]
        if status != DONE:
            raise _refused(name, contents.decode(errors="replace"))
        return contents

    def _last_words(self) -> str:
        assert self.process is not None and self.process.stderr is not None
        said = self.process.stderr.read().decode(errors="replace").strip()
        return f"exit status {self.process.wait()}, {said[-500:] or 'no message'}"

    def stop(self) -> None:
        """End the process at once; a text that it is working on is lost."""
        self.is_stopped = True
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Let go of a stopped process, when nothing speaks with it any more."""
        if self.process is None:
            return
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            # what is left in a buffer for a process that is gone
            with contextlib.suppress(OSError):
                stream.close()
