"""What every op means, written apart from the compiler: (arrays, attributes) -> the exact result in float64.

Nothing here imports the compiler, so a formula that is wrong there is not wrong here too. The sources are NumPy, SciPy,
the ONNX reference evaluator where its op is the same, and definitions spelled out index by index. A gradient op is the
adjoint of its forward oracle: dx[q] = <f(e_q), dy>. Integers and truth values are exact, in their own dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from scipy import signal, special

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
OPSET = 23


def is_float(dtype: Any) -> bool:
    """Whether elements of a dtype are floating point (bfloat16 too)."""
    return np.dtype(dtype).kind == "f" or np.dtype(dtype) == ml_dtypes.bfloat16


def expected(name: str, inputs: Sequence[Array], attrs: Mapping[str, Any]) -> tuple[Array, np.dtype[Any]]:
    """The result of oracle ``name``, floats in float64, and the dtype that the op must give it.

    That is the attribute ``dtype`` if there is one, else the first float input's, for float results; the oracle's own
    for others.
    """
    wide = [x.astype(np.float64) if is_float(x.dtype) else x for x in inputs]
    with np.errstate(all="ignore"):
        result = np.asarray(ORACLES[name](*wide, **attrs))
    if not is_float(result.dtype):
        return result, result.dtype
    own = [np.dtype(attrs["dtype"])] if "dtype" in attrs else [x.dtype for x in inputs if is_float(x.dtype)]
    return result.astype(np.float64), own[0] if own else result.dtype


def onnx(op: str, *inputs: Array, **attributes: Any) -> Array:
    """The ONNX reference evaluator's first result for one node."""
    names = [f"x{i}" for i in range(len(inputs))]
    kinds = {name: helper.np_dtype_to_tensor_dtype(x.dtype) for name, x in zip(names, inputs, strict=True)}
    ports = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    node = helper.make_node(op, names, ["y"], **attributes)
    result = helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)
    model = helper.make_model(helper.make_graph([node], op, ports, [result]), opset_imports=[helper.make_opsetid("", OPSET)])
    return np.asarray(ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))[0])


def adjoint(linear: Callable[[Array], Array], shape: Shape, dy: Array) -> Array:
    """dx[q] = <linear(e_q), dy>, for every unit array e_q of ``shape``."""
    dx = np.zeros(shape, dy.dtype)
    for q in np.ndindex(*shape):
        unit = np.zeros(shape, dy.dtype)
        unit[q] = 1
        dx[q] = np.vdot(linear(unit), dy)
    return dx


def adjoint_by_sample(linear: Callable[[Array], Array], shape: Shape, dy: Array) -> Array:
    """``adjoint`` of a map that treats all samples alike; ``shape`` is one sample's."""
    size = math.prod(shape)
    images = linear(np.eye(size, dtype=dy.dtype).reshape(size, *shape)).reshape(size, -1)
    return (dy.reshape(len(dy), images.shape[1]) @ images.T).reshape(len(dy), *shape)


# -- elementwise -----------------------------------------------------------------------------------------------


def _wrapped(value: int, dtype: np.dtype[Any]) -> Any:
    """An integer modulo 2 ** bits, as two's complement."""
    bits = dtype.itemsize * 8
    value &= (1 << bits) - 1
    return value - (1 << bits) if dtype.kind == "i" and value >> (bits - 1) else value


def _by_integers(function: Callable[[int, int, int], int]) -> Callable[[Array, Array], Array]:
    """A binary op in Python's unbounded integers; ``function`` also gets the number of bits."""

    def apply(x: Array, y: Array) -> Array:
        x, y = np.broadcast_arrays(x, y)
        bits = x.dtype.itemsize * 8
        found = [_wrapped(function(int(a), int(b), bits), x.dtype) for a, b in zip(x.flat, y.flat, strict=True)]
        return np.array(found, x.dtype).reshape(x.shape)

    return apply


def _quotient(a: int, b: int) -> int:
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


_integer_division = _by_integers(lambda a, b, _: _quotient(a, b))
_integer_remainder = _by_integers(lambda a, b, _: 0 if b == 0 else a - b * _quotient(a, b))


def _cast(x: Array, dtype: Any) -> Array:
    target = np.dtype(dtype)
    if target == np.bool_:
        return np.array([bool(v != 0) for v in x.flat]).reshape(x.shape).astype(np.bool_)
    if is_float(target):
        return x.astype(np.float64)
    return np.array([_integer(v, target) for v in x.flat], target).reshape(x.shape)


def _integer(value: Any, dtype: np.dtype[Any]) -> int:
    if not isinstance(value, np.floating):
        return int(_wrapped(int(value), dtype))
    limits = np.iinfo(dtype)
    if not np.isfinite(value):
        return 0 if np.isnan(value) else int(limits.max if value > 0 else limits.min)
    return min(max(int(value), int(limits.min)), int(limits.max))


