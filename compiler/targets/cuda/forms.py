"""The forms in which a grid of threads computes a kernel, and how large its grid is.

``Pointwise``: a thread makes one element. ``Rows``: some lanes of a block share one sum, which ends
in a fixed tree. ``RowPasses``: those lanes take several sums over the same row, one after another,
and then make its elements. ``Product``: a block makes a tile of a matrix product whose operands are
any formulas of (row, k) and (k, column), so matmuls, convolutions and both their gradients are one
family. ``Transform``: a thread makes a tile of Winograd's. ``FusedWinograd``: a block makes some
channels of some tiles of a convolution, all three stages. ``FusedAttention``: a block meets some
queries with one tile of keys and values after another, or, in ``FusedGradient``, for the gradient
of the queries; or keys and values with one tile of queries after another for theirs.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from ... import dim
from ...dim import Extent, Symbol
from ...loops.elements import Axis
from ...loops.ir import Buffer, Load
from ...ops.attention import AttentionAttrs
from ...scalar import Expr
from ...tensor_type import DType
from .attention_tiles import AttentionTile, GradientTile
from .attention_warps import WarpGradientTile, WarpTile

THREADS = 256  # of every block
CHAIN = 512  # the longest chain of additions into one accumulator
PAD = 4  # words behind each row of a slice in shared memory, against bank conflicts
FEW_TERMS = 32  # below, one thread makes a whole sum
NOMINAL = 16  # what a free dim counts for where sizes are compared


@dataclass(frozen=True, eq=False)
class Pointwise:
    """``value`` at every position of ``axes``."""

    axes: tuple[Axis, ...]
    position: tuple[Extent, ...]
    value: Expr


@dataclass(frozen=True, eq=False)
class Rows:
    """value(sum of term over ``terms``) at every position of ``axes``; a block holds THREADS /
    lanes rows.
    """

    axes: tuple[Axis, ...]
    position: tuple[Extent, ...]
    terms: tuple[Axis, ...]
    term: Expr
    combine: str
    neutral: float | int | bool
    value: Expr
    lanes: int
    rows_are_adjacent: bool  # neighbouring threads take neighbouring rows, not neighbouring terms

    @property
    def rows(self) -> int:
        return THREADS // self.lanes


@dataclass(frozen=True, eq=False)
class Sum:
    """A reduction of a row, in the dtype of ``term``; ``dtype``: of its result."""

    term: Expr
    combine: str
    neutral: float | int | bool
    dtype: DType


@dataclass(frozen=True, eq=False)
class RowPasses:
    """``steps``, in order: sums over ``terms``, and numbers that are made of them for the row;
    ``Argument(k)`` in what follows stands for the k-th. Then ``value`` at every position of a
    row, or once for it; a block holds THREADS / lanes rows."""

    axes: tuple[Axis, ...]
    terms: tuple[Axis, ...]
    steps: tuple[Sum | Expr, ...]
    position: tuple[Extent, ...]
    value: Expr
    is_row: bool  # an element for each term
    lanes: int

    @property
    def rows(self) -> int:
        return THREADS // self.lanes

    @property
    def expressions(self) -> tuple[Expr, ...]:
        """All that is computed."""
        return (*(step.term if isinstance(step, Sum) else step for step in self.steps), self.value)


@dataclass(frozen=True)
class Tile:
    """rows x columns of the result a block, ``depth`` terms at a time; a thread holds
    thread_rows x thread_columns.
    """

    rows: int
    columns: int
    depth: int
    thread_rows: int
    thread_columns: int

    @property
    def threads(self) -> int:
        return (self.rows // self.thread_rows) * (self.columns // self.thread_columns)


# each of THREADS threads, the largest first
TILES = (Tile(128, 128, 8, 8, 8), Tile(64, 64, 16, 4, 4))


class Engine(enum.Enum):
    """What multiplies: float32 units, or tensor cores over operands that are split or rounded."""

    FFMA = "f32"
    TF32X3 = "3xtf32"
    TF32 = "tf32"
    BF16 = "bf16"

    @property
    def depth(self) -> int | None:
        """Terms of a slice in shared memory, if the engine decides it."""
        return {Engine.FFMA: None, Engine.BF16: 32}.get(self, 16)


@dataclass(frozen=True, eq=False)
class Windows:
    """An operand whose elements lie at start(row) + step(term), and are zero where a condition is
    negative.

    ``taps``: the last of the terms; no others are in the conditions.
    """

    load: Load
    start: Extent
    step: Extent
    conditions: tuple[Extent, ...]
    taps: tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class Operand:
    """One side of a product: its value at (its axes, terms), and along which of them its memory
    runs.

    ``width``: elements that one access can take; more than one only where the value is a load and
    all is aligned.
    """

    value: Expr
    axes: tuple[Axis, ...]
    terms_are_adjacent: bool
    width: int = 1
    windows: Windows | None = None

    @property
    def load(self) -> Load:
        assert isinstance(self.value, Load)
        return self.value


@dataclass(frozen=True, eq=False)
class Product:
    """value(sum over ``terms`` of left * right), for every position of ``batch``, left's axes and
    right's axes.

    ``part``: the first of the batch's axes, if each of its positions sums up a part of the terms
    only. ``stages``: slices that are under way at once, by copies that do not wait; 0 if operands
    pass through registers. ``is_by_warpgroups``: the engine's instructions are those of four warps,
    which Hopper has.
    """

    batch: tuple[Axis, ...]
    left: Operand
    right: Operand
    terms: tuple[Axis, ...]
    position: tuple[Extent, ...]
    value: Expr
    tile: Tile
    engine: Engine
    part: Axis | None = None
    stages: int = 0
    is_by_warpgroups: bool = False

    @property
    def chain(self) -> Extent:
        """Terms of a tile's sums: all, or a part's, in whole slices."""
        terms = count(self.terms)
        if self.part is None:
            return terms
        assert isinstance(self.part.extent, int)
        return (
            dim.ceil_div(dim.ceil_div(terms, self.part.extent), self.tile.depth) * self.tile.depth
        )


@dataclass(frozen=True)
class Put:
    """Where an element of a transformed tile goes, if the conditions hold, and as what:
    ``Argument(SUM)`` stands for it.
    """

    position: tuple[Extent, ...]
    conditions: tuple[Extent, ...]
    value: Expr


@dataclass(frozen=True, eq=False)
class Transform:
    """down x tile x across' at every position of ``axes``; ``reads``: the tile by rows, ``puts``:
    the result.

    ``name``: which matrices (intrinsics/transforms.py), and the outputs and taps along both axes.
    """

    axes: tuple[Axis, ...]
    name: str
    reads: tuple[tuple[Expr, ...], ...]
    puts: tuple[tuple[Put, ...], ...]


@dataclass(frozen=True, eq=False)
class FusedWinograd:
    """The 2 x 2 ``puts`` of every position of ``tiles`` (n, down, across) and ``filters``: a 3 x 3
    convolution.

    ``x``: [n, c, h, w], with ``lo`` zeros before it; ``u``: the transformed weights [16, 1, c, o].
    """

    tiles: tuple[Axis, ...]
    filters: Axis
    x: Buffer
    u: Buffer
    lo: tuple[int, int]
    puts: tuple[tuple[Put, ...], ...]
    block_filters: int
    block_tiles: int


@dataclass(frozen=True, eq=False)
class FusedAttention:
    """``value`` at every position of ``heads``, ``row`` and ``column``: attention of the loads at
    (heads, row, depth), (heads, key, depth) and (heads, key, column), and a mask at (heads, row,
    key).

    ``part``: the first of ``heads``, if each of its positions meets a part of the keys only; the
    outputs are then not divided, and two more columns are the largest scores and the sums.
    ``tile``: of warps where the engine works on tensor cores.
    """

    heads: tuple[Axis, ...]
    row: Axis
    column: Axis
    key: Axis
    depth: Axis
    q: Load
    k: Load
    v: Load
    mask: Expr | None
    attrs: AttentionAttrs
    position: tuple[Extent, ...]
    value: Expr
    tile: AttentionTile | WarpTile
    part: Axis | None = None
    engine: Engine = Engine.FFMA


@dataclass(frozen=True, eq=False)
class FusedGradient:
    """``value`` at every position of ``heads``, the block's rows and ``column``: attention's gradient
    by its queries, or, where ``is_across``, by its keys and values, side by side.

    Loads as in FusedAttention, and ``dy`` at (heads, row, width). ``numbers`` of a query: what its
    exponents count from, one over its sum of weights, and its sum of dy y. ``slope``: what a mask
    of bools makes of a score's slope.
    """

    heads: tuple[Axis, ...]
    row: Axis
    key: Axis
    depth: Axis
    width: Axis
    column: Axis
    q: Load
    k: Load
    v: Load
    dy: Load
    numbers: tuple[Expr, Expr, Expr]
    mask: Expr | None
    slope: Expr | None
    attrs: AttentionAttrs
    position: tuple[Extent, ...]
    value: Expr
    is_across: bool
    tile: GradientTile | WarpGradientTile
    engine: Engine = Engine.FFMA

    @property
    def own(self) -> Axis:
        """Of the gradient's rows."""
        return self.key if self.is_across else self.row

    @property
    def expressions(self) -> tuple[Expr, ...]:
        """All that is read or computed."""
        masks = [e for e in (self.mask, self.slope) if e is not None]
        return (self.value, self.q, self.k, self.v, self.dy, *self.numbers, *masks)


