"""Strategies on the cuda target: which are chosen and why, and that each keeps its budget from
graph to PTX.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

from netloom.benchmarks.models import light_models
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.passes.select_strategies import Decision
from netloom.compiler.strategies import BY_NAME
from netloom.compiler.targets.cuda.compile import is_available
from netloom.compiler.targets.cuda.driver import PIPELINE, CudaOptions, plan
from netloom.compiler.targets.cuda.forms import Engine
from netloom.compiler.targets.cuda.strategies import OWN, select_for_device
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.errors import MemoryBudgetError, UsageError
from netloom.frontends.onnx.importer import from_onnx
from tests.compiler.targets.cuda import emulated

KNOWN = {s.name: s for s in (*BY_NAME.values(), *OWN) if "conv" in s.ops}
AWKWARD = ((1, 19, 17, 7, 9), (2, 16, 33, 4, 5))  # n, c, o, h, w
SMALL = ((1, 3, 5, 4, 5), (2, 4, 3, 3, 4))  # for the product with the whole matrix
needs_compiler = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)


def convolution(n: int, c: int, o: int, h: int, w: int, kernel: int = 3, stride: int = 1) -> Graph:
    b = Builder("conv")
    x = b.input(TensorType(FLOAT32, (n, c, h, w)), "x")
    weights = np.random.default_rng(0).standard_normal((o, c, kernel, kernel)).astype(
        np.float32
    ) * np.float32((2 / (9 * c)) ** 0.5)
    pads = (kernel // 2,) * 2
    y = b(
        "conv",
        x,
        b.constant(weights),
        stride=(stride,) * 2,
        dilation=(1, 1),
        lo=pads,
        hi=pads,
        groups=1,
        label="conv",
    )
    return b.build([b("relu", y)], ["y"])


def chosen(graph: Graph, options: CudaOptions) -> str:
    plan({"run": graph}, PIPELINE, options)
    (decision,) = options.decisions
    return decision.strategy


@needs_compiler
@pytest.mark.parametrize(("options", "strategy"), [
    (CudaOptions(), "winograd_f4"), (CudaOptions(accuracy="strict"), "winograd_f2_fused"),
    (CudaOptions("3xtf32"), "winograd_f4"),
    (CudaOptions("tf32"), "direct"), (CudaOptions("bf16"), "direct"),
    (CudaOptions(override="direct"), "direct"),
    (CudaOptions(override="conv=winograd_f2"), "winograd_f2"),
    (CudaOptions(override="other=winograd_f2"), "winograd_f4"),
], ids=str)  # fmt: skip
def test_a_large_convolution(options: CudaOptions, strategy: str) -> None:
    assert chosen(convolution(16, 256, 256, 56, 56), options) == strategy


def test_what_would_not_fit_a_device_is_not_chosen() -> None:
    """Transformed tiles of more than 2 GiB, of an image that has less."""
    options = CudaOptions()
    assert chosen(convolution(100, 64, 64, 224, 224), options) in ("direct", "winograd_f2_fused")
    for name in ("winograd_f2", "winograd_f4"):
        assert "bytes is too large for the cuda target" in options.decisions[0].rejected[name]
    with pytest.raises(MemoryBudgetError, match="bytes is too large for the cuda target"):
        chosen(convolution(200, 64, 64, 224, 224), CudaOptions())


@needs_compiler
def test_what_does_not_apply_is_direct_and_says_why() -> None:
    for graph, reason in (
        (convolution(16, 64, 64, 56, 56, stride=2), "stride"),
        (convolution(16, 64, 64, 56, 56, kernel=1), "kernel"),
    ):
        options = CudaOptions()
        assert chosen(graph, options) == "direct"
        assert reason in options.decisions[0].rejected["winograd_f2"]
    options = CudaOptions("tf32")
    chosen(convolution(16, 64, 64, 56, 56), options)
    assert (
        options.decisions[0].rejected["winograd_f4"]
        == "its transforms would amplify the rounding of tf32"
    )


@needs_compiler
@pytest.mark.parametrize("name", [name for name in BY_NAME if name.startswith("fft")])
def test_fourier_transforms_are_not_chosen_and_say_why(name: str) -> None:
    options = CudaOptions(override=name)
    assert not chosen(convolution(16, 64, 64, 56, 56, kernel=7), options).startswith("fft")
    assert options.decisions[0].rejected[name] == "the cuda target has no code for its transforms"


@needs_compiler
@pytest.mark.parametrize(
    "options", [CudaOptions(override="fft9"), CudaOptions(accuracy="lax")], ids=str
)
def test_wrong_names_are_refused(options: CudaOptions) -> None:
    with pytest.raises(UsageError, match="Choose"):
        plan({"run": convolution(1, 3, 3, 5, 5)}, PIPELINE, options)


@needs_compiler
@pytest.mark.parametrize("precision", ["f32", "3xtf32"])
@pytest.mark.parametrize("name", [name for name in KNOWN if not name.startswith("fft")])
def test_each_strategy_keeps_its_budget(name: str, precision: str) -> None:
    for n, c, o, h, w in SMALL if name == "toeplitz" else AWKWARD:
        stride = 2 if "phases" in name else 1
        graph = convolution(n, c, o, h, w, stride=stride)
        options = CudaOptions(precision, accuracy="fast", override=name)
        x = np.random.default_rng(1).standard_normal((n, c, h, w)).astype(np.float32)
        (found,) = emulated.run(graph, {"x": x}, options=options)
        assert options.decisions[0].strategy == name
        node = next(node for node in graph.nodes if node.op.name == "conv")
        weights = graph.constant_of(node.inputs[1]).array
        padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
        windows = windows[:, :, ::stride, ::stride]
        wanted = np.maximum(np.einsum("ncyxij,ocij->noyx", windows, weights.astype(np.float64)), 0)
        assert np.linalg.norm(found - wanted) <= KNOWN[name].level(node)[0] * np.linalg.norm(wanted)


@pytest.mark.parametrize("name", ["inception_v1", "resnet50", "shufflenet", "squeezenet"])
def test_the_choices_of_light_networks(name: str) -> None:
    """Only what there is code for; transforms only where enough channels share them, each the
    least estimate of its layer.
    """
    decisions: list[Decision] = []
    select_for_device(
        from_onnx(light_models()[name]), "default", "auto", decisions, None, Engine.FFMA, None, {}
    )
    assert decisions and all(
        d.strategy == "direct" or d.strategy.startswith("winograd") for d in decisions
    )
    for decision in decisions:
        assert {s for s in BY_NAME if s.startswith("fft")} <= set(decision.rejected)
        assert decision.seconds[decision.strategy] == min(decision.seconds.values())
        # whose transforms go through memory
        if decision.strategy in ("winograd_f2", "winograd_f4"):
            (extents,) = re.findall(r", (\d+), .*\[(\d+), .*, (\d+)\]", decision.shape)
            channels, filters, taps = map(int, extents)
            assert min(channels, filters) >= (32 if taps == 3 else 16), decision.shape
    strategies = [d.strategy for d in decisions]
    if name == "resnet50":  # 3 x 3 on 56 x 56 images; on smaller ones parts fill the device
        assert sum(strategy.startswith("winograd") for strategy in strategies) == 3
    if name == "shufflenet":  # grouped convolutions of few channels
        assert set(strategies) == {"direct"}
