"""Compiled kernels against the ops' references: every family, awkward shapes, dtypes, thread
counts and CPU levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netloom.compiler.dim import symbol
from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.op import OPS
from netloom.compiler.scalar import SCALAR_FUNCTIONS
from netloom.compiler.targets.cpu.machine import CPUS
from netloom.compiler.tensor_type import (
    BOOL,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    UINT8,
    UINT32,
    DType,
    TensorType,
)
from netloom.runtime.session import Session

POOL: dict[str, Any] = {
    "kernel": (3, 2),
    "stride": (2, 2),
    "dilation": (1, 1),
    "lo": (1, 0),
    "hi": (1, 1),
}
ROWS: list[tuple[str, list[tuple[int, ...]], DType, dict[str, Any]]] = [
    ("matmul", [(5, 7), (7, 33)], FLOAT32, {}),
    ("matmul", [(1, 700), (700, 10)], FLOAT32, {}),
    ("matmul", [(17, 40), (30, 40)], FLOAT32, {"transpose_b": True}),
    ("matmul", [(40, 17), (40, 30)], FLOAT32, {"transpose_a": True}),
    ("matmul", [(2, 1, 4, 5), (3, 5, 6)], FLOAT64, {}),
    ("matmul", [(4, 0), (0, 3)], FLOAT32, {}),
    ("matmul", [(3, 5), (5, 4)], INT32, {}),
    ("reduce_sum", [(3, 100)], FLOAT32, {"axes": (1,)}),
    ("reduce_sum", [(3, 5, 7)], FLOAT32, {"axes": (0, 2), "keep": True}),
    ("reduce_sum", [(2000,)], FLOAT32, {"axes": (0,)}),
    ("reduce_mean", [(3, 40, 5)], FLOAT64, {"axes": (1,)}),
    ("reduce_max", [(3, 37)], FLOAT32, {"axes": (1,)}),
    ("reduce_min", [(3, 37)], INT64, {"axes": (0,)}),
    ("reduce_product", [(3, 4)], FLOAT32, {"axes": (1,)}),
    ("argmax", [(5, 19)], FLOAT32, {"axis": 1}),
    ("argmin", [(5, 19)], FLOAT32, {"axis": 0, "keep": True}),
    ("softmax", [(4, 21)], FLOAT32, {"axis": 1}),
    ("log_softmax", [(4, 21, 3)], FLOAT32, {"axis": 1}),
    ("lrn", [(2, 7, 5, 5)], FLOAT32, {"size": 5, "alpha": 0.1, "beta": 0.75, "bias": 2.0}),
    ("max_pool", [(2, 3, 9, 8)], FLOAT32, POOL),
    ("average_pool", [(2, 3, 9, 8)], FLOAT32, {**POOL, "count_padding": False}),
    ("average_pool", [(2, 3, 9, 8)], FLOAT32, {**POOL, "count_padding": True}),
    ("transpose", [(3, 4, 5)], FLOAT32, {"permutation": (2, 0, 1)}),
    ("reshape", [(3, 4, 10)], FLOAT32, {"shape": (6, 20)}),
    ("slice", [(9, 10)], INT32, {"start": (8, 1), "size": (4, 3), "step": (-2, 3)}),
    ("pad", [(3, 5)], FLOAT32, {"lo": (1, 2), "hi": (0, 3), "value": 1.5}),
    ("pad", [(3, 5)], FLOAT32, {"lo": (1, 2), "hi": (2, 3), "mode": "reflect"}),
    ("concat", [(3, 5), (3, 20), (3, 1)], FLOAT32, {"axis": 1}),
    ("depth_to_space", [(1, 8, 3, 3)], FLOAT32, {"block": 2}),
    ("select", [(4, 5), (4, 5), (5,)], FLOAT32, {}),
    ("add", [(4, 1, 5), (3, 1)], FLOAT32, {}),
    ("div", [(64,), (64,)], INT32, {}),
    ("rem", [(64,), (64,)], FLOAT32, {}),
    ("gelu", [(100,)], FLOAT32, {}),
    ("winograd_input", [(1, 16, 5, 9)], FLOAT32, {"m": (4, 4), "taps": (3, 3), "lo": (1, 1), "counts": (2, 3)}),
    ("winograd_output", [(36, 1, 12, 20)], FLOAT32, {"m": (4, 4), "taps": (3, 3), "shape": (2, 20, 7, 9)}),
]  # fmt: skip


def one_node(op: str, types: list[TensorType], attrs: dict[str, Any]) -> Graph:
    b = Builder(op)
    return b.build([b(op, *(b.input(t, f"x{i}") for i, t in enumerate(types)), **attrs)], ["y"])


def arrays_for(types: list[TensorType], seed: int = 0, **dims: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {}
    for position, t in enumerate(types):
        shape = t.evaluate(dims)
        drawn = (
            rng.standard_normal(shape) * 3
            if t.dtype.is_float
            else rng.integers(0 if not t.dtype.is_signed else -5, 6, shape)
        )
        found[f"x{position}"] = np.asarray(drawn).astype(t.dtype.numpy)
    return found


def assert_close(found: np.ndarray, expected: np.ndarray, terms: int) -> None:
    """eps (k + 1) times the largest magnitude, for floats; equality for others."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if not found.size or not DType.of(found.dtype).is_float:
        np.testing.assert_array_equal(found, expected)
        return
    eps = {2: 2.0**-8, 4: 2.0**-23, 8: 2.0**-52}[found.dtype.itemsize]
    wide = expected.astype(np.float64)
    scale = np.max(np.abs(wide[np.isfinite(wide)]), initial=1e-30)
    np.testing.assert_allclose(
        found.astype(np.float64), wide, rtol=0, atol=eps * (terms + 4) * scale
    )


