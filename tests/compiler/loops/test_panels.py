"""Panels: the tiles of a sweep together ask for what the next sweep reads, evenly between their terms,
and whatever is asked for changes no bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import pytest

from netloom.compiler.dim import Dim, Extent, Symbol, evaluate, symbols_of
from netloom.compiler.driver import PIPELINE, Options
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.loops import bands, panels
from netloom.compiler.loops.build import Machine, build_kernel
from netloom.compiler.loops.ir import (
    For,
    Kernel,
    Kind,
    Load,
    Prefetch,
    Store,
    walk,
)
from netloom.compiler.loops.parse import parse_kernel
from netloom.compiler.loops.text import print_kernel
from netloom.compiler.loops.verify import verify_kernel
from netloom.compiler.op import OPS
from netloom.compiler.scalar import post_order
from netloom.compiler.targets.cpu.machine import CPUS, host_cpu
from netloom.compiler.tensor_type import FLOAT32, TensorType
from tests.compiler.loops.test_lowering import agree, compiled
from tests.compiler.loops.walker import Walker

WIDE = Machine(vectors=32)


def layer(
    channels: int,
    filters: int,
    extent: int,
    taps: int = 1,
    strategy: str = "direct",
    samples: Extent = 1,
) -> list[Kernel]:
    """The kernels of a convolution."""
    b = Builder("layer")
    x = b.input(TensorType(FLOAT32, (samples, channels, extent, extent)), "x")
    w = b.constant(np.ones((filters, channels, taps, taps), np.float32))
    border = (taps // 2,) * 2
    window: Any = dict(stride=(1, 1), dilation=(1, 1), lo=border, hi=border)
    return kernels_of(b.build([b("conv", x, w, **window)]), strategy)


def kernels_of(graph: Graph, strategy: str = "auto") -> list[Kernel]:
    bodies = [
        node.attrs.body
        for node in PIPELINE.run(graph, Options(override=strategy))[0].nodes
        if node.op is OPS["kernel"]
    ]
    return [build_kernel(f"k{number}", body, WIDE) for number, body in enumerate(bodies)]


def product(kernels: list[Kernel]) -> Kernel:
    """The one that reads weights."""
    return max(kernels, key=lambda k: print_kernel(k).count(" = fma("))


def hints(kernel: Kernel) -> list[Prefetch]:
    found = [s for s in walk(kernel.body) if isinstance(s, Prefetch)]
    return [s for s in found if s.element.buffer is kernel.buffers[1]]


# -- what is asked for -----------------------------------------------------------------------------


@dataclass
class _Tile:
    """The lines of the panel, by their first element, that a tile reads and asks for."""

    read: set[int] = field(default_factory=set)
    asked: list[int] = field(default_factory=list)


class _Reader(Walker):
    """Walks a kernel, of vectors the first lane and of tiles the first row, and notes what is done
    to one operand."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.w = kernel.buffers[1]
        stores = [s for s in walk(kernel.body) if isinstance(s, Store)]
        loads = [n for s in stores for n in post_order([s.value]) if isinstance(n, Load)]
        own = [part for load in loads if load.buffer is self.w for part in load.extents]
        self.symbols = symbols_of(own)
        self.tiles: list[_Tile] = []

    def turns(self, loop: For, values: Mapping[str, int]) -> int:
        is_row = loop.kind is Kind.UNROLLED and loop.variable not in self.symbols
        return 1 if is_row or loop.kind is Kind.VECTOR else super().turns(loop, values)

    def allocated(self) -> None:
        self.tiles.append(_Tile())

    def asked(self, element: Load, values: Mapping[str, int]) -> None:
        if element.buffer is self.w:
            self.tiles[-1].asked.append(self._line(element, values))

    def read(self, load: Load, values: Mapping[str, int]) -> None:
        if load.buffer is self.w:
            self.tiles[-1].read.add(self._line(load, values))

    def _line(self, load: Load, values: Mapping[str, int]) -> int:
        return evaluate(load.buffer.offset(load.extents), {**values, "l": 0})


def sweeps(kernel: Kernel) -> list[list[_Tile]]:
    """The tiles of a kernel, those that read the same panel together."""
    reader = _Reader(kernel)
    assert isinstance(kernel.items, int)
    for item in range(kernel.items):
        reader.run_item(item)
    tiles = [tile for tile in reader.tiles if tile.read]
    return [list(group) for _, group in groupby(tiles, key=lambda tile: tile.read)]


