"""LLVM texts -> objects, in processes of their own (worker.py) while the caller makes the next text.

Which process compiles a text has no influence on its object. However the caller's work ends, the processes end with it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from queue import SimpleQueue
from typing import TypeAlias

from netloom.environment import worker_environment
from netloom.errors import ToolchainError

from .machine import Cpu
from .object_code import object_of_text
from .worker import DONE, READY, read_block, write_block

_MODULE = f"{__package__}.worker"


Keep: TypeAlias = "Callable[[str, bytes], None]"


def compile_texts(texts: Iterable[tuple[str, str]], cpu: Cpu, processes: int, keep: Keep) -> list[bytes]:
    """The object of each (name, text), in order; with 0 processes in this one.

    ``keep(name, object)`` is called as soon as there is one, by any thread.
    ToolchainError names the kernel that LLVM refuses, or over which a process died.
    """
    if processes == 0:
        return [_kept(keep, name, _compiled_here(name, text, cpu)) for name, text in texts]
    with contextlib.ExitStack() as stack:
        idle: SimpleQueue[_Worker] = SimpleQueue()
        threads = ThreadPoolExecutor(processes)
        stack.callback(threads.shutdown, cancel_futures=True)
        for _ in range(processes):  # they are stopped before their threads, which wait for them, are joined
            worker = _Worker(cpu)
            stack.callback(worker.stop)
            idle.put(worker)

        def compiled(name: str, text: str) -> bytes:
            worker = idle.get()
            try:
                return _kept(keep, name, worker.object_of(name, text))
            finally:
                idle.put(worker)

        futures = [threads.submit(compiled, name, text) for name, text in texts]
        return [future.result() for future in futures]


def _kept(keep: Keep, name: str, data: bytes) -> bytes:
    keep(name, data)
    return data


def _compiled_here(name: str, text: str, cpu: Cpu) -> bytes:
    try:
        return object_of_text(text, cpu.name, cpu.llvm_features)
    except RuntimeError as error:
        raise _refused(name, str(error)) from error


def _refused(name: str, message: str) -> ToolchainError:
    return ToolchainError(f"LLVM refuses this kernel's code: {message[:500]}", node=name)


class _Worker:
    """One process, spoken with by one thread at a time."""

    def __init__(self, cpu: Cpu) -> None:
        self.cpu = cpu
        self.process: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):  # no room for a process: this one does the work
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, cpu.name, cpu.llvm_features],
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
            raise ToolchainError(f"the process that compiled this kernel died: {self._last_words()}.", node=name)
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
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with contextlib.suppress(OSError):  # what is left in a buffer for a process that is gone
                stream.close()
