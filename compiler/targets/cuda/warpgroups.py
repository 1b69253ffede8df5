"""Which kernels have a form of Hopper's own: products on tensor cores, by instructions of four warps.

Its tile may be larger than the general form's, never smaller, so that it needs no more blocks than
the grid has; those that are left over return at once.
"""

from __future__ import annotations

from dataclasses import replace

from .devices import MULTIPROCESSORS
from .forms import CHAIN, Engine, Form, Product, Tile, blocks, count

# terms that one instruction adds up before it adds them to its accumulator
TERMS = {Engine.TF32: 8, Engine.BF16: 16}
PROMOTED = 32  # terms that 3xtf32 leaves to the tensor cores' own additions
DEPTH = {Engine.TF32: 32, Engine.TF32X3: 32, Engine.BF16: 64}  # rows of 128 bytes
WIDE = Tile(128, 256, 32, 8, 16)


def for_warpgroups(form: Form) -> Product | None:
    """The product over the same threads, buffers and parts by warpgroups; None where the general
    form is all there is.
    """
    if not isinstance(form, Product) or form.engine is Engine.FFMA:
        return None
    tile = replace(form.tile, depth=DEPTH[form.engine])
    own = replace(form, tile=tile, stages=0, is_by_warpgroups=True)
    wide = replace(own, tile=WIDE)
    return wide if _fits_wide(own, wide) else own


def chain_of(engine: Engine) -> int:
    """Terms of an accumulator before it is added to another: as many as CHAIN instructions add."""
    return PROMOTED if engine is Engine.TF32X3 else CHAIN * TERMS[engine]


def _fits_wide(own: Product, wide: Product) -> bool:
    """Whether wide tiles fill a device, and a thread's registers hold what it fetches and one
    accumulator for each of its sums: two do not fit.
    """
    number, rows, terms = blocks(wide), count(own.left.axes), own.chain
    return (
        own.engine is not Engine.TF32X3
        and (own.tile.rows, own.tile.columns) == (128, 128)
        and min(own.left.width, own.right.width) > 1
        and isinstance(number, int)
        and isinstance(rows, int)
        and isinstance(terms, int)
        and number >= MULTIPROCESSORS["sm_90a"]
        and terms <= chain_of(own.engine)
    )


__all__ = ["chain_of", "for_warpgroups"]
