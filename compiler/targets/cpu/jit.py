"""Programs in this process: the same host objects and kernels as in a shared object, loaded without
a linker.

Callers enter through the same API table; constants stay where NumPy has them (aligned copies where
it must be).
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
from netloom.errors import CpuFeatureError

from ...program import ALIGNMENT
from .host_object import build_host_objects
from .manifest import build_manifests, with_source
from .object_code import target_of
from .segments import Bytes, Piece, Weights, lay_out
from .variant import Variant

_numbers = count()


@dataclass(frozen=True, eq=False)
class LoadedProgram:
    """A program in memory; it must outlive everything that was made from ``api_address``."""

    api_address: int  # of nl_get_api
    library: Any  # keeps the code
    arrays: tuple[npt.NDArray[Any], ...]  # keeps the constants


def load_in_process(variants: Sequence[Variant]) -> LoadedProgram:
    """Loads a program, compiled for one level or several; CpuFeatureError for code of another
    architecture.
    """
    if not variants[0].architecture.is_native:
        raise CpuFeatureError(
            f"this program is for {variants[0].architecture.name}, which this machine is not.",
            hint="Compile it for this machine to run it here.",
        )
    weights, arrays = _at_addresses(lay_out(variants[0].program.constants))
    manifests = build_manifests(variants, weights)
    functions, blank = build_host_objects(variants, weights, manifests, image=False)
    tables = with_source(blank, manifests, variants[0].program)
    builder = llvm.JITLibraryBuilder().add_current_process()
    for data in (functions, tables, *(data for variant in variants for data in variant.objects)):
        builder.add_object_img(data)
    builder.export_symbol(abi.ENTRY_POINT)
    library = builder.link(_compiler(), f"program{next(_numbers)}")
    return LoadedProgram(library[abi.ENTRY_POINT], library, arrays)


_compilers: list[Any] = []


def _compiler() -> Any:
    """The one LLJIT instance of the process: programs are libraries in it."""
    if not _compilers:
        triple = llvm.get_process_triple()
        machine = target_of(triple).create_target_machine(reloc="pic", codemodel="small", jit=True)
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
