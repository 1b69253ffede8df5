"""Nodes with turns: the rules of their graphs, what passes do in their bodies, where launches lie."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from netloom.compiler.bodies import in_bodies
from netloom.compiler.dim import Dim, symbol
from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph, Value, born_dims
from netloom.compiler.inline import inline
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.fold_constants import fold_constants
from netloom.compiler.program import Turn
from netloom.compiler.tensor_type import FLOAT32, INT64, TensorType
from netloom.compiler.text import constants_of, is_identical, parse_graph, print_graph
from netloom.compiler.verify import verify
from netloom.errors import ShapeError, VerificationError
from netloom.runtime.session import Session

LINE = TensorType(FLOAT32, (3,))
TURN = symbol("turn_0")


def turns(step: Callable[[Builder, Value, Value], Value], count: int = 4) -> Graph:
    """x becomes step(x, w) so many times, w a constant outside; all values are stacked too."""
    b = Builder("turns")
    x = b.input(LINE, "x")
    w = b.constant(np.array([2, 0.5, -1], np.float32))
    inner = Builder("turn", b)
    state, shared = inner.input(LINE, "state"), inner.input(LINE, "shared")
    body = inner.build([step(inner, state, shared), state])
    last, stacked = b.many(
        "iterate", x, w, body=body, turn=TURN, count=count, handed_on=1, label="loop"
    )
    return b.build([last, stacked], ["last", "stacked"])


def by_negated(b: Builder, x: Value, w: Value) -> Value:
    return b("mul", x, b("neg", w))


def test_text_is_read_again() -> None:
    graph = turns(by_negated)
    verify(graph)
    assert is_identical(parse_graph(print_graph(graph), constants_of(graph)), graph)


def test_constants_from_outside_are_folded_inside() -> None:
    graph = in_bodies(turns(by_negated), fold_constants)
    (node,) = (node for node in graph.nodes if node.op.name == "iterate")
    assert len(node.inputs) == 1
    assert "neg" not in {inner.op.name for inner in node.attrs.body.nodes}


def test_a_state_is_overwritten_in_place_and_stacked_before() -> None:
    compiled = compile_graph(turns(by_negated))
    (entry,) = compiled.program.entries
    first, again = entry.dims
    assert isinstance(first, Turn) and isinstance(again, Turn)
    assert (first.launches, again.launches) == (first.first, first.last)
    x = np.array([1, 2, 3], np.float32)
    factor = np.array([-2, -0.5, 1], np.float32)
    last, stacked = Session.in_process(compiled.image).run(None, {"x": x})
    np.testing.assert_array_equal(last, x * factor**4)
    np.testing.assert_array_equal(stacked, [x * factor**k for k in range(4)])


def test_a_turn_has_no_number_outside() -> None:
    b = Builder("outside")
    with pytest.raises(VerificationError, match="no source has the dims"):
        verify(b.build([b("extent", extent=TURN)]))


def grown(b: Builder, x: Value, _w: Value) -> Value:
    return b("concat", x, x, axis=0)


def as_long_as_its_turn(b: Builder, _x: Value, _w: Value) -> Value:
    return b("iota", shape=(TURN,), axis=0, dtype=FLOAT32)


@pytest.mark.parametrize("step", [grown, as_long_as_its_turn])
def test_what_is_handed_on_keeps_its_type(step: Callable[[Builder, Value, Value], Value]) -> None:
    with pytest.raises(ShapeError, match="another type after a turn"):
        turns(step)


def test_inlined_turns_get_symbols_of_their_own() -> None:
    graph = turns(by_negated)
    b = Builder("both")
    x = b.input(LINE, "x")
    both = b.build([value for _ in range(2) for value in inline(b, graph, [x])])
    verify(both)
    assert len({*born_dims(both.nodes)}) == 2
    given = {"x": np.array([1, 2, 3], np.float32)}
    expected = interpret(graph, given)
    for found in (
        interpret(both, given),
        Session.in_process(compile_graph(both).image).run(None, given),
    ):
        for a, c in zip([*expected, *expected], found, strict=True):
            np.testing.assert_array_equal(a, c)


def test_data_dims_of_different_bodies_get_names_of_their_own() -> None:
    def counted(b: Builder, x: Value, _w: Value) -> Value:
        count = Dim.of(next(iter(symbol("kept_0", 0, 9).symbols())))
        number = b.constant(np.array(2, np.int64))
        b("data_dim", number, extent=count, bound=9)
        ones = b("iota", shape=(count,), axis=0, dtype=INT64)
        return b("add", x, b("cast", b("reduce_sum", ones, axes=(0,)), dtype=FLOAT32))

    both = Builder("both")
    x = both.input(LINE, "x")
    graph = turns(counted)
    values = [value for _ in range(2) for value in inline(both, graph, [x])]
    unchanged = in_bodies(both.build(values), lambda item: item)
    names = [born.name for born in born_dims(unchanged.nodes)]
    assert len({*names}) == len(names) == 4