def _bitcast(x: Array, dtype: Any) -> Array:
    """Floats come widened: first their own size again."""
    size = np.dtype(dtype).itemsize
    narrow = x.astype(f"f{size}") if is_float(x.dtype) else x.astype(np.uint8) if x.dtype == np.bool_ else x
    return np.ascontiguousarray(narrow).view(dtype)


def _clip(x: Array, lo: float | None, hi: float | None) -> Array:
    return x if lo is None and hi is None else np.clip(x, lo, hi).astype(x.dtype)


def _gelu(x: Array, approximate: bool) -> Array:
    return onnx("Gelu", x, approximate="tanh") if approximate else x * special.ndtr(x)


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative, "abs": np.abs, "sign": np.sign,
    "div": lambda x, y: x / y if is_float(x.dtype) else _integer_division(x, y),
    "rem": lambda x, y: np.fmod(x, y) if is_float(x.dtype) else _integer_remainder(x, y),
    "fma": lambda x, y, z: x * y + z, "max": np.maximum, "min": np.minimum,
    "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "pow": np.power, "tanh": np.tanh, "erf": special.erf,
    "sin": np.sin, "cos": np.cos, "floor": np.floor, "ceil": np.ceil, "round": np.rint, "trunc": np.trunc,
    "equal": np.equal, "not_equal": np.not_equal, "less": np.less, "less_equal": np.less_equal,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert,
    "shift_left": _by_integers(lambda a, b, bits: a << b if 0 <= b < bits else 0),
    "shift_right": _by_integers(lambda a, b, bits: a >> b if 0 <= b < bits else 0),
    "select": np.where, "cast": _cast, "is_nan": np.isnan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "bitcast": _bitcast, "sinh": np.sinh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "relu": lambda x: np.maximum(x, 0).astype(x.dtype), "sigmoid": special.expit,
    "silu": lambda x: x * special.expit(x), "softplus": lambda x: np.logaddexp(0, x),
    "softsign": lambda x: x / (1 + np.abs(x)), "reciprocal": lambda x: 1 / x, "square": np.square,
    "leaky_relu": lambda x, slope: onnx("LeakyRelu", x, alpha=slope),
    "elu": lambda x, alpha: np.where(x < 0, alpha * np.expm1(x), x),
    "selu": lambda x, alpha, gamma: onnx("Selu", x, alpha=alpha, gamma=gamma),
    "hard_sigmoid": lambda x, alpha, beta: onnx("HardSigmoid", x, alpha=alpha, beta=beta),
    "clip": _clip, "gelu": _gelu,
    "thresholded_relu": lambda x, alpha: onnx("ThresholdedRelu", x, alpha=alpha),
    "prelu": lambda x, slope: np.where(x < 0, slope * x, x),
}  # fmt: skip

# -- reductions and products -----------------------------------------------------------------------------------


