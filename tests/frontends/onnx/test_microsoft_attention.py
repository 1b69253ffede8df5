"""ONNX Runtime's attention ops against ONNX Runtime: masks, past keys and values, shared heads,
rotary positions; and as compiled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import netloom as nl
from netloom.errors import NetloomError
from netloom.frontends.onnx import from_onnx

from .runtime_case import (
    RNG,
    Array,
    Case,
    case,
    check_case,
    compare,
    expected_of,
    f,
    model_of,
    q,
    r,
    u,
)

PRESENT = ("y", "keys", "values")


def ints(*numbers: Any) -> Array:
    return np.array(numbers, np.int32)


MASK = ints([1, 1, 1, 0], [1, 0, 0, 0])
ANGLES = RNG.random((16, 4)).astype(np.float32)
COSINES, SINES = np.cos(ANGLES), np.sin(ANGLES)
TURNS = tuple(np.tile(table, (1, 2)) for table in (COSINES, SINES))


def own(*more: Array | None, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> Case:
    """Attention of 2 x 4 rows with 2 heads."""
    weights, bias = r(6, 24), r(24)
    return case(
        "Attention", r(2, 4, 6), weights, bias, *more, num_heads=2, outputs=outputs, **attributes
    )


def multi(*inputs: Array | None, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> Case:
    return case("MultiHeadAttention", *inputs, num_heads=2, outputs=outputs, **attributes)


def grouped(
    *inputs: Array | None, last: tuple[int, ...], keys: int, more: tuple[Array | None, ...] = (),
    **attributes: Any,
) -> Case:  # fmt: skip
    """GroupQueryAttention of 4 heads, two of which share keys."""
    return case(
        "GroupQueryAttention", *inputs, ints(*last), np.array(keys, np.int32), *more,
        num_heads=4, kv_num_heads=2, outputs=PRESENT, first_fixed=5, **attributes,
    )  # fmt: skip


ROWS = (r(2, 3, 64), r(2, 3, 32), r(2, 3, 32))
STEP = (r(2, 1, 64), r(2, 1, 32), r(2, 1, 32), r(2, 2, 5, 16), r(2, 2, 5, 16))
CASES = [
    own(), own(unidirectional=1), own(MASK), own(MASK, unidirectional=1), own(ints(4, 2)),
    own(ints(4, 3, 0, 1)), own(np.tile(MASK[:, None], (1, 4, 1))), own(scale=0.5),
    own(None, None, r(1, 2, 4, 4)), own(MASK, None, r(2, 2, 4, 4)),
    own(None, r(2, 2, 2, 3, 4), unidirectional=1, outputs=("y", "present")),
    own(np.ones((2, 7), np.int32), r(2, 2, 2, 3, 4), outputs=("y", "present")),
    own(qkv_hidden_sizes=[8, 8, 8]),
    case("Attention", r(2, 4, 6), r(6, 20), r(20), num_heads=2, qkv_hidden_sizes=[8, 8, 4]),
    *(case("QAttention", q(2, 3, 4), q(4, 12, dtype=np.int8), r(12), f(0.125), scale, mask, u(128),
           np.array(3, np.int8), num_heads=2)
      for scale, mask in ((f(0.0625), None), (f(0.25), ints(3, 2)))),
    multi(r(2, 3, 8), r(2, 5, 8), r(2, 5, 8)),
    multi(r(2, 3, 8), r(2, 5, 8), r(2, 5, 12), r(28), outputs=PRESENT, first_fixed=3),
    multi(r(2, 3, 8), r(2, 5, 8), r(2, 5, 8), None, np.ones((2, 5), np.int32), r(1, 2, 3, 5)),
    multi(r(2, 3, 8), r(2, 5, 8), r(2, 5, 8), None, ints(5, 2)),
    multi(r(2, 3, 8), r(2, 3, 8), r(2, 3, 8), unidirectional=1),
    multi(r(2, 3, 8), r(2, 2, 5, 4), r(2, 2, 5, 4), r(24), first_fixed=3),
    multi(r(2, 3, 8), r(2, 3, 8), r(2, 3, 8), None, None, None, r(2, 2, 4, 4), r(2, 2, 4, 4),
          unidirectional=1, outputs=PRESENT, first_fixed=8),
    *(case("RotaryEmbedding", x, places, COSINES, SINES, interleaved=interleaved, first_fixed=2)
      for x in (r(2, 3, 16), r(2, 2, 3, 8)) for interleaved in (0, 1)
      for places in (np.array([[0, 1, 2], [5, 6, 7]]), np.array([4]))),
    case("RotaryEmbedding", r(2, 3, 24), np.array([[0, 1, 2], [5, 6, 7]]), COSINES, SINES,
         num_heads=2, rotary_embedding_dim=8, first_fixed=2),
    grouped(*ROWS, None, None, last=(2, 2), keys=3),
    grouped(r(2, 3, 128), None, None, None, None, last=(2, 2), keys=3),
    grouped(*ROWS, None, None, last=(2, 2), keys=3, more=TURNS, do_rotary=1),
    grouped(*ROWS, None, None, last=(2, 2), keys=3, local_window_size=2),
    grouped(*ROWS, None, None, last=(2, 2), keys=3, softcap=2.0),
    grouped(*ROWS, None, None, last=(2, 2), keys=3, smooth_softmax=1),
    grouped(*STEP, last=(5, 5), keys=6),
    grouped(*STEP, last=(5, 5), keys=6, more=TURNS, do_rotary=1, rotary_interleaved=1),
    grouped(*STEP, last=(5, 5), keys=6, local_window_size=3, scale=0.25),
]  # fmt: skip


@pytest.mark.parametrize("c", CASES, ids=[f"{k}-{c.op}" for k, c in enumerate(CASES)])
def test_case(c: Case) -> None:
    check_case(c)


@pytest.mark.parametrize("c", [CASES[3], CASES[-2]], ids=["masked", "grouped"])
def test_compiled(c: Case) -> None:
    model, given = model_of(c)
    found = nl.compile(from_onnx(model), threads=1).session.run(None, given)
    compare(found, expected_of(model, given))


def free_step() -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A step whose past is as long as a free dim says; the number of keys follows from shapes."""
    model, given = model_of(grouped(*STEP, last=(5, 5), keys=6, more=TURNS, do_rotary=1))
    graph = model.graph
    for port in graph.input:
        if port.name in ("x3", "x4"):
            port.type.tensor_type.shape.dim[2].dim_param = "past"
    kept = [tensor for tensor in graph.initializer if tensor.name != "x6"]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.append(helper.make_tensor("two", 7, [], [2]))
    graph.initializer.append(helper.make_tensor("one", 7, [], [1]))
    first = [
        helper.make_node("Shape", ["x3"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["past"], axis=0),
        helper.make_node("Add", ["past", "one"], ["all"]),
        helper.make_node("Cast", ["all"], ["x6"], to=6),
    ]
    nodes = [*first, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model, given


def test_free_past() -> None:
    model, given = free_step()
    found = nl.compile(from_onnx(model), threads=1).session.run(None, given)
    compare(found, expected_of(model, given))


@pytest.mark.parametrize(("c", "words"), [
    (own(do_rotary=1), "do_rotary is not supported"),
    (own(r(2, 1, 9, 9)), "its mask is"),
    (own(None, r(2, 2, 3, 3, 4)), "its past is"),
    (case("Attention", r(2, 4, 6), r(6, 23), num_heads=2), "its queries, keys and values are"),
    (case("Attention", r(2, 4, 6), r(6, 24)), "num_heads is 0"),
    (multi(r(2, 3, 8)), "without keys"),
    (multi(r(2, 3, 2, 2, 4)), "its packed input is"),
    (grouped(*STEP, last=(5, 5), keys=9), "of 9 in all"),
    (case("RotaryEmbedding", r(2, 3, 15), np.array([4]), COSINES, SINES), "its input is"),
])  # fmt: skip
def test_what_is_impossible_is_refused(c: Case, words: str) -> None:
    with pytest.raises(NetloomError, match=words):
        from_onnx(model_of(c)[0])
