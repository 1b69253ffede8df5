"""The text of kernels: it parses back to the same kernel, stays short where formulas share
parts, and refuses nonsense.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import numpy as np
import pytest

from netloom.compiler.dim import Dim, parse_extent, symbol
from netloom.compiler.loops.ir import (
    LANE,
    LANES,
    Buffer,
    Kernel,
    Kind,
    Load,
    Store,
    block,
    loop,
    variable,
)
from netloom.compiler.loops.parse import parse_kernel
from netloom.compiler.loops.text import print_expression, print_kernel
from netloom.compiler.scalar import Bitcast, Cast, Checked, Expr, Index, Literal, literal
from netloom.compiler.tensor_type import BFLOAT16, BOOL, FLOAT32, FLOAT64, INT32, INT64

from .case_kernels import SMALL_ITEMS, kernels_of
from .cases import CASES, Case


def difference(left: Any, right: Any) -> str:
    """Where two kernels differ in any field of any dataclass inside; "" if nowhere. Buffers are
    paired one to one.
    """
    stack: list[tuple[str, Any, Any]] = [("kernel", left, right)]
    seen: set[tuple[int, int]] = set()
    pairs: dict[Buffer, Buffer] = {}
    while stack:
        where, a, b = stack.pop()
        if (id(a), id(b)) in seen:
            continue
        seen.add((id(a), id(b)))
        if type(a) is not type(b):
            return f"{where}: {type(a).__name__} and {type(b).__name__}"
        if isinstance(a, Buffer) and pairs.setdefault(a, b) is not b:
            return f"{where}: two buffers for {a.name}"
        if isinstance(a, tuple):
            if len(a) != len(b):
                return f"{where}: {len(a)} and {len(b)} parts"
            stack += [(f"{where}[{i}]", x, y) for i, (x, y) in enumerate(zip(a, b, strict=True))]
        elif (
            dataclasses.is_dataclass(a) and not isinstance(a, enum.Enum) and not isinstance(a, Dim)
        ):
            stack += [
                (f"{where}.{f.name}", getattr(a, f.name), getattr(b, f.name))
                for f in dataclasses.fields(a)
            ]
        elif isinstance(a, float):
            if repr(a) != repr(b):
                return f"{where}: {a} and {b}"
        elif a != b:
            return f"{where}: {a} and {b}"
    return ""


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_kernels_parse_back(case: Case) -> None:
    for kernel in kernels_of(case, SMALL_ITEMS):
        parsed = parse_kernel(print_kernel(kernel))
        assert difference(kernel, parsed) == ""
        assert print_kernel(parsed) == print_kernel(kernel)


def test_the_comparison_sees_a_range() -> None:
    text = print_kernel(kernels_of(CASES[0])[0])
    other = text.replace("for r0 < 7", "for r0: 0..7 < 7")
    assert text != other
    assert "r0" in difference(parse_kernel(text), parse_kernel(other))


def stored(value: Literal) -> Kernel:
    y = Buffer("y", value.dtype, (1,))
    item = variable("w", 1)
    return Kernel("k", (y,), (), 1, item, Store(y, (0,), value))


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 1e-45, -1.5e30, float("inf"), -float("inf"), float("nan")]
)
def test_literals(value: float) -> None:
    for dtype in (FLOAT32, FLOAT64, BFLOAT16):
        kernel = stored(literal(value, dtype))
        assert difference(kernel, parse_kernel(print_kernel(kernel))) == ""


def test_other_literals() -> None:
    for value, dtype in ((True, BOOL), (False, BOOL), (-(2**63), INT64), (-1.5e300, FLOAT64)):
        kernel = stored(literal(value, dtype))
        assert difference(kernel, parse_kernel(print_kernel(kernel))) == ""


def test_a_store_past_the_caches_parses_back() -> None:
    y = Buffer("y", INT64, (2,))
    kernel = Kernel("k", (y,), (), 1, variable("w", 1), Store(y, (0,), literal(1, INT64), True))
    assert "stream y[0] = 1:int64" in print_kernel(kernel)
    assert difference(kernel, parse_kernel(print_kernel(kernel))) == ""


def test_a_block_inside_a_block_is_flat() -> None:
    y = Buffer("y", INT64, (2,))
    one, two = (Store(y, (i,), literal(i, INT64)) for i in range(2))
    assert block(block(one, two), one).statements == (one, two, one)  # type: ignore[union-attr]


def test_a_scope_that_ends_before_its_block_is_indented() -> None:
    text = """kernel k(y: int64[2])
