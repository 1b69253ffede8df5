"""The arena: concats without copies where their parts lie behind each other in memory, and with
them elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from netloom.compiler.dim import symbol
from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

Parts = Callable[[Builder, Value, Value], list[Value]]


def _sum(b: Builder, x: Value) -> Value:
    """A kernel that nothing else joins: along the last axis of extent 3."""
    return b("reduce_sum", x, axes=(x.type.rank - 1,))


def _graph(make: Parts, shape: tuple[int, ...] = (1, 16, 8, 3)) -> Graph:
    b = Builder("parts")
    x, y = (b.input(TensorType(FLOAT32, shape), name) for name in "xy")
    return b.build(make(b, x, y))


def two(b: Builder, x: Value, y: Value) -> list[Value]:
    return [_twice(b, b("concat", _sum(b, x), _sum(b, y), axis=1))]


def nested(b: Builder, x: Value, y: Value) -> list[Value]:
    inner = b("concat", _sum(b, x), _sum(b, y), axis=1)
    outer = b("concat", inner, _sum(b, b("exp", y)), axis=1)
    return [_twice(b, outer), _twice(b, inner)]


def read_later(b: Builder, x: Value, y: Value) -> list[Value]:
    """A part is read after the whole's last reader: its memory must still be there."""
    part = _sum(b, x)
    whole = _twice(b, b("concat", part, _sum(b, y), axis=1))
    more = [_twice(b, _sum(b, b("mul", x, float(k)))) for k in range(2, 5)]
    return [whole, *more, _twice(b, b("neg", part))]


def in_two_concats(b: Builder, x: Value, y: Value) -> list[Value]:
    """It can lie in one of them only."""
    part, other = _sum(b, x), _sum(b, y)
    return [
        _twice(b, b("concat", part, other, axis=1)),
        _twice(b, b("concat", other, part, axis=1)),
    ]


def twice_the_same(b: Builder, x: Value, y: Value) -> list[Value]:
    part = _sum(b, x)
    return [_twice(b, b("concat", part, _sum(b, y), part, axis=1))]


def the_output_itself(b: Builder, x: Value, y: Value) -> list[Value]:
    return [b("concat", _sum(b, x), _sum(b, y), axis=1)]


def a_part_is_an_output(b: Builder, x: Value, y: Value) -> list[Value]:
    part = _sum(b, x)
    return [part, _twice(b, b("concat", part, _sum(b, y), axis=1))]


def the_last_axis(b: Builder, x: Value, y: Value) -> list[Value]:
    return [_twice(b, b("concat", _sum(b, x), _sum(b, y), axis=2))]


def _twice(b: Builder, x: Value) -> Value:
    """Two readers, so that the value is stored."""
    return b("add", b("reduce_max", x, axes=(2,)), b("reduce_min", x, axes=(2,)))


@pytest.mark.parametrize(
    ("make", "shape", "copies"),
    [(two, (1, 16, 8, 3), 0), (nested, (1, 16, 8, 3), 0), (read_later, (1, 16, 8, 3), 0),
     (in_two_concats, (1, 16, 8, 3), 1), (twice_the_same, (1, 16, 8, 3), 1),
     (a_part_is_an_output, (1, 16, 8, 3), 1),
     (two, (2, 16, 8, 3), 1), (two, (1, 5, 7, 3), 1), (the_last_axis, (1, 16, 8, 3), 1),
     (the_output_itself, (1, 16, 8, 3), 1)],
)  # fmt: skip
def test_concat(make: Parts, shape: tuple[int, ...], copies: int) -> None:
    """``copies``: kernels that only move elements."""
    graph = _graph(make, shape)
    rng = np.random.default_rng(0)
    feeds = {
        v.label: rng.standard_normal(v.type.static_shape).astype(np.float32) for v in graph.inputs
    }
    compiled = compile_graph(graph)
    session = Session.in_process(compiled.image)
    for got, wanted in zip(session.run(None, feeds), interpret(graph, feeds), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    names = [launch.kernel.split("_", 2)[2] for launch in compiled.program.entries[0].launches]
    assert sum(name in ("concat", "reorder", "copy", "slice") for name in names) == copies, names


def test_a_result_that_is_only_renamed_is_made_in_its_place() -> None:
    """Rows of a free length, one behind another: no kernel copies them."""
    b, (n, m) = Builder("tiled"), (symbol(name, 1) for name in "NM")
    x = b.input(TensorType(FLOAT32, (n, m)), "x")
    twice = b("broadcast", b("reshape", x, shape=(n, 1, m)), shape=(n, 2, m))
    compiled = compile_graph(b.build([b("reshape", twice, shape=(n, 2 * m))]))
    assert len(compiled.program.entries[0].launches) == 1
    array = np.arange(15, dtype=np.float32).reshape(3, 5)
    (found,) = Session.in_process(compiled.image).run(None, {"x": array})
    assert np.array_equal(found, np.tile(array, (1, 2)))