@pytest.mark.parametrize(("op", "shapes", "dtype", "attrs"), ROWS, ids=lambda v: str(v)[:30])
def test_op(op: str, shapes: list[tuple[int, ...]], dtype: DType, attrs: dict[str, Any]) -> None:
    types = [TensorType(dtype, shape) for shape in shapes]
    if op == "select":
        types[0] = types[0].with_dtype(BOOL)
    graph, arrays = one_node(op, types, attrs), arrays_for(types)
    compiled = compile_graph(graph)
    results = [
        Session.in_process(compiled.image, threads=n).run(None, arrays)[0] for n in (1, 2, 3)
    ]
    terms = max((int(np.prod(shape)) for shape in shapes), default=1)
    assert_close(results[0], interpret(graph, arrays)[0], min(terms, 64))
    for other in results[1:]:
        assert results[0].tobytes() == other.tobytes()


ELEMENTWISE = [
    name for name, op in OPS.items() if op.is_elementwise and name not in ("cast", "bitcast")
]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name: str) -> None:
    """Every elementwise op, on each dtype of a kind that it takes, special values among the
    floats; all in one program.
    """
    b, feeds, results = Builder("elementwise"), {}, {}
    for dtype in (FLOAT32, FLOAT64, INT32, UINT8, BOOL):
        arity = next((n for n in (1, 2, 3) if _accepts(OPS[name], dtype, n) is not None), 0)
        if not arity:
            continue
        types = [TensorType(dtype, (67,))] * arity
        if name == "select":
            types[0] = TensorType(BOOL, (67,))
        inputs = [b.input(kind, f"{dtype.value}{place}") for place, kind in enumerate(types)]
        results[dtype] = b(name, *inputs)
        for value, array in zip(inputs, arrays_for(types).values(), strict=True):
            if dtype.is_float and array.dtype != bool:
                array[:6] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40]
            feeds[value.label] = array
    assert results
    graph = b.build(list(results.values()), [dtype.value for dtype in results])
    found = Session.in_process(compile_graph(graph).image, threads=1).run(None, feeds)
    for dtype, one, expected in zip(results, found, interpret(graph, feeds), strict=True):
        _assert_same(name, dtype, one, expected)


def _assert_same(name: str, dtype: DType, found: np.ndarray, expected: np.ndarray) -> None:
    """But for roundings of formulas: 1 + erf(x) cancels, so some have an absolute bound."""
    if found.dtype.kind != "f":
        np.testing.assert_array_equal(found, expected, err_msg=f"{name} {dtype}")
        return
    with np.errstate(all="ignore"):
        wide = 4 * np.spacing(np.abs(expected))
        bound = wide if dtype is FLOAT32 else 1e-13 * np.abs(expected) + 1e-13
        if name not in SCALAR_FUNCTIONS:
            bound = np.maximum(bound, 1e-6 if dtype is FLOAT32 else 1e-13)
        near = np.abs(found - expected) <= bound
    same = (found == expected) | (np.isnan(found) & np.isnan(expected)) | near
    assert np.all(same), (name, dtype, found[~same][:3], expected[~same][:3])


