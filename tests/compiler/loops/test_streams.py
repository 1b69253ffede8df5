"""Hints for what is read or written once: where they stand, what they ask for, and what has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netloom.compiler.dim import Dim, Extent, Symbol
from netloom.compiler.driver import PIPELINE, Options, compile_graph
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.loops.ahead import NEAR
from netloom.compiler.loops.build import Machine, build_kernel
from netloom.compiler.loops.ir import (
    LANES,
    For,
    Kernel,
    Kind,
    Load,
    Prefetch,
    Store,
    expressions_in,
    walk,
)
from netloom.compiler.loops.streams import AHEAD
from netloom.compiler.loops.text import print_kernel
from netloom.compiler.loops.verify import verify_kernel
from netloom.compiler.op import OPS
from netloom.compiler.scalar import post_order
from netloom.compiler.tensor_type import FLOAT16, FLOAT32, DType, TensorType
from netloom.runtime.session import Session
from tests.compiler.loops.test_ahead import hints

FLOATS = AHEAD // 4
PAIRS: Any = dict(kernel=(2, 2), stride=(2, 2), dilation=(1, 1), lo=(0, 0), hi=(0, 0))
WINDOWS: Any = dict(kernel=(3, 3), stride=(2, 2), dilation=(1, 1), lo=(1, 1), hi=(1, 1))


def graph_of(op: str, *shapes: tuple[Extent, ...], dtype: DType = FLOAT32, **attrs: Any) -> Graph:
    b = Builder("kernel")
    inputs = [b.input(TensorType(dtype, shape), f"x{n}") for n, shape in enumerate(shapes)]
    return b.build([b(op, *inputs, **attrs)], ["y"])


def first_kernel(graph: Graph) -> Kernel:
    fused, _ = PIPELINE.run(graph, Options())
    body = next(node.attrs.body for node in fused.nodes if node.op is OPS["kernel"])
    kernel = build_kernel("kernel", body, Machine())
    verify_kernel(kernel)
    return kernel


def hints_for(kernel: Kernel, name: str) -> list[Prefetch]:
    return [hint for hint in hints(kernel) if hint.element.buffer.name == name]


def places_beside(kernel: Kernel, hint: Prefetch) -> set[str]:
    """Where the vector loop reads or writes, in front of which, or of whose loop, a hint stands."""
    statements = list(walk(kernel.body))
    behind = statements[statements.index(hint) + 1 :]
    vector = next(s for s in behind if isinstance(s, For) and s.kind is Kind.VECTOR)
    inside = list(walk(vector))
    loads = post_order([v for s in inside for v in expressions_in(s)])
    return {
        str(each.extents[-1])
        for each in (*loads, *inside)
        if isinstance(each, Load | Store) and each.buffer is hint.element.buffer
    }


@pytest.mark.parametrize("name", ["x0", "y"])
def test_a_vector_asks_for_what_lies_behind_it(name: str) -> None:
    kernel = first_kernel(graph_of("relu", (1024, 1024)))
    (hint,) = hints_for(kernel, name)
    (element,) = hint.element.extents
    lane = Dim.of(Symbol("l", 0, LANES - 1))
    assert places_beside(kernel, hint) == {str(element - FLOATS + lane)}


def test_each_array_has_its_own() -> None:
    found = hints(first_kernel(graph_of("add", (1024, 1024), (1024, 1024))))
    assert [hint.element.buffer.name for hint in found] == ["x0", "x1", "y"]


@pytest.mark.parametrize("width", [1024, 1000])
def test_of_several_passes_the_last_reads_ahead_and_the_first_writes_ahead(width: int) -> None:
    """A softmax reads its input for the largest and for the sum, and writes its result there and
    once more. The ends of rows, where vectors are not full, are no passes of their own."""
    text = print_kernel(first_kernel(graph_of("softmax", (512, width), axis=1)))
    first, last = text.index("fold_max"), text.index("fold_add")
    assert text.count("prefetch") == 2
    for name in ("x0", "y"):
        assert first < text.index(f"prefetch {name}[q, 16*u + 64*v + {FLOATS}]") < last


def test_stores_past_the_caches_have_none() -> None:
    """Nothing is read for them."""
    scale = np.ones((16, 1, 1), np.float32)
    b = Builder("kernel")
    x = b.input(TensorType(FLOAT32, (64, 16, 256, 160)), "x0")
    kernel = first_kernel(b.build([b("mul", x, b.constant(scale))], ["y"]))
    assert any(s.bypasses_cache for s in walk(kernel.body) if isinstance(s, Store))
    assert hints_for(kernel, "x0") and not hints_for(kernel, "y")


def test_a_window_asks_once_for_a_line() -> None:
    """Both columns of a pair lie in the same two lines."""
    kernel = first_kernel(graph_of("max_pool", (4, 16, 128, 128), **PAIRS))
    found = hints_for(kernel, "x0")
    assert len(found) == 2
    offsets = [hint.element.buffer.offset(hint.element.extents) for hint in found]
    assert offsets[1] - offsets[0] == 16
    assert all("r1" not in str(offset) for offset in offsets)


def test_short_runs_ask_for_a_later_one() -> None:
    """64 of the 4096 numbers of a row: 32 rows hold as many as lie ahead elsewhere."""
    b = Builder("kernel")
    x = b.input(TensorType(FLOAT32, (4096, 4096)), "x0")
    cut = b("slice", x, start=(0, 64), size=(4096, 64), step=(1, 1))
    kernel = first_kernel(b.build([b("relu", cut)], ["y"]))
    (hint,) = hints(kernel)  # the result is small
    assert places_beside(kernel, hint) == {"l + 16*p1v + 64"}
    assert str(hint.element.extents[-1]) == f"16*p1v + {64 + 32 * 4096}"


def _overlapping(b: Builder) -> Value:
    """Windows of 3 x 3 that lie 2 apart read an element 2.25 times; the result is small."""
    return b("max_pool", b.input(TensorType(FLOAT32, (1, 20, 128, 128)), "x0"), **WINDOWS)


def _small(b: Builder) -> Value:
    return b("relu", b.input(TensorType(FLOAT32, (NEAR // 4,)), "x0"))


def _free(b: Builder) -> Value:
    rows = Dim.of(Symbol("N", 1, None))
    return b("relu", b.input(TensorType(FLOAT32, (rows, 1 << 20)), "x0"))


def _few_columns(b: Builder) -> Value:
    """Of few runs, most hints would be for none."""
    x = b.input(TensorType(FLOAT32, (64, 1 << 16)), "x0")
    return b("relu", b("slice", x, start=(0, 0), size=(64, 64), step=(1, 1)))


@pytest.mark.parametrize("make", [_overlapping, _small, _free, _few_columns])
def test_nobody_asks_for(make: Any) -> None:
    b = Builder("kernel")
    assert hints(first_kernel(b.build([make(b)], ["y"]))) == []


def test_weights_of_one_row_are_several_streams() -> None:
    b = Builder("kernel")
    x = b.input(TensorType(FLOAT32, (1, 2048)), "x0")
    w = b.constant(np.ones((2048, 1024), np.float32))
    kernel = first_kernel(b.build([b("matmul", x, w, transpose_a=False, transpose_b=False)], ["y"]))
    assert hints(kernel) == []


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16])
@pytest.mark.parametrize(
    ("op", "shape", "attrs"),
    [
        ("softmax", (1300, 1000), dict(axis=1)),
        ("max_pool", (2, 16, 250, 250), PAIRS),
        ("reduce_max", (4096, 512), dict(axes=(0,), keep=False)),
        ("relu", (1_300_001,), {}),
    ],
)
def test_hints_beyond_the_end_change_nothing(
    op: str, shape: tuple[int, ...], attrs: dict[str, Any], dtype: DType
) -> None:
    """The results are NumPy's, and no address faults."""
    graph = graph_of(op, shape, dtype=dtype, **attrs)
    assert hints(first_kernel(graph))
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype.numpy)
    session = Session.in_process(compile_graph(graph, Options(threads=2)).image, threads=2)
    y = session(x)
    np.testing.assert_allclose(
        y.astype(np.float64), ORACLES[op](x.astype(np.float64)), rtol=TOLERANCE[dtype], atol=1e-7
    )


TOLERANCE = {FLOAT32: 2e-6, FLOAT16: 2e-3}


def _softmax(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


ORACLES: dict[str, Any] = {
    "softmax": _softmax,
    "max_pool": lambda x: x.reshape(*x.shape[:2], 125, 2, 125, 2).max(axis=(3, 5)),
    "reduce_max": lambda x: x.max(axis=0),
    "relu": lambda x: np.maximum(x, 0),
}
