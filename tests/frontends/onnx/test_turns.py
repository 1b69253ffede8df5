"""Loops and scans whose turns a run counts, compared with ONNX's reference evaluator and ONNX
Runtime: free lengths, ends that data decide, no turn at all, loops within loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import parser
from onnx.reference import ReferenceEvaluator

from netloom.compiler.driver import Compiled, Options, compile_graph
from netloom.compiler.interpret import interpret
from netloom.errors import UnsupportedOpError
from netloom.frontends.onnx import from_onnx
from netloom.runtime.session import Session

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
RNG = np.random.default_rng(5)
HEAD = '<ir_version: 9, opset_import: ["" : 17]>\n'


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def agree(
    text: str, *feeds: Feeds, has_reference: bool = True, tolerance: float = 1e-5
) -> Compiled:
    """Interpreter and program give what ONNX Runtime and the reference evaluator give, with one
    node for the loop and the same bits for any number of threads.
    """
    model = parser.parse_model(HEAD + text)
    onnx.checker.check_model(model, full_check=True)
    graph = from_onnx(model)
    assert sum(node.op.name == "iterate" for node in graph.nodes) == 1
    compiled = compile_graph(graph, Options(threads=3))
    sessions = [Session.in_process(compiled.image, threads=count) for count in (3, 1)]
    runtime = onnxruntime.InferenceSession(model.SerializeToString())
    reference = ReferenceEvaluator(model) if has_reference else None
    for given in feeds:
        expected = [runtime.run(None, given)]
        if reference is not None:
            expected.append(reference.run(None, given))
        runs = [session.run(None, given) for session in sessions]
        for oracle in expected:
            for found in (interpret(graph, given), runs[0]):
                _check(oracle, found, tolerance)
        for other in runs[1:]:
            for a, b in zip(runs[0], other, strict=True):
                np.testing.assert_array_equal(a, b)
    return compiled


def _check(expected: Sequence[Array], found: Sequence[Array], tolerance: float) -> None:
    for a, b in zip(expected, found, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if a.dtype.kind == "f":
            np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(a, b)


RECURRENT = """recurrent (float[n, b, 3] x, float[b, 4] h) => (float[b, 4] last, float[n, b, 4] ys)
<float[3, 4] w = {1, 0.5, -1, 2, 0.25, -0.5, 1, 0.125, -2, 1, 0.5, -0.25},
 float[4, 4] u = {0.5, -0.25, 0.125, 0, 1, 0.5, -0.5, 0.25, 0, 0.5, -1, 0.25, 0.125, 0, 0.5, -0.5}>
{
  last, ys = Scan <num_scan_inputs = 1, body = step (float[b, 4] before, float[b, 3] entry)
      => (float[b, 4] after, float[b, 4] copy) {
    fresh = MatMul (entry, w)
    kept = MatMul (before, u)
    sum = Add (fresh, kept)
    after = Tanh (sum)
    copy = Identity (after)
  }> (h, x)
}"""


def test_a_scan_over_a_free_length() -> None:
    feeds = [{"x": floats(n, b, 3), "h": floats(b, 4)} for n, b in ((5, 2), (1, 1), (70, 3))]
    compiled = agree(RECURRENT, *feeds)
    assert len(compiled.program.entries[0].launches) < 12


def test_a_scan_of_no_entries() -> None:
    graph = from_onnx(parser.parse_model(HEAD + RECURRENT), dims={"n": range(9)})
    given = {"x": floats(0, 2, 3), "h": floats(2, 4)}
    for found in (
        interpret(graph, given),
        Session.in_process(compile_graph(graph).image).run(None, given),
    ):
        np.testing.assert_array_equal(found[0], given["h"])
        assert found[1].shape == (0, 2, 4)


DISTANCES = """distances (float[n, 2] x) => (float[n, 40] y)
<float[40, 2] points = {POINTS}>
{
  state, columns = Scan <num_scan_inputs = 1, body = step (float[n, 2] same, float[2] point)
      => (float[n, 2] still, float[n] column) {
    still = Identity (same)
    apart = Sub (same, point)
    squares = Mul (apart, apart)
    axis = Constant <value_ints = [1]> ()
    column = ReduceSum <keepdims = 0> (squares, axis)
  }> (x, points)
  y = Transpose (columns)
}"""


def test_a_scan_over_a_constant() -> None:
    """Each turn's entry depends on its number, though all of the scanned tensor is known."""
    points = ", ".join(str(k % 7 - 3) for k in range(80))
    agree(DISTANCES.replace("POINTS", points), {"x": floats(3, 2)}, {"x": floats(1, 2)})


DIRECTIONS = """directions (float[2, N] x, float[N, 3] y, float[2] s) => (float[2] last, float[2, N] a, float[N, 3] b)
{
  last, a, b = Scan <num_scan_inputs = 2, scan_input_axes = [1, -2], scan_input_directions = [1, 0],
      scan_output_axes = [1, 0], scan_output_directions = [0, 1],
      body = step (float[2] before, float[2] p, float[3] q) => (float[2] after, float[2] u, float[3] v) {
    half = Constant <value = float {0.5}> ()
    kept = Mul (before, half)
    after = Add (kept, p)
    u = Sub (after, before)
    total = ReduceSum <keepdims = 0> (after)
    v = Add (q, total)
  }> (s, x, y)
}"""


@pytest.mark.parametrize("extent", ["n", "40"])
def test_scans_in_reverse_and_along_other_axes(extent: str) -> None:
    counts = (40,) if extent == "40" else (4, 1, 33)
    feeds = [{"x": floats(2, n), "y": floats(n, 3), "s": floats(2)} for n in counts]
    agree(DIRECTIONS.replace("N", extent), *feeds, has_reference=False)


