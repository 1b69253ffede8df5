"""The fused Winograd kernel on awkward shapes, graph -> PTX -> emulator, against the interpreter;
its faults and gates.

Sums of small integers are exact: the weights' transform divides by 4, all others only add.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import netloom as nl
from netloom.compiler.dim import Extent
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.ops.winograd import matrices
from netloom.compiler.targets.cuda.compile import compile_kernel, is_available
from netloom.compiler.targets.cuda.driver import PIPELINE, CudaOptions, DevicePlacement, plan
from netloom.compiler.targets.cuda.forms import FusedWinograd
from netloom.compiler.targets.cuda.source import KernelSource
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.errors import UsageError
from tests.cases import DIMS, N
from tests.compiler.targets.cuda import emulated
from tests.compiler.targets.cuda.test_forms import barriers, integers, without_barrier
from tests.ptx_emulator.machine import emulate
from tests.ptx_emulator.memory import MemoryFault

pytestmark = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
Array = npt.NDArray[Any]
NAME = "winograd_f2_fused"


def convolution(
    x: tuple[Extent, ...], filters: int, lo: tuple[int, int] = (1, 1), hi: tuple[int, int] = (1, 1)
) -> Graph:
    """With everything that is fused behind it: bias, residual, relu. The weights are constant."""
    b = Builder("conv")
    value = b.input(TensorType(FLOAT32, x), "x")
    assert isinstance(x[1], int)
    weights = np.random.default_rng(3).integers(-4, 5, (filters, x[1], 3, 3)).astype(np.float32)
    attrs = {"stride": (1, 1), "dilation": (1, 1), "lo": lo, "hi": hi, "groups": 1}
    y = b("conv", value, b.constant(weights), **attrs, label="conv")
    bias = b.input(TensorType(FLOAT32, (filters, 1, 1)), "bias")
    residual = b.input(y.type, "residual")
    return b.build([b("relu", b("add", b("add", y, bias), residual))], ["y"])


def input_gradient(
    x: tuple[int, ...], filters: int, lo: tuple[int, int] = (1, 1), hi: tuple[int, int] = (1, 1)
) -> Graph:
    b = Builder("gradient")
    (n, c, h, w), (top, left), (bottom, right) = x, lo, hi
    dy = b.input(
        TensorType(FLOAT32, (n, filters, h + top + bottom - 2, w + left + right - 2)), "dy"
    )
    weights = b.input(TensorType(FLOAT32, (filters, c, 3, 3)), "w")
    attrs = {"stride": (1, 1), "dilation": (1, 1), "lo": lo, "hi": hi, "groups": 1}
    return b.build([b("conv_input_gradient", dy, weights, **attrs, spatial=(h, w))], ["dx"])


def planned(graph: Graph) -> tuple[DevicePlacement, FusedWinograd, KernelSource]:
    """The kernels, and the fused one's form and source."""
    options = CudaOptions(override=NAME)
    _, placement, _ = plan({"run": graph}, PIPELINE, options)
    assert [decision.strategy for decision in options.decisions] == [NAME]
    (found,) = [
        (name, kernel.form)
        for name, kernel in placement.forms.items()
        if isinstance(kernel.form, FusedWinograd)
    ]
    return placement, found[1], placement.sources[found[0]]


def check(graph: Graph, dims: Mapping[str, int] | None = None) -> None:
    inputs = integers(graph, dims)
    options = CudaOptions(override=NAME)
    (found,) = emulated.run(graph, inputs, dims, options)
    assert [decision.strategy for decision in options.decisions] == [NAME]
    np.testing.assert_array_equal(found, interpret(graph, inputs)[0])


@pytest.mark.parametrize("graph", [
    convolution((1, 8, 8, 8), 32), convolution((2, 19, 7, 9), 33), convolution((1, 5, 5, 6), 70, (0, 0), (0, 0)),
    convolution((3, 4, 3, 4), 36, (2, 1), (0, 2)), convolution((1, 3, 3, 3), 2, (0, 0), (0, 0)),
    convolution((2, 6, 2, 10), 31, (1, 3), (1, 0)),
], ids=lambda g: " ".join(str(v.type) for v in g.inputs))  # fmt: skip
def test_convolutions(graph: Graph) -> None:
    check(graph)


def test_a_free_batch() -> None:
    check(convolution((N, 6, 5, 7), 12), DIMS)


