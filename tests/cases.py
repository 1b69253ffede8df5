"""THE table of ops: for every op, the inputs on which tests and benchmarks try it.

A row names an op, its inputs as "dtype[shape] domain", its attributes, and how many terms one
element of the result adds (the k of the derived tolerance). Shapes are awkward on purpose: extents
of 1, none a multiple of 16, scalars, empty ones, free dims. What the op must give is in oracle/,
under the op's name; how it is checked, in test_cases.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import netloom.compiler.ops  # noqa: F401  (fills the table of ops)
from netloom.compiler.constant import Constant
from netloom.compiler.dim import Symbol, symbol
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.layout import channel_blocked
from netloom.compiler.tensor_type import (
    BOOL,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    UINT8,
    DType,
    TensorType,
    parse_type,
)

FREE = Symbol("N", 1, 64)
N = symbol("N", 1, 64)
DIMS = {"N": 5}  # the number that N stands for when a row runs


@dataclass(frozen=True)
class Input:
    """An input's type, and the domain that its values are drawn from (see ``DOMAINS``)."""

    type: TensorType
    domain: str = ""


@dataclass(frozen=True)
class Case:
    """A row. ``terms``: how many products or summands make one element."""

    op: str
    inputs: tuple[Input, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    terms: int = 1

    def __str__(self) -> str:
        inputs = ", ".join(f"{i.type}{' ' * bool(i.domain)}{i.domain}" for i in self.inputs)
        attrs = ", ".join(
            f"{k}={v.value if isinstance(v, DType) else v}"
            for k, v in self.attrs.items()
            if not isinstance(v, Graph)
        )
        return f"{self.op}({inputs}{'; ' * bool(attrs)}{attrs})"


def _form(m: int, taps: int = 3) -> dict[str, tuple[int, int]]:
    """Tiles of m x m outputs."""
    return {"m": (m, m), "taps": (taps, taps)}


def row(op: str, *inputs: str, terms: int = 1, **attrs: Any) -> Case:
    """A row from text: ``row("log", "float32[3, 17] positive")``."""
    return Case(op, tuple(_input(text) for text in inputs), attrs, terms)


def _input(text: str) -> Input:
    type, _, domain = text.partition("] ")
    return Input(parse_type(type.rstrip("]") + "]", {"N": FREE}), domain)


# -- domains: arrays from (generator, shape, dtype, position of the input) -------------------------

SPECIAL = (0.0, -0.0, 1.0, -2.0, np.inf, -np.inf, np.nan, 1e-40)


def _spread(
    rng: np.random.Generator, shape: tuple[int, ...], position: int, lo: float, hi: float
) -> Any:
    """Different numbers in (lo, hi), equally far apart and in random order: kinks and ties lie
    between them.
    """
    size = int(np.prod(shape))
    steps = rng.permutation(size) + (0.4, 0.7, 0.2, 0.6, 0.3)[position]
    return (lo + (hi - lo) * steps / max(size, 1)).reshape(shape)


def draw(
    domain: str, rng: np.random.Generator, shape: tuple[int, ...], dtype: DType, position: int
) -> Any:
    """Values of a domain; "" is (-2, 2) for floats, [-5, 10) for integers.

    positive (0.1, 3); inside (-0.99, 0.99); above (1.01, 50); far (-100, 100); huge (-1e10, 1e10);
    halves: multiples of 1/2; zeros: one in five is 0; nan: one NaN; special: infinities, NaN,
    zeros, denormals, in every pair (special:P as at position P); wide: any integer, the dtype's
    extremes among them; index:N in [-N, N); label:N in [0, N); permutation:A: 0, 1, .. in random
    order along axis A.
    """
    word, _, number = domain.partition(":")
    size = int(np.prod(shape))
    match word:
        case "positive":
            return _spread(rng, shape, position, 0.1, 3.0)
        case "halves":
            return rng.integers(-7, 8, shape) / 2
        case "zeros":
            values = _spread(rng, shape, position, -2.0, 2.0)
            return np.where(rng.random(shape) < 0.2, 0.0, values)
        case "inside":
            return _spread(rng, shape, position, -0.99, 0.99)
        case "above":
            return _spread(rng, shape, position, 1.01, 50.0)
        case "far":
            return _spread(rng, shape, position, -100.0, 100.0)
        case "huge":
            return _spread(rng, shape, position, -1e10, 1e10)
        case "special":
            period = len(SPECIAL) ** int(number or position)
            return np.array([SPECIAL[i // period % len(SPECIAL)] for i in range(size)]).reshape(
                shape
            )
        case "nan":
            values = _spread(rng, shape, position, -2.0, 2.0)
            values.flat[size // 2] = np.nan
            return values
        case "wide":
            limits = np.iinfo(dtype.numpy)
            few = np.array(
                [limits.min, limits.max, 0, 1, limits.max - 1, limits.min + 1, 7], dtype.numpy
            )
            values = rng.integers(limits.min, limits.max, shape, dtype.numpy, endpoint=True)
            period = len(few) ** position
            values.flat[:49] = [few[i // period % len(few)] for i in range(min(size, 49))]
            return values
        case "index":
            return rng.integers(-int(number), int(number), shape)
        case "label":
            return rng.integers(0, int(number), shape)
        case "permutation":
            return rng.random(shape).argsort(axis=int(number))
    if dtype.is_float:
        return _spread(rng, shape, position, -2.0, 2.0)
    return (
        rng.integers(0, 2, shape)
        if dtype is BOOL
        else rng.integers(-5 if dtype.is_signed else 0, 10, shape)
    )


# -- elementwise -----------------------------------------------------------------------------------

_UNARY = {  # kinds of dtypes, by op
    "neg": "fi", "abs": "fi", "sign": "fi", "exp": "f", "sqrt": "p", "log": "p", "tanh": "f",
    "erf": "f", "sin": "f", "cos": "f",
    "floor": "f", "ceil": "f", "round": "f", "trunc": "f", "not": "ib", "relu": "fi",
    "sigmoid": "f", "silu": "f", "softplus": "f",
    "softsign": "f", "reciprocal": "f", "square": "fi", "leaky_relu": "f", "elu": "f", "selu": "f",
    "hard_sigmoid": "f",
    "clip": "f", "gelu": "f", "thresholded_relu": "f", "is_nan": "f", "atan": "f", "sinh": "f",
    "asinh": "f",
}  # fmt: skip
_ATTRS: dict[str, dict[str, Any]] = {
    "leaky_relu": {"slope": 0.25}, "elu": {"alpha": 1.5}, "selu": {"alpha": 1.75, "gamma": 1.125},
    "clip": {"lo": -0.5, "hi": 1.25},
    "hard_sigmoid": {"alpha": 0.375, "beta": 0.5}, "thresholded_relu": {"alpha": 0.75},
}  # fmt: skip
_BINARY = {
    "add": "fi", "sub": "fi", "mul": "fi", "div": "fi", "rem": "fi", "max": "fi", "min": "fi",
    "pow": "p", "equal": "fib",
    "not_equal": "fib", "less": "fi", "less_equal": "fi", "and": "ib", "or": "ib", "xor": "ib",
    "shift_left": "i",
    "shift_right": "i", "prelu": "f",
}  # fmt: skip
_FLOATS = (
    "float32[3, 17]",
    "float64[2, 1, 5]",
    "float32[]",
    "float32[0, 3]",
    "float32[N, 3]",
    "float16[21]",
    "bfloat16[1, 5]",
)
_FLOAT_PAIRS = (
    ("float32[4, 1, 5]", "float32[3, 1]"), ("float64[7]", "float64[]"),
    ("float32[0, 2]", "float32[2]"),
    ("float32[N, 3]", "float32[1, 3]"), ("float16[3, 5]", "float16[5]"),
    ("bfloat16[9]", "bfloat16[1]"),
)  # fmt: skip
_WIDE = (
    "int8[67]",
    "uint8[67]",
    "int16[67]",
    "uint16[67]",
    "int32[67]",
    "uint32[67]",
    "int64[67]",
    "uint64[67]",
)


def _unary(op: str, kinds: str) -> list[Case]:
    attrs = _ATTRS.get(op, {})
    texts = [f"{t} positive" if "p" in kinds else t for t in _FLOATS] if kinds[0] in "fp" else []
    texts += ["float32[19] special", "float64[19] special", "float32[40] halves"] if texts else []
    texts += ["float32[37] far"] if kinds[0] == "f" else []
    texts += ["int32[5, 7]", *(f"{t} wide" for t in _WIDE)] if "i" in kinds else []
    texts += ["bool[11]"] if "b" in kinds else []
    return [row(op, text, **attrs) for text in texts]


def _binary(op: str, kinds: str) -> list[Case]:
    pairs: list[tuple[str, str]] = []
    if kinds[0] in "fp":
        domain = " positive" if "p" in kinds else ""
        pairs += [(x + domain, y + domain) for x, y in _FLOAT_PAIRS]
        pairs += [
            ("float32[67] special", "float32[67] special"),
            ("float32[40] halves", "float32[40] halves"),
        ]
    if "i" in kinds:
        pairs += [
            ("int32[4, 1, 5]", "int32[3, 1]"),
            ("int64[]", "int64[]"),
            *((f"{t} wide", f"{t} wide") for t in _WIDE),
        ]
        pairs += [("int32[40] index:40", "int32[40] index:40"), ("uint8[40]", "uint8[40]")]
    pairs += [("bool[4, 5]", "bool[5]")] if "b" in kinds else []
    return [row(op, x, y) for x, y in pairs]


_CASTS = [
    row("cast", f"{source.value}[13]{domain}", dtype=target)
    for source in DType
    for domain in (
        [" special", " far", " huge"] if source.is_float else [""] if source is BOOL else [" wide"]
    )
    for target in DType
]
ELEMENTWISE = [
    *(case for op, kinds in _UNARY.items() for case in _unary(op, kinds)),
    *(case for op, kinds in _BINARY.items() for case in _binary(op, kinds)),
    *(
        row("select", "bool[4, 1]", f"{t}[3]", f"{t}[4, 3]")
        for t in ("float32", "float64", "bfloat16", "int8", "bool")
    ),
    row("select", "bool[N]", "float32[N]", "float32[]"),
    row("fma", "float32[3, 5]", "float32[5]", "float32[3, 1]"),
    row("fma", "float64[7]", "float64[7]", "float64[]"),
    row("fma", "bfloat16[17]", "bfloat16[17]", "bfloat16[17]"),
    row("gelu", "float32[3, 17]", approximate=True),
    row("gelu", "float32[37] far", approximate=True),
    row("clip", "float32[17]", lo=0.5),
    row("clip", "int32[17]", hi=2),
    row("clip", "uint8[17]", lo=2, hi=7),
    row("clip", "float32[5]"),
    row("cast", "float32[N, 3]", dtype=FLOAT32),
    *_CASTS,
    *(
        row(op, text)
        for op in ("asin", "acos", "atanh")
        for text in ("float32[N, 3] inside", "float64[41] inside", "float16[21] inside")
    ),
    *(row(op, "float32[19] special") for op in ("asin", "acos")),
    *(
        row("acosh", text)
        for text in (
            "float32[N, 3] above",
            "float64[41] above",
            "bfloat16[21] above",
            "float32[19] special",
        )
    ),
    row("bitcast", "float32[13]", dtype=INT32),
    row("bitcast", "int64[N]", dtype=FLOAT64),
    row("bitcast", "bool[5]", dtype=UINT8),
    row("bitcast", "uint16[9] wide", dtype=DType.INT16),
]

# -- reductions and products -----------------------------------------------------------------------

_SHAPES: tuple[tuple[str, tuple[int, ...], bool, int], ...] = (
    ("float32[3, 37]", (1,), False, 37),
    ("float32[3, 5, 7]", (0, 2), True, 21),
    ("float64[2, 1, 3, 1, 4]", (1, 2, 4), False, 12),
    ("float32[4]", (0,), True, 4),
    ("float32[]", (), False, 1),
    ("float32[3, 0]", (1,), False, 0),
    ("float32[0, 3]", (1,), False, 3),
    ("float32[N, 3]", (0,), False, 5),
    ("float32[3, 5] nan", (0,), False, 3),
    ("float32[5, 8] special", (0,), False, 5),
    ("int32[3, 5]", (0,), False, 3),
    ("uint8[17]", (0,), False, 17),
    ("int64[3, 0]", (1,), True, 0),
    ("bfloat16[3, 19]", (1,), False, 19),
    ("float16[19, 3]", (0,), False, 19),
)
REDUCTION = [
    *(row(op, text, terms=k, axes=axes, keep=keep)
      for op in ("reduce_sum", "reduce_product", "reduce_max", "reduce_min", "reduce_mean")
      for text, axes, keep, k in _SHAPES if op != "reduce_product" or k <= 21),
    row("reduce_sum", "float32[2000] positive", terms=2000, axes=(0,)),
    row("reduce_product", "float32[3, 18] positive", terms=18, axes=(1,)),
    row("reduce_mean", "float32[0, 3]", axes=(0,)),
    row("reduce_product", "float32[9, 5] zeros", terms=5, axes=(1,)),
    *(row(op, text, axis=axis, keep=keep, last=last)
      for op in ("argmax", "argmin")
      for text, axis, keep,
      last in (("float32[5, 19] halves", 1, False, False), ("float32[5, 19] halves", 0, True, True),
                                     ("float64[1]", 0, False, False),
                                     ("float32[3, 9] nan", 1, False, False),
                                     ("int32[2, 30, 2]", 1, False, True),
                                     ("uint8[N, 3]", 0, True, False),
                                     ("float32[19] special", 0, False, True),
                                     ("float32[0, 3]", 1, False, False))),
    *(row("sort_positions", text, axis=axis, descending=descending)
      for descending in (False, True)
      for text,
      axis in (("float32[3, 19]", 1), ("float32[40, 2] halves", 0),
               ("float32[2, 21, 3] special", 1), ("float64[1]", 0),
                         ("float32[2, 9] nan", 1), ("float32[0, 3]", 1), ("float32[3, 0]", 1),
                         ("float32[N, 5] halves", 0),
                         ("bfloat16[17] halves", 0), ("float16[2, 5]", 1), ("int32[37]", 0),
                         ("uint64[67] wide", 0), ("int8[67] wide", 0))),
    row("matmul", "float32[5, 7]", "float32[7, 33]", terms=7),
    row("matmul", "float32[1, 700]", "float32[700, 10]", terms=700),
    row("matmul", "float32[17, 9]", "float32[30, 9]", terms=9, transpose_b=True),
    row("matmul", "float32[9, 17]", "float32[9, 3]", terms=9, transpose_a=True),
    row("matmul", "float32[2, 5, 3]", "float32[2, 4, 5]", terms=5, transpose_a=True,
        transpose_b=True),
    row("matmul", "float64[2, 1, 4, 5]", "float64[3, 5, 6]", terms=5),
    row("matmul", "float32[1, 1]", "float32[1, 1]"),
    row("matmul", "float32[4, 0]", "float32[0, 3]", terms=0),
    row("matmul", "float32[0, 4]", "float32[4, 3]", terms=4),
    row("matmul", "float32[N, 6]", "float32[6, 19]", terms=6),
    row("matmul", "int32[3, 5]", "int32[5, 4]", terms=5),
    row("matmul", "uint8[3, 50]", "uint8[50, 4]", terms=50),
    row("matmul", "bfloat16[3, 20]", "bfloat16[20, 4]", terms=20),
    row("matmul", "float16[3, 20]", "float16[20, 17]", terms=20),
    row("matmul", "float32[3, 5] special", "float32[5, 9] special", terms=5),
]  # fmt: skip

# -- convolution and pooling: each row gives the op and its gradients ------------------------------


def _convolutions(x: str, w: str, y: str, terms: tuple[int, int, int], **attrs: Any) -> list[Case]:
    """The convolution x, w -> y and its two gradients; ``terms`` of y, of dx, of dw."""
    spatial, kernel = (_input(t).type.shape[2:] for t in (x, w))
    rank = len(kernel)
    plain = {
        "stride": (1,) * rank,
        "dilation": (1,) * rank,
        "lo": (0,) * rank,
        "hi": (0,) * rank,
        "groups": 1,
        **attrs,
    }
    return [
        row("conv", x, w, terms=terms[0], **plain),
        row("conv_input_gradient", y, w, terms=terms[1], **plain, spatial=spatial),
        row("conv_weight_gradient", x, y, terms=terms[2], **plain, kernel=kernel),
    ]


def _poolings(x: str, y: str, extra: tuple[int, ...], **attrs: Any) -> list[Case]:
    """Every pooling op from x to y."""
    spatial, size = _input(x).type.shape[2:], int(np.prod(attrs["kernel"]))
    index = f"{y.replace('float32', 'int32')} label:{size}"
    averages = [{"count_padding": count, "extra": extra} for count in (False, True)]
    return [
        row("max_pool", x, **attrs), row("max_pool_index", x, f"{y} max_pool", **attrs),
        row("max_pool_gradient", y, index, terms=size, **attrs, spatial=spatial),
        *(row("average_pool", x, terms=size, **attrs, **a) for a in averages),
        *(row("average_pool_gradient", y, terms=size, **attrs, **a,
              spatial=spatial) for a in averages),
    ]  # fmt: skip


CONVOLUTION = [
    *_convolutions("float32[2, 3, 7, 6]", "float32[5, 3, 3, 3]", "float32[2, 5, 7, 6]",
                   (27, 45, 84), lo=(1, 1), hi=(1, 1)),
    *_convolutions("float32[1, 4, 9, 8]", "float32[6, 2, 3, 2]", "float32[1, 6, 4, 5]",
                   (12, 18, 20),
                   stride=(2, 2), dilation=(2, 1), lo=(1, 2), hi=(2, 0), groups=2),
    *_convolutions("float32[2, 3, 5, 5]", "float32[3, 1, 3, 3]", "float32[2, 3, 3, 2]", (9, 9, 12),
                   stride=(2, 2), lo=(1, 0), hi=(1, 0), groups=3),
    *_convolutions("float32[2, 17, 4, 5]", "float32[19, 17, 1, 1]", "float32[2, 19, 4, 5]",
                   (17, 19, 40)),
    *_convolutions("float64[1, 2, 11]", "float64[3, 2, 4]", "float64[1, 3, 4]", (8, 12, 4),
                   stride=(3,), lo=(2,), hi=(1,)),
    *_convolutions("float32[1, 1, 4, 3, 5]", "float32[2, 1, 2, 3, 2]", "float32[1, 2, 3, 2, 4]",
                   (12, 24, 24), lo=(0, 1, 0), hi=(0, 0, 0)),
    *_convolutions("float32[N, 2, 4, 4]", "float32[3, 2, 3, 3]", "float32[N, 3, 2, 2]",
                   (18, 27, 20)),
    *_convolutions("float32[1, 2, N, 6]", "float32[3, 2, 3, 3]", "float32[1, 3, N, 6]",
                   (18, 27, 30), lo=(1, 1), hi=(1, 1)),
    *_convolutions("int32[1, 2, 5, 5]", "int32[3, 2, 2, 2]", "int32[1, 3, 4, 4]", (8, 12, 16)),
    *_convolutions("float32[0, 2, 4, 4]", "float32[3, 2, 3, 3]", "float32[0, 3, 2, 2]",
                   (18, 27, 0)),
    *_convolutions("bfloat16[1, 3, 5, 5]", "bfloat16[2, 3, 2, 2]", "bfloat16[1, 2, 4, 4]",
                   (12, 8, 16)),
    *_convolutions("float32[1, 1, 1, 1]", "float32[1, 1, 1, 1]", "float32[1, 1, 3, 3]", (1, 1, 9),
                   lo=(1, 1), hi=(1, 1)),
]  # fmt: skip
POOLING = [
    *_poolings("float32[2, 3, 9, 8]", "float32[2, 3, 5, 4]", (1, 0), kernel=(3, 2), stride=(2, 2),
               dilation=(1, 1), lo=(1, 0), hi=(1, 1)),
    *_poolings("float32[1, 2, 6, 7]", "float32[1, 2, 4, 5]", (), kernel=(2, 2), stride=(1, 1),
               dilation=(2, 2), lo=(0, 0), hi=(0, 0)),
    *_poolings("float32[1, 3, 10]", "float32[1, 3, 4]", (), kernel=(5,), stride=(2,), dilation=(1,),
               lo=(1,), hi=(0,)),
    *_poolings("float32[1, 1, 3, 4, 3]", "float32[1, 1, 2, 2, 1]", (), kernel=(2, 3, 3),
               stride=(1, 1, 2), dilation=(1, 1, 1),
               lo=(0, 0, 1), hi=(0, 0, 0)),
    *_poolings("float32[N, 1, 4, 4]", "float32[N, 1, 2, 2]", (), kernel=(2, 2), stride=(2, 2),
               dilation=(1, 1), lo=(0, 0), hi=(0, 0)),
    row("max_pool", "float32[1, 1, 5, 5] nan", kernel=(2, 2), stride=(2, 2), dilation=(1, 1),
        lo=(1, 1), hi=(0, 0)),
    *_poolings("float32[1, 2, N, 3]", "float32[1, 2, N, 3]", (), kernel=(3, 3), stride=(1, 1),
               dilation=(1, 1), lo=(1, 1), hi=(1, 1)),
    row("max_pool", "float32[1, 1, 3]", kernel=(2,), stride=(1,), dilation=(1,), lo=(3,), hi=(2,)),
    row("max_pool_index", "float32[1, 1, 3]", "float32[1, 1, 7] max_pool", kernel=(2,), stride=(1,),
        dilation=(1,), lo=(3,), hi=(2,)),
    row("max_pool", "int8[1, 2, 6] wide", kernel=(3,), stride=(1,), dilation=(1,), lo=(1,),
        hi=(1,)),
    row("max_pool", "float16[1, 2, 6]", kernel=(3,), stride=(2,), dilation=(1,), lo=(1,), hi=(1,)),
    row("average_pool", "bfloat16[1, 2, 6]", terms=3, kernel=(3,), stride=(2,), dilation=(1,),
        lo=(1,), hi=(1,)),
]  # fmt: skip

# -- normalization and losses ----------------------------------------------------------------------

_VECTOR = "float32[6]"
NORMALIZATION = [
    row("batch_norm", "float32[2, 6, 3, 5]", _VECTOR, _VECTOR, _VECTOR, "float32[6] positive",
        epsilon=0.125),
    row("batch_norm", "bfloat16[2, 3, 5]", "bfloat16[3]", "bfloat16[3]", "bfloat16[3]",
        "bfloat16[3] positive", terms=2),
    row("layer_norm", "float16[3, 9]", "float16[9]", "float16[9]", terms=9, axis=1),
    row("batch_norm", "float32[N, 6]", _VECTOR, _VECTOR, _VECTOR, "float32[6] positive"),
    row("layer_norm", "float32[3, 4, 7]", "float32[7]", "float32[7]", terms=7, axis=2),
    row("layer_norm", "float32[3, 4, 7]", "float32[4, 7]", "float32[4, 7]", terms=28, axis=1,
        epsilon=0.25),
    row("layer_norm", "float32[N, 5]", "float32[5]", "float32[5]", terms=5, axis=1),
    row("rms_norm", "float32[3, 4, 7]", "float32[7]", terms=7, axis=2),
    row("rms_norm", "float32[9]", "float32[9]", terms=9, axis=0),
    row("group_norm", "float32[2, 6, 3, 5]", _VECTOR, _VECTOR, terms=30, groups=3, epsilon=0.125),
    row("group_norm", "float32[2, 6, 5]", _VECTOR, _VECTOR, terms=30, groups=1),
    row("group_norm", "float32[1, 6, 4]", _VECTOR, _VECTOR, terms=4, groups=6),
    row("instance_norm", "float32[2, 6, 3, 5]", _VECTOR, _VECTOR, terms=15, epsilon=0.125),
    row("instance_norm", "float32[1, 6, 7]", _VECTOR, _VECTOR, terms=7),
    row("lrn", "float32[2, 7, 5, 3]", terms=5, size=5, alpha=0.5, beta=0.75, bias=2.0),
    row("lrn", "float32[1, 5, 7]", terms=4, size=4, alpha=0.25, beta=0.5, bias=1.0),
    row("lrn", "float32[2, 3, 4, 4]", terms=1, size=1, alpha=0.5),
    *(row(op, text, terms=k, axis=axis)
      for op in ("softmax", "log_softmax")
      for text, axis,
      k in (("float32[4, 21]", 1, 21), ("float32[4, 21, 3] far", 1, 21), ("float64[5, 1, 3]", 0, 5),
            ("float32[1]", 0, 1),
                            ("float32[N, 7]", 1, 7), ("float32[7, N]", 0, 7),
                            ("float32[0, 4]", 1, 4), ("float16[3, 9]", 1, 9),
                            ("float32[2, 5] nan", 1, 5), ("float32[3, 8] special", 0, 3))),
    row("cross_entropy", "float32[4, 7]", "int64[4] label:7", terms=28),
    row("cross_entropy", "float32[2, 5, 3]", "int32[2, 3] label:5", terms=30),
    row("cross_entropy", "float32[9, 3]", "int64[9] index:5", terms=27),
    row("cross_entropy", "float32[N, 7] far", "uint8[N] label:7", terms=35),
    row("mean_squared_error", "float32[3, 7]", "float32[3, 7]", terms=21),
    row("mean_squared_error", "float32[N]", "float32[N]", terms=5),
]  # fmt: skip

# -- shape and indexing ----------------------------------------------------------------------------

SHAPE = [
    row("reshape", "float32[3, 4, 10]", shape=(6, 20)), row("reshape", "float32[]", shape=(1, 1)),
    row("reshape", "float32[0, 3]", shape=(5, 0)),
    row("reshape", "float32[N, 3, 2]", shape=(N, 6)), row("reshape", "int8[7, 1, 3]", shape=(3, 7)),
    row("reshape", "bool[5]", shape=(5, 1)),
    row("transpose", "float32[3, 4, 5]", permutation=(2, 0, 1)),
    row("transpose", "float32[17, 19]", permutation=(1, 0)),
    row("transpose", "float32[]", permutation=()),
    row("transpose", "int16[2, 1, 3, 2, 3]", permutation=(4, 2, 0, 3, 1)),
    row("transpose", "float32[N, 3, 4]", permutation=(1, 2, 0)),
    row("transpose", "float32[0, 3]", permutation=(1, 0)),
    row("broadcast", "float32[3, 1]", shape=(2, 3, 5)), row("broadcast", "float32[]", shape=(4,)),
    row("broadcast", "float32[1, 3]", shape=(N, 3)),
    row("broadcast", "bool[1]", shape=(0,)), row("broadcast", "float32[1]", shape=(1,)),
    row("reorder", "float32[2, 19, 3, 4]", layout=channel_blocked(4)),
    row("reorder", "float32[3, 5]"),
    row("reorder", "float32[N, 16, 2]", layout=channel_blocked(3)),
    row("slice", "int32[9, 10]", start=(8, 1), size=(4, 3), step=(-2, 3)),
    row("slice", "float32[9, 10]", start=(8, 1), size=(4, 3), step=(-2, 3)),
    row("slice", "float32[5]", start=(5,), size=(0,), step=(1,)),
    row("slice", "float32[N, 6]", start=(0, 2), size=(N, 3), step=(1, 1)),
    row("slice", "float32[]", start=(), size=(), step=()),
    row("slice_gradient", "float32[4, 3]", start=(8, 1), step=(-2, 3), shape=(9, 10)),
    row("slice_gradient", "float32[0]", start=(5,), step=(1,), shape=(5,)),
    row("slice_gradient", "float32[N, 3]", start=(0, 2), step=(1, 1), shape=(N, 6)),
    row("pad", "float32[3, 5]", lo=(1, 2), hi=(0, 3), value=1.5),
    row("pad", "float32[0, 2]", lo=(1, 0), hi=(1, 1), value=-2.0),
    row("pad", "float32[N, 3]", lo=(0, 1), hi=(0, 1)),
    row("pad", "int8[4]", lo=(0,), hi=(3,), value=7),
    row("pad", "float32[]", lo=(), hi=()),
    row("pad", "bool[3]", lo=(1,), hi=(1,), value=1),
    row("pad", "float32[3]", lo=(1,), hi=(0,), value=float("-inf")),
    row("pad", "float32[3, 5]", lo=(1, 2), hi=(2, 3), mode="reflect"),
    row("pad", "float32[4, 1]", lo=(3, 0), hi=(0, 0), mode="reflect"),
    row("pad", "float32[3, 5]", lo=(4, 0), hi=(1, 6), mode="edge"),
    row("pad", "float32[1]", lo=(2,), hi=(2,), mode="edge"),
    row("concat", "float32[3, 5]", "float32[3, 20]", "float32[3, 1]", axis=1),
    row("concat", "float32[2, 3]", axis=0),
    row("concat", "int64[0, 2]", "int64[4, 2]", axis=0),
    row("concat", "float32[N, 2]", "float32[N, 3]", axis=1),
    row("concat", "float32[2, 16, 3]", "float32[2, 17, 3]", axis=1),
    row("concat", "bool[2]", "bool[3]", axis=0),
    *(row("depth_to_space", "float32[2, 12, 3, 1]", block=2, mode=mode) for mode in ("DCR", "CRD")),
    row("depth_to_space", "float32[1, 9, 2, 2]", block=3),
    row("space_to_depth", "float32[2, 3, 4, 6]", block=2),
    row("space_to_depth", "float32[1, 1, 3, 3]", block=3),
]  # fmt: skip
_SCATTERS = (
    ("float32[5, 3]", "int64[7, 3] index:5", "float32[7, 3]", 0, 8),
    ("float32[3, 2]", "int64[3, 0]", "float32[3, 0]", 1, 1),
    ("float32[2, 17, 3]", "int32[2, 4, 3] index:17", "float32[2, 4, 3]", 1, 5),
    ("int32[19]", "uint8[40] label:19", "int32[40]", 0, 41),
    ("float32[3, N]", "int64[3, 4] index:5", "float32[3, 4]", 1, 5),
    ("bfloat16[2, 9]", "int64[2, 3] index:9", "bfloat16[2, 3]", 1, 4),
    ("float32[64] special", "int64[64] permutation:0", "float32[64] special:1", 0, 2),
)  # fmt: skip
INDEXING = [
    row("constant", value=Constant(np.arange(6, dtype=np.float32).reshape(2, 3))),
    row("constant", value=Constant(np.array(True))),
    row("constant", value=Constant.splat(7, TensorType(INT64, (3, 5)))),
    row("constant", value=Constant(np.zeros((0, 2), np.float16))),
    row("extent", extent=7), row("extent", extent=2 * N + 3),
    row("extent", extent=(N + 1) // 2 * N),
    row("iota", shape=(3, 5), axis=1, dtype=FLOAT32),
    row("iota", shape=(N, 3), axis=0, dtype=INT64),
    row("iota", shape=(N, 300), axis=1, dtype=DType.UINT8),
    row("iota", shape=(N,), axis=0, dtype=DType.BFLOAT16), row("iota", shape=(0,), axis=0),
    row("gather", "float32[5, 3]", "int64[2, 4] index:5", axis=0),
    row("gather", "float32[3, 5, 2]", "int32[4] index:5", axis=1),
    row("gather", "float32[7]", "uint8[] label:7", axis=0),
    row("gather", "int8[2, 7]", "int8[0] label:7", axis=1),
    row("gather", "float32[N, 3]", "int64[4] index:5", axis=0),
    row("gather", "float32[7, 3]", "int64[N] index:7", axis=0),
    row("gather", "float32[2, 1]", "int64[3, 1] index:1", axis=1),
    row("gather_gradient", "float32[2, 4, 3]", "int64[2, 4] index:5", terms=8, axis=0, extent=5),
    row("gather_gradient", "float32[3, 4, 2]", "int32[4] index:5", terms=4, axis=1, extent=5),
    row("gather_gradient", "float32[]", "uint8[] label:7", axis=0, extent=7),
    row("gather_gradient", "float32[N, 3]", "int64[N] index:7", terms=5, axis=0, extent=7),
    row("gather_gradient", "float64[2, 0]", "int64[0]", axis=1, extent=3),
    row("one_hot", "int64[4] index:7", depth=5),
    row("one_hot", "uint8[2, 3] label:4", depth=4, dtype=FLOAT64),
    row("one_hot", "int32[]", depth=1, dtype=BOOL),
    row("one_hot", "int8[N] index:9", depth=17, dtype=DType.INT16),
    row("gather_elements", "float32[5, 3]", "int64[5, 7] index:3", axis=1),
    row("gather_elements", "int8[5, 3]", "int32[2, 3] index:5", axis=0),
    row("gather_elements", "float32[2, 7, 3]", "uint8[2, 20, 3] label:7", axis=1),
    row("gather_elements", "bool[4]", "int64[0]", axis=0),
    row("gather_elements", "float32[N, 3]", "int64[N, 2] index:3", axis=1),
    row("gather_elements", "bfloat16[N]", "int16[7] index:5", axis=0),
    row("gather_elements", "float64[1, 1]", "int64[1, 1] index:1", axis=0),
    *(row("scatter", x, indices, updates, terms=k, axis=axis, reduction=reduction)
      for reduction in ("add", "mul", "max", "min") for x, indices, updates, axis, k in _SCATTERS),
    row("scatter", "float64[4, 3]", "int64[9, 3] index:4", "float64[9, 3]", terms=10, axis=0),
    row("scatter_source", "int64[2, 9] index:5", axis=1, extent=5),
    row("scatter_source", "int32[4, 3] index:2", axis=0, extent=20),
    row("scatter_source", "uint8[N] label:7", axis=0, extent=7),
    row("scatter_source", "int64[3] index:5", axis=0, extent=N),
    row("scatter_source", "int64[0, 2]", axis=0, extent=3),
    row("inverse_positions", "int64[3, 19] permutation:1", axis=1, size=19),
    row("inverse_positions", "int64[37, 2] permutation:0", axis=0, size=5),
    row("inverse_positions", "int64[N, 3] permutation:0", axis=0, size=N),
    row("inverse_positions", "int64[1] permutation:0", axis=0, size=1),
    row("inverse_positions", "int64[2, 0, 3]", axis=1, size=0),
]  # fmt: skip

# -- random numbers, stages of strategies, kernels -------------------------------------------------


def _relu_of_sum() -> Graph:
    b = Builder("body")
    x, y = (b.input(TensorType(FLOAT32, (3, 5)), name) for name in "xy")
    return b.build([b("relu", b("add", x, y))])


_KEY = "uint32[4] wide"
RANDOM_NUMBERS = [
    *(row(op, _KEY, shape=shape, **kind)
      for op,
      kind in (("random_bits", {}), ("random_uniform", {}), ("random_uniform", {"dtype": FLOAT64}),
                       ("random_normal", {}), ("random_normal", {"dtype": DType.FLOAT16}))
      for shape in ((5, 37), (), (0, 3), (3,), (N, 2))),
    row("dropout", "float32[5, 7]", _KEY, rate=0.25), row("dropout", "float64[3]", _KEY, rate=0.0),
    row("dropout", "float32[N, 9]", _KEY, rate=0.75),
]  # fmt: skip
TRANSFORMS = [
    row("winograd_input", "float32[2, 3, 6, 10]", terms=36, **_form(4), lo=(1, 1), counts=(2, 3),
        groups=1),
    row("winograd_input", "float32[1, 17, 5, 7]", terms=16, **_form(2), lo=(0, 2), counts=(2, 4),
        groups=1),
    row("winograd_input", "float64[2, 32, 1, 4]", terms=16, **_form(2), lo=(1, 0), counts=(1, 1),
        groups=1),
    row("winograd_input", "float32[N, 33, 4, 4]", terms=36, **_form(4), lo=(2, 1), counts=(2, 1),
        groups=1),
    row("winograd_input", "float32[1, 32, 9, 8]", terms=64, **_form(4, 5), lo=(2, 2), counts=(3, 2),
        groups=2),
    row("winograd_input", "float32[1, 3, 4, 9]", terms=4, m=(1, 2), taps=(1, 3), lo=(0, 1),
        counts=(4, 5), groups=1),
    row("winograd_output", "float32[36, 1, 6, 3]", terms=36, **_form(4), shape=(1, 3, 7, 9)),
    row("winograd_output", "float32[16, 1, 12, 17]", terms=16, **_form(2), shape=(2, 17, 4, 5)),
    row("winograd_output", "float64[16, 2, 1, 16]", terms=16, **_form(2), shape=(1, 32, 1, 2)),
    row("winograd_output", f"float32[36, 1, {2 * N}, 33]", terms=36, **_form(4),
        shape=(N, 33, 5, 4)),
    row("winograd_output", "float32[8, 1, 6, 3]", terms=8, m=(2, 1), taps=(7, 1),
        shape=(1, 3, 4, 3)),
    row("winograd_output_gradient", "float32[1, 3, 7, 9]", terms=16, **_form(4), groups=1),
    row("winograd_output_gradient", "float32[2, 17, 4, 5]", terms=4, **_form(2), groups=1),
    row("winograd_output_gradient", "float64[2, 32, 1, 2]", terms=4, **_form(2, 7), groups=2),
    row("winograd_output_gradient", "float32[N, 33, 5, 4]", terms=16, **_form(4), groups=1),
    *(row("winograd_filter", text, terms=9, **_form(m), groups=1, is_turned=is_turned)
      for text,
      m in (("float32[5, 3, 3, 3]", 4), ("float32[18, 17, 3, 3]", 2)) for is_turned in (False, True)),
    *(row("winograd_filter", "float64[32, 16, 1, 5]", terms=5, m=(1, 2), taps=(1, 5), groups=2,
          is_turned=is_turned)
      for is_turned in (False, True)),
    row("winograd_filter_gradient", "float32[36, 1, 3, 5]", terms=36, **_form(4)),
    row("winograd_filter_gradient", "float32[16, 1, 17, 35]", terms=16, **_form(2)),
    row("winograd_filter_gradient", "float64[64, 2, 16, 32]", terms=64, **_form(6)),
    row("winograd_fused", "float32[2, 3, 6, 10]", "float32[16, 1, 3, 5]", terms=108, **_form(2),
        lo=(1, 1), shape=(2, 5, 6, 10)),
    row("winograd_fused", "float32[1, 5, 4, 3]", "float32[36, 1, 5, 17]", terms=500, **_form(4),
        lo=(0, 2), shape=(1, 17, 2, 5)),
    row("winograd_fused", "float64[3, 2, 1, 4]", "float64[16, 1, 2, 1]", terms=72, **_form(2),
        lo=(1, 0), shape=(3, 1, 1, 2)),
    row("winograd_fused", "float32[N, 2, 5, 4]", "float32[16, 1, 2, 3]", terms=72, **_form(2),
        lo=(2, 1), shape=(N, 3, 7, 4)),
    row("fft_input", "float32[2, 3, 6, 10]", terms=64, **_form(6), lo=(1, 1), counts=(1, 2),
        groups=1),
    row("fft_input", "float32[N, 17, 5, 7]", terms=64, m=(4, 6), taps=(5, 3), lo=(0, 2),
        counts=(2, 2), groups=1),
    row("fft_input", "float64[1, 32, 20, 9]", terms=256, **_form(10, 7), lo=(3, 3), counts=(2, 1),
        groups=2),
    row("fft_input", "float32[1, 3, 4, 9]", terms=8, m=(1, 6), taps=(1, 3), lo=(0, 1),
        counts=(4, 2), groups=1),
    row("fft_input", "float32[1, 3, 2, 3]", terms=8, m=(1, 3), taps=(2, 2), lo=(0, 0),
        counts=(1, 1), groups=1),
    row("fft_output", "float32[94, 1, 4, 3]", terms=94, **_form(6), shape=(1, 3, 7, 9)),
    row("fft_output", "float32[46, 1, 4, 17]", terms=46, m=(2, 3), taps=(3, 6),
        shape=(2, 17, 3, 2)),
    row("fft_output", "float64[382, 2, 1, 16]", terms=382, **_form(12, 5), shape=(1, 32, 11, 12)),
    row("fft_output", f"float32[94, 1, {2 * N}, 33]", terms=94, **_form(4, 5), shape=(N, 33, 5, 4)),
    row("fft_output", "float32[11, 1, 6, 3]", terms=11, m=(2, 1), taps=(7, 1), shape=(1, 3, 4, 3)),
    row("fft_output_gradient", "float32[1, 3, 7, 9]", terms=64, **_form(4, 5), groups=1),
    row("fft_output_gradient", "float64[2, 32, 1, 9]", terms=64, **_form(2, 7), groups=2),
    row("fft_output_gradient", "float32[N, 33, 5, 4]", terms=64, **_form(6), groups=1),
    *(row("fft_filter", text, terms=49, **_form(m, taps), groups=1, is_turned=is_turned)
      for text, m,
      taps in (("float32[5, 3, 3, 3]", 6, 3),
               ("float32[18, 17, 7, 7]", 10, 7)) for is_turned in (False, True)),
    *(row("fft_filter", "float64[32, 16, 1, 5]", terms=5, m=(1, 4), taps=(1, 5), groups=2,
          is_turned=is_turned)
      for is_turned in (False, True)),
    row("fft_filter_gradient", "float32[94, 1, 3, 5]", terms=94, **_form(4, 5)),
    row("fft_filter_gradient", "float32[94, 1, 17, 35]", terms=94, **_form(6)),
    row("fft_filter_gradient", "float64[382, 2, 3, 16]", terms=382, **_form(6, 11)),
    row("windows", "float32[2, 3, 7, 6]", kernel=(3, 2), stride=(2, 1), dilation=(1, 3)),
    row("windows", "float32[1, 2, 9]", kernel=(4,), stride=(3,), dilation=(1,)),
    row("windows", "float32[N, 1, 2, 3, 2]", kernel=(1, 2, 2), stride=(1, 1, 1),
        dilation=(1, 1, 1)),
    row("kernel", "float32[3, 5]", "float32[3, 5]", body=_relu_of_sum()),
]  # fmt: skip
_HEADS = ("float32[2, 3, 7, 5]", "float32[2, 3, 9, 5]", "float32[2, 3, 9, 4]")
_PANELS = ("float32[2, 3, 7, 5]", "float32[2, 3, 5, 5, 16]", "float32[2, 3, 70, 20]")
ATTENTION = [
    row("attention", *_HEADS, terms=14, scale=0.5),
    row("attention", *_HEADS, "float32[7, 9]", terms=14, is_causal=True),
    row("attention", *_HEADS, "float32[2, 1, 1, 9] far", terms=14),
    row("attention", *_HEADS, "bool[3, 7, 1]", terms=14, fill=-7.0),
    row("attention", *_HEADS, "bool[9]", terms=14),
    row("attention", *_HEADS, "bool[7, 1]", terms=14, has_zeros=True),
    row("attention", "float64[6, 1]", "float64[4, 1]", "float64[4, 1]", terms=5),
    row("attention", "float16[3, 5]", "float16[4, 5]", "float16[4, 3]", terms=9),
    row("attention", "float32[N, 5]", "float32[N, 5]", "float32[N, 4]", terms=10, is_causal=True),
    row("attention", "float32[N, 1, 6, 5]", "float32[2, 6, 5]", "float32[1, 6, 3]", terms=11),
    row("attention", "float32[0, 3]", "float32[4, 3]", "float32[4, 3]", terms=7),
    row("attention_fused", *_HEADS, "bool[7, 9]", terms=14, scale=0.5, fill=-7.0),
    row("attention_fused", *_HEADS, "float32[3, 1, 9]", terms=14, is_causal=True),
    row("attention_fused", *_HEADS, "bool[7, 1]", terms=14, has_zeros=True),
    row("attention_fused", "float32[N, 5]", "float32[N, 5]", "float32[N, 4]", terms=10,
        is_causal=True),
    row("key_panels", "float32[2, 3, 37, 5]"), row("key_panels", "float64[16, 3]"),
    row("key_panels", "float32[N, 18, 2]"),
    row("key_panels", "float32[N, 7]"),
    row("attention_online", *_PANELS, "float32[7, 70]", terms=75, scale=0.25),
    row("attention_online", *_PANELS, "bool[2, 1, 1, 70]", terms=75, fill=-3.0),
    row("attention_online", *_PANELS, "bool[70]", terms=75, is_causal=True),
    row("attention_online", *_PANELS, "bool[7, 1]", terms=75, has_zeros=True),
    row("attention_online", "float64[33, 3]", "float64[2, 3, 16]", "float64[17, 1]", terms=20,
        is_causal=True),
    row("attention_online", "float32[2, N, 4]", f"float32[{(N + 15) // 16}, 4, 16]",
        "float32[N, 17]", terms=9, is_causal=True),
    row("attention_online", "float32[N, 1, 4]", "float32[9, 4, 16]", "float32[129, 16]", terms=133),
]  # fmt: skip

CASES = (
    *ELEMENTWISE,
    *REDUCTION,
    *CONVOLUTION,
    *POOLING,
    *NORMALIZATION,
    *ATTENTION,
    *SHAPE,
    *INDEXING,
    *RANDOM_NUMBERS,
    *TRANSFORMS,
)
