"""Prefetches: what is asked for is what is read later, whatever is asked for changes no bit, and
small operands are left alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from netloom.compiler.dim import evaluate
from netloom.compiler.driver import PIPELINE, Options
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.loops import ahead
from netloom.compiler.loops.build import Machine, build_kernel
from netloom.compiler.loops.ir import (
    LANES,
    For,
    Kernel,
    Load,
    Prefetch,
    walk,
)
from netloom.compiler.loops.parse import parse_kernel
from netloom.compiler.loops.text import print_kernel
from netloom.compiler.loops.verify import verify_kernel
from netloom.compiler.op import OPS
from netloom.compiler.targets.cpu.llvm import kernels_as_llvm
from netloom.compiler.targets.cpu.machine import host_cpu
from netloom.compiler.tensor_type import FLOAT32, INT64, TensorType
from netloom.errors import VerificationError
from tests.compiler.loops.test_lowering import agree, compiled
from tests.compiler.loops.walker import Walker


def convolution(channels: int, extent: int, batch: int, stride: int = 1) -> Kernel:
    """The loops of a direct 3 x 3 convolution with 32 filters."""
    b = Builder("layer")
    x = b.input(TensorType(FLOAT32, (batch, channels, extent, extent)), "x")
    w = b.constant(np.ones((32, channels, 3, 3), np.float32))
    window: Any = dict(stride=(stride,) * 2, dilation=(1, 1), lo=(1, 1), hi=(1, 1))
    graph = b.build([b("conv", x, w, **window)])
    fused, _ = PIPELINE.run(graph, Options(override="direct"))
    (body,) = (
        node.attrs.body
        for node in fused.nodes
        if node.op is OPS["kernel"] and any(n.op.name == "conv" for n in node.attrs.body.nodes)
    )
    return build_kernel("kernel", body, Machine())


def gather(rows: int, width: int, count: int) -> Graph:
    b = Builder("rows")
    x = b.input(TensorType(FLOAT32, (rows, width)), "x")
    return b.build([b("gather", x, b.input(TensorType(INT64, (count,)), "i"), axis=0)])


def hints(kernel: Kernel) -> list[Prefetch]:
    return [s for s in walk(kernel.body) if isinstance(s, Prefetch)]


# -- chunks of convolutions ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "extent", "batch", "is_far"),
    [(64, 56, 2, True), (64, 14, 1, False), (16, 112, 4, False)],
)
def test_large_operands_of_several_chunks_are_prefetched(
    channels: int, extent: int, batch: int, is_far: bool
) -> None:
    """Small ones stay in a core's caches; 16 channels are one chunk of terms."""
    kernel = convolution(channels, extent, batch)
    assert bool(hints(kernel)) == is_far
    assert not verify_kernel(kernel)
    text = print_kernel(kernel)
    assert ("prefetch x0[" in text) == is_far
    assert print_kernel(parse_kernel(text)) == text
    code = kernels_as_llvm({"kernel": kernel}, host_cpu())
    assert ("llvm.prefetch" in code) == is_far


@pytest.mark.parametrize("stride", [1, 2])
def test_each_chunk_asks_for_what_the_next_one_reads(
    stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "NEAR", 0)
    kernel = convolution(64, 8 * stride, 3, stride)
    assert isinstance(kernel.items, int)
    chunks: list[_Lines] = []
    for item in range(kernel.items):
        reader = _Reader(kernel)
        reader.run_item(item)
        chunks += reader.chunks
    assert len(chunks) == 2 * kernel.items
    for present, following in zip(chunks, chunks[1:], strict=False):
        assert present.asked == following.read
    assert chunks[-1].asked == chunks[0].read  # no item follows


class _Lines:
    """Cache lines of the operand, in elements, that a chunk reads and asks for."""

    def __init__(self) -> None:
        self.read: set[int] = set()
        self.asked: set[int] = set()