def _reduced(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(x: Array, axes: Shape, keep: bool) -> Any:
        return function(x, axis=axes, keepdims=keep).astype(x.dtype) if axes else x

    return reduce


def _extreme(function: Callable[..., Any], sign: int) -> Callable[..., Any]:
    """NumPy's maximum or minimum; an empty one is the least or the largest number of the dtype."""

    def reduce(x: Array, axes: Shape, keep: bool) -> Any:
        if not axes:
            return x
        limit = np.iinfo(x.dtype) if x.dtype.kind in "iu" else None
        start = sign * math.inf if limit is None else (limit.max if sign > 0 else limit.min)
        return function(x, axis=axes, keepdims=keep, initial=start)

    return reduce


def _mean(x: Array, axes: Shape, keep: bool) -> Array:
    count = math.prod(x.shape[axis] for axis in axes)
    total = np.sum(x, axis=axes, keepdims=keep) if axes else x
    return total / count if is_float(x.dtype) else _integer_division(total.astype(x.dtype), np.array(count, x.dtype))


def _position(best: Callable[..., Any]) -> Callable[..., Array]:
    """The first (last) position of the best element; NaN is better than any number."""

    def line(values: Array, last: bool) -> int:
        extreme = best(values)
        places = [i for i, v in enumerate(values) if v == extreme or (np.isnan(v) and np.isnan(extreme))]
        return places[-1 if last else 0]

    def find(x: Array, axis: int, keep: bool, last: bool) -> Array:
        lines = np.moveaxis(x, axis, -1)
        found = np.array([line(lines[i], last) for i in np.ndindex(*lines.shape[:-1])], np.int64).reshape(lines.shape[:-1])
        return np.expand_dims(found, axis) if keep else found

    return find


def _matmul(a: Array, b: Array, transpose_a: bool, transpose_b: bool) -> Array:
    left, right = "...km" if transpose_a else "...mk", "...nk" if transpose_b else "...kn"
    return np.asarray(np.einsum(f"{left},{right}->...mn", a, b)).astype(a.dtype)


# -- convolution and pooling -----------------------------------------------------------------------------------


def _conv(x: Array, w: Array, stride: Shape, dilation: Shape, lo: Shape, hi: Shape, groups: int) -> Array:
    """Cross-correlation of the padded input with filters that have zeros put between their elements."""
    spread = np.zeros((*w.shape[:2], *((k - 1) * d + 1 for k, d in zip(w.shape[2:], dilation, strict=True))))
    spread[(..., *(slice(None, None, d) for d in dilation))] = w
    padded = np.pad(x, [(0, 0), (0, 0), *zip(lo, hi, strict=True)])
    per_filter, per_group = w.shape[1], len(w) // groups
    if not len(x):  # SciPy does not take an empty batch
        return _conv(np.zeros((1, *x.shape[1:])), w, stride, dilation, lo, hi, groups)[:0]
    maps = [
        signal.correlate(padded[:, (o // per_group) * per_filter :][:, :per_filter], filter_[None], "valid", "direct")
        for o, filter_ in enumerate(spread)
    ]
    return np.concatenate(maps, axis=1)[(..., *(slice(None, None, s) for s in stride))].astype(x.dtype)


def _conv_input_gradient(dy: Array, w: Array, spatial: Shape, groups: int, **attrs: Any) -> Array:
    shape = (w.shape[1] * groups, *spatial)
    return adjoint_by_sample(lambda x: _conv(x, w, groups=groups, **attrs), shape, dy)


def _conv_weight_gradient(x: Array, dy: Array, kernel: Shape, groups: int, **attrs: Any) -> Array:
    shape = (dy.shape[1], x.shape[1] // groups, *kernel)
    return adjoint(lambda w: _conv(x, w, groups=groups, **attrs), shape, dy)


def _windows(
    spatial: Shape, kernel: Shape, stride: Shape, dilation: Shape, lo: Shape, hi: Shape
) -> Iterator[tuple[Shape, list[tuple[int, Shape]]]]:
    """Each output position with (flat kernel position, input position), positions in the padding among them."""
    ends = [e + a + b - (k - 1) * d for e, a, b, k, d in zip(spatial, lo, hi, kernel, dilation, strict=True)]
    for p in product(*(range((end - 1) // s + 1) for end, s in zip(ends, stride, strict=True))):
        yield p, [
            (flat, tuple(i * s + j * d - a for i, s, j, d, a in zip(p, stride, k, dilation, lo, strict=True)))
            for flat, k in enumerate(np.ndindex(*kernel))
        ]


def _is_inside(q: Shape, spatial: Sequence[int], first: Sequence[int] | None = None) -> bool:
    return all(low <= i < e for low, i, e in zip(first or [0] * len(q), q, spatial, strict=True))


def _max_pool(x: Array, **attrs: Any) -> Array:
    spatial = x.shape[2:]
    least = -math.inf if is_float(x.dtype) else np.iinfo(x.dtype).min
    found = {}
    for p, window in _windows(spatial, **attrs):
        parts = [x[(..., *q)] for _, q in window if _is_inside(q, spatial)]
        found[p] = np.max(np.stack(parts), axis=0) if parts else np.full(x.shape[:2], least, x.dtype)
    return _assembled(found, x.shape[:2], x.dtype)


def _assembled(found: Mapping[Shape, Array], head: Shape, dtype: Any) -> Array:
    out = tuple(1 + max(p[axis] for p in found) for axis in range(len(next(iter(found)))))
    result = np.zeros((*head, *out), dtype)
    for p, part in found.items():
        result[(..., *p)] = part
    return result


def _max_pool_index(x: Array, y: Array, **attrs: Any) -> Array:
    size = math.prod(attrs["kernel"])
    found = {}
    for p, window in _windows(x.shape[2:], **attrs):
        index = np.full(x.shape[:2], size, np.int32)
        for flat, q in reversed(window):
            if _is_inside(q, x.shape[2:]):
                index[x[(..., *q)] == y[(..., *p)]] = flat
        found[p] = index
    return _assembled(found, x.shape[:2], np.int32)


def _max_pool_gradient(dy: Array, index: Array, spatial: Shape, **attrs: Any) -> Array:
    dx = np.zeros((*dy.shape[:2], *spatial))
    for p, window in _windows(spatial, **attrs):
        for flat, q in window:
            if _is_inside(q, spatial):
                dx[(..., *q)] += np.where(index[(..., *p)] == flat, dy[(..., *p)], 0)
    return dx


def _average_pool(x: Array, count_padding: bool, extra: Shape, **attrs: Any) -> Array:
    spatial, lo, hi = x.shape[2:], attrs["lo"], attrs["hi"]
    end = [e + b - c for e, b, c in zip(spatial, hi, extra or (0,) * len(hi), strict=True)]
    found = {}
    for p, window in _windows(spatial, **attrs):
        parts = [x[(..., *q)] for _, q in window if _is_inside(q, spatial)]
        counted = [q for _, q in window if _is_inside(q, end, [-a for a in lo])] if count_padding else parts
        found[p] = np.sum(parts, axis=0) / len(counted)
    return _assembled(found, x.shape[:2], x.dtype)


def _average_pool_gradient(dy: Array, spatial: Shape, **attrs: Any) -> Array:
    return adjoint_by_sample(lambda x: _average_pool(x, **attrs), (dy.shape[1], *spatial), dy)


# -- normalization and losses ----------------------------------------------------------------------------------


def _standardized(x: Array, axes: Shape, epsilon: float) -> Array:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def _per_channel(v: Array, rank: int) -> Array:
    return v.reshape(-1, *[1] * (rank - 2))


def _batch_norm(x: Array, scale: Array, bias: Array, mean: Array, variance: Array, epsilon: float) -> Array:
    return onnx("BatchNormalization", x, scale, bias, mean, variance, epsilon=epsilon)


def _layer_norm(x: Array, scale: Array, bias: Array, axis: int, epsilon: float) -> Array:
    return _standardized(x, tuple(range(axis, x.ndim)), epsilon) * scale + bias


def _rms_norm(x: Array, scale: Array, axis: int, epsilon: float) -> Array:
    mean = np.mean(np.square(x), axis=tuple(range(axis, x.ndim)), keepdims=True)
    return x / np.sqrt(mean + epsilon) * scale


def _group_norm(x: Array, scale: Array, bias: Array, groups: int, epsilon: float) -> Array:
    parts = [_standardized(part, tuple(range(1, x.ndim)), epsilon) for part in np.split(x, groups, axis=1)]
    return np.concatenate(parts, axis=1) * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)


def _lrn(x: Array, size: int, alpha: float, beta: float, bias: float) -> Array:
    """By the definition in ONNX's text; its reference evaluator takes the batch's extent for that of the channels."""
    before, behind = math.floor((size - 1) / 2), math.ceil((size - 1) / 2)
    c = x.shape[1]
    sums = [np.square(x[:, max(0, i - before) : min(c - 1, i + behind) + 1]).sum(axis=1) for i in range(c)]
    return x / (bias + alpha / size * np.stack(sums, axis=1)) ** beta


def _cross_entropy(logits: Array, labels: Array) -> Array:
    logs = special.log_softmax(logits, axis=1)
    terms = [-logs[(i[0], labels[i], *i[1:])] if 0 <= labels[i] < logits.shape[1] else 0.0 for i in np.ndindex(labels.shape)]
    return np.asarray(np.mean(terms))


# -- shape and indexing ----------------------------------------------------------------------------------------


def _slice(x: Array, start: Shape, size: Shape, step: Shape) -> Array:
    lines = [[first + i * by for i in range(count)] for first, count, by in zip(start, size, step, strict=True)]
    return x[np.ix_(*(np.array(line, np.int64) for line in lines))] if lines else x


def _slice_gradient(dy: Array, start: Shape, step: Shape, shape: Shape) -> Array:
    return adjoint(lambda x: _slice(x, start, dy.shape, step), shape, dy)


def _reflected(q: int, extent: int) -> int:
    return -q if q < 0 else (2 * (extent - 1) - q if q >= extent else q)


def _pad(x: Array, lo: Shape, hi: Shape, value: float, mode: str) -> Array:
    y = np.full([a + e + b for a, e, b in zip(lo, x.shape, hi, strict=True)], value, x.dtype)
    for p in np.ndindex(y.shape):
        q = tuple(i - a for i, a in zip(p, lo, strict=True))
        if mode == "reflect":
            q = tuple(_reflected(i, e) for i, e in zip(q, x.shape, strict=True))
        elif mode == "edge":
            q = tuple(min(max(i, 0), e - 1) for i, e in zip(q, x.shape, strict=True))
        if _is_inside(q, x.shape):
            y[p] = x[q]
    return y


def _gather(x: Array, indices: Array, axis: int) -> Array:
    return x[(*[slice(None)] * axis, np.where(indices < 0, indices.astype(np.int64) + x.shape[axis], indices.astype(np.int64)))]


def _gather_gradient(dy: Array, indices: Array, axis: int, extent: int) -> Array:
    shape = (*dy.shape[:axis], extent, *dy.shape[axis + indices.ndim :])
    return adjoint(lambda x: _gather(x, indices, axis), shape, dy)


def _gather_elements(x: Array, indices: Array, axis: int) -> Array:
    y = np.zeros(indices.shape, x.dtype)
    for p in np.ndindex(indices.shape):
        y[p] = x[(*p[:axis], int(indices[p]) % x.shape[axis], *p[axis + 1 :])]
    return y


_REDUCTIONS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _scatter(x: Array, indices: Array, updates: Array, axis: int, reduction: str) -> Array:
    y = x.copy()
    for p in np.ndindex(indices.shape):
        q = (*p[:axis], int(indices[p]) % x.shape[axis], *p[axis + 1 :])
        y[q] = _REDUCTIONS[reduction](y[q], updates[p])
    return y


def _scatter_source(indices: Array, axis: int, extent: int) -> Array:
    y = np.full((*indices.shape[:axis], extent, *indices.shape[axis + 1 :]), -1, np.int64)
    for p in np.ndindex(indices.shape):  # along the axis, later ones come later
        y[(*p[:axis], int(indices[p]) % extent, *p[axis + 1 :])] = p[axis]
    return y


def _sort_positions(x: Array, axis: int, descending: bool) -> Array:
    """Python's own stable sort; NaN is the largest."""

    def line(values: Array) -> Array:
        order = sorted(range(len(values)), key=lambda i: (bool(np.isnan(values[i])), 0 if np.isnan(values[i]) else values[i].item()),
                       reverse=descending)  # fmt: skip
        return np.array([order.index(i) for i in range(len(values))], np.int64)

    return np.apply_along_axis(line, axis, x) if x.size else np.zeros(x.shape, np.int64)


def _inverse_positions(x: Array, axis: int, size: int) -> Array:
    y = np.zeros((*x.shape[:axis], size, *x.shape[axis + 1 :]), np.int64)
    for p in np.ndindex(x.shape):
        if x[p] < size:
            y[(*p[:axis], int(x[p]), *p[axis + 1 :])] = p[axis]
    return y


def _iota(shape: Shape, axis: int, dtype: Any) -> Array:
    return np.indices(shape)[axis].astype(dtype)


def _one_hot(x: Array, depth: int, dtype: Any) -> Array:
    hit = [[float(int(v) == k) for k in range(depth)] for v in x.flat]
    return np.array(hit).reshape(*x.shape, depth).astype(dtype)


# -- random numbers --------------------------------------------------------------------------------------------


def philox_block(counter: Sequence[int], key: Sequence[int]) -> tuple[int, ...]:
    """Philox-4x32-10 of one counter (Salmon et al. 2011, section 3.3): four words from four, and a key of two."""
    c, k, low = list(counter), list(key), 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & low, (a >> 32) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return tuple(c)


def _random_bits(key: Array, shape: Shape) -> Array:
    start = int(key[0]) + (int(key[1]) << 32)
    count = math.prod(shape)
    words: list[int] = []
    for block in range(-(-count // 4)):
        number = (start + block) % (1 << 64)
        words += philox_block((number & 0xFFFFFFFF, number >> 32, 0, 0), (int(key[2]), int(key[3])))
    return np.array(words[:count], np.uint32).reshape(shape)


def _random_uniform(key: Array, shape: Shape, dtype: Any = np.float32) -> Array:
    return np.floor(_random_bits(key, shape) / 256.0) / 2.0**24


def _random_normal(key: Array, shape: Shape, dtype: Any) -> Array:
    """Box and Muller's cosine form from the middles of 2^24 intervals."""
    first, second = np.floor(_random_bits(key, (2, *shape)) / 256.0) + 0.5
    return np.sqrt(-2 * np.log(first / 2.0**24)) * np.cos(2 * np.pi * second / 2.0**24)


def _dropout(x: Array, key: Array, rate: float) -> Array:
    return np.where(_random_uniform(key, x.shape) >= np.float32(rate), x / (1 - rate), 0)


# -- stages of strategies, and the table -----------------------------------------------------------------------


_WINOGRAD_POINTS = [0.0, 1.0, -1.0, 2.0, -0.5, -2.0, 0.5]  # as many as needed, and infinity


def _winograd_points(m: int, taps: int) -> list[float]:
    return _WINOGRAD_POINTS[: m + taps - 2]


def _winograd_input(x: Array, m: Shape, taps: Shape, lo: Shape, counts: Shape, groups: int) -> Array:
    """Row e of B' holds the coefficients of the polynomial that is zero at all points but e."""
    backs = [_winograd_back(*axis) for axis in zip(m, taps, strict=True)]
    (a, b), c = map(len, backs), x.shape[1]
    found = np.zeros((a, b, len(x), *counts, c))
    for n, ty, tx, i, j in product(range(len(x)), *map(range, counts), range(a), range(b)):
        q = (ty * m[0] + i - lo[0], tx * m[1] + j - lo[1])
        if _is_inside(q, x.shape[2:]):
            found[:, :, n, ty, tx] += np.multiply.outer(np.outer(backs[0][:, i], backs[1][:, j]), x[(n, slice(None), *q)])
    return _winograd_grouped(found, groups)


def _winograd_back(m: int, taps: int) -> Array:
    points = _winograd_points(m, taps)
    back = np.zeros((m + taps - 1,) * 2)
    for row, roots in zip(back, [*([q for q in points if q != p] for p in points), points], strict=True):
        row[: len(roots) + 1] = np.polynomial.polynomial.polyfromroots(roots)
    return back


def _winograd_grouped(tiles: Array, groups: int) -> Array:
    """[a, b, n, y, x, channels] as [a b, g, n y x, channels of a group]."""
    flat = tiles.reshape(tiles.shape[0] * tiles.shape[1], -1, groups, tiles.shape[-1] // groups)
    return flat.swapaxes(1, 2)


def _winograd_powers(m: int, taps: int) -> Array:
    """A' [m, points]: column e holds the powers of point e; that of infinity, the highest coefficient."""
    return np.array([[*(p**i for p in _winograd_points(m, taps)), float(i == m - 1)] for i in range(m)])


def _winograd_output(products: Array, m: Shape, taps: Shape, shape: Shape) -> Array:
    down, across = (_winograd_powers(*axis) for axis in zip(m, taps, strict=True))
    n, o, height, width = shape
    tiles = products.swapaxes(1, 2).reshape(down.shape[1], across.shape[1], n, -(-height // m[0]), -(-width // m[1]), o)
    y = np.zeros(shape)
    for h, w in product(range(height), range(width)):
        y[:, :, h, w] = np.einsum("e,f,efno->no", down[h % m[0]], across[w % m[1]], tiles[:, :, :, h // m[0], w // m[1]])
    return y


def _winograd_output_gradient(dy: Array, m: Shape, taps: Shape, groups: int) -> Array:
    """The adjoint of the output's transform: each dy goes to its tile, at every point."""
    down, across = (_winograd_powers(*axis) for axis in zip(m, taps, strict=True))
    n, o, height, width = dy.shape
    tiles = np.zeros((down.shape[1], across.shape[1], n, -(-height // m[0]), -(-width // m[1]), o))
    for h, w in product(range(height), range(width)):
        at = tiles[:, :, :, h // m[0], w // m[1]]
        at += np.einsum("e,f,no->efno", down[h % m[0]], across[w % m[1]], dy[:, :, h, w])
    return _winograd_grouped(tiles, groups)


def _winograd_filter(w: Array, m: Shape, taps: Shape, groups: int, is_turned: bool) -> Array:
    """Each filter as a polynomial at every point, by Lagrange's scale; at infinity its highest coefficient."""
    parts = []
    for part in np.split(w, groups):
        turned = np.flip(part, (2, 3)).swapaxes(0, 1) if is_turned else part
        u = sum(
            np.multiply.outer(np.outer(_lagrange(m[0], taps[0], i), _lagrange(m[1], taps[1], j)), turned[:, :, i, j].T)
            for i, j in product(*map(range, taps))
        )
        parts.append(np.asarray(u).reshape(-1, *turned.shape[1::-1]))
    return np.stack(parts, axis=1)


def _lagrange(m: int, taps: int, k: int) -> Array:
    """What the k-th tap contributes at every point."""
    points = _winograd_points(m, taps)
    scales = [math.prod(p - q for q in points if q != p) for p in points]
    return np.array([*(p**k / scale for p, scale in zip(points, scales, strict=True)), float(k == taps - 1)])


def _winograd_filter_gradient(du: Array, m: Shape, taps: Shape) -> Array:
    """By pairs of a filter and a channel, the adjoint of the filters' transform."""
    _, groups, channels, filters = du.shape
    dw = np.zeros((groups * filters, channels, *taps))
    for k in np.ndindex(*taps):
        unit = np.zeros((1, 1, *taps))
        unit[(0, 0, *k)] = 1
        row = _winograd_filter(unit, m, taps, 1, is_turned=False)[:, 0, 0, 0]
        dw[(..., *k)] = np.einsum("e,egco->goc", row, du).reshape(groups * filters, channels)
    return dw


def _fft_waves(m: Shape, taps: Shape) -> Array:
    """e^(-2 pi i (k y / n0 + l x / n1)) [frequencies, n0, n1]: those with a conjugate elsewhere and then the real ones."""
    n = [a + b - 1 for a, b in zip(m, taps, strict=True)]
    real = [p for p in np.ndindex(*n) if all(2 * k % e == 0 for k, e in zip(p, n, strict=True))]
    edges = {(k, l) for k, l in np.ndindex(*n) if 2 * k % n[0] == 0 and 0 < l < n[1] - l}
    inner = [(k, l) for k, l in np.ndindex(*n) if 0 < k < n[0] - k]
    places = [*inner, *sorted(edges), *real]
    return np.array([np.exp(-2j * np.pi * (k * np.arange(n[0])[:, None] / n[0] + l * np.arange(n[1]) / n[1])) for k, l in places])


def _fft_real(m: Shape, taps: Shape) -> int:
    """How many of the waves are real: the last ones."""
    return math.prod(min(a + b - 1, 2) for a, b in zip(m, taps, strict=True))


def _fft_planes(spectrum: Array, real: int, weights: tuple[tuple[float, float], ...]) -> Array:
    """For every complex frequency three sums of its real and imaginary part, then the real frequencies."""
    half = spectrum[: len(spectrum) - real]
    triples = [a * z.real + b * z.imag for z in half for a, b in weights]
    return np.array([*triples, *spectrum[len(half) :].real])


_LEFT, _RIGHT = ((1, 0), (0, 1), (1, 1)), ((-1, 1), (1, 1), (1, 0))  # (a, b, a + b) and (d - c, c + d, c)


def _fft_input(x: Array, m: Shape, taps: Shape, lo: Shape, counts: Shape, groups: int) -> Array:
    waves = _fft_waves(m, taps)
    found = np.zeros((len(waves), len(x), *counts, x.shape[1]), complex)
    for ty, tx, i, j in product(*map(range, counts), *map(range, waves.shape[1:])):
        q = (ty * m[0] + i - lo[0], tx * m[1] + j - lo[1])
        if _is_inside(q, x.shape[2:]):
            found[:, :, ty, tx] += np.multiply.outer(waves[:, i, j], x[(slice(None), slice(None), *q)])
    entries = _fft_planes(found, _fft_real(m, taps), _LEFT)
    return _winograd_grouped(entries[:, None], groups)


def _fft_conjugate(tiles: Array, m: Shape, taps: Shape) -> Array:
    """Conjugate spectra of [.., i, j], scaled for the way back, as entries [E, ..]."""
    waves, real = _fft_waves(m, taps), _fft_real(m, taps)
    spectrum = np.einsum("fij,...ij->f...", waves.conj()[:, : tiles.shape[-2], : tiles.shape[-1]], tiles)
    scale = np.where(np.arange(len(waves)) < len(waves) - real, 2, 1) / waves[0].size
    return _fft_planes(spectrum * scale.reshape(-1, *[1] * (spectrum.ndim - 1)), real, _RIGHT)


def _fft_back(products: Array, m: Shape, taps: Shape, kept: Shape) -> Array:
    """The first numbers of tiles [.., i, j] from products [E, ..]."""
    waves, real = _fft_waves(m, taps)[:, : kept[0], : kept[1]], _fft_real(m, taps)
    count = len(waves) - real
    p, q, both = (products[place : 3 * count : 3] for place in range(3))
    spectrum = np.concatenate([(both - q) + 1j * (both + p), products[3 * count :]])
    return np.einsum("fij,f...->...ij", waves.conj(), spectrum).real


def _fft_output(products: Array, m: Shape, taps: Shape, shape: Shape) -> Array:
    n, o, height, width = shape
    counts = (-(-height // m[0]), -(-width // m[1]))
    tiles = _fft_back(products.swapaxes(1, 2).reshape(len(products), n, *counts, o), m, taps, m)
    y = np.zeros(shape)
    for h, w in product(range(height), range(width)):
        y[:, :, h, w] = tiles[:, h // m[0], w // m[1], :, h % m[0], w % m[1]]
    return y


def _fft_output_gradient(dy: Array, m: Shape, taps: Shape, groups: int) -> Array:
    n, o, height, width = dy.shape
    tiles = np.zeros((n, -(-height // m[0]), -(-width // m[1]), o, *m))
    for h, w in product(range(height), range(width)):
        tiles[:, h // m[0], w // m[1], :, h % m[0], w % m[1]] = dy[:, :, h, w]
    return _winograd_grouped(_fft_conjugate(tiles, m, taps)[:, None], groups)


def _fft_filter(w: Array, m: Shape, taps: Shape, groups: int, is_turned: bool) -> Array:
    parts = [np.flip(part, (2, 3)) if is_turned else part.swapaxes(0, 1) for part in np.split(w, groups)]
    return np.stack([_fft_conjugate(part, m, taps) for part in parts], axis=1)


def _fft_filter_gradient(du: Array, m: Shape, taps: Shape) -> Array:
    _, groups, channels, filters = du.shape
    return _fft_back(du, m, taps, taps).swapaxes(1, 2).reshape(groups * filters, channels, *taps)


def _im2col(x: Array, kernel: Shape, stride: Shape, dilation: Shape) -> Array:
    none = (0,) * len(kernel)
    parts = {p: np.stack([x[(..., *q)] for _, q in window], axis=-1)
             for p, window in _windows(x.shape[2:], kernel, stride, dilation, none, none)}  # fmt: skip
    y = _assembled(parts, (*x.shape[:2], math.prod(kernel)), x.dtype)
    return y.reshape(*x.shape[:2], *kernel, *y.shape[3:])


def _attention(
    q: Array, k: Array, v: Array, mask: Any = None, *, scale: float, is_causal: bool, fill: float, has_zeros: bool = False
) -> Array:
    """Query by query: the weighted mean of the values, by SciPy's softmax of the scores."""
    heads = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q, k, v = (np.broadcast_to(x, (*heads, *x.shape[-2:])) for x in (q, k, v))
    shape = (*heads, q.shape[-2], k.shape[-2])
    given = np.zeros(shape) if mask is None else np.broadcast_to(mask, shape)
    y = np.zeros((*heads, q.shape[-2], v.shape[-1]))
    for p in np.ndindex(*heads, q.shape[-2]):
        head, row = p[:-1], p[-1]
        scores = scale * (k[head] @ q[p])
        scores = np.where(given[p], scores, fill) if given.dtype == np.bool_ else scores + given[p]
        if is_causal:
            scores[row + 1 :] = -np.inf
        is_empty = has_zeros and scores.max() == -np.inf
        y[p] = 0 if is_empty else special.softmax(scores) @ v[head]
    return y


def _key_panels(k: Array) -> Array:
    count = -(-k.shape[-2] // 16)
    panels = np.zeros((*k.shape[:-2], count, k.shape[-1], 16), k.dtype)
    for key in range(k.shape[-2]):
        panels[..., key // 16, :, key % 16] = k[..., key, :]
    return panels


def _attention_online(q: Array, panels: Array, v: Array, mask: Any = None, **attrs: Any) -> Array:
    keys = [panels[..., key // 16, :, key % 16] for key in range(v.shape[-2])]
    return _attention(q, np.stack(keys, axis=-2), v, mask, **attrs)


ORACLES: dict[str, Callable[..., Any]] = {
    **ELEMENTWISE,
    "reduce_sum": _reduced(np.sum), "reduce_product": _reduced(np.prod), "reduce_mean": _mean,
    "reduce_max": _extreme(np.max, -1), "reduce_min": _extreme(np.min, 1),
    "argmax": _position(np.max), "argmin": _position(np.min), "matmul": _matmul,
    "conv": _conv, "conv_input_gradient": _conv_input_gradient, "conv_weight_gradient": _conv_weight_gradient,
    "max_pool": _max_pool, "max_pool_index": _max_pool_index, "max_pool_gradient": _max_pool_gradient,
    "average_pool": _average_pool, "average_pool_gradient": _average_pool_gradient,
    "batch_norm": _batch_norm, "layer_norm": _layer_norm, "rms_norm": _rms_norm, "group_norm": _group_norm,
    "instance_norm": lambda x, scale, bias, epsilon: onnx("InstanceNormalization", x, scale, bias, epsilon=epsilon),
    "lrn": _lrn, "softmax": special.softmax, "log_softmax": special.log_softmax,
    "attention": _attention, "attention_online": _attention_online, "key_panels": _key_panels,
    "cross_entropy": _cross_entropy, "mean_squared_error": lambda x, y: np.mean(np.square(x - y)),
    "reshape": lambda x, shape: x.reshape(shape), "broadcast": lambda x, shape: np.broadcast_to(x, shape),
    "transpose": lambda x, permutation: np.moveaxis(x, permutation, range(x.ndim)),
    "reorder": lambda x, layout: x, "slice": _slice, "slice_gradient": _slice_gradient, "pad": _pad,
    "concat": lambda *parts, axis: np.concatenate(parts, axis=axis),
    "depth_to_space": lambda x, block, mode: onnx("DepthToSpace", x, blocksize=block, mode=mode),
    "space_to_depth": lambda x, block: onnx("SpaceToDepth", x, blocksize=block),
    "constant": lambda value: value, "extent": lambda extent: np.int64(extent), "iota": _iota,
    "gather": _gather, "gather_gradient": _gather_gradient, "one_hot": _one_hot,
    "gather_elements": _gather_elements, "scatter": _scatter, "scatter_source": _scatter_source,
    "sort_positions": _sort_positions, "inverse_positions": _inverse_positions,
    "random_bits": _random_bits, "random_uniform": _random_uniform, "random_normal": _random_normal, "dropout": _dropout,
    "winograd_input": _winograd_input, "winograd_output": _winograd_output,
    "winograd_output_gradient": _winograd_output_gradient, "winograd_filter": _winograd_filter,
    "winograd_filter_gradient": _winograd_filter_gradient, "windows": _im2col,
    "fft_input": _fft_input, "fft_output": _fft_output, "fft_output_gradient": _fft_output_gradient,
    "fft_filter": _fft_filter, "fft_filter_gradient": _fft_filter_gradient,
    "kernel": lambda x, y, body: np.maximum(x + y, 0),
}  # fmt: skip
