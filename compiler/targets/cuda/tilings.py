"""Tilings: how a product is cut into tiles, buffers and parts, where a measurement says it, and not
the rules of schedule.py and split_products.py.

A tiling belongs to products of a size: how many products at once, rows, columns and terms, with
free dims at the batch that times are taken at. Results are the same up to the order of float32
additions. ``alternatives`` names the tilings of a product that there is code for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from ... import dim
from ...dim import Extent
from ...strategies.strategy import nominal_number
from .copied_slices import stages
from .forms import TILES, Engine, Form, Operand, Product, Tile, count

# those that schedule.py chooses from, and one between them
SHAPES = (TILES[0], Tile(128, 64, 16, 8, 4), TILES[1])
FEWEST_STAGES = 2  # one slice is multiplied, another arrives
_NAME = re.compile(r"(\d+)x(\d+)(?: stages (\d+))?(?: parts (\d+))?")


@dataclass(frozen=True, order=True)
class Tiling:
    """Rows and columns of a tile; ``stages``: slices under way at once (0: as many as fit, or
    none); ``parts``: of the sums (0: as many as fill a device)."""

    rows: int
    columns: int
    stages: int = 0
    parts: int = 0

    def __str__(self) -> str:
        own = (("stages", self.stages), ("parts", self.parts))
        return f"{self.rows}x{self.columns}" + "".join(f" {n} {v}" for n, v in own if v)

    @staticmethod
    def parse(text: str) -> Tiling:
        """The tiling of that name; ValueError if it is none that there is code for."""
        match = _NAME.fullmatch(text)
        found = Tiling(*(int(group or 0) for group in match.groups())) if match else None
        if found is None or found.shape is None:
            raise ValueError(f"{text!r} is no tiling")
        return found

    @property
    def shape(self) -> Tile | None:
        """The tile of float32 units; None if there is no code for it."""
        wanted = (self.rows, self.columns)
        return next((tile for tile in SHAPES if (tile.rows, tile.columns) == wanted), None)


Size = tuple[int, int, int, int]  # products at once, rows, columns, terms


@dataclass(frozen=True)
class Tilings:
    """Measured tilings by the size of a product; ``everywhere``: of all that are not there;
    ``batch``: what free dims count for."""

    by_size: Mapping[Size, Tiling] = field(default_factory=lambda: MappingProxyType({}))
    everywhere: Tiling | None = None
    batch: int = 1

    def of(self, form: Product) -> Tiling | None:
        """The tiling that was measured for such a product."""
        return self.by_size.get(size_of(form, self.batch), self.everywhere)


NO_TILINGS = Tilings()


def size_of(form: Product, batch: int = 1) -> Size:
    """The size of a product that is not cut into parts."""
    sides = (form.batch, form.left.axes, form.right.axes, form.terms)
    products, rows, columns, terms = (_number(count(axes), batch) for axes in sides)
    return products, rows, columns, terms


def needs_registers(tile: Tile, sides: Sequence[Operand], engine: Engine) -> bool:
    """Whether splitting operands and decoding indices leave no registers for such a tile's sums."""
    is_wide = tile.rows * tile.columns == 128 * 128
    return engine is Engine.TF32X3 and is_wide and min(side.width for side in sides) == 1


def tiled(form: Form, tilings: Tilings) -> Form:
    """The form with its measured tile and stages, as far as they fit it."""
    tiling = tilings.of(form) if isinstance(form, Product) else None
    if not isinstance(form, Product) or tiling is None or tiling.shape is None:
        return form
    tile = replace(tiling.shape, depth=form.engine.depth or tiling.shape.depth)
    sides = (form.left, form.right)
    if needs_registers(tile, sides, form.engine):
        return form
    most = stages(form.engine, tile.rows, tile.columns, tile.depth, sides)
    wanted = min(most, max(tiling.stages, FEWEST_STAGES)) if tiling.stages else most
    return replace(form, tile=tile, stages=wanted)


def alternatives(form: Product, parts: int) -> Iterator[Tiling]:
    """Tilings of a product that is cut into so many parts, other than its own: of each other shape,
    with fewer stages, with half and twice the parts."""
    own = Tiling(form.tile.rows, form.tile.columns)
    for shape in SHAPES:
        if (shape.rows, shape.columns) != (own.rows, own.columns):
            yield Tiling(shape.rows, shape.columns)
    for number in range(FEWEST_STAGES, form.stages):
        yield replace(own, stages=number)
    if parts > 1:
        yield replace(own, parts=parts // 2)
        yield replace(own, parts=2 * parts)


def _number(extent: Extent, batch: int) -> int:
    return dim.evaluate(
        extent, {symbol.name: nominal_number(symbol, batch) for symbol in dim.symbols_of([extent])}
    )


__all__ = ["NO_TILINGS", "SHAPES", "Size", "Tiling", "Tilings", "alternatives", "needs_registers",
           "size_of", "tiled"]  # fmt: skip
