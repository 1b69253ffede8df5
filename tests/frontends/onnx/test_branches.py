"""If whose branches have other shapes, compared with ONNX Runtime: where a free dim decides it, where
data do, and what cannot be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import parser

from netloom.compiler.driver import compile_graph
from netloom.compiler.interpret import interpret
from netloom.errors import ModelWarning, UnsupportedOpError
from netloom.frontends.onnx import from_onnx
from netloom.runtime.session import Session

HEAD = '<ir_version: 9, opset_import: ["" : 17]>\n'
SQUEEZED = """g (float[3, H] x) => (y) <int64[1] ax = {1}, int64 one = {1}, int64 i = {1}> {
  s = Shape(x)  size = Gather(s, i)  c = Equal(size, one)
  y = If<then_branch = t () => (a) { a = Squeeze(x, ax) },
         else_branch = e () => (b) { b = Identity(x) }>(c) }"""
CUT = """g (float[n, H] x, bool given) => (y)
  <int64[2] z = {0, 0}, int64[2] e = {2, 5}, int64 five = {5}, int64 i = {1}> {
  s = Shape(x)  size = Gather(s, i)  is_wide = Less(five, size)  c = And(is_wide, given)
  y = If<then_branch = t () => (a) { a = Slice(x, z, e) },
         else_branch = f () => (b) { b = Neg(x) }>(c) }"""
FOUND = """g (float[n, 4] x) => (y)
  <float half = {0.5}, int64[1] z = {0}, int64 zero = {0}, int64[2] none = {0, 4}> {
  s = ReduceMax<axes = [1], keepdims = 0>(x)  is_high = Greater(s, half)  at = NonZero(is_high)
  rows = Squeeze(at, z)  count = Size(rows)  c = Equal(count, zero)
  y = If<then_branch = t () => (a) { a = ConstantOfShape(none) },
         else_branch = f () => (b) { b = Gather(x, rows) }>(c) }"""


def model_of(text: str) -> onnx.ModelProto:
    return parser.parse_model(HEAD + text)


def agree(text: str, *feeds: dict[str, Any], dims: dict[str, Any] | None = None) -> None:
    """Interpreter and program give what ONNX Runtime gives."""
    model = model_of(text)
    graph = from_onnx(model, dims=dims)
    session = Session.in_process(compile_graph(graph).image)
    runtime = onnxruntime.InferenceSession(model.SerializeToString())
    for given in feeds:
        (expected,) = runtime.run(None, given)
        for (found,) in (interpret(graph, given), session.run(None, given)):
            assert found.shape == expected.shape
            np.testing.assert_array_equal(found, expected)


def x(*shape: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(0).random(shape).astype(np.float32)}


def test_a_free_dim_is_not_the_one_number_that_is_squeezed() -> None:
    """Unless it is fixed to that; the user is told."""
    with pytest.warns(ModelWarning, match="If 'y': the free dim H is 2 at least"):
        graph = from_onnx(model_of(SQUEEZED))
    assert [str(extent) for extent in graph.outputs[0].shape] == ["3", "H"]
    (symbol,) = graph.symbols
    assert symbol.lo == 2
    agree(SQUEEZED, x(3, 4), dims={"H": range(2, 9)})
    agree(SQUEEZED, x(3, 1), dims={"H": 1})


def test_other_comparisons_of_free_dims() -> None:
    """A branch fits for some numbers only: which those are decides between the branches."""
    text = SQUEEZED.replace(
        "c = Equal(size, one)", "is_one = LessOrEqual(size, one)  c = Not(is_one)"
    )
    text = text.replace("then_branch", "other").replace("else_branch", "then_branch")
    with pytest.warns(ModelWarning, match="2 at least"):
        graph = from_onnx(model_of(text.replace("other", "else_branch")))
    assert [str(extent) for extent in graph.outputs[0].shape] == ["3", "H"]


def test_extents_that_data_decide() -> None:
    wide, narrow = x(3, 8), x(3, 4)
    yes, no = {"given": np.array(True)}, {"given": np.array(False)}
    agree(CUT, {**wide, **yes}, {**wide, **no}, {**narrow, **yes}, {"x": wide["x"][:1], **yes})


def test_nothing_found() -> None:
    agree(FOUND, x(5, 4), {"x": np.zeros((5, 4), np.float32)})


def test_ranks_cannot_depend_on_data() -> None:
    text = SQUEEZED.replace("x) => (y)", "x, bool c) => (y)").replace("c = Equal(size, one)", "")
    with pytest.raises(UnsupportedOpError, match="If 'y': .* only extents may be so"):
        from_onnx(model_of(text), dims={"H": 1})


def hiding(text: str) -> onnx.ModelProto:
    """The parser gives no name twice: v in a nested graph becomes w, a name outside."""
    model = model_of(text)
    (node,) = (node for node in model.graph.node if node.op_type in ("If", "Loop"))
    for graph in (attribute.g for attribute in node.attribute):
        for port in (*graph.input, *graph.initializer):
            port.name = {"v": "w"}.get(port.name, port.name)
        for inner in graph.node:
            inner.input[:] = [{"v": "w"}.get(name, name) for name in inner.input]
    return model


@pytest.mark.parametrize("text", [
    """g (float[3, 2] x, bool c) => (y) <float[1] w = {2}> { z = Mul(x, w)
    y = If<then_branch = t () => (a) <float[1] v = {5}> { a = Mul(z, v) },
           else_branch = e () => (b) { b = Neg(z) }>(c) }""",
    """g (float[3, 2] x, bool c) => (y) <int64 n = {3}> { w = Neg(x)
    y = Loop(n, c, x) <body = b (int64 i, bool d, float[3, 2] v) => (bool e, float[3, 2] u) {
      e = Identity(d)  u = Add(v, v) }> }""",
])  # fmt: skip
def test_names_inside_hide_those_outside(text: str) -> None:
    """As in ONNX Runtime, unless another branch reads the hidden value."""
    model = hiding(text)
    graph, runtime = from_onnx(model), onnxruntime.InferenceSession(model.SerializeToString())
    for holds in (True, False):
        given = {**x(3, 2), "c": np.array(holds)}
        np.testing.assert_array_equal(interpret(graph, given)[0], runtime.run(None, given)[0])


def test_a_loop_that_never_begins_has_empty_results() -> None:
    text = """g (float[3, 2] x) => (y, z) <int64 n = {4}, bool c = {0}> {
      y, z = Loop(n, c, x) <body = b (int64 i, bool d, float[3, 2] v) => (bool e, float[3, 2] u, float[3, 2] w) {
        e = Identity(d)  u = Add(v, v)  w = Neg(v) }> }"""
    graph = from_onnx(model_of(text))
    y, z = interpret(graph, x(3, 2))
    np.testing.assert_array_equal(y, x(3, 2)["x"])
    assert z.shape == (0, 3, 2)


def test_a_loop_that_never_begins_asks_for_no_number_of_steps() -> None:
    text = """g (float[3, 2] x, int64 n) => (y) <bool c = {0}> {
      y = Loop(n, c, x) <body = b (int64 i, bool d, float[3, 2] v) => (bool e, float[3, 2] u) {
        e = Identity(d)  u = Add(v, v) }> }"""
    (y,) = interpret(from_onnx(model_of(text)), {**x(3, 2), "n": np.array(5)})
    np.testing.assert_array_equal(y, x(3, 2)["x"])
