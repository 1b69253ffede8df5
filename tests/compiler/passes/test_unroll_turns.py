"""Turns of a known number as copies: what they mean, that weights stay one, their gradients, programs
for CUDA, and what stays turns.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

import netloom as nl
from netloom.compiler.graph import Graph
from netloom.compiler.interpret import interpret, interpret_step
from netloom.compiler.passes.unroll_turns import unroll_turns
from netloom.compiler.targets.cuda.driver import PIPELINE, plan
from netloom.errors import UnsupportedOpError

STEPS = 40
SCAN = """<ir_version: 9, opset_import: ["" : 17]>
recurrent (float[LENGTH, 2, 3] x, float[2, 3] h) => (last, ys)
<float[3, 3] u = {0.5, -0.25, 0.125, 0, 0.5, -0.5, 0.25, 0, 0.25}>
{
  last, ys = Scan <num_scan_inputs = 1, body = step (float[2, 3] before, float[2, 3] entry)
      => (float[2, 3] after, float[2, 3] copy) {
    product = MatMul(before, u)  total = Add(product, entry)  after = Tanh(total)
    copy = Identity(after) }>(h, x)
}"""


def scan(length: str = str(STEPS)) -> onnx.ModelProto:
    return parser.parse_model(SCAN.replace("LENGTH", length))


def walked(x: np.ndarray, h: np.ndarray, u: np.ndarray) -> list[np.ndarray]:
    """In float64."""
    ys = []
    for entry in x.astype(np.float64):
        h = np.tanh(h @ u.astype(np.float64) + entry)
        ys.append(h)
    return [h, np.stack(ys)]


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32)
            for name, shape in (("x", (STEPS, 2, 3)), ("h", (2, 3)))}  # fmt: skip


def ops(graph: Graph) -> list[str]:
    return [node.op.name for _, node in graph.walk()]


def test_copies_mean_what_turns_do() -> None:
    graph, given = nl.from_onnx(scan()), feeds()
    copies = unroll_turns(graph)
    assert "iterate" in ops(graph)
    assert "iterate" not in ops(copies)
    assert ops(copies).count("matmul") == STEPS
    weights = [node for node in copies.nodes if node.label == "u"]
    assert len(weights) == 1
    u = weights[0].attrs.value.array
    for a, b in zip(interpret(copies, given), walked(given["x"], given["h"], u), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_turns_within_turns() -> None:
    """The inner ones, of a number that the outer one's decides, become copies too."""
    text = """<ir_version: 9, opset_import: ["" : 17]> sums (float[3] x) => (y)
    <int64 outer = {33}, int64 inner = {34}, bool yes = {1}> {
      y = Loop<body = once (int64 i, bool c, float[3] a) => (bool d, float[3] b) {
        d = Identity(c)
        b = Loop<body = again (int64 k, bool e, float[3] p) => (bool f, float[3] q) {
          f = Identity(e)  sum = Add(i, k)  number = Cast<to = 1>(sum)  q = Add(p, number) }>(inner, yes, a)
      }>(outer, yes, x) }"""
    copies = unroll_turns(nl.from_onnx(parser.parse_model(text)))
    assert "iterate" not in ops(copies)
    x = np.arange(3, dtype=np.float32)
    total = sum(i + k for i in range(33) for k in range(34))
    np.testing.assert_array_equal(interpret(copies, {"x": x})[0], x + total)


def test_a_step_of_training_has_the_gradient_of_all_copies() -> None:
    """Its update is rate times the slope of the loss in float64, along a direction."""
    network, given = nl.trainable(nl.from_onnx(scan())), feeds()
    assert [state.name for state in network.states] == ["u"]
    loss = lambda last, _ys, _target: nl.reduce_sum(last)  # noqa: E731
    step = nl.training_graph(network, loss, nl.optimizers.SGD(1.0))
    before = {state.name: state.initial.array for state in step.states}
    more = {"labels": np.zeros((2, 3), np.float32), "rate": np.float32(1)}
    _, after = interpret_step(step, {**given, **more}, before)
    gradient, along = before["u"] - after["u"], np.random.default_rng(1).standard_normal((3, 3))
    ends = [walked(given["x"], given["h"], before["u"] + e * along)[0].sum()
            for e in (1e-6, -1e-6)]  # fmt: skip
    assert (gradient * along).sum() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4)


def test_devices_run_copies() -> None:
    program, _, _ = plan({"run": nl.from_onnx(scan())}, PIPELINE, None)
    assert len(program.entries[0].launches) >= STEPS


def test_turns_of_another_number_stay() -> None:
    free = nl.from_onnx(scan("n"))
    assert unroll_turns(free) is free
    with pytest.raises(UnsupportedOpError, match="weights cannot be trained: .* how many turns"):
        nl.trainable(free)
