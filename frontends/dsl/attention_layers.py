"""Attention as a layer, with its four products, and rotations that tell it positions."""

from __future__ import annotations

import numpy as np

from netloom.arguments import whole
from netloom.compiler.tensor_type import FLOAT32, FLOAT64
from netloom.errors import ShapeError, UsageError

from .functions import attention, cast, concat, reshape, transpose
from .initializers import Initializer, glorot_uniform
from .layers import dense
from .trace import Symbolic, trace_of


def multi_head_attention(
    x: Symbolic, heads: int, *, context: Symbolic | None = None, width: int | None = None,
    mask: Symbolic | None = None, causal: bool = False, rotary_base: float | None = None,
    bias: bool = True, weight_initializer: Initializer = glorot_uniform, name: str | None = None,
) -> Symbolic:  # fmt: skip
    """[n, l, d] -> [n, l, width] (Vaswani et al. 2017, section 3.2.2): attention of ``heads`` parts
    of the products ``query`` of x and ``key`` and ``value`` of ``context`` [n, s, e] (x unless
    given), followed by the product ``output``.

    ``width`` (d unless given) is divided by ``heads``. A mask broadcasts to [n, heads, l, s]:
    numbers are added to the scores, and where a bool is false the key is not seen. ``causal``: step
    i sees the steps 0 to i only. ``rotary_base``: queries and keys are rotated by ``rotary``.
    """
    label = trace_of(x).layer_name("attention", name)
    other = x if context is None else context
    trace_of(other)
    _check_sequences(x, other, label)
    heads = whole(heads, "the number of heads", node=label, least=1)
    depth = x.shape[-1] if width is None else whole(width, "the width", node=label)
    if not isinstance(depth, int) or depth < 1 or depth % heads:
        raise UsageError(
            f"{heads} heads cannot share a width of {depth}.", node=label,
            hint="Give a fixed width from 1 on that the heads divide.",
        )  # fmt: skip
    if rotary_base is not None and depth // heads % 2:
        raise UsageError(
            f"heads of width {depth // heads} cannot be rotated.", node=label,
            hint="Give them an even width.",
        )  # fmt: skip

    def part(value: Symbolic, of: str) -> Symbolic:  # [n, heads, l, depth / heads]
        made = dense(value, depth, bias=bias, weight_initializer=weight_initializer,
                     name=f"{label}.{of}")  # fmt: skip
        split = reshape(made, (*value.shape[:2], heads, depth // heads))
        return transpose(split, (0, 2, 1, 3))

    q, k, v = part(x, "query"), part(other, "key"), part(other, "value")
    if rotary_base is not None:
        q, k = rotary(q, rotary_base), rotary(k, rotary_base)
    found = transpose(attention(q, k, v, mask, causal=causal), (0, 2, 1, 3))
    return dense(
        reshape(found, (*x.shape[:2], depth)), depth, bias=bias,
        weight_initializer=weight_initializer, name=f"{label}.output",
    )  # fmt: skip


def _check_sequences(x: Symbolic, context: Symbolic, label: str) -> None:
    """ShapeError unless both are floats [n, .., ..] of one dtype; a context may serve all n."""
    fits = x.rank == context.rank == 3 and context.shape[0] in (1, x.shape[0])
    if not fits or not x.dtype.is_float or x.dtype is not context.dtype:
        raise ShapeError(
            f"attention takes floats [n, l, d] and [n, s, e], not {x.type} and {context.type}",
            node=label,
        )


def rotary(x: Symbolic, base: float = 10000.0) -> Symbolic:
    """[.., l, d] with each pair of elements i and i + d/2 of step t rotated by t base^(-2i/d) (Su
    et al. 2021, eq. 34, in halves). ShapeError unless x holds floats and d is an even number.
    """
    trace = trace_of(x)
    depth = x.shape[-1] if x.rank > 1 else None
    if not isinstance(depth, int) or depth % 2 or not depth or not x.dtype.is_float:
        raise ShapeError(f"rotary takes floats [.., l, d] with an even d, not {x.type}")
    if not base > 0:
        raise UsageError(f"a base of {base} is not above 0.")
    half = depth // 2
    steps = trace("iota", shape=(x.shape[-2], 1), axis=0)
    powers = base ** -(np.arange(half) / half)
    # step 10,000 is no float16 number
    wide = FLOAT64 if x.dtype is FLOAT64 else FLOAT32
    angles = cast(steps, wide) * powers.astype(wide.numpy)  # [l, d/2]
    cos, sin = (cast(trace(of, angles), x.dtype) for of in ("cos", "sin"))
    whole = (slice(None),) * (x.rank - 1)
    lo, hi = x[(*whole, slice(0, half))], x[(*whole, slice(half, depth))]
    return concat([lo * cos - hi * sin, hi * cos + lo * sin], axis=-1)


__all__ = ["multi_head_attention", "rotary"]
