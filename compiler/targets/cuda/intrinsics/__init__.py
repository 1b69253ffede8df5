"""The instructions that generated kernels are written in, as Numba intrinsics: one name, one LLVM
pattern.

Names carry their types: ``add_float32(a, b)``, ``load_int8(p, i)``, ``cast_int64_float32(x)``,
``tile_fma_8_132_128_8_8``. Numba itself would widen int32 arithmetic to 64 bits and literals to
float64; these never do. A module holds one kind; its ``FAMILIES`` are makers by a name's first
word, which get the rest of the name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from ....tensor_type import DType
from . import (
    attention,
    attention_fragments,
    attention_gradient,
    conversions,
    copies,
    memory,
    tensor_cores,
    tiles,
    transforms,
    warpgroups,
    winograd,
)
from .define import memory_type, numba_type, pointer_type
from .indices import PLAIN
from .scalars import scalar

_FAMILIES: dict[str, Callable[[str], Any]] = {
    **attention.FAMILIES, **attention_fragments.FAMILIES,
    **attention_gradient.FAMILIES, **conversions.FAMILIES, **copies.FAMILIES,
    **memory.FAMILIES, **tiles.FAMILIES, **tensor_cores.FAMILIES, **transforms.FAMILIES,
    **warpgroups.FAMILIES, **winograd.FAMILIES,
}  # fmt: skip
_PLAIN = {**PLAIN, **copies.PLAIN, **warpgroups.PLAIN}


@cache
def intrinsic_named(name: str) -> Any:
    """The intrinsic of that name; KeyError if there is none."""
    family, _, rest = name.partition("_")
    if family in _FAMILIES:
        return _FAMILIES[family](rest)
    if name in _PLAIN:
        return _PLAIN[name]()
    function, _, dtype = name.rpartition("_")
    return scalar(function, DType(dtype))


__all__ = ["intrinsic_named", "memory_type", "numba_type", "pointer_type"]
