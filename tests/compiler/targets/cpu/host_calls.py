"""Calls of small programs, made in process: through a session, and below its checks."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from netloom.compiler.program import Program
from netloom.compiler.targets.cpu.jit import load_in_process
from netloom.compiler.targets.cpu.variant import Variant
from netloom.runtime.buffer import Tensors
from netloom.runtime.cpu import Options
from netloom.runtime.session import Session
from tests.compiler.targets.cpu import small_programs as small


def session_of(program: Program, threads: int = 1) -> Session:
    return Session.in_process(load_in_process([Variant(program, small.kernels())]), threads)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class Raw:
    """Calls below the session's own checks."""

    def __init__(self, program: Program, **options: Any) -> None:
        self.model = session_of(program)._model
        self.api = self.model.api
        handle, text = ctypes.c_void_p(), ctypes.create_string_buffer(1024)
        given = Options(**{"size": ctypes.sizeof(Options), **options})
        pointers = ctypes.addressof(given), ctypes.byref(handle), text, 1024
        self.code = self.api["context_create"](self.model.handle, *pointers)
        self.text, self.context = text.value.decode(), handle.value

    def run(self, inputs: Tensors | None, outputs: Tensors | None) -> tuple[int, str]:
        sides = [(t.pointer, t.count) if t else (None, 1) for t in (inputs, outputs)]
        code = self.api["run"](self.context, *sides[0], *sides[1])
        return code, self.api["last_error"](self.context).decode()

    def close(self) -> None:
        self.api["context_destroy"](self.context)


def tensors(array: np.ndarray, change: Callable[[Any], None] = lambda tensor: None) -> Tensors:
    tensors = Tensors([array], ["float32"])
    change(tensors._tensors[0])
    return tensors
