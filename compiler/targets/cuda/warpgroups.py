"""Which kernels have forms of Hopper's own: products on tensor cores, by instructions of four warps.

Their tiles may be larger than the general form's, never smaller, so that they need no more blocks
than the grid has; those that are left over return at once.
"""

from __future__ import annotations

from dataclasses import replace

from .devices import MULTIPROCESSORS
from .forms import CHAIN, TILES, Engine, Form, Product, Tile, blocks, nominal
from .tilings import needs_registers
from .windows import by_windows

# terms that one instruction adds up before it adds them to its accumulator
TERMS = {Engine.TF32: 8, Engine.BF16: 16}
# terms in 128 bytes of a row; half as many where a thread fetches one number after another
DEPTH = {Engine.TF32: 32, Engine.TF32X3: 32, Engine.BF16: 64}
WIDE = Tile(128, 256, 32, 8, 16)


def for_warpgroups(form: Form) -> tuple[Product, ...]:
    """The product over the same threads, buffers and parts by warpgroups, the largest tile first,
    which may need more registers than there are; nothing where the general form is all there is.
    """
    if not isinstance(form, Product) or form.engine is Engine.FFMA:
        return ()
    left, right = sides = [by_windows(side, form.terms) for side in (form.left, form.right)]
    is_slow = any(side.width == 1 and side.windows is None for side in sides)
    depth = DEPTH[form.engine] // (2 if is_slow else 1)
    tile = replace(form.tile, depth=depth)
    own = replace(form, left=left, right=right, tile=tile, stages=0, is_by_warpgroups=True)
    larger = _larger_tile(form)
    if larger is None:
        return (own,)
    large = replace(own, tile=replace(larger, depth=min(depth, larger.depth)))
    return (large, own) if _fits(large) else (own,)


def chain_of(form: Product) -> int:
    """Terms of an accumulator before it is added to another: a slice, or as many as CHAIN
    instructions add.
    """
    return form.tile.depth if form.engine is Engine.TF32X3 else CHAIN * TERMS[form.engine]


def _larger_tile(form: Product) -> Tile | None:
    """The square tile where the general form has no registers for it; the wide one where a thread
    fetches groups of four.
    """
    sides, shape = (form.left, form.right), (form.tile.rows, form.tile.columns)
    if form.engine is Engine.TF32X3:
        is_half = shape == (128, 64) and needs_registers(TILES[0], sides, form.engine)
        return replace(TILES[0], depth=DEPTH[form.engine]) if is_half else None
    return WIDE if shape == (128, 128) and min(side.width for side in sides) > 1 else None


def _fits(large: Product) -> bool:
    """Whether such tiles fill a device; a wide one has registers for one accumulator of each of its
    sums.
    """
    is_short = isinstance(large.chain, int) and large.chain <= chain_of(large)
    is_square = large.tile.columns == TILES[0].columns
    return (is_short or is_square) and nominal(blocks(large)) >= MULTIPROCESSORS["sm_90a"]


__all__ = ["chain_of", "for_warpgroups"]
