"""Functions of symbolic values that own no parameters: activations, reductions and changes of
shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from netloom.arguments import real, whole
from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent
from netloom.compiler.tensor_type import DType
from netloom.errors import ShapeError, UsageError

from .literals import dtype_of
from .trace import Operand, Symbolic, active_trace, trace_of


def _unary(op: str, doc: str) -> Callable[[Symbolic], Symbolic]:
    def apply(x: Symbolic) -> Symbolic:
        return trace_of(x)(op, x)

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
    return trace_of(x)("leaky_relu", x, slope=slope)


def elu(x: Symbolic, alpha: float = 1.0) -> Symbolic:
    """x where x >= 0, else alpha * (exp(x) - 1)."""
    return trace_of(x)("elu", x, alpha=alpha)


def gelu(x: Symbolic, approximate: bool = False) -> Symbolic:
    """x times the normal distribution function of x, or its approximation by tanh."""
    return trace_of(x)("gelu", x, approximate=approximate)


def clip(x: Symbolic, lo: float | None = None, hi: float | None = None) -> Symbolic:
    """x kept between lo and hi."""
    for bound in (lo, hi):
        if bound is not None:
            real(bound, "a bound of clip")
    if lo is not None and hi is not None and lo > hi:
        raise UsageError(f"clip cannot keep values between {lo} and {hi}.")
    return trace_of(x)("clip", x, lo=lo, hi=hi)


def maximum(x: Operand, y: Operand) -> Symbolic:
    """The larger of two values, element by element."""
    return trace_of(x, y)("max", x, y)


def minimum(x: Operand, y: Operand) -> Symbolic:
    """The smaller of two values, element by element."""
    return trace_of(x, y)("min", x, y)


def equal(x: Operand, y: Operand) -> Symbolic:
    """Where two values are equal, as bool."""
    return trace_of(x, y)("equal", x, y)


def where(condition: Symbolic, x: Operand, y: Operand) -> Symbolic:
    """x where the condition holds, else y; at least one of them is a symbolic value."""
    if not isinstance(condition, Symbolic):
        raise UsageError(
            f"where() takes a symbolic condition, not {condition!r}.",
            hint="Compare by <, <=, >, >= or nl.equal: == tells whether two objects are one.",
        )
    known = next((z for z in (x, y) if isinstance(z, Symbolic)), None)
    if known is None:
        raise ShapeError("where() needs a symbolic value for x or y, to know their dtype")
    x, y = (z if isinstance(z, Symbolic) else known.trace.constant(z, known.dtype) for z in (x, y))
    return trace_of(condition)("select", condition, x, y)


def softmax(x: Symbolic, axis: int = -1) -> Symbolic:
    """exp(x) divided by its sum along an axis."""
    return trace_of(x)("softmax", x, axis=_axis(x, axis))


def log_softmax(x: Symbolic, axis: int = -1) -> Symbolic:
    """The logarithm of softmax, computed without overflow."""
    return trace_of(x)("log_softmax", x, axis=_axis(x, axis))


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
    return trace_of(q)(
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
    return trace(op, trace.random_key(), shape=_extents(shape), dtype=dtype_of(dtype))


def cast(x: Symbolic, dtype: str | DType) -> Symbolic:
    """x as another dtype."""
    trace, target = trace_of(x), dtype_of(dtype)
    return x if x.dtype is target else trace("cast", x, dtype=target)


# -- reductions ------------------------------------------------------------------------------------


def _reduction(op: str, doc: str) -> Callable[..., Symbolic]:
    def reduce(
        x: Symbolic, axes: int | Sequence[int] | None = None, keep: bool = False
    ) -> Symbolic:
        trace = trace_of(x)
        if op == "reduce_mean" and not x.dtype.is_float:
            raise ShapeError(
                f"the mean of {x.type} would lose its fraction", hint="Cast to a float first."
            )
        return trace(op, x, axes=_axes(x, axes), keep=keep)

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
    return trace_of(x)("argmax", x, axis=_axis(x, axis), keep=False)


def _axis(x: Symbolic, axis: int) -> int:
    axis = whole(axis, "an axis")
    if not -x.rank <= axis < x.rank:
        raise ShapeError(f"{x.type} has no axis {axis}")
    return axis % x.rank


def _axes(x: Symbolic, axes: int | Sequence[int] | None) -> tuple[int, ...]:
    if axes is None:
        return tuple(range(x.rank))
    given = tuple(axes) if isinstance(axes, Sequence) else (axes,)
    return tuple(sorted({_axis(x, axis) for axis in given}))


# -- shape -----------------------------------------------------------------------------------------


def reshape(x: Symbolic, shape: Sequence[Extent]) -> Symbolic:
    """The same elements in another shape; one extent may be -1."""
    return trace_of(x)("reshape", x, shape=_complete(x, _extents(shape, least=-1)))


def _extents(shape: Sequence[Extent] | int, least: int = 0) -> tuple[Extent, ...]:
    """Extents, of which one may be given alone."""
    given = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    return tuple(
        extent if isinstance(extent, Dim) else whole(extent, "an extent", least=least)
        for extent in given
    )


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
    return trace_of(x)("reshape", x, shape=(*kept, dim.product(x.shape[len(kept) :])))


def transpose(x: Symbolic, permutation: Sequence[int] | None = None) -> Symbolic:
    """Axes in another order; reversed if no permutation is given."""
    trace = trace_of(x)
    order = range(x.rank)[::-1] if permutation is None else _wholes(permutation, "permutation")
    return trace("transpose", x, permutation=tuple(_axis(x, axis) for axis in order))


def _wholes(values: Sequence[int], what: str) -> tuple[int, ...]:
    if not isinstance(values, Sequence):
        raise UsageError(f"{what} is {values!r}, not one whole number for each axis.")
    return tuple(whole(value, f"an entry of {what}") for value in values)


def concat(values: Sequence[Symbolic], axis: int = 1) -> Symbolic:
    """Values joined along an axis."""
    if not isinstance(values, Sequence) or not values or not isinstance(values[0], Symbolic):
        raise UsageError(
            f"concat takes a list of symbolic values, not {values!r}.", hint="Write [x, y]."
        )
    return values[0].trace("concat", *values, axis=_axis(values[0], axis))


def pad(x: Symbolic, lo: Sequence[int], hi: Sequence[int], value: float = 0.0) -> Symbolic:
    """``value`` around x: lo[i] elements before and hi[i] after axis i."""
    trace = trace_of(x)
    return trace("pad", x, lo=_wholes(lo, "lo"), hi=_wholes(hi, "hi"), value=value)


def one_hot(indices: Symbolic, depth: int, dtype: str | DType = "float32") -> Symbolic:
    """[...] -> [..., depth]: 1 at the index, else 0."""
    return trace_of(indices)(
        "one_hot", indices, depth=whole(depth, "the depth of one_hot"), dtype=dtype_of(dtype)
    )


def lrn(
    x: Symbolic, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Symbolic:
    """x / (bias + alpha / size * (sum of squares over ``size`` channels)) ** beta (Krizhevsky et
    al. 2012, §3.3).
    """
    trace = trace_of(x)
    if x.rank < 2:
        raise ShapeError(f"lrn takes [n, c, ...], not {x.type}")
    size = whole(size, "the size of lrn", least=1)
    return trace("lrn", x, size=size, alpha=alpha, beta=beta, bias=bias)
