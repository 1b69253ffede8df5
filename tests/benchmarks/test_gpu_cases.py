"""The cases of benchmarks/gpu.py: weights that compress, exact results, and the full size."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import netloom as nl
from netloom.benchmarks.gpu_cases import VGG, Case, case_from, cases, error_of, inputs_of
from netloom.benchmarks.gpu_networks import network_cases, step_of
from netloom.benchmarks.gpu_weights import Periodic, feeds_of
from netloom.compiler.interpret import interpret_step
from netloom.compiler.targets.cuda.driver import TRAINING_PIPELINE, CudaOptions, plan
from netloom.compiler.targets.cuda.forms import FusedGradient
from netloom.runtime.program import PortInfo


def test_periodic_weights_compress_and_have_the_variance_of_random_ones() -> None:
    values = Periodic().standard_normal((512, 256, 3, 3))
    assert abs(float(values.std()) - 1) < 0.1 and abs(float(values.mean())) < 0.1
    assert len(lzma.compress(values.tobytes(), preset=1)) < values.nbytes / 100
    assert len({values[o, :61].tobytes() for o in range(61)}) == 61


def matmul(x: Any, w: Any) -> Any:
    return x @ w


def conv(x: Any, w: Any) -> Any:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return np.einsum("ncyxij,ocij->noyx", windows, w)


def softmax(x: Any) -> Any:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def attention(q: Any, k: Any, v: Any) -> Any:
    return softmax(q @ np.swapaxes(k, 2, 3) * q.shape[-1] ** -0.5) @ v


MEANINGS: dict[str, Callable[..., Any]] = {
    "matmul": matmul, "conv": conv, "attention": attention, "softmax": softmax,
    "add": np.add, "transpose": np.transpose,
    "relu": lambda x: np.maximum(x, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", cases("toy"), ids=lambda case: case.name)
def test_the_check_finds_wrong_results(case: Case) -> None:
    """Against NumPy, and off by a hundredth."""
    inputs = inputs_of(case)
    y = MEANINGS[case.kind](*(array.astype(np.float64) for array in inputs.values()))
    assert y.shape == case.output
    assert case.bytes == 4 * (y.size + sum(array.size for array in inputs.values()))
    assert error_of(case, inputs, y) <= 1e-12
    assert error_of(case, inputs, y * 1.01) > 5e-3


def test_the_full_size() -> None:
    names = [case.name for case in cases("full")]
    assert len(set(names)) == len(names)
    products = {case.x[0] for case in cases("full") if case.kind == "matmul"}
    assert products == {1024, 2048, 4096, 8192}
    vgg = sum(
        case.flops for case in cases("full") if "vgg" in case.name and "n1 direct" in case.name
    )
    assert vgg == pytest.approx(2 * 9 * sum(c * o * e * e for c, o, e in VGG))


def test_attention_counts_both_of_its_products() -> None:
    (case,) = [case for case in cases("full") if case.name == "attention 4x32 2048-2048 128"]
    assert case.flops == 2 * (2 * 4 * 32 * 2048 * 2048 * 128)


def test_cases_come_back_from_json() -> None:
    for case in cases("full"):
        assert case_from(json.loads(json.dumps(vars(case)))) == case


@pytest.mark.parametrize("precision", ["f32", "3xtf32"])
def test_a_training_step_has_attention_in_kernels(precision: str) -> None:
    """The full size's, of narrower heads: its gradient is two kernels by the engine."""
    (case,) = [c for c in network_cases("full")
               if c.network == "own:transformer" and c.precision == precision]  # fmt: skip
    graph, step = step_of(replace(case, options={"width": 64, "heads": 2, "blocks": 1}))
    graphs = {"run": graph.inference_form(), "train_step": step}
    _, placement, _ = plan(graphs, TRAINING_PIPELINE, CudaOptions(precision))
    forms = [k.form for k in placement.forms.values() if isinstance(k.form, FusedGradient)]
    assert sorted(form.is_across for form in forms) == [False, True]
    assert all(form.engine.value == precision for form in forms)


def test_a_batch_that_repeats_its_samples_has_their_losses() -> None:
    """Means over the batch are the same, those of a batch norm among them."""

    @nl.network
    def normed(x: nl.Symbolic) -> nl.Symbolic:
        return nl.dense(nl.flatten(nl.relu(nl.batch_norm(nl.conv2d(x, 4, 3)))), 10)

    losses: list[list[float]] = []
    for batch, repeats in ((3, 1), (6, 2)):
        graph = normed.graph(x=nl.tensor(batch, 2, 5, 5))
        step = nl.training_graph(graph, nl.losses.cross_entropy, nl.optimizers.SGD(momentum=0.9))
        ports = [
            PortInfo(v.label, v.dtype.value, v.type.static_shape)
            for v in step.inputs
            if v.label in ("x", "labels")
        ]
        feeds = feeds_of(ports, repeats)
        states: dict[str, Any] = {state.name: state.initial.array for state in step.states}
        losses.append([])
        for _ in range(3):
            (loss, *_), states = interpret_step(step, {**feeds, "rate": np.float32(0.1)}, states)
            losses[-1].append(float(loss))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0][2] < losses[0][0]
