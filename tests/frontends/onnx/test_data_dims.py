"""Models whose results are as long as data say, compared with ONNX's reference evaluator: detection
heads, suppression, slices, TopK, Unique.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import parser
from onnx.reference import ReferenceEvaluator

from netloom.compiler.driver import compile_graph
from netloom.compiler.interpret import interpret
from netloom.errors import InputError, NetloomError, UnsupportedOpError
from netloom.frontends.onnx import from_onnx
from netloom.runtime.session import Session

Feeds = Mapping[str, npt.NDArray[Any]]

SSD = """<ir_version: 9, opset_import: ["" : 17]>
ssd (float[1, 60, 4] deltas, float[1, 60, 5] logits, float[60, 4] anchors)
    => (float[n, 4] found, float[n] score, int64[n] class)
<int64[1] most = {7}, float[1] iou = {0.45}, float[1] least = {0.2}, int64[2] parts = {2, 2},
 float half = {0.5}, float[1] scale = {0.1}, int64[1] one = {1}, int64[1] end = {5},
 int64[1] axis = {2}, int64[1] pick_class = {1}, int64[1] pick_box = {2}, int64[1] flat = {-1},
 int64[2] rows = {-1, 4}>
{
  middle, size = Split <axis = 2> (deltas, parts)
  corner, extent = Split <axis = 1> (anchors, parts)
  step = Mul (middle, scale)
  moved = Mul (step, extent)
  center = Add (corner, moved)
  shrunk = Mul (size, scale)
  grown = Exp (shrunk)
  whole = Mul (grown, extent)
  radius = Mul (whole, half)
  low = Sub (center, radius)
  high = Add (center, radius)
  boxes = Concat <axis = 2> (low, high)
  probabilities = Softmax <axis = 2> (logits)
  kept = Slice (probabilities, one, end, axis)
  scores = Transpose <perm = [0, 2, 1]> (kept)
  selected = NonMaxSuppression (boxes, scores, most, iou, least)
  box = Gather <axis = 1> (selected, pick_box)
  place = Reshape (box, flat)
  class_column = Gather <axis = 1> (selected, pick_class)
  class = Reshape (class_column, flat)
  all = Reshape (boxes, rows)
  found = Gather <axis = 0> (all, place)
  score = GatherND (scores, selected)
}"""

YOLO = """<ir_version: 9, opset_import: ["" : 17]>
yolo (float[1, 21, 4, 4] map, float[48, 4] cells)
    => (float[n, 4] boxes, float[n] confidence, int64[n] class, float[m, 4] sure)
<int64[3] shape = {1, 48, 7}, int64[5] parts = {1, 3, 7, 4, 4}, int64[3] split = {4, 1, 2},
 float least = {0.5}, int64[1] five = {5}>
{
  apart = Reshape (map, parts)
  last = Transpose <perm = [0, 1, 3, 4, 2]> (apart)
  rows = Reshape (last, shape)
  raw, object, classes = Split <axis = 2> (rows, split)
  scaled = Sigmoid (raw)
  placed = Add (scaled, cells)
  sure_object = Sigmoid (object)
  sure_class = Sigmoid (classes)
  product = Mul (sure_object, sure_class)
  score = ReduceMax <axes = [2], keepdims = 0> (product)
  label = ArgMax <axis = 2, keepdims = 0> (product)
  is_likely = Greater (score, least)
  where = NonZero (is_likely)
  columns = Transpose <perm = [1, 0]> (where)
  boxes = GatherND (placed, columns)
  confidence = GatherND (score, columns)
  class = GatherND (label, columns)
  count = Shape (confidence)
  k = Min (count, five)
  top, order = TopK <axis = 0> (confidence, k)
  sure = Gather <axis = 0> (boxes, order)
}"""

PARTS = """<ir_version: 9, opset_import: ["" : 17]>
parts (float[N, 6] x, int64[1] start, int64[1] end, int64[1] k, bool[6] mask)
    => (float[a, 6] middle, float[b, 6] odd, float[N, c] largest, float[N, d] picked,
        float[e] different, int64[e] first, int64[f] which, int64[e] often, int64[g] numbers)