@pytest.mark.parametrize("graph", [
    input_gradient((2, 33, 6, 5), 9), input_gradient((1, 12, 4, 7), 6, (0, 2), (1, 0)),
], ids=lambda g: " ".join(str(v.type) for v in g.inputs))  # fmt: skip
def test_input_gradients(graph: Graph) -> None:
    check(graph)


def test_no_chain_is_longer_than_512() -> None:
    """From 513 channels on, sums are transformed back in between."""
    assert "total_0" not in planned(convolution((1, 512, 2, 4), 3))[2].text
    graph = convolution((1, 514, 2, 4), 3)
    assert "total_0" in planned(graph)[2].text
    check(graph)


def test_a_wide_block() -> None:
    """64 filters at a time where blocks are many: here the first of 128."""
    graph = convolution((4, 8, 64, 64), 64)
    _, form, source = planned(graph)
    assert form.block_filters == 64
    inputs = integers(graph)
    (wanted,) = interpret(graph, inputs)
    weights = next(
        c for node in graph.nodes if (c := graph.constant_of(node.output)) is not None
    ).array
    g = matrices(2, 3)[1]
    u = np.einsum("ei,ocij,fj->efco", g, weights, g).reshape(16, 1, 8, 64).astype(np.float32)
    y = np.full(wanted.shape, np.nan, np.float32)
    arrays = [inputs["x"], u, inputs["bias"], inputs["residual"], y, np.zeros(1, np.int32)]
    traffic = emulate(compile_kernel(source, ()).ptx, 1, source.threads, arrays, inputs=4, flag=5)
    # 32 tiles: two rows of the first image
    np.testing.assert_array_equal(y[0, :, :2], wanted[0, :, :2])
    assert np.isnan(y[0, :, 2:]).all() and np.isnan(y[1:]).all()
    assert traffic.cycles == traffic.least  # banks of shared memory


def test_each_barrier_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = convolution((1, 12, 4, 6), 20)
    ptx = compile_kernel(planned(graph)[2], ()).ptx
    assert barriers(ptx) >= 5
    for number in range(barriers(ptx)):
        broken = without_barrier(ptx, number)
        monkeypatch.setattr(
            emulated, "compile_kernel", lambda *_, text=broken: SimpleNamespace(ptx=text)
        )
        with pytest.raises(MemoryFault, match="race|never written|barrier"):
            check(graph)


@pytest.mark.parametrize(("x", "filters", "block", "registers"), [
    ((1, 256, 56, 56), 256, 32, 128), ((16, 512, 14, 14), 512, 64, 255),
])  # fmt: skip
def test_layers_of_networks_pass_the_gates(
    x: tuple[int, ...], filters: int, block: int, registers: int
) -> None:
    """For sm_80 and sm_90a, without spills: two narrow blocks or a wide one a multiprocessor."""
    _, form, source = planned(convolution(x, filters))
    assert form.block_filters == block
    compiled = compile_kernel(source)
    assert compiled.ptx.count("fma.rn.f32") >= 8 * block and "ld.global.nc.v4.f32" in compiled.ptx
    for binary in compiled.binaries:
        assert binary.registers <= registers and binary.shared <= 48 << 10


def test_what_it_is_not_for_says_why() -> None:
    b = Builder("conv")
    x, w = (
        b.input(TensorType(FLOAT32, (1, 64, 9, 9)), "x"),
        b.input(TensorType(FLOAT32, (64, 32, 3, 3)), "w"),
    )
    attrs = {"stride": (1, 1), "dilation": (1, 1), "lo": (1, 1), "hi": (1, 1)}
    grouped = b.build([b("conv", x, w, **attrs, groups=2)])
    b = Builder("conv")
    x, w = (
        b.input(TensorType(FLOAT32, (1, 16, 9, 9)), "x"),
        b.input(TensorType(FLOAT32, (16, 16, 5, 5)), "w"),
    )
    large = b.build([b("conv", x, w, **attrs, groups=1)])
    for graph, reason in ((grouped, "2 groups"), (large, "[5, 5]")):
        options = CudaOptions()
        plan({"run": graph}, PIPELINE, options)
        assert reason in options.decisions[0].rejected[NAME]


def test_only_the_cuda_target_offers_it() -> None:
    with pytest.raises(UsageError, match="no strategy"):
        nl.compile(convolution((1, 8, 8, 8), 32), conv_strategy=NAME)
