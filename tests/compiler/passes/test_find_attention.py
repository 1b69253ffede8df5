"""Attention is found in every form that it is written in, with the same meaning, and nowhere
else.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler.dim import symbol
from netloom.compiler.graph import Builder, Graph, Node, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.decompose import decompose
from netloom.compiler.passes.find_attention import find_attention
from netloom.compiler.pipeline import GRAPH_PASSES, Pipeline
from netloom.compiler.tensor_type import (
    BFLOAT16,
    BOOL,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    DType,
    TensorType,
)

Array = npt.NDArray[Any]
HEADS, QUERIES, KEYS, DEPTH, WIDTH = (2, 3), 6, 7, 5, 4
TRIANGLE = np.tri(QUERIES, KEYS, dtype=np.bool_)
SCALES = ("none", "times", "over", "query", "key", "both")
MASKS = ("none", "added", "chosen", "turned", "triangle added", "triangle chosen")
HIDING = (False, True)


class Written:
    """A graph of attention out of small ops; ``values`` are its inputs, of ``dtype`` but for masks
    of bools."""

    def __init__(self, dtype: DType = FLOAT32) -> None:
        self.b, self.dtype = Builder("attention"), dtype
        self.values: dict[str, Array] = {}

    def input(self, name: str, *shape: int, dtype: DType | None = None) -> Value:
        dtype = dtype or self.dtype
        rng = np.random.default_rng(len(self.values))
        array = (
            rng.random(shape) < 0.7
            if dtype is BOOL
            else rng.standard_normal(shape).astype(dtype.numpy)
        )
        self.values[name] = array
        return self.b.input(TensorType(dtype, shape), name)

    def operands(self) -> tuple[Value, Value, Value]:
        return (
            self.input("q", *HEADS, QUERIES, DEPTH), self.input("k", *HEADS, KEYS, DEPTH),
            self.input("v", *HEADS, KEYS, WIDTH)
        )  # fmt: skip

    def scores(self, q: Value, k: Value, scale: str = "none") -> Value:
        b = self.b
        q = b("mul", q, 0.5) if scale in ("query", "both") else q
        k = b("mul", 0.25, k) if scale in ("key", "both") else k
        scores = b("matmul", q, b("transpose", k, permutation=(0, 1, 3, 2)))
        return (
            b("mul", scores, 0.3)
            if scale == "times"
            else b("div", scores, 3.0)
            if scale == "over"
            else scores
        )

    def masked(self, scores: Value, mask: str) -> Value:
        b = self.b
        match mask:
            case "added":
                return b("add", scores, self.input("mask", 2, 1, 1, KEYS))
            case "chosen":
                return b("select", self.input("mask", 1, QUERIES, KEYS, dtype=BOOL), scores, -1e4)
            case "turned":
                return b("select", self.input("mask", QUERIES, KEYS, dtype=BOOL), -np.inf, scores)
            case "triangle added":
                hidden = np.where(TRIANGLE, 0, -np.inf)
                return b("add", scores, b.constant(hidden.astype(self.dtype.numpy)))
            case "triangle chosen":
                return b("select", b.constant(TRIANGLE[None, None]), scores, -np.inf)
        return scores

    def graph(self, *results: Value) -> Graph:
        return Pipeline(GRAPH_PASSES).run(self.b.build(list(results)))[0]


def found_in(graph: Graph) -> list[Node]:
    return [node for node in find_attention(graph).nodes if node.op.name == "attention"]


@pytest.mark.parametrize(("scale", "mask"), list(product(SCALES, MASKS)))
def test_every_form_becomes_one_op(scale: str, mask: str) -> None:
    for is_hiding in HIDING:
        w = Written()
        q, k, v = w.operands()
        scores = w.masked(w.scores(q, k, scale), mask)
        if is_hiding:
            scores = w.b("select", w.b.constant(TRIANGLE), scores, -np.inf)
        graph = w.graph(w.b("matmul", w.b("softmax", scores, axis=3), v))
        (node,) = found_in(graph)
        factor = {"times": 0.3, "over": 1 / 3, "query": 0.5, "key": 0.25, "both": 0.125}.get(
            scale, 1.0
        )
        assert node.attrs.scale == pytest.approx(factor, rel=1e-6)
        assert node.attrs.is_causal is (is_hiding or mask.startswith("triangle"))
        assert len(node.inputs) == (4 if mask in ("added", "chosen", "turned") else 3)
        assert [n.op.name for n in find_attention(graph).nodes if n.op.family == "matmul"] == []
        (before,), (after,) = (interpret(g, w.values) for g in (graph, find_attention(graph)))
        assert np.allclose(before, after, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("mask", MASKS)
def test_short_floats_become_one_op_too(mask: str, dtype: DType) -> None:
    """Their softmax is one of float32."""
    for is_hiding in HIDING:
        w = Written(dtype)
        q, k, v = w.operands()
        scores = w.masked(w.scores(q, k, "times"), mask)
        if is_hiding:
            scores = w.b("select", w.b.constant(TRIANGLE), scores, -np.inf)
        graph = w.graph(w.b("matmul", w.b("softmax", scores, axis=3), v))
        (node,) = found_in(graph)
        assert node.output.dtype is dtype
        before, after = (
            interpret(g, w.values)[0].astype(np.float64) for g in (graph, find_attention(graph))
        )
        unit = 2.0 ** (-8 if dtype is BFLOAT16 else -11)
        assert np.allclose(before, after, rtol=16 * unit, atol=16 * unit, equal_nan=True)


def test_rows_without_keys_of_short_floats() -> None:
    """Zeros, where what a mask adds is -inf."""
    w = Written(FLOAT16)
    b, (q, k, v) = w.b, w.operands()
    mask = w.input("mask", QUERIES, KEYS)
    w.values["mask"][1] = -np.inf
    weights = b("softmax", b("add", w.scores(q, k), mask), axis=3)
    largest = b("reduce_max", mask, axes=(1,), keep=True)
    kept = b("select", b("equal", largest, -np.inf), 0.0, weights)
    graph = w.graph(b("matmul", kept, v))
    (node,) = found_in(graph)
    assert node.attrs.has_zeros
    assert not interpret(find_attention(graph), w.values)[0][:, :, 1].any()


def test_weights_of_many_short_keys() -> None:
    """More than float16 counts to: their sum is one of float32 wherever attention is products."""
    w = Written(FLOAT16)
    keys = 70000
    q, k, v = w.input("q", 1, 1), w.input("k", keys, 1), w.input("v", keys, 1)
    w.values.update(k=np.zeros((keys, 1), np.float16), v=np.ones((keys, 1), np.float16))
    (found,) = interpret(decompose(w.b.build([w.b("attention", q, k, v)])), w.values)
    assert float(found[0, 0]) == pytest.approx(1, rel=4e-3)  # 1 / 70000 is a denormal


@pytest.mark.parametrize("scores", [FLOAT32, FLOAT16])
def test_a_softmax_of_more_digits_stays(scores: DType) -> None:
    w = Written(scores)
    b, (q, k, v) = w.b, w.operands()
    weights = b("softmax", b("cast", w.scores(q, k), dtype=FLOAT64), axis=3)
    assert found_in(w.graph(b("matmul", b("cast", weights, dtype=scores), v))) == []


def test_keys_that_are_transposed_once_or_not_at_all() -> None:
    """Keys as [.., s, h, d] in memory, as their transpose [.., d, s], and values to be
    transposed.
    """
    for form in ("heads behind", "transposed", "values transposed"):
        w = Written()
        b, q = w.b, w.input("q", *HEADS, QUERIES, DEPTH)
        if form == "heads behind":
            keys = b("transpose", w.input("k", 2, KEYS, 3, DEPTH), permutation=(0, 2, 3, 1))
        else:
            keys = w.input("k", *HEADS, DEPTH, KEYS)
        weights = b("softmax", b("matmul", q, keys), axis=3)
        if form == "values transposed":
            result = b("matmul", weights, w.input("v", *HEADS, WIDTH, KEYS), transpose_b=True)
        else:
            result = b("matmul", weights, w.input("v", *HEADS, KEYS, WIDTH))
        graph = w.graph(result)
        assert len(found_in(graph)) == 1
        transposes = [n for n in find_attention(graph).nodes if n.op.name == "transpose"]
        assert len(transposes) == {"heads behind": 1, "transposed": 1, "values transposed": 2}[form]
        (before,), (after,) = (interpret(g, w.values) for g in (graph, find_attention(graph)))
        assert np.allclose(before, after, rtol=1e-5, atol=1e-6)


def test_a_free_length_keeps_its_triangle() -> None:
    length = symbol("L", 1, 99)
    b = Builder("free")
    q, k, v = (b.input(TensorType(FLOAT32, (2, length, 4)), name) for name in "qkv")
    graph, _ = Pipeline(GRAPH_PASSES).run(
        b.build([b("attention", q, k, v, is_causal=True, scale=0.5)])
    )
    (node,) = found_in(graph)
    assert node.attrs.is_causal and node.attrs.scale == 0.5 and len(node.inputs) == 3


@pytest.mark.parametrize(
    "fault",
    [
        "weights read",
        "scores read",
        "other axis",
        "wider mask",
        "scaled by a vector",
        "other triangle",
    ],
)
def test_it_is_found_nowhere_else(fault: str) -> None:
    w = Written()
    b, (q, k, v) = w.b, w.operands()
    scores = w.scores(q, k)
    more: list[Value] = [b("exp", scores)] if fault == "scores read" else []
    match fault:
        case "wider mask":
            q = w.input("one", 1, 1, QUERIES, DEPTH)
            few = w.b("matmul", q, w.input("few", 1, 1, KEYS, DEPTH), transpose_b=True)
            scores = b("add", few, w.input("mask", 2, 3, 1, KEYS))
        case "scaled by a vector":
            scores = b("mul", scores, w.input("factors", QUERIES, 1))
        case "other triangle":
            scores = b(
                "select", b.constant(np.tri(QUERIES, KEYS, 1, dtype=np.bool_)), scores, -np.inf
            )
            scores = b(
                "select", b.constant(np.tri(QUERIES, KEYS, 2, dtype=np.bool_)), scores, -np.inf
            )
    weights = b("softmax", scores, axis=2 if fault == "other axis" else 3)
    more += [weights] if fault == "weights read" else []
    assert found_in(w.graph(b("matmul", weights, v), *more)) == []
