"""Windows that overlap, of images of fixed and of free sizes: what a tile reads of them it loads
once, borders are tested without branches, and results are stored in their order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from netloom.compiler.dim import Dim, Extent, evaluate, symbol
from netloom.compiler.driver import PIPELINE, Options, compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.loops.build import Machine, build_kernel
from netloom.compiler.loops.ir import Kernel
from netloom.compiler.loops.text import print_kernel
from netloom.compiler.loops.verify import verify_kernel
from netloom.compiler.op import OPS, Array
from netloom.compiler.targets.cpu.llvm import kernels_as_assembly
from netloom.compiler.targets.cpu.machine import cpu_named
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

N, H, W = symbol("N"), symbol("H"), symbol("W")
RNG = np.random.default_rng(8)
IMAGES = ((1, 1), (5, 3), (8, 16), (13, 13), (17, 33), (0, 7), (9, 0))


@dataclass(frozen=True)
class Windows:
    """A convolution of images of any size; ``is_between``: values around it lie in blocks."""

    channels: int
    filters: int
    taps: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    batch: Extent = 1
    is_between: bool = False

    @property
    def groups(self) -> int:
        return self.channels if self.channels == self.filters else 1

    @property
    def pads(self) -> tuple[int, int]:
        reach = ((t - 1) * d for t, d in zip(self.taps, self.dilation, strict=True))
        high, wide = (r // 2 for r in reach)
        return high, wide

    @property
    def attrs(self) -> dict[str, Any]:
        return {"stride": self.stride, "dilation": self.dilation, "lo": self.pads, "hi": self.pads,
                "groups": self.groups}  # fmt: skip

    def weights(self) -> Array:
        shape = (self.filters, self.channels // self.groups, *self.taps)
        return RNG.standard_normal(shape).astype(np.float32)

    def graph(self, weights: Array, high: Extent = H, wide: Extent = W) -> Graph:
        b = Builder("windows")
        y = b.input(TensorType(FLOAT32, (self.batch, self.channels, high, wide)), "x")
        y = _pointwise(b, y, self.channels) if self.is_between else y
        y = b("relu", b("conv", y, b.constant(weights), **self.attrs))
        return b.build([_pointwise(b, y, self.filters) if self.is_between else y], ["y"])

    def meaning(self, x: Array, weights: Array) -> Array:
        """Tap by tap, in float64."""
        (high, wide), (s, t), (d, e) = self.pads, self.stride, self.dilation
        padded = np.pad(x.astype(float), ((0, 0), (0, 0), (high, high), (wide, wide)))
        rows, columns = ((n - 1) // k + 1 for n, k in zip(x.shape[2:], self.stride, strict=True))
        y = np.zeros((len(x), self.filters, rows, columns))
        for i, j in np.ndindex(self.taps):
            part = padded[:, :, i * d : i * d + s * rows : s, j * e : j * e + t * columns : t]
            tap = weights[:, :, i, j].astype(float)
            if self.groups > 1:
                y += part * tap[:, :1, None].transpose(1, 0, 2)[..., None]
            else:
                y += np.einsum("oc,nchw->nohw", tap, part)
        return np.maximum(y, 0)


def _pointwise(b: Builder, y: Any, channels: int) -> Any:
    """The same values, by a convolution, which lays them in blocks."""
    ones, zeros = (1, 1), (0, 0)
    same = np.eye(channels, dtype=np.float32)[..., None, None]
    return b("conv", y, b.constant(same), stride=ones, dilation=ones, lo=zeros, hi=zeros, groups=1)


CASES = {
    "rows": Windows(9, 9, (3, 3), batch=N),
    "strided_rows": Windows(3, 3, (3, 3), stride=(2, 1)),
    "dilated_rows": Windows(9, 9, (3, 3), dilation=(2, 2)),
    "blocks": Windows(32, 32, (3, 3), is_between=True),
    "strided_blocks": Windows(20, 20, (5, 3), stride=(2, 2), batch=N, is_between=True),
    "strided_columns": Windows(3, 3, (3, 3), stride=(1, 2)),
    "strided_both": Windows(3, 3, (5, 3), stride=(2, 2), batch=N),
    "one_channel": Windows(1, 20, (3, 3)),
    "one_filter": Windows(3, 1, (3, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_one_program_computes_images_of_every_size(name: str) -> None:
    case = CASES[name]
    weights = case.weights()
    graph = case.graph(weights)
    session = Session.in_process(compile_graph(graph, Options(override="direct")).image, threads=1)
    for size in IMAGES:
        batch = case.batch if isinstance(case.batch, int) else 2
        x = RNG.standard_normal((batch, case.channels, *size)).astype(np.float32)
        wanted = case.meaning(x, weights)
        (found,), (meant,) = session.run(None, {"x": x}), interpret(graph, {"x": x})
        assert found.shape == wanted.shape, size
        for result in (found, meant):
            assert np.abs(result - wanted).max(initial=0) <= 1e-5, size


def test_transposed_convolutions_of_one_filter() -> None:
    """Each phase of the result has windows of its own, in the other direction."""
    b = Builder("transposed")
    weights = RNG.standard_normal((5, 1, 4, 4)).astype(np.float32)
    dy = b.input(TensorType(FLOAT32, (1, 5, H, W)), "x")
    attrs = {"stride": (2, 2), "dilation": (1, 1), "lo": (1, 1), "hi": (1, 1), "groups": 1}
    dx = b("conv_input_gradient", dy, b.constant(weights), **attrs, spatial=(2 * H, 2 * W))
    session = Session.in_process(compile_graph(b.build([dx], ["y"])).image, threads=1)
    for high, wide in ((1, 1), (8, 16), (9, 21)):
        x = RNG.standard_normal((1, 5, high, wide)).astype(np.float32)
        wanted = np.zeros((2 * high + 2, 2 * wide + 2))
        for i, j in np.ndindex(4, 4):
            part = np.einsum("chw,c->hw", x[0].astype(float), weights[:, 0, i, j])
            wanted[i : i + 2 * high : 2, j : j + 2 * wide : 2] += part
        assert np.abs(session(x)[0, 0] - wanted[1:-1, 1:-1]).max() <= 1e-5


def _kernel(high: Extent, wide: Extent, vectors: int = 32) -> Kernel:
    """A depthwise convolution of rows, for a machine of so many registers."""
    b = Builder("depthwise")
    x, w = (
        b.input(TensorType(FLOAT32, shape), name)
        for name, shape in (("x", (1, 9, high, wide)), ("w", (9, 1, 3, 3)))
    )
    y = b("conv", x, w, stride=(1, 1), dilation=(1, 1), lo=(1, 1), hi=(1, 1), groups=9)
    kernel = build_kernel("kernel", b.build([y]), Machine(vectors))
    assert not verify_kernel(kernel)
    return kernel


@pytest.mark.parametrize("size", [(H, W), (16, 40)], ids=["free", "fixed"])
def test_a_tile_loads_each_row_of_its_windows_once(size: tuple[Extent, Extent]) -> None:
    """Of 8 rows by 3 x 3 taps, 10 rows at 3 places each. What is outside is a zero elsewhere."""
    kernel = _kernel(*size)
    assert "0.0:float32) if" not in print_kernel(kernel)  # a guard in a guard would be a branch
    code = kernels_as_assembly({"kernel": kernel}, cpu_named("x86-64-v4"))
    loads = re.findall(r"vmovups\t[^\n]*\), %zmm\d+ \{%k\d\} \{z\}", code)
    tails = (4 + 3) * 3 if isinstance(size[0], Dim) else 0  # of 2 rows, and of 1
    assert len(loads) == 10 * 3 + tails


@pytest.mark.parametrize(
    ("size", "copies"), [((H, W), 3), ((24, 24), 3), ((64, 64), 0)], ids=["free", "near", "far"]
)
def test_rows_of_blocks_share_their_windows(size: tuple[Extent, Extent], copies: int) -> None:
    """Not the blocks of channels, however many; images beyond the L2 cache wait for memory."""
    case = Windows(128, 128, (3, 3), is_between=True)
    graph = PIPELINE.run(case.graph(case.weights(), *size), Options(override="direct"))[0]
    bodies = [node.attrs.body for node in graph.nodes if node.op is OPS["kernel"]]
    (body,) = (
        b for b in bodies if any(n.op is OPS["conv"] and n.attrs.groups > 1 for n in b.nodes)
    )
    text = print_kernel(build_kernel("kernel", body, Machine()))
    assert "unrolled p3u < 8" in text
    assert re.findall(r"unrolled r2 < (\d)", text)[:1] == [str(copies)] * bool(copies)


def test_narrow_machines_go_through_the_taps() -> None:
    """Their registers do not hold what one result reads. Along a row of known length it is worth
    to know of each tap which lanes lie behind an edge."""
    assert "unrolled r2" in print_kernel(_kernel(H, W))
    assert "unrolled r2" not in print_kernel(_kernel(H, W, vectors=8))
    assert "unrolled r2" in print_kernel(_kernel(16, 40, vectors=8))


@pytest.mark.parametrize(("high", "items"), [(H, 9), (16, 2 * 9)])
def test_free_rows_are_stored_in_their_order(high: Extent, items: int) -> None:
    """Each channel's image is a work item, as soon as there are enough of them."""
    assert evaluate(_kernel(high, W).items, {"H": 16, "W": 40}) == items
