"""Functions of symbolic values that own no parameters: activations, reductions and changes of
shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from netloom.compiler import dim
from netloom.compiler.dim import Extent
from netloom.compiler.tensor_type import DType
from netloom.errors import ShapeError

from .trace import Operand, Symbolic, active_trace


def _unary(op: str, doc: str) -> Callable[[Symbolic], Symbolic]:
    def apply(x: Symbolic) -> Symbolic:
        return x.trace(op, x)

    apply.__name__ = apply.__qualname__ = op
    apply.__doc__ = doc
    return apply


relu = _unary("relu", "max(x, 0); NaN passes.")
sigmoid = _unary("sigmoid", "1 / (1 + exp(-x)).")
tanh = _unary("tanh", "The hyperbolic tangent.")
silu = _unary("silu", "x * sigmoid(x).")
softplus = _unary("softplus", "log(1 + exp(x)).")
softsign = _unary("softsign", "x / (1 + |x|).")
exp = _unary("exp", "e to the power x.")
log = _unary("log", "The natural logarithm.")
sqrt = _unary("sqrt", "The square root.")
square = _unary("square", "x * x.")
sign = _unary("sign", "-1, 0 or 1.")


def leaky_relu(x: Symbolic, slope: float = 0.01) -> Symbolic:
    """x where x >= 0, else slope * x."""
    return x.trace("leaky_relu", x, slope=slope)


def elu(x: Symbolic, alpha: float = 1.0) -> Symbolic:
    """x where x >= 0, else alpha * (exp(x) - 1)."""
    return x.trace("elu", x, alpha=alpha)


def gelu(x: Symbolic, approximate: bool = False) -> Symbolic:
    """x times the normal distribution function of x, or its approximation by tanh."""
    return x.trace("gelu", x, approximate=approximate)


def clip(x: Symbolic, lo: float | None = None, hi: float | None = None) -> Symbolic:
    """x kept between lo and hi."""
    return x.trace("clip", x, lo=lo, hi=hi)


def maximum(x: Symbolic, y: Operand) -> Symbolic:
    """The larger of two values, element by element."""
    return x.trace("max", x, y)


def minimum(x: Symbolic, y: Operand) -> Symbolic:
    """The smaller of two values, element by element."""
    return x.trace("min", x, y)


def equal(x: Symbolic, y: Operand) -> Symbolic:
    """Where two values are equal, as bool."""
    return x.trace("equal", x, y)


def where(condition: Symbolic, x: Operand, y: Operand) -> Symbolic:
    """x where the condition holds, else y; at least one of them is a symbolic value."""
    known = next((z for z in (x, y) if isinstance(z, Symbolic)), None)
    if known is None:
        raise ShapeError("where() needs a symbolic value for x or y, to know their dtype")
    x, y = (z if isinstance(z, Symbolic) else known.trace.constant(z, known.dtype) for z in (x, y))
    return condition.trace("select", condition, x, y)


def softmax(x: Symbolic, axis: int = -1) -> Symbolic:
    """exp(x) divided by its sum along an axis."""
    return x.trace("softmax", x, axis=_axis(x, axis))


def log_softmax(x: Symbolic, axis: int = -1) -> Symbolic:
    """The logarithm of softmax, computed without overflow."""
    return x.trace("log_softmax", x, axis=_axis(x, axis))


def attention(
    q: Symbolic,
    k: Symbolic,
    v: Symbolic,
    mask: Symbolic | None = None,
    scale: float | None = None,
    causal: bool = False,
) -> Symbolic:
    """softmax(scale * q k' + mask) v (Vaswani et al. 2017, section 3.2.1): [.., l, d], [.., s, d],
    [.., s, e] -> [.., l, e].

    ``scale`` is 1 / sqrt(d) if None. A mask broadcasts to [.., l, s]: numbers are added to the
    scores, and where a bool is false the key is not seen. ``causal``: query i sees the keys 0 to i
    only.
    """
    if scale is None:
        depth = q.shape[-1] if q.rank else 0
        if not isinstance(depth, int) or depth < 1:
            raise ShapeError(f"the depth of the heads of {q.type} is no known number; give a scale")
        scale = 1.0 / math.sqrt(depth)
    return q.trace(
        "attention", q, k, v, *([] if mask is None else [mask]), scale=scale, is_causal=causal
    )


def random_normal(shape: Sequence[Extent], dtype: str | DType = "float32") -> Symbolic:
    """Normal noise of mean 0 and variance 1, other numbers in each step of a training.

    A program that only infers draws the same ones in every run: there, ask ``is_training``.
    """
    return _random("random_normal", shape, dtype)


def random_uniform(shape: Sequence[Extent], dtype: str | DType = "float32") -> Symbolic:
    """Noise that is uniform in [0, 1); otherwise as ``random_normal``."""
    return _random("random_uniform", shape, dtype)


def _random(op: str, shape: Sequence[Extent], dtype: str | DType) -> Symbolic:
    trace = active_trace()
    chosen = dtype if isinstance(dtype, DType) else DType(dtype)
    return trace(op, trace.random_key(), shape=tuple(shape), dtype=chosen)


def cast(x: Symbolic, dtype: str | DType) -> Symbolic:
    """x as another dtype."""
    target = dtype if isinstance(dtype, DType) else DType(dtype)
    return x if x.dtype is target else x.trace("cast", x, dtype=target)


# -- reductions ------------------------------------------------------------------------------------


def _reduction(op: str, doc: str) -> Callable[..., Symbolic]:
    def reduce(
        x: Symbolic, axes: int | Sequence[int] | None = None, keep: bool = False
    ) -> Symbolic:
        return x.trace(op, x, axes=_axes(x, axes), keep=keep)

    reduce.__name__ = reduce.__qualname__ = op
    reduce.__doc__ = (
        f"{doc} over ``axes`` (all if None); ``keep`` leaves extents of 1 in their place."
    )
    return reduce


reduce_sum = _reduction("reduce_sum", "The sum")
reduce_mean = _reduction("reduce_mean", "The mean")
reduce_max = _reduction("reduce_max", "The largest element")
reduce_min = _reduction("reduce_min", "The smallest element")


def argmax(x: Symbolic, axis: int = -1) -> Symbolic:
    """The first index of the largest element along an axis, as int64."""
    return x.trace("argmax", x, axis=_axis(x, axis), keep=False)


def _axis(x: Symbolic, axis: int) -> int:
    if not -x.rank <= axis < x.rank:
        raise ShapeError(f"{x.type} has no axis {axis}")
    return axis % x.rank


def _axes(x: Symbolic, axes: int | Sequence[int] | None) -> tuple[int, ...]:
    if axes is None:
        return tuple(range(x.rank))
    given = (axes,) if isinstance(axes, int) else tuple(axes)
    return tuple(sorted({_axis(x, axis) for axis in given}))


# -- shape -----------------------------------------------------------------------------------------


def reshape(x: Symbolic, shape: Sequence[Extent]) -> Symbolic:
    """The same elements in another shape; one extent may be -1."""
    return x.trace("reshape", x, shape=_complete(x, tuple(shape)))


def _complete(x: Symbolic, shape: tuple[Extent, ...]) -> tuple[Extent, ...]:
    if -1 not in shape:
        return shape
    known = dim.product([extent for extent in shape if extent != -1])
    rest = dim.exact_quotient(x.type.elements, known)
    if rest is None or shape.count(-1) > 1:
        raise ShapeError(f"{x.type} cannot be reshaped to {shape}")
    return tuple(rest if extent == -1 else extent for extent in shape)


def flatten(x: Symbolic, axis: int = 1) -> Symbolic:
    """All axes from ``axis`` on as one: [n, c, h, w] -> [n, c*h*w]."""
    kept = x.shape[: _axis(x, axis)]
    return x.trace("reshape", x, shape=(*kept, dim.product(x.shape[len(kept) :])))


def transpose(x: Symbolic, permutation: Sequence[int] | None = None) -> Symbolic:
    """Axes in another order; reversed if no permutation is given."""
    order = tuple(permutation) if permutation is not None else tuple(reversed(range(x.rank)))
    return x.trace("transpose", x, permutation=tuple(_axis(x, axis) for axis in order))


def concat(values: Sequence[Symbolic], axis: int = 1) -> Symbolic:
    """Values joined along an axis."""
    if not values:
        raise ShapeError("concat needs at least one value")
    return values[0].trace("concat", *values, axis=_axis(values[0], axis))


def pad(x: Symbolic, lo: Sequence[int], hi: Sequence[int], value: float = 0.0) -> Symbolic:
    """``value`` around x: lo[i] elements before and hi[i] after axis i."""
    return x.trace("pad", x, lo=tuple(lo), hi=tuple(hi), value=value)


def one_hot(indices: Symbolic, depth: int, dtype: str | DType = "float32") -> Symbolic:
    """[...] -> [..., depth]: 1 at the index, else 0."""
    return indices.trace(
        "one_hot", indices, depth=depth, dtype=dtype if isinstance(dtype, DType) else DType(dtype)
    )


def lrn(
    x: Symbolic, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Symbolic:
    """x / (bias + alpha / size * (sum of squares over ``size`` channels)) ** beta (Krizhevsky et
    al. 2012, §3.3).
    """
    return x.trace("lrn", x, size=size, alpha=alpha, beta=beta, bias=bias)