UNTIL = """until (float[3] x, float limit, bool go) => (float[3] y, int64 steps)
{
  zero = Constant <value = int64 {0}> ()
  y, steps = Loop (, go, x, zero) <body = step (int64 i, bool before, float[3] state, int64 taken)
      => (bool after, float[3] next, int64 now)
  {
    one = Constant <value = int64 {1}> ()
    growth = Constant <value = float {1.25}> ()
    next = Mul (state, growth)
    now = Add (taken, one)
    most = ReduceMax <keepdims = 0> (next)
    after = Less (most, limit)
  }>
}"""


def test_a_loop_that_only_its_condition_ends() -> None:
    x = np.array([1, 2, 3], np.float32)
    limits = [(4.0, True), (1e6, True), (0.0, True), (4.0, False)]
    feeds = [
        {"x": x, "limit": np.array(limit, np.float32), "go": np.array(go)} for limit, go in limits
    ]
    agree(UNTIL, *feeds, has_reference=False)


DECODER = """decoder (float[5] start, int64 end) => (float[5] last, int64[n] symbols, float[n, 5] scores)
<float[5, 5] w = {0, 1, 0, 0, 0.5, 0, 0, 1, 0.25, 0, 0.5, 0, 0, 1, 0, 0, 0, 0.25, 0, 1, 1, 0, 0.5, 0, 0},
 int64 most = {10000}, bool go = {1}>
{
  last, symbols, scores = Loop (most, go, start) <body = step (int64 i, bool before, float[5] state)
      => (bool after, float[5] next, int64 symbol, float[5] score)
  {
    next = MatMul (state, w)
    symbol = ArgMax <axis = 0, keepdims = 0> (next)
    score = Softmax <axis = 0> (next)
    same = Equal (symbol, end)
    after = Not (same)
  }>
}"""


def test_a_decoder_until_its_end_symbol() -> None:
    start = np.array([1, 0, 0, 0, 0], np.float32)
    feeds = [{"start": start, "end": np.array(end)} for end in (3, 1, 4)]
    compiled = agree(DECODER, *feeds, has_reference=False)
    assert len(compiled.program.entries[0].launches) < 16


COUNTED = """counted (int64 trips, int64[2] x) => (int64[2] a, int64[2] b)
{
  go = Constant <value = bool {1}> ()
  other = Neg (x)
  a, b = Loop (trips, go, x, other) <body = step (int64 i, bool before, int64[2] p, int64[2] q)
      => (bool before, int64[2] q, int64[2] sum) { sum = Sub (p, q) }>
}"""


def test_as_many_turns_as_data_say_and_states_that_change_places() -> None:
    feeds = [{"trips": np.array(n), "x": ints(3, 5)} for n in (1, 2, 7, 0, -4, 1000)]
    agree(COUNTED, *feeds, has_reference=False)


NESTED = """nested (float[n, m] x, float limit) => (float[n] sums, float[n, m] running)
{
  zero = Constant <value = float {0}> ()
  sums, running = Scan <num_scan_inputs = 1, body = rows (float[m] row) => (float sum, float[m] line) {
    sum, line = Scan <num_scan_inputs = 1, body = cells (float before, float cell)
        => (float after, float copy) {
      is_large = Greater (before, limit)
      after = If (is_large) <
        then_branch = over () => (float a) { a = Identity (limit) },
        else_branch = under () => (float b) { b = Add (before, cell) }>
      copy = Mul (after, after)
    }> (zero, row)
  }> (x)
}"""


def test_scans_within_scans_and_branches_in_them() -> None:
    feeds = [
        {"x": floats(n, m), "limit": np.array(0.5, np.float32)}
        for n, m in ((3, 4), (1, 1), (2, 37), (9, 2))
    ]
    agree(NESTED, *feeds)


PREFIXES = """prefixes (float[50] x) => (float[50] sums)
{
  trips = Constant <value = int64 {50}> ()
  go = Constant <value = bool {1}> ()
  sums = Loop (trips, go) <body = step (int64 i, bool before) => (bool before, float sum) {
    one = Constant <value = int64[1] {1}> ()
    zero = Constant <value = int64[1] {0}> ()
    place = Reshape (i, one)
    stop = Add (place, one)
    part = Slice (x, zero, stop)
    sum = ReduceSum <keepdims = 0> (part)
  }>
}"""


def test_shapes_within_a_turn_may_follow_its_number() -> None:
    agree(PREFIXES, {"x": floats(50)}, has_reference=False)


GROWING = """growing (float[N, 1] x) => (float[m] y)
<float[1] start = {0}>
{
  y = Scan <num_scan_inputs = 1, body = step (float[k] before, float[1] entry) => (float[j] after) {
    after = Concat <axis = 0> (before, entry)
  }> (start, x)
}"""


def test_a_state_that_grows_is_unrolled_or_refused() -> None:
    model = parser.parse_model(HEAD + GROWING.replace("N", "40"))
    x = floats(40, 1)
    assert interpret(from_onnx(model), {"x": x})[0].shape == (41,)
    with pytest.raises(UnsupportedOpError, match=r"Scan.*state 0 is float32\[1\].*float32\[2\]"):
        from_onnx(parser.parse_model(HEAD + GROWING.replace("N", "n")))


def test_results_without_a_bound_are_refused() -> None:
    text = DECODER.replace("(most, go, start)", "(, go, start)")
    with pytest.raises(UnsupportedOpError, match="Loop.*nothing limits its steps"):
        from_onnx(parser.parse_model(HEAD + text))