Form: TypeAlias = (
    Pointwise
    | Rows
    | RowPasses
    | Product
    | Transform
    | FusedWinograd
    | FusedAttention
    | FusedGradient
)


@dataclass(frozen=True, eq=False)
class DeviceKernel:
    """A kernel with its form. ``items``: blocks of the grid; ``symbols``: int32 arguments after
    the buffers.
    """

    buffers: tuple[Buffer, ...]  # the output comes last
    symbols: tuple[Symbol, ...]
    items: Extent
    form: Form

    @property
    def terms(self) -> Extent:
        """Of each sum over axes that are numbered as one; they need not be those of a buffer."""
        return count(getattr(self.form, "terms", ()))


def blocks(form: Form) -> Extent:
    """How many blocks the grid has."""
    match form:
        case Pointwise(axes=axes) | Transform(axes=axes):
            return dim.ceil_div(count(axes), THREADS)
        case Rows(axes=axes) | RowPasses(axes=axes):
            return dim.ceil_div(count(axes), form.rows)
        case Product(tile=tile):
            rows = dim.ceil_div(count(form.left.axes), tile.rows)
            return count(form.batch) * rows * dim.ceil_div(count(form.right.axes), tile.columns)
        case FusedWinograd():
            filters = dim.ceil_div(form.filters.extent, form.block_filters)
            return dim.ceil_div(count(form.tiles), form.block_tiles) * filters
        case FusedAttention():
            return count(form.heads) * dim.ceil_div(form.row.extent, form.tile.rows)
        case FusedGradient():
            return count(form.heads) * dim.ceil_div(form.own.extent, form.tile.rows)


def count(axes: Iterable[Axis]) -> Extent:
    """How many positions the axes have."""
    return dim.product([axis.extent for axis in axes])


def nominal(extent: Extent) -> int:
    """An extent for comparing sizes."""
    return dim.evaluate(extent, {symbol.name: NOMINAL for symbol in dim.symbols_of([extent])})
