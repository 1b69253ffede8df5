"""Extents that data decide, up to a bound that follows from the graph or that the caller gives:
Range, Expand, Tile, Reshape, ConstantOfShape and Loop, compared with ONNX's reference evaluator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import parser
from onnx.reference import ReferenceEvaluator

from netloom.compiler.driver import compile_graph
from netloom.compiler.interpret import interpret
from netloom.errors import InputError, UnsupportedOpError, UsageError
from netloom.frontends.onnx import from_onnx
from netloom.runtime.session import Session

Array = npt.NDArray[Any]
HEAD = '<ir_version: 9, opset_import: ["" : 17]>\n'

COUNTED = (
    HEAD
    + """counted (float[N] x) => (int64[n] places, float[n] ones, float[m] tiled,
 float[n, 3] rows, int64[n, k] pairs)
<float zero = {0}, int64 start = {0}, int64 step = {1}, int64[1] flat = {-1}, int64[1] first = {0},
 float[1, 3] row = {1, 2, 3}, int64[1] three = {3}, float[2] two = {4, 5}, int64[1] wide = {1},
 int64[2] parts = {-1, 1}>
{
  large = Greater (x, zero)
  numbers = Cast <to = 7> (large)
  count = ReduceSum <keepdims = 0> (numbers)
  places = Range (start, count, step)
  size = Reshape (count, flat)
  ones = ConstantOfShape <value = float[1] {1}> (size)
  tiled = Tile (two, size)
  shape = Concat <axis = 0> (size, three)
  rows = Expand (row, shape)
  column = Reshape (places, parts)
  twice = Concat <axis = 0> (wide, size)
  line = Reshape <allowzero = 1> (places, twice)
  pairs = Add (column, line)
}"""
)

MASK = (
    HEAD
    + """mask (int64[b] lengths) => (bool[b, n] mask)
<int64 start = {0}, int64 step = {1}, int64[2] column = {-1, 1}>
{
  longest = ReduceMax <keepdims = 0> (lengths)
  places = Range (start, longest, step)
  ends = Reshape (lengths, column)
  mask = Less (places, ends)
}"""
)

LOOP = (
    HEAD
    + """loop (int64 trips, float[3] x) => (float[3] y, float[n, 3] steps)
{
  go = Constant <value = bool {1}> ()
  y, steps = Loop (trips, go, x) <body = step (int64 i, bool before, float[3] state)
      => (bool after, float[3] next, float[3] copy)
  {
    number = Cast <to = 1> (i)
    next = Add (state, number)
    copy = Identity (next)
    total = ReduceMax <keepdims = 0> (next)
    limit = Constant <value = float {12}> ()
    after = Less (total, limit)
  }>
}"""
)


def agree(
    text: str, dims: dict[str, int | range] | None, *feeds: dict[str, Array]
) -> list[list[tuple[int, ...]]]:
    """The shapes of the results of each run, which interpreter and program give like ONNX."""
    model = parser.parse_model(text)
    onnx.checker.check_model(model)
    graph = from_onnx(model, dims=dims)
    session, reference = Session.in_process(compile_graph(graph).image), ReferenceEvaluator(model)
    shapes = []
    for given in feeds:
        expected = reference.run(None, given)
        for found in (interpret(graph, given), session.run(None, given)):
            for a, b in zip(expected, found, strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
                np.testing.assert_array_equal(a, b)
        shapes.append([a.shape for a in expected])
    return shapes


def test_what_is_counted_has_a_bound() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(9).astype(np.float32)
    shapes = agree(COUNTED, None, {"x": x}, {"x": -np.abs(x)}, {"x": np.abs(x[:4])})
    count = int((x > 0).sum())
    assert shapes[0] == [(count,), (count,), (2 * count,), (count, 3), (count, count)]
    assert [run[0] for run in shapes[1:]] == [(0,), (4,)]


def test_a_bound_that_the_caller_gives() -> None:
    lengths = ({"lengths": np.array(line)} for line in ([3, 0, 5], [1, 8, 2], [0, 0, 0]))
    shapes = agree(MASK, {"longest": range(9), "b": 3}, *lengths)
    assert shapes == [[(3, 5)], [(3, 8)], [(3, 0)]]


def test_what_exceeds_the_callers_bound_is_an_error_of_the_run() -> None:
    graph = from_onnx(parser.parse_model(MASK), dims={"longest": range(9), "b": 2})
    session = Session.in_process(compile_graph(graph).image)
    for wrong in (9, -1):
        with pytest.raises(InputError, match="from 0 to 8"):
            session(np.array([wrong, wrong]))


@pytest.mark.parametrize(
    "dims", [{"longest": 9}, {"longest": range(-1, 5)}, {"longest": range(9), "mask": range(9)}]
)
def test_bounds_that_are_none(dims: dict[str, int | range]) -> None:
    with pytest.raises(UsageError, match="longest cannot lie in|'mask' is bool"):
        from_onnx(parser.parse_model(MASK), dims={"b": 2, **dims})


def test_the_remedy_is_a_range_of_the_tensor() -> None:
    with pytest.raises(UnsupportedOpError, match="Range 'places'.*have a bound") as caught:
        from_onnx(parser.parse_model(MASK))
    assert caught.value.hint is not None and "--dim longest=0..LARGEST" in caught.value.hint


def test_loops_of_as_many_steps_as_data_say() -> None:
    x = np.array([1, 2, 3], np.float32)
    runs = [{"trips": np.array(n), "x": x} for n in (3, 7, 1)]
    shapes = agree(LOOP, {"trips": range(8)}, *runs)
    assert [run[1] for run in shapes] == [(3, 3), (5, 3), (1, 3)]


def test_loops_without_a_largest_number_of_steps_are_refused() -> None:
    with pytest.raises(UnsupportedOpError, match="number of steps is computed from data"):
        from_onnx(parser.parse_model(LOOP))


SEGMENTS = (
    HEAD
    + """sums (int64[n] group) => (float[m, 7] y)
{
  seven = Constant <value_ints = [7]> ()
  zero = Constant <value_ints = [0]> ()
  kinds, first, which, counts = Unique <axis = 0> (group)
  most = ReduceMax <axes = [0], keepdims = 1> (counts)
  shape = Concat <axis = 0> (most, seven)
  y = ConstantOfShape (shape)
}"""
)


def test_what_is_known_beside_what_data_decide() -> None:
    """As TensorFlow's exporter sums segments: as many rows as the largest has, of seven each."""
    lines = ([3, 1, 3, 3], [5, 6], [2])
    shapes = agree(SEGMENTS, None, *({"group": np.array(line)} for line in lines))
    assert shapes == [[(3, 7)], [(1, 7)], [(1, 7)]]
    (result,) = from_onnx(parser.parse_model(SEGMENTS)).outputs
    assert result.type.shape[1] == 7
