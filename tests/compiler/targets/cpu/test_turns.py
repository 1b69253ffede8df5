"""Several turns of a chain of multiply-adds end with one jump: how many, and the same bits."""

from __future__ import annotations

import re

import numpy as np
import pytest

from netloom.compiler.dim import Dim, Extent, Symbol
from netloom.compiler.loops.ir import (
    LANE,
    LANES,
    Allocate,
    Buffer,
    Kernel,
    Kind,
    Load,
    Statement,
    Store,
    block,
    loop,
    variable,
)
from netloom.compiler.scalar import call, literal
from netloom.compiler.targets.cpu import llvm
from netloom.compiler.targets.cpu.machine import CPUS, cpu_named, host_cpu
from netloom.compiler.tensor_type import FLOAT32
from tests.compiler.targets.cpu.test_vector_math import KERNEL, _run

ITEM, COUNT = variable("w", 1), Symbol("N", 1)


def chains(rows: int, terms: Extent, function: str = "fma", again: int = 1) -> Kernel:
    """y = a b, for rows of a and a vector of columns; the terms ``again`` times, or with another
    function than fma in its place."""
    k, r, t = variable("k", terms), variable("r", rows), variable("t", again)
    a = Buffer("a", FLOAT32, (rows, terms))
    b, y = Buffer("b", FLOAT32, (terms, LANES)), Buffer("y", FLOAT32, (rows, LANES))
    s = Buffer("s", FLOAT32, (rows, LANES), is_local=True)
    at, lane = (Dim.of(r), Dim.of(LANE)), Dim.of(LANE)
    factors = Load(a, (Dim.of(r), Dim.of(k))), Load(b, (Dim.of(k), lane))
    sum_ = (
        call("fma", *factors, Load(s, at))
        if function == "fma"
        else call(function, call("mul", *factors), Load(s, at))
    )

    def each(store: Store) -> Statement:
        return loop(r, rows, loop(LANE, LANES, store, Kind.VECTOR), Kind.UNROLLED)

    added = loop(t, again, loop(k, terms, each(Store(s, at, sum_))))
    body = block(each(Store(s, at, literal(0.0, FLOAT32))), added, each(Store(y, at, Load(s, at))))
    symbols = () if isinstance(terms, int) else (COUNT,)
    return Kernel(KERNEL, (a, b, y), symbols, 1, ITEM, Allocate(s, body))


def turns(kernel: Kernel, cpu: str = "x86-64-v3") -> list[int]:
    """How many turns end with a jump, of every loop that has several of them."""
    text = llvm.kernels_as_llvm({KERNEL: kernel}, cpu_named(cpu))
    orders = dict(re.findall(r'(!\d+) = !\{ !"llvm.loop.unroll.count", i32 (\d+) \}', text))
    nodes = dict(re.findall(r"(!\d+) = !\{ \1, (!\d+) \}", text))
    return [int(orders[nodes[node]]) for node in re.findall(r"!llvm.loop (!\d+)", text)]


@pytest.mark.parametrize(
    ("terms", "expected"),
    [(16, [4]), (12, [4]), (9, [3]), (6, [3]), (10, [2]), (4, [2]), (3, []), (7, []), (1, [])],
)
def test_turns_divide_the_count_and_leave_a_loop(terms: int, expected: list[int]) -> None:
    assert turns(chains(6, terms)) == expected


def test_only_short_chains_with_known_counts_have_several_turns() -> None:
    assert turns(chains(6, 16, again=5)) == [4]  # the inner loop's alone
    assert turns(chains(6, Dim.of(COUNT))) == []
    assert turns(chains(6, 16, "max")) == []
    found = [turns(chains(rows, 16)) for rows in (1, 6, 12, 24, 100)]
    assert found == sorted(found, reverse=True)
    assert found[0] == found[1] == [4] and [2] in found and found[-1] == []


@pytest.mark.parametrize(("cpu", "vectors"), [("x86-64-v3", 2), ("x86-64-v4", 1)])
def test_the_copies_are_in_the_code(cpu: str, vectors: int) -> None:
    for terms, copies in ((7, 1), (10, 2), (16, 4)):
        code = llvm.kernels_as_assembly({KERNEL: chains(6, terms)}, CPUS[cpu])
        assert code.count("vfmadd") == 6 * copies * vectors


@pytest.mark.parametrize("terms", [2, 3, 7, 10, 16, 64, 100])
def test_bits_are_those_of_single_turns(terms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(terms)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, terms), (terms, 16)))

    def product() -> bytes:
        y = np.full((6, LANES), np.nan, np.float32)
        words = np.asarray([array.ctypes.data for array in (a, b, y)] + [0], np.uint64)
        _run(llvm.compile_kernels({KERNEL: chains(6, terms)}, host_cpu()), words, 1)
        np.testing.assert_allclose(y, a.astype(float) @ b, rtol=0, atol=terms * 1e-6)
        return y.tobytes()

    several = product()
    monkeypatch.setattr(llvm, "MOST_TURNS", 1)
    assert turns(chains(6, terms)) == []
    assert product() == several
