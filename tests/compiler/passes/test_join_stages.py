"""Where Winograd's stages become one op, the reasons where they do not, and that nothing changes."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest

from netloom.compiler import dim
from netloom.compiler.dim import Dim, Extent, Symbol
from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.loops.build import Machine, build_kernel
from netloom.compiler.loops.ir import Allocate, walk
from netloom.compiler.passes.choose_layout import choose_layout
from netloom.compiler.passes.fuse import fuse
from netloom.compiler.passes.join_stages import join_stages
from netloom.compiler.passes.select_strategies import select_strategies
from netloom.compiler.strategies import rates_of
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

from ..loops.case_kernels import fused
from ..loops.cases import CASES


def stages(batch: Extent, channels: int, filters: int, extent: int, groups: int = 1) -> Graph:
    """A 3 x 3 convolution by winograd_f4."""
    b = Builder("stages")
    x = b.input(TensorType(FLOAT32, (batch, channels, extent, extent)), "x")
    w = b.input(TensorType(FLOAT32, (filters, channels // groups, 3, 3)), "w")
    y = b("conv", x, w, stride=(1, 1), dilation=(1, 1), lo=(1, 1), hi=(1, 1), groups=groups)
    return select_strategies(b.build([y], ["y"]), override="winograd_f4")


def names(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ((1, 64, 64, 112), "applied"),
        ((1, 64, 64, 28), "its entries stay in the cache anyway"),
        ((8, 64, 64, 28), "applied"),
        ((1, 256, 256, 56), "applied"),
        ((8, 512, 512, 28), "4 tiles of 512 channels leave the L2 cache"),
        ((4, 256, 512, 28), "each band would read its weights from memory"),
        ((8, 64, 64, 56, 2), "it has 2 groups"),
    ],
)
def test_where_stages_are_joined(sizes: tuple[int, ...], reason: str) -> None:
    seen: list[str] = []
    graph = join_stages(stages(*sizes), explain=lambda _rule, _node, text: seen.append(text))
    assert seen == [reason]
    assert ("winograd_fused" in names(graph)) == (reason == "applied")
    assert ("winograd_output" in names(graph)) == (reason != "applied")


def test_bands_need_their_weights_as_fast_as_they_multiply() -> None:
    """At 55.9e9 multiply-adds a second 224 GB/s, over the tiles of a band: of 256 channels it has
    12, of fewer more; weights of 64 stay in the L2 cache."""
    slow = replace(rates_of("x86-64-v4"), near=18e9)
    seen: list[str] = []
    for channels, extent in ((256, 56), (128, 112), (64, 112)):
        join_stages(stages(1, channels, channels, extent), rates=slow,
                    explain=lambda _rule, _node, text: seen.append(text))  # fmt: skip
    assert seen == ["its weights would come slower than its bands multiply", "applied", "applied"]


def test_a_free_batch_counts_as_the_typical_one() -> None:
    graph = stages(Dim.of(Symbol("N", 1)), 64, 64, 28)
    assert join_stages(graph) is graph
    assert "winograd_fused" in names(join_stages(graph, typical_batch=32))


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        (64, "applied"),
        (256, "each line of an image of any size would read weights that leave the L2 cache"),
    ],
)
def test_images_of_any_size_have_bands_in_lines(filters: int, reason: str) -> None:
    b = Builder("free")
    height = Dim.of(Symbol("H", 4))
    x = b.input(TensorType(FLOAT32, (1, 64, height, 112)), "x")
    w = b.input(TensorType(FLOAT32, (filters, 64, 3, 3)), "w")
    y = b("conv", x, w, stride=(1, 1), dilation=(1, 1), lo=(1, 1), hi=(1, 1), groups=1)
    graph = select_strategies(b.build([y], ["y"]), override="winograd_f4")
    seen: list[str] = []
    join_stages(graph, explain=lambda _rule, _node, text: seen.append(text))
    assert seen == [reason]


def test_bands_of_images_of_any_size_hold_to_numpy() -> None:
    """Lines of one tile, of one band, and of several of which the last is not full."""
    b, (n, h, w) = Builder("free"), (Dim.of(Symbol(name, 1)) for name in "NHW")
    weights = np.random.default_rng(5).standard_normal((32, 64, 3, 3)).astype(np.float32) / 24
    x = b.input(TensorType(FLOAT32, (n, 64, h, w)), "x")
    attrs = {"stride": (1, 1), "dilation": (1, 1), "lo": (1, 1), "hi": (1, 1), "groups": 1}
    compiled = compile_graph(
        b.build([b("conv", x, b.constant(weights), **attrs)]), Options(override="winograd_f4")
    )
    assert any("winograd_fused" in item.kernel for item in compiled.program.entries[0].launches)
    session = Session.in_process(compiled.image)
    for shape in ((1, 64, 1, 2), (2, 64, 5, 33), (1, 64, 6, 130)):
        image = np.random.default_rng(6).standard_normal(shape).astype(np.float32)
        padded = np.pad(image.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
        wanted = np.einsum("nchwij,ocij->nohw", windows, weights, optimize=True)
        (found,) = session.run(None, {"x": image})
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)


def test_entries_with_other_readers_stay() -> None:
    b = Builder("two")
    x = b.input(TensorType(FLOAT32, (4, 64, 112, 112)), "x")
    u = b.input(TensorType(FLOAT32, (36, 1, 64, 64)), "u")
    tile = {"m": (4, 4), "taps": (3, 3)}
    v = b("winograd_input", x, lo=(1, 1), counts=(28, 28), **tile)
    y = b("winograd_output", b("matmul", v, u), shape=(4, 64, 112, 112), **tile)
    seen: list[str] = []
    graph = b.build([y, v], ["y", "v"])
    assert join_stages(graph, explain=lambda _rule, _node, text: seen.append(text)) is graph
    assert seen == ["its entries have other readers"]


def test_the_meaning_stays() -> None:
    graph = stages(1, 64, 33, 96)
    rng = np.random.default_rng(3)
    feeds = {
        value.label: rng.standard_normal(value.type.static_shape).astype(np.float32)
        for value in graph.inputs
    }
    joined = join_stages(graph)
    assert "winograd_fused" in names(joined)
    np.testing.assert_array_equal(interpret(graph, feeds)[0], interpret(joined, feeds)[0])


@pytest.mark.parametrize("filters", [16, 32, 48, 64, 100, 256])
@pytest.mark.parametrize("channels", [16, 64, 128, 256])
def test_bands_leave_room_on_the_stack(channels: int, filters: int) -> None:
    """Callers' threads may have small stacks: 1 MB is enough."""
    graph = fuse(choose_layout(join_stages(stages(8, channels, filters, 112))))
    bodies = [node.attrs.body for node in graph.nodes if node.op.name == "kernel"]
    (body,) = (body for body in bodies if "winograd_fused" in names(body))
    kernel = build_kernel("bands", body, Machine())
    local = [s.buffer for s in walk(kernel.body) if isinstance(s, Allocate)]
    sizes = sorted(4 * prod(dim.evaluate(e, {}) for e in buffer.shape) for buffer in local)
    assert (64 << 10) < sum(sizes[-2:]) < sum(sizes) < 640 << 10


def test_the_cases_of_loops_hold_bands() -> None:
    """What tests/compiler/loops holds against the interpreter and compiles are bands."""
    found = [case for case in CASES if case.in_bands]
    assert len(found) == 4
    for case in found:
        bodies = [n.attrs.body for n in fused(case).nodes if n.op.name == "kernel"]
        assert any("winograd_fused" in names(body) for body in bodies), case.name
