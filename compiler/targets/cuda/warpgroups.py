"""Which kernels have a form of Hopper's own: products of rounded operands, by instructions of
four warps.
"""

from __future__ import annotations

from dataclasses import replace

from .forms import Engine, Form, Product


def for_warpgroups(form: Form) -> Product | None:
    """The product over the same grid, threads and buffers by warpgroups; None where the general
    form is all there is.
    """
    if isinstance(form, Product) and form.engine in (Engine.TF32, Engine.BF16):
        return replace(form, stages=0, is_by_warpgroups=True)
    return None


__all__ = ["for_warpgroups"]
