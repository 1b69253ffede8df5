"""Elementwise ops: every op on every kind of dtype it takes, with broadcasting and at the edges."""

from __future__ import annotations

from typing import Any

from netloom.compiler.tensor_type import BOOL, FLOAT32, FLOAT64, INT32, UINT8, DType

from .case import Case, row

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
    *(row(op, "float64[19] huge") for op in ("asin", "acos", "acosh", "atanh")),
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