@pytest.mark.parametrize(
    ("channels", "filters", "extent", "taps"),
    [
        (32, 128, 7, 1),  # ten tiles for four columns
        (32, 96, 7, 1),  # the last panel has fewer columns
        (32, 128, 3, 1),  # fewer tiles than columns
        (32, 128, 24, 1),  # so many that hints stand between two rounds of the innermost loop
        (576, 512, 4, 1),  # chunks of long sums
    ],
)
def test_a_sweep_asks_for_what_the_next_one_reads(
    channels: int, filters: int, extent: int, taps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "FEWEST_BYTES", 0)
    kernel = product(layer(channels, filters, extent, taps))
    assert hints(kernel) and not verify_kernel(kernel)
    found = sweeps(kernel)
    assert len(found) > 1
    for present, following in zip(found, found[1:], strict=False):
        asked = {line for tile in present for line in tile.asked}
        assert asked >= following[0].read, (len(present), len(following[0].read - asked))


def test_behind_the_last_of_free_samples_one_of_them_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Samples are the outermost loop where the weights of one panel are smaller than a sample."""
    monkeypatch.setattr(panels, "FEWEST_BYTES", 0)
    samples = Dim.of(Symbol("N", 1))
    kernel = product(layer(16, 80, 4, samples=samples))
    assert hints(kernel) and not verify_kernel(kernel)
    assert "min(" in print_kernel(kernel)
    agree([kernel], host_cpu(), {"N": 2})


def test_hints_are_few_between_two_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one where there are as many tiles as columns."""
    monkeypatch.setattr(panels, "FEWEST_BYTES", 0)
    kernel = product(layer(64, 128, 7))
    for sweep in sweeps(kernel):
        columns = len(sweep[0].read) // 64
        assert len(sweep) >= columns
        assert all(len(tile.asked) == 64 for tile in sweep)


@pytest.mark.parametrize(
    ("channels", "filters", "extent", "is_hinted"),
    [(512, 512, 7, True), (64, 256, 14, False), (512, 512, 2, False)],
)
def test_small_panels_and_those_of_one_tile_are_left_alone(
    channels: int, filters: int, extent: int, is_hinted: bool
) -> None:
    kernel = product(layer(channels, filters, extent))
    assert bool(hints(kernel)) == is_hinted
    text = print_kernel(kernel)
    assert print_kernel(parse_kernel(text)) == text


def test_the_weights_of_bands_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the next of the 36 entries, while the tiles of this one are multiplied."""
    monkeypatch.setattr(panels, "FEWEST_BYTES", 0)
    monkeypatch.setattr(bands, "ENOUGH_ITEMS", 1)
    kernel = product(layer(128, 128, 48, 3, "winograd_f4"))
    assert hints(kernel) and not verify_kernel(kernel)
    assert "prefetch x1[(e + 1)%36" in print_kernel(kernel)


# -- what they change ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "filters", "extent", "taps", "strategy"),
    [
        (32, 96, 7, 1, "direct"),
        (32, 256, 8, 3, "direct"),
        (576, 512, 4, 1, "direct"),
        (128, 64, 48, 3, "winograd_f4"),
    ],
)
def test_hints_change_no_bit(
    channels: int, filters: int, extent: int, taps: int, strategy: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(bands, "ENOUGH_ITEMS", 1)
    monkeypatch.setattr(panels, "FEWEST_BYTES", 1 << 40)
    plain = product(layer(channels, filters, extent, taps, strategy))
    monkeypatch.setattr(panels, "FEWEST_BYTES", 0)
    kernel = product(layer(channels, filters, extent, taps, strategy))
    assert hints(kernel) and not hints(plain)
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal([evaluate(e, {}) for e in b.shape]).astype(np.float32)
        for b in kernel.buffers[:-1]
    ]
    code = compiled([plain, kernel], host_cpu())
    expected, found = (code.run(k, arrays, {})[0] for k in (plain, kernel))
    assert found.tobytes() == expected.tobytes()


def test_hinted_kernels_are_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "FEWEST_BYTES", 0)
    kernel = product(layer(16, 128, 4))
    assert hints(kernel)
    agree([kernel], host_cpu(), {})
    agree([kernel], CPUS["x86-64"], {})