parallel w < 1:
  let p: 0..0 = w:
    y[p] = 0:int64
  local t: int64[1]:
    t[0] = 1:int64
    y[1] = t[0]
  for i < 2:
    local u: int64[1]
    u[0] = 1:int64
"""
    assert print_kernel(parse_kernel(text)) == text


def squares(times: int) -> Kernel:
    """x * x, and that times itself, and so on: as a tree it has 2^times leaves."""
    x, y = Buffer("x", FLOAT32, (LANES,)), Buffer("y", FLOAT32, (LANES,))
    value: Expr = Load(x, (Dim.of(LANE),))
    for _ in range(times):
        value = value * value
    body = loop(LANE, LANES, Store(y, (Dim.of(LANE),), value), Kind.VECTOR)
    return Kernel("squares", (x, y), (), 1, variable("w", 1), body)


def test_shared_parts_are_printed_once() -> None:
    kernel = squares(24)
    text = print_kernel(kernel)
    assert len(text) < 2000 and "#22 = mul(#21, #21)" in text
    assert difference(kernel, parse_kernel(text)) == ""


def test_bits_and_computed_indices_parse_back() -> None:
    x, y = Buffer("x", INT32, (7,)), Buffer("y", FLOAT32, (7,))
    item = variable("w", 7)
    at = Checked(Cast(Load(x, (Dim.of(item),)), INT64), 7)
    value = Bitcast(Load(x, (at,)), FLOAT32) + Cast(Index(7 - Dim.of(item)), FLOAT32)
    kernel = Kernel("bits", (x, y), (), 7, item, Store(y, (Dim.of(item),), value))
    assert "bits_float32(x[checked(int64(x[w]), 7)])" in print_kernel(kernel)
    assert difference(kernel, parse_kernel(print_kernel(kernel))) == ""


def test_extents_with_quotients_parse_back() -> None:
    n, m = symbol("n"), symbol("m")
    for extent in (
        n // 3 * 9,
        n // 3 * (m // 4),
        m * (n % 5),
        n - n // 9,
        2 - n // 9 * 9 + m,
        (n + m // 2) // 7 * 5 + n,
    ):
        symbols = {s.name: s for s in extent.symbols()}  # type: ignore[union-attr]
        assert parse_extent(str(extent), symbols) == extent


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kernel ", "colonel "),
        ("parallel w < 1:", ""),
        ("fma(", "fmaa("),
        ("fma(", "add("),
        ("fma(", "less("),
        ("fma(x", "fma(index(), x"),
        ("fma(x", "fma(int32(x1[0, 0]), x"),
        ("t0[p0u, p1vu, l] = 0.0", "t9[p0u, p1vu, l] = 0.0"),
        ("[r0, l", "[r7, l"),
        ("for r0 < 7:", "for r0 < :"),
        ("if -1*l", "if l**2 -1*l"),
        ("0.0:float32\n", "0.0:float31\n"),
        ("0.0:float32\n", f"{'neg(' * 300}0.0:float32{')' * 300}\n"),
    ],
)
def test_nonsense_is_refused(old: str, new: str) -> None:
    text = print_kernel(kernels_of(CASES[0])[0])
    assert old in text
    with pytest.raises(ValueError):
        parse_kernel(text.replace(old, new))


def test_damaged_texts_are_refused_or_parsed() -> None:
    """Letters lost, changed and doubled at random places: nothing but ValueError comes out."""
    rng = np.random.default_rng(0)
    text = print_kernel(kernels_of(CASES[0])[0])
    refused = 0
    for _ in range(200):
        start = int(rng.integers(len(text)))
        end = start + int(rng.integers(12))
        middle = [text[start:end] * 2, "", "(", "-", " ", "7", ":"][rng.integers(7)]
        try:
            parse_kernel(text[:start] + middle + text[end:])
        except ValueError:
            refused += 1
    assert 100 <= refused < 200


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(ValueError):
        parse_kernel("")


def test_expressions_have_text() -> None:
    item = variable("i", 3)
    y = Buffer("y", FLOAT32, (3,))
    assert print_expression(literal(2, FLOAT32)) == "2.0:float32"
    assert loop(item, 3, Store(y, (Dim.of(item),), literal(0, FLOAT32)))
