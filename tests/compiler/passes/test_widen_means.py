"""Means and norms of short floats are those of float32, rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.differentiate import gradient_graph
from netloom.compiler.passes.widen_means import widened
from netloom.compiler.rewrite import rewrite
from netloom.compiler.tensor_type import BFLOAT16, FLOAT16, FLOAT32, DType, TensorType
from netloom.runtime.session import Session

CHANNELS = 6
PARAMETERS = {"layer_norm": 2, "rms_norm": 1, "group_norm": 2, "instance_norm": 2}
ATTRS: dict[str, dict[str, Any]] = {
    "layer_norm": {"axis": 2, "epsilon": 1e-12},
    "rms_norm": {"axis": 2, "epsilon": 1e-12},
    "group_norm": {"groups": 2, "epsilon": 1e-12},
    "instance_norm": {"epsilon": 1e-12},
    "lrn": {"size": 3, "alpha": 0.1},
    "softmax": {"axis": 2},
    "log_softmax": {"axis": 2},
    "reduce_mean": {"axes": (1, 2), "keep": True},
    "average_pool": {"kernel": (5, 30), "stride": (1, 1), "dilation": (1, 1), "lo": (0, 0), "hi": (0, 0),
                     "count_padding": True},
}  # fmt: skip


def _graph(op: str, dtype: DType) -> Graph:
    rng = np.random.default_rng(1)
    b = Builder("short")
    shape = (1, 2, CHANNELS, 40) if op == "average_pool" else (2, CHANNELS, 40)
    x = b.input(TensorType(dtype, shape), "x")
    size = 40 if op in ("layer_norm", "rms_norm") else CHANNELS
    rest: list[Value] = [
        b.constant(rng.uniform(0.5, 1.5, size).astype(dtype.numpy))
        for _ in range(PARAMETERS.get(op, 0))
    ]
    return b.build([b(op, x, *rest, **ATTRS[op])], ["y"])


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("op", ATTRS)
def test_sums_have_room_and_epsilon_counts(op: str, dtype: DType) -> None:
    """Squares and sums above 65504, and rows of zeros: as float64 says."""
    graph = _graph(op, dtype)
    wide = rewrite(graph, widened)
    assert {n.output.dtype for n in wide.nodes if n.op.name == op} == {FLOAT32}
    shape = graph.inputs[0].type.static_shape
    x = np.random.default_rng(2).uniform(600, 4000, shape).astype(dtype.numpy)
    x.reshape(-1, 40)[:2] = 0
    found = Session.in_process(compile_graph(graph).image, threads=1).run(None, {"x": x})[0]
    exact = _in_float64(op, graph, x.astype(np.float64))
    unit = 2.0 ** (-8 if dtype is BFLOAT16 else -11)
    np.testing.assert_allclose(found.astype(np.float64), exact, rtol=2 * unit, atol=4 * unit)
    np.testing.assert_array_equal(interpret(wide, {"x": x})[0], interpret(graph, {"x": x})[0])


def _in_float64(op: str, graph: Graph, x: np.ndarray) -> np.ndarray:
    attrs = ATTRS[op]
    scale, *shift = [
        node.attrs.value.array.astype(np.float64)
        for node in graph.nodes
        if node.op.name == "constant"
    ] or [np.ones(1)]
    match op:
        case "softmax" | "log_softmax":
            centred = x - x.max(axis=2, keepdims=True)
            total = np.exp(centred).sum(axis=2, keepdims=True)
            return np.exp(centred) / total if op == "softmax" else centred - np.log(total)
        case "reduce_mean":
            return x.mean(axis=(1, 2), keepdims=True)
        case "average_pool":
            windows = np.lib.stride_tricks.sliding_window_view(x, attrs["kernel"], axis=(2, 3))
            return windows.mean(axis=(4, 5))
        case "lrn":
            padded = np.pad(x * x, [(0, 0), (1, 1), (0, 0)])
            total = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
            return x / (1 + 0.1 / 3 * total) ** 0.75
        case "rms_norm":
            return x / np.sqrt((x * x).mean(axis=2, keepdims=True) + 1e-12) * scale
        case "layer_norm":
            return _standard(x, 2) * scale + shift[0]
        case _:
            parts = x.reshape(2, attrs.get("groups", CHANNELS), -1)
            normal = _standard(parts, 2).reshape(x.shape)
            return normal * scale[:, None] + shift[0][:, None]


def _standard(x: np.ndarray, axis: int) -> np.ndarray:
    centred = x - x.mean(axis=axis, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axis=axis, keepdims=True) + 1e-12)


# -- means that are made when others are decomposed ------------------------------------------------


def test_losses_of_many_short_floats() -> None:
    """Their means are made when they are decomposed: 40000 squares of 200, and 16384 rows."""
    b = Builder("loss")
    x, y = (b.input(TensorType(FLOAT16, (2,)), name) for name in "xy")
    logits = b.input(TensorType(FLOAT16, (16384, 10)), "logits")
    labels = b.constant(np.zeros(16384, np.int64))
    losses = [b("mean_squared_error", x, y), b("cross_entropy", logits, labels)]
    graph = b.build(losses)
    feeds = {
        "x": np.full(2, 200, np.float16),
        "y": np.zeros(2, np.float16),
        "logits": np.zeros((16384, 10), np.float16),
    }
    session = Session.in_process(compile_graph(graph).image, threads=1)
    for found in (session.run(None, feeds), interpret(graph, feeds)):
        np.testing.assert_allclose([float(a) for a in found], [40000, np.log(10)], rtol=1e-3)


@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
def test_gradients_of_norms_have_room(op: str) -> None:
    """Squares above 65504, and a constant row whose epsilon float16 does not hold."""
    b = Builder("slopes")
    x = b.input(TensorType(FLOAT16, (2, 40)), "x")
    rest = [b.constant(np.ones(40, np.float16)) for _ in range(PARAMETERS[op])]
    y = b(op, x, *rest, axis=1, epsilon=1e-12)
    weights = b.input(TensorType(FLOAT16, (2, 40)), "w")
    total = b("reduce_sum", b("mul", y, weights), axes=(0, 1), keep=False)
    graph = gradient_graph(b.build([total], ["total"]), "total", ["x"])
    rng = np.random.default_rng(3)
    feeds = {
        "x": rng.uniform(200, 900, (2, 40)).astype(np.float16),
        "w": rng.uniform(-1, 1, (2, 40)).astype(np.float16),
    }
    slopes = Session.in_process(compile_graph(graph).image, threads=1).run(None, feeds)[-1]
    exact = _slopes(op, feeds["x"].astype(np.float64), feeds["w"].astype(np.float64))
    np.testing.assert_allclose(slopes.astype(np.float64), exact, rtol=0.02, atol=2e-5)


def _slopes(op: str, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """By hand: dx = (w - mean(w) - y mean(w y)) / d for layer_norm, without mean(w) for rms_norm."""
    centred = x - x.mean(axis=1, keepdims=True) if op == "layer_norm" else x
    d = np.sqrt((centred * centred).mean(axis=1, keepdims=True))
    y = centred / d
    along = w - w.mean(axis=1, keepdims=True) if op == "layer_norm" else w
    return (along - y * (w * y).mean(axis=1, keepdims=True)) / d
