"""Elementwise ops; integers by Python's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from .reference import Array, is_float, onnx


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
        found = [
            _wrapped(function(int(a), int(b), bits), x.dtype)
            for a, b in zip(x.flat, y.flat, strict=True)
        ]
        return np.array(found, x.dtype).reshape(x.shape)

    return apply


def _quotient(a: int, b: int) -> int:
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


integer_division = _by_integers(lambda a, b, _: _quotient(a, b))
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
    narrow = (
        x.astype(f"f{size}")
        if is_float(x.dtype)
        else x.astype(np.uint8)
        if x.dtype == np.bool_
        else x
    )
    return np.ascontiguousarray(narrow).view(dtype)


def _clip(x: Array, lo: float | None, hi: float | None) -> Array:
    return x if lo is None and hi is None else np.clip(x, lo, hi).astype(x.dtype)


def _gelu(x: Array, approximate: bool) -> Array:
    return onnx("Gelu", x, approximate="tanh") if approximate else x * special.ndtr(x)


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative, "abs": np.abs, "sign": np.sign,
    "div": lambda x, y: x / y if is_float(x.dtype) else integer_division(x, y),
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
