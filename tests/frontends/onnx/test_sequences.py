# ruff: noqa: E501 - one row for each case
"""Sequences are resolved at import: models in ONNX's text form, and what NumPy gives for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx.parser
import pytest

from netloom.compiler.interpret import interpret
from netloom.errors import ModelError, NetloomError, UnsupportedOpError
from netloom.frontends.onnx import from_onnx
from netloom.frontends.onnx.sequences import SEQUENCES

Array = npt.NDArray[Any]
X = np.arange(12, dtype=np.float32).reshape(4, 3)


def model_of(body: str, output: str = "float y") -> onnx.ModelProto:
    """The model; its output's shape is not said."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[4, 3] x) => ({output}) {{ {body} }}'
    )
    model.graph.output[0].ClearField("type")
    return model


CASES: dict[str, tuple[str, Callable[[], Array]]] = {
    "a stack": ("s = SequenceConstruct(x, x, x)  y = ConcatFromSequence<axis = 1, new_axis = 1>(s)", lambda: np.stack([X] * 3, 1)),
    "joined": ("n = Neg(x)  s = SequenceConstruct(x, n)  y = ConcatFromSequence<axis = -1>(s)", lambda: np.concatenate([X, -X], 1)),
    "entries": ("s = SplitToSequence<axis = 0, keepdims = 0>(x)  i = Constant<value_int = -1>()  y = SequenceAt(s, i)", lambda: X[3]),
    "an entry that data decide": (
        "s = SplitToSequence<axis = 0, keepdims = 0>(x)  r = ArgMax<axis = 0, keepdims = 0>(x)  z = Constant<value_int = 0>()  "
        "m = Gather(r, z)  k = Constant<value_int = 5>()  i = Sub(m, k)  y = SequenceAt(s, i)", lambda: X[2]),
    "parts of one size": ("k = Constant<value_int = 3>()  s = SplitToSequence(x, k)  i = Constant<value_int = 1>()  y = SequenceAt(s, i)",
                          lambda: X[3:]),
    "parts of sizes": ("k = Constant<value_ints = [1, 3]>()  s = SplitToSequence(x, k)  i = Constant<value_int = 1>()  y = SequenceAt(s, i)",
                       lambda: X[1:]),
    "a length": ("k = Constant<value_int = 3>()  s = SplitToSequence(x, k)  y = SequenceLength(s)", lambda: np.array(2)),
    "inserted": ("e = SequenceEmpty()  n = Neg(x)  s = SequenceInsert(e, x)  i = Constant<value_int = 0>()  "
                 "t = SequenceInsert(s, n, i)  y = ConcatFromSequence<axis = 0>(t)", lambda: np.concatenate([-X, X])),
    "erased": ("n = Neg(x)  s = SequenceConstruct(x, n, x)  i = Constant<value_int = 0>()  t = SequenceErase(s, i)  "
               "u = SequenceErase(t)  y = ConcatFromSequence<axis = 0>(u)", lambda: -X),
    "grown in a loop": ("e = SequenceEmpty()  n = Constant<value_int = 3>()  c = Constant<value = bool {1}>()  "
                        "s = Loop(n, c, e) <body = b (int64 i, bool ci, seq(float) si) => (bool co, seq(float) so) "
                        "{ co = Identity(ci)  f = Cast<to = 1>(i)  v = Mul(x, f)  so = SequenceInsert(si, v) }>  "
                        "y = ConcatFromSequence<axis = 0, new_axis = 1>(s)", lambda: np.stack([X * k for k in range(3)])),
    "an optional": ("o = Optional(x)  h = OptionalHasElement(o)  g = OptionalGetElement(o)  z = Neg(g)  y = Where(h, z, x)", lambda: -X),
    "a choice": ("r = ReduceSum<keepdims = 0>(x)  zero = Constant<value_float = 0.0>()  c = Greater(r, zero)  s = If(c) <"
                 "then_branch = t () => (seq(float) a) { a = SequenceConstruct(x, x) }, "
                 "else_branch = f () => (seq(float) b) { n = Neg(x)  b = SequenceConstruct(n, n) }>  "
                 "y = ConcatFromSequence<axis = 0>(s)", lambda: np.concatenate([X, X])),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    body, expected = CASES[name]
    (found,) = interpret(from_onnx(model_of(body)), {"x": X})
    np.testing.assert_array_equal(found, expected())


def test_every_op_of_sequences_has_a_case() -> None:
    used = {node.op_type for body, _ in CASES.values() for node in model_of(body).graph.node}
    assert set(SEQUENCES.entries) - used - {"SequenceInsert"} == set()


def test_an_output_that_is_a_sequence_becomes_several() -> None:
    graph = from_onnx(model_of("n = Neg(x)  y = SequenceConstruct(x, n)", "seq(float) y"))
    assert graph.output_names == ("y.0", "y.1")


@pytest.mark.parametrize(("body", "kind", "words"), [
    ("s = SequenceConstruct(x, x)  i = Constant<value_int = 2>()  y = SequenceAt(s, i)", ModelError, "position 2 lies outside a sequence of 2"),
    ("i = Constant<value_int = 0>()  y = SequenceAt(x, i)", ModelError, "a sequence is needed"),
    ("s = SequenceConstruct(x, x)  y = Neg(s)", ModelError, "a tensor is needed"),
    ("s = SequenceEmpty()  y = ConcatFromSequence<axis = 0>(s)", UnsupportedOpError, "the sequence is empty"),
    ("t = Transpose(x)  s = SequenceConstruct(x, t)  r = ReduceSum<keepdims = 0>(x)  i = Cast<to = 7>(r)  y = SequenceAt(s, i)",
     UnsupportedOpError, "the tensors differ in shape"),
])  # fmt: skip
def test_refusals(body: str, kind: type[NetloomError], words: str) -> None:
    with pytest.raises(kind, match=words):
        from_onnx(model_of(body))