class _Reader(Walker):
    """Walks a work item's loops, but not along a line and not along lanes."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.x = kernel.buffers[0]
        self.chunks: list[_Lines] = []

    def turns(self, loop: For, values: Mapping[str, int]) -> int:
        trips = super().turns(loop, values)
        return 1 if trips == LANES else trips

    def turned(self, loop: For) -> None:
        if loop.variable.name.endswith("o"):
            self.chunks.append(_Lines())

    def asked(self, element: Load, values: Mapping[str, int]) -> None:
        self.chunks[-1].asked.add(self._line(element, values))

    def read(self, load: Load, values: Mapping[str, int]) -> None:
        if load.buffer is self.x:
            self.chunks[-1].read.add(self._line(load, values))

    def _line(self, load: Load, values: Mapping[str, int]) -> int:
        offset = evaluate(load.buffer.offset(load.extents), values)
        assert offset % LANES == 0
        return offset


def test_prefetched_sums_keep_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = convolution(64, 8, 2)
    monkeypatch.setattr(ahead, "NEAR", 0)
    kernel = convolution(64, 8, 2)
    assert hints(kernel) and not hints(plain) and not verify_kernel(kernel)
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal([evaluate(e, {}) for e in b.shape]).astype(np.float32)
        for b in kernel.buffers[:-1]
    ]
    code = compiled([plain, kernel], host_cpu())
    expected, found = (code.run(k, arrays, {})[0] for k in (plain, kernel))
    assert found.tobytes() == expected.tobytes()


# -- gathers ---------------------------------------------------------------------------------------


def test_rows_of_large_arrays_are_prefetched() -> None:
    kernel = build_kernel("kernel", gather(1 << 15, 64, 4096), Machine())
    (hint,) = hints(kernel)
    assert hint.element.buffer is kernel.buffers[0]
    assert not verify_kernel(kernel)
    text = print_kernel(kernel)
    assert print_kernel(parse_kernel(text)) == text
    assert not hints(build_kernel("kernel", gather(1 << 10, 64, 4096), Machine()))


@pytest.mark.parametrize("wrong", [None, 40, -41, 1 << 62, -(1 << 62)])
def test_prefetched_gathers_keep_their_bits_and_find_wrong_numbers(
    wrong: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever number is asked for: the hint takes it into the array, the gather reports it."""
    monkeypatch.setattr(ahead, "NEAR", 0)
    kernel = build_kernel("kernel", gather(40, 33, 300), Machine())
    assert hints(kernel)
    x = np.random.default_rng(0).standard_normal((40, 33)).astype(np.float32)
    numbers = np.random.default_rng(1).integers(-40, 40, 300)
    expected = np.take(x, numbers, axis=0)
    if wrong is not None:
        numbers[290], expected[290] = wrong, x[0]
    found, is_wrong = compiled([kernel], host_cpu()).run(kernel, [x, numbers], {})
    assert found.tobytes() == expected.tobytes()
    assert is_wrong == (wrong is not None)


def test_prefetches_mean_nothing_but_load_row_numbers_inside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interpreter traps an index of the numbers that is outside them."""
    monkeypatch.setattr(ahead, "NEAR", 0)
    agree([build_kernel("kernel", gather(40, 33, 30), Machine())], host_cpu(), {})


def test_rows_that_are_copied_backwards_are_prefetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first row's number is the last that is asked for: none lies before it."""
    monkeypatch.setattr(ahead, "NEAR", 0)
    b = Builder("backwards")
    x, i = b.input(TensorType(FLOAT32, (40, 32)), "x"), b.input(TensorType(INT64, (300,)), "i")
    turned = b("slice", b("gather", x, i, axis=0), start=(299, 0), size=(300, 32), step=(-1, 1))
    kernel = build_kernel("kernel", b.build([turned]), Machine())
    assert hints(kernel) and not verify_kernel(kernel)
    agree([kernel], host_cpu(), {})


# -- rules -----------------------------------------------------------------------------------------

HEAD = "kernel k(x: float32[40], i: int64[16], y: float32[16])\nparallel w < 1:\n"
CLEARED = "  vector l < 16:\n    y[l] = 0.0:float32\n"


def test_a_hint_may_lie_outside_its_buffer() -> None:
    kernel = parse_kernel(f"{HEAD}  prefetch x[w + 1000]\n  prefetch x[i[w]]\n{CLEARED}")
    assert not verify_kernel(kernel)
    agree([kernel], host_cpu(), {})


def test_a_hint_that_names_no_element_does_not_parse() -> None:
    with pytest.raises(ValueError, match="names no element"):
        parse_kernel(f"{HEAD}  prefetch 1.0:float32\n{CLEARED}")


def broken() -> Iterator[tuple[str, str]]:
    yield "  prefetch x[i[w + 16]]\n", "inside"
    yield "  prefetch x[0, 0]\n", "2 indices into x"
    yield "  vector l < 16:\n    prefetch x[l]\n", "a prefetch inside a vector loop"
    yield "  local t: float32[16]:\n    prefetch t[0]\n", "t is local, and prefetched"
    yield "  prefetch x[x[w]]\n", "an index is float32"


@pytest.mark.parametrize(("lines", "message"), list(broken()))
def test_broken_hints_are_refused(lines: str, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        verify_kernel(parse_kernel(HEAD + lines + CLEARED))