<int64[1] axis = {0}, int64[1] two = {2}, int64 zero = {0}, int64 one = {1}, int64[1] flat = {-1}>
{
  middle = Slice (x, start, end, axis)
  odd = Slice (x, start, end, axis, two)
  largest, places = TopK <axis = 1> (x, k)
  picked = Compress <axis = 1> (x, mask)
  line = Reshape (x, flat)
  rounded = Round (line)
  different, first, which, often = Unique <sorted = 0> (rounded)
  count = Shape (different)
  length = Squeeze (count)
  numbers = Range (zero, length, one)
}"""


def random(seed: int, *shape: int) -> npt.NDArray[Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def anchors() -> npt.NDArray[Any]:
    return (np.random.default_rng(7).random((60, 4)) / 2 + 0.1).astype(np.float32)


def agree(text: str, *feeds: Feeds) -> list[list[tuple[int, ...]]]:
    """The shapes of each run's outputs; all agree with the reference evaluator."""
    model = parser.parse_model(text)
    onnx.checker.check_model(model)
    evaluator, graph = ReferenceEvaluator(model), from_onnx(model)
    session = Session.in_process(compile_graph(graph).image, 2)
    shapes = []
    for given in feeds:
        expected = evaluator.run(None, dict(given))
        for found in (session.run(None, given), interpret(graph, given)):
            for a, b in zip(expected, found, strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        shapes.append([array.shape for array in expected])
    return shapes


def test_ssd_head() -> None:
    background = random(3, 1, 60, 5)
    background[..., 0] += 12
    logits = (2 * random(0, 1, 60, 5), background, random(1, 1, 60, 5))
    shapes = agree(
        SSD, *({"deltas": random(5, 1, 60, 4), "logits": x, "anchors": anchors()} for x in logits)
    )
    counts = [found[1][0] for found in shapes]
    assert counts[1] == 0 and min(counts[0], counts[2]) > 4


def test_yolo_head() -> None:
    maps, cells = random(0, 1, 21, 4, 4), random(1, 48, 4)
    shapes = agree(YOLO, *({"map": m, "cells": cells} for m in (maps, maps - 20, 3 * maps)))
    assert [found[3][0] for found in shapes][1:] == [0, 5]
    assert len({found[0] for found in shapes}) == 3


def parts(rows: int, start: int, end: int, k: int, mask: int) -> Feeds:
    """``mask``: in bits."""
    return {
        "x": 2 * random(rows, rows, 6),
        **{name: np.array([value]) for name, value in
           (("start", start), ("end", end), ("k", k))},
        "mask": np.array([mask >> bit & 1 for bit in range(6)], np.bool_),
    }  # fmt: skip


def test_slices_top_k_compress_and_unique() -> None:
    shapes = agree(
        PARTS,
        parts(9, 2, 7, 3, 0b101101),
        parts(9, -4, 100, 6, 0),
        parts(5, 4, 2, 0, 0b111111),
        parts(1, -100, -1, 1, 1),
    )
    assert [found[0][0] for found in shapes] == [5, 4, 0, 0]


TWICE = """<ir_version: 9, opset_import: ["" : 17]>
twice (float[N, 3] x, float[N, 3] y, bool[N] mask) => (float[s, 3] product)
{
  first = NonZero (mask)
  second = NonZero (mask)
  columns = Transpose (first)
  others = Transpose (second)
  left = GatherND (x, columns)
  right = GatherND (y, others)
  third = Compress <axis = 0> (y, mask)
  sum = Add (left, right)
  product = Mul (sum, third)
}"""


def test_one_mask_has_one_dim() -> None:
    """x[mask] + y[mask], as exporters write it: each indexing with a NonZero of its own."""
    masks = (np.array([1, 0, 1, 1, 0], np.bool_), np.zeros(5, np.bool_))
    shapes = agree(TWICE, *({"x": random(1, 5, 3), "y": random(2, 5, 3), "mask": m} for m in masks))
    assert [found[0] for found in shapes] == [(3, 3), (0, 3)]


def test_k_beyond_the_axis_is_an_error_of_the_run() -> None:
    graph = from_onnx(parser.parse_model(PARTS))
    session = Session.in_process(compile_graph(graph).image)
    with pytest.raises(InputError, match="would be 7; data may decide it from 0 to 6"):
        session.run(None, parts(3, 0, 1, 7, 1))


AWKWARD = """<ir_version: 9, opset_import: ["" : 17]>
awkward (float[N] x, float z, int64[1] start)
    => (float[a] sorted, int64[a] first, int64[N] which, int64[a] often,
        float[b] shown, float[c] one, int64[0, d] none)
<int64[1] end = {100}, int64[1] axis = {0}, int64[1] step = {9223372036854775807}>
{
  sorted, first, which, often = Unique (x)
  shown, shown_first, shown_which, shown_often = Unique <sorted = 0> (x)
  one = Slice (x, start, end, axis, step)
  none = NonZero (z)
}"""


@pytest.mark.parametrize("start", [2, -5, 100])
def test_equal_nans_steps_beyond_every_axis_and_scalars(start: int) -> None:
    feeds = {"z": np.float32(start - 2), "start": np.array([start])}
    values = ([1, np.nan, 0, -0.0, np.nan, 1], [np.nan], [2, -np.inf, np.inf])
    agree(AWKWARD, *({**feeds, "x": np.array(x, np.float32)} for x in values))


LARGEST = """<ir_version: 9, opset_import: ["" : 17]>
largest (float[N] x, int64[1] k) => (float[m] y) <float zero = {0}>
{
  is_positive = Less (zero, x)
  positive = Compress <axis = 0> (x, is_positive)
  y, places = TopK <axis = 0> (positive, k)
}"""


def test_a_dim_is_at_most_what_an_earlier_dim_is() -> None:
    """Not only what that could have been."""
    session = Session.in_process(compile_graph(from_onnx(parser.parse_model(LARGEST))).image)
    x = np.array([1, -1, 2, -2, 3, -4], np.float32)
    for k in (3, 0):
        (found,) = session.run(None, {"x": x, "k": np.array([k])})
        assert found.tolist() == [3, 2, 1][:k]
    with pytest.raises(InputError, match="would be 4; data may decide it from 0 to 3"):
        session.run(None, {"x": x, "k": np.array([4])})


FILTERED = """<ir_version: 9, opset_import: ["" : 17]>
filtered (float[N] x, float[1, 1, 3] w) => (float[1, 1, m] y)
<float zero = {0}, int64[3] image = {1, 1, -1}>
{
  is_positive = Less (zero, x)
  positive = Compress <axis = 0> (x, is_positive)
  row = Reshape (positive, image)
  y = Conv (row, w)
}"""


def test_outputs_that_would_have_less_than_nothing_are_errors() -> None:
    """A kernel of 3 over 2 elements gives nothing; over 1 element there is no result."""
    session = Session.in_process(compile_graph(from_onnx(parser.parse_model(FILTERED))).image)
    w = np.ones((1, 1, 3), np.float32)
    for count in (5, 2):
        x = np.array([1] * count + [-1] * 4, np.float32)
        assert session.run(None, {"x": x, "w": w})[0].shape == (1, 1, count - 2)
    with pytest.raises(InputError, match=r'Axis 2 of the output "y" would have -1 elements'):
        session.run(None, {"x": np.array([1, -1, -1], np.float32), "w": w})


NMS = """<ir_version: 9, opset_import: ["" : 17]>
nms (float[B, N, 4] boxes, float[B, C, N] scores, int64[1] most, float[1] iou{input})
    => (int64[n, 3] selected)
{{ selected = NonMaxSuppression <center_point_box = {center}> (boxes, scores, most, iou{name}) }}"""


@pytest.mark.parametrize(("center", "name"), [(0, ", least"), (1, "")])
def test_suppression_with_free_dims(center: int, name: str) -> None:
    """Ties go to the first; boxes may be flipped, equal, or without area."""
    text = NMS.format(center=center, name=name, input=", float[1] least" if name else "")
    feeds = []
    for batch, count, most, iou, least in [
        (2, 30, 4, 0.3, 0.5), (1, 1, 1, 0.5, 0.0), (1, 17, 50, 0.0, 0.2), (3, 20, 3, 0.9, 2.0),
    ]:  # fmt: skip
        rng = np.random.default_rng(count)
        given = {
            "boxes": (rng.integers(0, 9, (batch, count, 4)) / 4).astype(np.float32),
            "scores": (rng.integers(0, 9, (batch, 3, count)) / 8).astype(np.float32),
            "most": np.array([most]), "iou": np.array([iou], np.float32),
        }  # fmt: skip
        feeds.append({**given, "least": np.array([least], np.float32)} if name else given)
    shapes = agree(text, *feeds)
    assert (shapes[3][0] == (0, 3)) == bool(name)


@pytest.mark.parametrize("most", [0, 3, 2000])
def test_suppression_of_a_known_number(most: int) -> None:
    """A short list of kept boxes is searched instead of all boxes before."""
    text = NMS.format(center=0, name="", input="").replace(", int64[1] most", "")
    text = text.replace("    => (int64[n, 3] selected)", f"""    => (int64[n, 3] selected)
<int64[1] most = {{{most}}}>""")  # fmt: skip
    rng = np.random.default_rng(most)
    boxes = (rng.integers(0, 9, (2, 40, 4)) / 4).astype(np.float32)
    scores = (rng.integers(0, 9, (2, 3, 40)) / 8).astype(np.float32)
    feeds = {"boxes": boxes, "scores": scores, "iou": np.array([0.3], np.float32)}
    ((shape,),) = agree(text, feeds)
    assert shape[0] <= 6 * most


@pytest.mark.parametrize(("classes", "count"), [(0, 3), (2, 0)])
def test_suppression_of_nothing(classes: int, count: int) -> None:
    text = NMS.format(center=0, name=", least", input=", float[1] least")
    text = text.replace("B, N", f"1, {count}").replace("B, C, N", f"1, {classes}, {count}")
    feeds = {"boxes": random(0, 1, count, 4), "scores": random(1, 1, classes, count),
             "most": np.array([3]), "iou": np.zeros(1, np.float32),
             "least": np.zeros(1, np.float32)}  # fmt: skip
    assert agree(text, feeds) == [[(0, 3)]]


UNBOUNDED = """<ir_version: 9, opset_import: ["" : 17]>
unbounded (int64 last) => (int64[n] y) <int64 zero = {0}, int64 one = {1}>
{ y = Range (zero, last, one) }"""


def test_what_has_no_bound_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedOpError, match="Range 'y'.*computed from data") as caught:
        from_onnx(parser.parse_model(UNBOUNDED))
    assert isinstance(caught.value, NetloomError) and caught.value.hint
