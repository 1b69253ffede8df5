"""Predictions of kernels and layers: they see how blocks fill a device, and what happens when
compiling costs nothing.

No device was measured: what is tested is how predictions depend on shapes, not how good they are.
"""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.dim import symbol
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.targets.cuda.devices import FIGURES
from netloom.compiler.targets.cuda.estimates import Planned, grid_text, planned_layer
from netloom.compiler.targets.cuda.forms import Engine
from netloom.compiler.targets.cuda.schedule import plan_kernel
from netloom.compiler.targets.cuda.tilings import Tiling
from netloom.compiler.tensor_type import FLOAT32, TensorType
from tests.compiler.targets.cuda.test_forms import matmul


def layer(graph: Graph, strategy: str, engine: Engine = Engine.FFMA, batch: int = 1,
          tiling: Tiling | None = None) -> Planned:  # fmt: skip
    node = next(node for node in graph.nodes if node.op.name != "constant")
    return planned_layer(graph, node, strategy, engine, batch, tiling)


def convolution(n: int, c: int, extent: int, o: int, is_constant: bool = True) -> Graph:
    b = Builder("conv")
    x = b.input(TensorType(FLOAT32, (n, c, extent, extent)), "x")
    if is_constant:
        w = b.constant(np.random.default_rng(0).standard_normal((o, c, 3, 3)).astype(np.float32))
    else:
        w = b.input(TensorType(FLOAT32, (o, c, 3, 3)), "w")
    attrs = {"stride": (1, 1), "dilation": (1, 1), "lo": (1, 1), "hi": (1, 1), "groups": 1}
    return b.build([b("conv", x, w, **attrs)], ["y"])


def test_the_last_wave_is_paid_for_whole() -> None:
    """264 blocks of 128 x 128 run at once; one more takes another wave."""
    whole, more = (
        layer(matmul((128 * rows, 512), (512, 128 * 12)), "product") for rows in (22, 23)
    )
    (full,), (late,) = whole.kernels, more.kernels
    assert (full.blocks, full.waves) == (264, 1) and (late.blocks, late.waves) == (276, 2)
    assert late.seconds > 1.25 * full.seconds
    assert str(more) == "predicted: 1 kernel, 276 blocks in 2 waves"


def test_few_blocks_leave_a_device_idle() -> None:
    """A quarter of the work in a quarter of the blocks is no faster, cut into parts it is."""
    tiling = Tiling(128, 128, parts=1)
    large = layer(matmul((128 * 11, 4096), (4096, 128 * 12)), "product", tiling=tiling)
    small = layer(matmul((128 * 3, 4096), (4096, 128 * 11)), "product", tiling=tiling)
    assert (large.kernels[0].blocks, small.kernels[0].blocks) == (132, 33)
    assert small.seconds > 0.9 * large.seconds
    cut = layer(matmul((128 * 3, 4096), (4096, 128 * 11)), "product")
    assert cut.products[0][1] > 1 and cut.seconds < 0.7 * small.seconds


def test_weights_are_transformed_when_compiling_if_they_are_constant() -> None:
    constant, value = (
        layer(convolution(1, 64, 14, 64, is_constant), "winograd_f2")
        for is_constant in (True, False)
    )
    assert len(value.kernels) == len(constant.kernels) + 1 and value.seconds > constant.seconds


def test_a_layer_of_one_image_is_not_chosen_by_its_arithmetic_alone() -> None:
    """F(4 x 4) has a quarter of direct's products, but 3 kernels, and transforms to move."""
    gains = [
        layer(graph, "direct").seconds / layer(graph, "winograd_f4").seconds
        for graph in (convolution(1, 64, 14, 64), convolution(32, 256, 56, 256))
    ]
    assert gains[0] < 1 < 1.5 < gains[1] < 4


def test_a_free_batch_counts_as_what_it_typically_is() -> None:
    b = Builder("free")
    x = b.input(TensorType(FLOAT32, (symbol("N", 1, 512), 1024)), "x")
    w = b.input(TensorType(FLOAT32, (1024, 1024)), "w")
    graph = b.build([b("matmul", x, w)])
    one, many = (layer(graph, "product", batch=batch) for batch in (1, 256))
    assert one.kernels[0].blocks < many.kernels[0].blocks
    assert one.sizes == ((1, 1, 1024, 1024),) or one.sizes == ((1, 1024, 1, 1024),)


@pytest.mark.parametrize("engine", Engine)
def test_every_precision_has_a_rate(engine: Engine) -> None:
    times = [
        layer(matmul((4096, 4096), (4096, 4096)), "product", e).seconds
        for e in (Engine.FFMA, engine)
    ]
    least = 4096**3 / (FIGURES.products * FIGURES.multiprocessors)
    assert times[1] > least / 4 and (engine is Engine.FFMA or times[1] != times[0])


def test_grids_for_people() -> None:
    assert grid_text(plan_kernel(matmul((4096, 512), (512, 4096)))) == "1024 blocks in 4 waves"
    b = Builder("relu")
    relu = b.build([b("relu", b.input(TensorType(FLOAT32, (1000,)), "x"))])
    assert grid_text(plan_kernel(relu)) == "4 blocks"
    b = Builder("free")
    free = b.build([b("relu", b.input(TensorType(FLOAT32, (symbol("N", 1, 9999),)), "x"))])
    assert "N" in grid_text(plan_kernel(free))
