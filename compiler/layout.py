"""Layouts: how a value's logical axes lie in memory.

A layout is a list of parts, outermost first; part ``(axis, divisor, modulus)`` is the physical
index ``(logical[axis] // divisor) % modulus`` (modulus 0: no remainder taken). ``n c/16 h w c%16``
is ``(0,1,0) (1,16,0) (2,1,0) (3,1,0) (1,1,16)``. Blocks that the extent does not fill are padding
lanes: whoever writes the value stores zeros there, and whoever reads it may rely on that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import dim
from .dim import Extent

QUAD = 4  # bytes whose products CPUs add up at once
BLOCK = 16  # lanes of the channel-blocked layout: one 64-byte line of 4-byte elements


@dataclass(frozen=True)
class Part:
    """One physical axis: (logical[axis] // divisor) % modulus."""

    axis: int
    divisor: int = 1
    modulus: int = 0

    def __str__(self) -> str:
        quotient = f"/{self.divisor}" if self.divisor > 1 else ""
        remainder = f"%{self.modulus}" if self.modulus else ""
        return f"{self.axis}{quotient}{remainder}"


@dataclass(frozen=True)
class Layout:
    """An index map logical -> physical."""

    parts: tuple[Part, ...]

    def physical_index(self, index: tuple[Extent, ...]) -> tuple[Extent, ...]:
        """The physical index of a logical one."""
        result = []
        for part in self.parts:
            position = index[part.axis] // part.divisor
            result.append(position % part.modulus if part.modulus else position)
        return tuple(result)

    def physical_shape(self, shape: tuple[Extent, ...]) -> tuple[Extent, ...]:
        """Extents in memory, padding lanes included."""
        return tuple(
            part.modulus or dim.ceil_div(shape[part.axis], part.divisor) for part in self.parts
        )

    def logical_index(self, physical: tuple[Extent, ...], rank: int) -> tuple[Extent, ...]:
        """The logical index at a physical one (may lie outside the shape: a padding lane)."""
        result: list[Extent] = [0] * rank
        for part, position in zip(self.parts, physical, strict=True):
            result[part.axis] = result[part.axis] + position * part.divisor
        return tuple(result)

    def has_padding(self, shape: tuple[Extent, ...]) -> bool:
        """Whether some lanes lie outside the shape."""
        return any(
            part.modulus and shape[part.axis] % (part.modulus * part.divisor) != 0
            for part in self.parts
        )

    def pack(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """The array as it lies in memory (padding lanes zero)."""
        block: dict[int, int] = {}
        for part in self.parts:
            block[part.axis] = max(block.get(part.axis, 1), part.divisor * max(part.modulus, 1))
        widths = [(0, -extent % block.get(axis, 1)) for axis, extent in enumerate(array.shape)]
        padded = np.pad(array, widths) if any(high for _, high in widths) else array
        split_shape: list[int] = []
        position_of: dict[Part, int] = {}
        for axis, extent in enumerate(padded.shape):
            parts = sorted((p for p in self.parts if p.axis == axis), key=lambda p: -p.divisor)
            for part in parts:
                position_of[part] = len(split_shape)
                split_shape.append(part.modulus or extent // part.divisor)
        return padded.reshape(split_shape).transpose([position_of[part] for part in self.parts])

    def unpack(
        self, packed: npt.NDArray[np.generic], shape: tuple[int, ...]
    ) -> npt.NDArray[np.generic]:
        """The inverse of ``pack``."""
        order = sorted(
            range(len(self.parts)), key=lambda i: (self.parts[i].axis, -self.parts[i].divisor)
        )
        split = packed.transpose(order)
        padded = [1] * len(shape)
        for part, extent in zip(self.parts, packed.shape, strict=True):
            padded[part.axis] *= extent
        return split.reshape(padded)[tuple(slice(0, extent) for extent in shape)]

    def __str__(self) -> str:
        return " ".join(map(str, self.parts))


def parse_layout(text: str) -> Layout:
    """The inverse of ``str(layout)``."""
    parts = []
    for word in text.split():
        head, _, modulus = word.partition("%")
        axis, _, divisor = head.partition("/")
        parts.append(Part(int(axis), int(divisor or 1), int(modulus or 0)))
    return Layout(tuple(parts))


def channel_blocked(rank: int, axis: int = 1, block: int = BLOCK) -> Layout:
    """n c/16 h w c%16, for any rank: the one activation layout of CPU programs besides the plain
    one.
    """
    outer = [Part(i, block) if i == axis else Part(i) for i in range(rank)]
    return Layout((*outer, Part(axis, 1, block)))


def fills_blocks(extent: int, block: int = BLOCK) -> bool:
    """Whether computing the padding lanes of the last block costs less than leaving the blocked
    layout.
    """
    return 2 * extent > -(-extent // block) * block