def _accepts(op: Any, dtype: DType, arity: int) -> Any:
    types = [TensorType(dtype, (3,))] * arity
    if op.name == "select":
        types[0] = TensorType(BOOL, (3,))
    try:
        return op.infer(op.attrs(), types)
    except (ValueError, TypeError):
        return None


@pytest.mark.parametrize("level", list(CPUS))
def test_cpu_levels(level: str) -> None:
    """One network on every level that this machine has."""
    if not CPUS[level].is_here:
        pytest.skip(f"this machine has no {level}")
    b = Builder("levels")
    rng = np.random.default_rng(0)
    x = b.input(TensorType(FLOAT32, (2, 16, 13, 11)), "x")
    w = b.constant(rng.standard_normal((32, 16, 3, 3)).astype(np.float32))
    y = b("tanh", b("conv", x, w, stride=(1, 1), dilation=(1, 1), lo=(1, 1), hi=(1, 1), groups=1))
    graph = b.build([b("softmax", b("reshape", y, shape=(2, 32 * 143)), axis=1)], ["y"])
    arrays = {"x": rng.standard_normal((2, 16, 13, 11)).astype(np.float32)}
    found = Session.in_process(compile_graph(graph, Options(cpu=level)).image, threads=2).run(
        None, arrays
    )[0]
    assert_close(found, interpret(graph, arrays)[0], 200)


def test_one_program_runs_every_batch() -> None:
    """A free batch: 1, 3, 16, 17 and 64 rows from one program, equal to fixed compiles within
    the budget.
    """
    n = symbol("N", 1)
    rng = np.random.default_rng(0)
    w, v = (rng.standard_normal(s).astype(np.float32) for s in ((24, 3, 3, 3), (24 * 36, 10)))

    def network(batch: Any) -> Graph:
        b = Builder("net")
        x = b.input(TensorType(FLOAT32, (batch, 3, 8, 8)), "x")
        y = b(
            "relu",
            b(
                "conv",
                x,
                b.constant(w),
                stride=(1, 1),
                dilation=(1, 1),
                lo=(0, 0),
                hi=(0, 0),
                groups=1,
            ),
        )
        return b.build([b("matmul", b("reshape", y, shape=(batch, 24 * 36)), b.constant(v))], ["y"])

    session = Session.in_process(compile_graph(network(n)).image, threads=2)
    for size in (1, 3, 16, 17, 64):
        x = rng.standard_normal((size, 3, 8, 8)).astype(np.float32)
        fixed = Session.in_process(compile_graph(network(size)).image, threads=2)
        found = session.run(None, {"x": x})[0]
        assert np.linalg.norm(found - fixed.run(None, {"x": x})[0]) <= 2e-6 * np.linalg.norm(found)
        assert_close(found, interpret(network(size), {"x": x})[0], 64)


def test_random_bits_are_exact() -> None:
    b = Builder("bits")
    key = b.input(TensorType(UINT32, (4,)), "key")
    graph = b.build([b("random_bits", key, shape=(5, 37))], ["y"])
    arrays = {"key": np.array([0xFFFFFFFE, 7, 3, 4], np.uint32)}
    found = Session.in_process(compile_graph(graph).image, threads=3).run(None, arrays)[0]
    np.testing.assert_array_equal(found, interpret(graph, arrays)[0])


def test_an_index_out_of_range_is_an_error() -> None:
    b = Builder("gather")
    x, i = b.input(TensorType(FLOAT32, (5, 3)), "x"), b.input(TensorType(INT64, (4,)), "i")
    session = Session.in_process(
        compile_graph(b.build([b("gather", x, i, axis=0)], ["y"])).image, threads=1
    )
    table = np.arange(15, dtype=np.float32).reshape(5, 3)
    found = session.run(None, {"x": table, "i": np.array([0, 4, -1, -5])})[0]
    np.testing.assert_array_equal(found, table[[0, 4, 4, 0]])
    for bad in (5, -6, 1 << 40):
        with pytest.raises(Exception, match="index"):
            session.run(None, {"x": table, "i": np.array([0, 1, bad, 2])})
