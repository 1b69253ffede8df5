"""Programs in this process: the same host object and kernels as in a shared object, loaded without a linker.

Callers enter through the same API table; constants stay where NumPy has them (aligned copies where it must be).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from netloom import abi

from ...program import ALIGNMENT, Program
from .host_api import build_host_object
from .host_types import TRIPLE
from .segments import Bytes, Piece, Weights, lay_out
from .shared_object import build_manifest

_numbers = count()


@dataclass(frozen=True, eq=False)
class LoadedProgram:
    """A program in memory; it must outlive everything that was made from ``api_address``."""

    api_address: int  # of nl_get_api
    library: Any  # keeps the code
    arrays: tuple[npt.NDArray[Any], ...]  # keeps the constants


def load_in_process(program: Program, kernel_objects: Sequence[bytes], features: Sequence[str] = ()) -> LoadedProgram:
    """Loads a program; ``features`` are those that its kernels use."""
    weights, arrays = _at_addresses(lay_out(program.constants))
    host = build_host_object(program, weights, features, build_manifest(program, features, weights), image=False)
    builder = llvm.JITLibraryBuilder().add_current_process().add_object_img(host)
    for kernels in kernel_objects:
        builder.add_object_img(kernels)
    builder.export_symbol(abi.ENTRY_POINT)
    library = builder.link(_compiler(), f"program{next(_numbers)}")
    return LoadedProgram(library[abi.ENTRY_POINT], library, arrays)


_compilers: list[Any] = []


def _compiler() -> Any:
    """The one LLJIT instance of the process: programs are libraries in it."""
    if not _compilers:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_triple(TRIPLE).create_target_machine(reloc="pic", codemodel="small", jit=True)
        _compilers.append(llvm.create_lljit_compiler(machine, use_jit_link=True))
    return _compilers[0]


def _at_addresses(weights: Weights) -> tuple[Weights, tuple[npt.NDArray[Any], ...]]:
    """The same weights with addresses in place of offsets, and the arrays that they point into."""
    arrays: list[npt.NDArray[Any]] = []
    placements = []
    for placement in weights.placements:
        pieces = []
        for piece in placement.pieces:
            if isinstance(piece.segment, Bytes):
                arrays.append(_aligned(piece.segment.data))
                pieces.append(Piece(piece.segment, arrays[-1].ctypes.data))
            else:
                pieces.append(piece)
        placements.append(replace(placement, pieces=tuple(pieces)))
    return replace(weights, placements=tuple(placements)), tuple(arrays)


def _aligned(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if data.ctypes.data % ALIGNMENT == 0:
        return data
    room = np.empty(data.size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    room[start : start + data.size] = data
    return room[start : start + data.size]
