"""Small graphs whose kernels take every way through loops/, and those kernels with arrays to run
them on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np

from netloom.compiler import dim, scalar
from netloom.compiler.dim import Extent, symbol
from netloom.compiler.driver import PIPELINE, TRAINING_PIPELINE, Options
from netloom.compiler.graph import Builder, Graph, Node, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.loops import ahead, bands, items, plan, tiling
from netloom.compiler.loops.build import Machine, build_kernel
from netloom.compiler.loops.ir import Kernel
from netloom.compiler.op import OPS, Array
from netloom.compiler.passes.differentiate import gradient_graph
from netloom.compiler.targets.cpu.machine import CPUS
from netloom.compiler.tensor_type import (
    BFLOAT16,
    BOOL,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    UINT32,
    DType,
    TensorType,
)

MACHINE = CPUS["x86-64-v4"].machine
SMALL_ITEMS = 64  # multiply-adds of a work item, so that small shapes make several
N, M = symbol("N", 1), symbol("M", 1)


@dataclass(frozen=True)
class Case:
    """A graph, numbers for its free dims, and whether small integers make its results exact."""

    name: str
    make: Callable[[], Graph]
    n: int = 0
    m: int = 0
    is_exact: bool = True
    is_training: bool = False
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)  # values of integer inputs
    strategy: str = "auto"  # of convolutions
    in_bands: bool = False  # Winograd's stages are joined, however small the image

    @property
    def symbols(self) -> dict[str, int]:
        """The free dims in numbers."""
        return {"N": self.n, "M": self.m}


@dataclass(frozen=True)
class Launch:
    """One kernel of a case with its arrays as they lie in memory, and what it must give."""

    node: Node
    kernel: Kernel
    arrays: list[Array]
    expected: Array
    symbols: dict[str, int]


def one(
    op: str,
    *shapes: tuple[Extent, ...],
    dtype: DType = FLOAT32,
    integers: tuple[int, ...] = (),
    **attrs: Any,
) -> Callable[[], Graph]:
    """A graph of one node; ``integers`` are the places of its int64 inputs."""

    def make() -> Graph:
        b = Builder(op)
        types = [TensorType(INT64 if i in integers else dtype, s) for i, s in enumerate(shapes)]
        return b.build([b(op, *(b.input(t, f"x{i}") for i, t in enumerate(types)), **attrs)], ["y"])

    return make


def scattered_rows(
    op: str, shape: tuple[Extent, Extent], count: int, **attrs: Any
) -> Callable[[], Graph]:
    """Rows of x at one index each."""

    def make() -> Graph:
        b, fresh = Builder(op), (count, shape[1])
        x = b.input(TensorType(FLOAT32, shape), "x0")
        indices = b.input(TensorType(INT64, (count,)), "x1")
        updates = b.input(TensorType(FLOAT32, fresh), "x2")
        column = b("broadcast", b("reshape", indices, shape=(count, 1)), shape=fresh)
        return b.build([b(op, x, column, updates, axis=0, **attrs)], ["y"])

    return make


def suppressed(*shape: Extent) -> Callable[[], Graph]:
    """Boxes of small integers, of which most overlap."""

    def make() -> Graph:
        b = Builder("suppress")
        boxes = b.input(TensorType(FLOAT32, (*shape[:-1], 4, shape[-1])), "boxes")
        candidates = b.input(TensorType(BOOL, shape), "candidates")
        return b.build([b("suppress", boxes, candidates, b.number(0.25, FLOAT32))], ["y"])

    return make


def weights(*shape: int) -> Array:
    """Small integers, three in ten of them not zero."""
    rng = np.random.default_rng(sum(shape))
    return np.asarray(rng.integers(-3, 4, shape) * (rng.random(shape) < 0.3), np.float32)


def convolution(
    x: tuple[Extent, ...], w: tuple[int, ...], stride: int = 1, pad: int = 1, groups: int = 1,
    residual: bool = False,
    dilation: int = 1,
) -> Callable[[], Graph]:  # fmt: skip
    """A convolution with constant weights, bias and ReLU; ``residual``: its input is added."""

    def make() -> Graph:
        b, rank = Builder("convolution"), len(x) - 2
        value = b.input(TensorType(FLOAT32, x), "x")
        attrs: dict[str, Any] = {
            "stride": (stride,) * rank,
            "dilation": (dilation,) * rank,
            "lo": (pad,) * rank,
            "hi": (pad,) * rank,
        }
        y = b("conv", value, b.constant(weights(*w)), groups=groups, **attrs)
        y = b("add", y, b.constant(np.arange(w[0], dtype=np.float32).reshape(w[0], *([1] * rank))))
        y = b("add", y, value) if residual else y
        return b.build([b("relu", y)], ["y"])

    return make


def gradients(op: str, *shapes: tuple[Extent, ...], **attrs: Any) -> Callable[[], Graph]:
    """The gradients of a node by all its inputs."""

    def make() -> Graph:
        graph = one(op, *shapes, **attrs)()
        return gradient_graph(graph, "y", [f"x{i}" for i in range(len(shapes))])

    return make


def product(
    x: tuple[Extent, ...], w: tuple[int, ...], *views: tuple[str, dict[str, Any]]
) -> Callable[[], Graph]:
    """The input under some views, times constant weights, plus a bias."""

    def make() -> Graph:
        b = Builder("product")
        value = b.input(TensorType(FLOAT32, x), "x")
        for op, attrs in views:
            value = b(op, value, **attrs)
        return b.build(
            [b("add", b("matmul", value, b.constant(weights(*w))), b.constant(weights(w[-1])))],
            ["y"],
        )

    return make


def between_blocks(op: str, channels: int, **attrs: Any) -> Callable[[], Graph]:
    """A convolution whose result lies in blocks of channels, and an op that reads it there."""

    def make() -> Graph:
        b = Builder("blocks")
        x = b.input(TensorType(FLOAT32, (2, channels, 3, 4)), "x")
        y = b(
            "conv",
            x,
            b.constant(weights(channels, channels, 1, 1)),
            **{**PLAIN, "lo": (0, 0), "hi": (0, 0)},
        )
        return b.build([b(op, *([y, y] if op == "concat" else [y]), **attrs)], ["y"])

    return make


def of_a_slice() -> Graph:
    """A convolution that reads part of its input in place."""
    b = Builder("slice")
    x = b.input(TensorType(FLOAT32, (1, 8, 7, 6)), "x")
    part = b("slice", x, start=(0, 2, 1, 1), size=(1, 4, 5, 4), step=(1, 1, 1, 1))
    return b.build([b("conv", part, b.constant(weights(6, 4, 3, 3)), **PLAIN)], ["y"])


def normalized() -> Graph:
    """Elementwise ops over an image with one number a channel: its rows and columns are one
    axis.
    """
    b = Builder("normalized")
    x, scale = (
        b.input(TensorType(FLOAT32, (2, 5, 6, 7)), "x"),
        b.input(TensorType(FLOAT32, (5, 1, 1)), "s"),
    )
    return b.build([b("relu", b("mul", x, scale))], ["y"])


def quantized(
    op: str, x: tuple[Extent, ...], w: tuple[int, ...], zero: int, dtype: DType, **attrs: Any
) -> Callable[[], Graph]:
    """(x - zero) by constant weights of 8 bits, in int32."""

    def make() -> Graph:
        b = Builder("quantized")
        value = b("cast", b.input(TensorType(dtype, x), "x"), dtype=INT32)
        by = np.random.default_rng(sum(w)).integers(-128, 128, w).astype(np.int32)
        return b.build([b(op, b("sub", value, zero), b.constant(by), **attrs)], ["y"])

    return make


def two_layers() -> Graph:
    """Two convolutions, one strided, a pool and a product: layouts meet, and a batch is free."""
    b = Builder("layers")
    x = b.input(TensorType(FLOAT32, (N, 3, 4, 4)), "x")
    attrs: dict[str, Any] = {"dilation": (1, 1), "lo": (1, 1), "hi": (1, 1), "groups": 1}
    y = b("relu", b("conv", x, b.constant(weights(20, 3, 3, 3)), stride=(1, 1), **attrs))
    y = b("conv", y, b.constant(weights(16, 20, 3, 3)), stride=(2, 2), **attrs)
    y = b("max_pool", y, kernel=(2, 2), stride=(1, 1), dilation=(1, 1), lo=(0, 0), hi=(0, 0))
    return b.build([b("matmul", b("reshape", y, shape=(N, 16)), b.constant(weights(16, 5)))], ["y"])


def log_sum_exp() -> Graph:
    """The number of each row by two reductions."""
    b = Builder("numbers")
    x = b.input(TensorType(FLOAT32, (N, 40)), "x0")
    top = b("reduce_max", x, axes=(1,), keep=True)
    total = b("reduce_sum", b("exp", b("sub", x, top)), axes=(1,), keep=True)
    return b.build([b("add", b("log", total), top)], ["y"])


def chain() -> Graph:
    """Elementwise ops, one used twice in a formula, a number and an index."""
    b = Builder("chain")
    x = b.input(TensorType(FLOAT64, (N, 5)), "x0")
    y = b("mul", b("sigmoid", x), b("iota", shape=(N, 5), axis=1, dtype=FLOAT64))
    return b.build([b("add", b("gelu", y), 0.5)], ["y"])


def repeated(*extents: Extent) -> Callable[[], Graph]:
    """Every element of the last axis twice, as in an image of twice the width."""

    def make() -> Graph:
        b = Builder("repeated")
        x = b.input(TensorType(FLOAT32, extents), "x0")
        *outer, last = extents
        twice = b("broadcast", b("reshape", x, shape=(*extents, 1)), shape=(*extents, 2))
        return b.build([b("reshape", twice, shape=(*outer, last * 2))], ["y"])

    return make


def gathered() -> Graph:
    b = Builder("gather")
    x, i = b.input(TensorType(FLOAT32, (5, 19)), "x0"), b.input(TensorType(INT64, (4,)), "i")
    return b.build(
        [
            b("gather", x, i, axis=0),
            b("gather_gradient", b("gather", x, i, axis=0), i, axis=0, extent=5),
        ]
    )


def selected() -> Graph:
    b = Builder("select")
    c, x, y = (
        b.input(TensorType(t, s), f"x{i}")
        for i, (t, s) in enumerate([(BOOL, (4, 5)), (FLOAT32, (4, 5)), (FLOAT32, (5,))])
    )
    return b.build([b("select", c, x, y)])


WINDOW: dict[str, Any] = {
    "kernel": (3, 2),
    "stride": (2, 2),
    "dilation": (1, 1),
    "lo": (1, 0),
    "hi": (1, 1),
}
PLAIN: dict[str, Any] = {
    "stride": (1, 1),
    "dilation": (1, 1),
    "lo": (1, 1),
    "hi": (1, 1),
    "groups": 1,
}
STEP: dict[str, Any] = {
    "kernel": (2, 2),
    "stride": (2, 2),
    "dilation": (1, 1),
    "lo": (0, 0),
    "hi": (1, 0),
}
CASES = (
    Case("matmul_odd", one("matmul", (5, 7), (7, 33))),
    Case("matmul_rows_tail", one("matmul", (31, 3), (3, 16))),
    Case("matmul_columns_tail", one("matmul", (2, 3), (3, 110))),
    Case("matmul_long_sum", one("matmul", (1, 700), (700, 10))),
    Case("matmul_prime_sum", one("matmul", (2, 1031), (1031, 4))),
    Case("matmul_transposed_b", one("matmul", (17, 20), (6, 20), transpose_b=True)),
    Case("matmul_transposed_a", one("matmul", (20, 17), (20, 6), transpose_a=True)),
    Case("matmul_batched", one("matmul", (2, 1, 4, 5), (3, 5, 6), dtype=FLOAT64)),
    Case("matmul_chains", one("matmul", (20, 70), (70, 40))),
    Case("matmul_integers", one("matmul", (3, 5), (5, 4), dtype=INT32)),
    Case("matmul_bytes", quantized("matmul", (31, 24), (24, 33), 7, DType.UINT8)),
    Case("matmul_bytes_signed", quantized("matmul", (N, 20), (20, 16), -3, DType.INT8), n=3),
    Case("conv_bytes", quantized("conv", (2, 16, 5, 6), (20, 16, 3, 3), 9, DType.UINT8, **PLAIN)),
    Case("matmul_empty", one("matmul", (4, 0), (0, 3))),
    Case("matmul_of_none", one("matmul", (N, 0, 700), (700, 33)), n=3),
    Case("matmul_symbolic", one("matmul", (N, 7), (7, 33)), n=11),
    Case("matmul_symbolic_full", one("matmul", (N, 7), (7, 33)), n=18),
    Case("matmul_symbolic_sum", one("matmul", (3, N), (N, 5)), n=530),
    Case("matmul_two_symbols", one("matmul", (N, 3, M), (N, M, 20)), n=2, m=5),
    Case("matmul_symbolic_rows", one("matmul", (N, M, 4), (4, 20)), n=3, m=7),
    Case("add_long", one("add", (5000,), (5000,))),
    Case("add_whole_vectors", one("add", (16, 32), (16, 32))),
    Case("add_symbolic", one("add", (N, 5), (N, 5)), n=7),
    Case("add_broadcast", one("add", (4, 1, 5), (3, 1))),
    Case("chain", chain, n=5, is_exact=False),
    Case("sum_all", one("reduce_sum", (2000,), axes=(0,))),
    Case("sum_axes", one("reduce_sum", (3, 5, 7), axes=(0, 2), keep=True)),
    Case("mean", one("reduce_mean", (3, 40, 5), dtype=FLOAT64, axes=(1,)), is_exact=False),
    Case("max_rows", one("reduce_max", (3, 37), axes=(1,))),
    Case("min_columns", one("reduce_min", (3, 37), dtype=INT64, axes=(0,))),
    Case("argmax", one("argmax", (5, 19), axis=1)),
    Case("softmax", one("softmax", (4, 21), axis=1), is_exact=False),
    Case("log_softmax", one("log_softmax", (N, 21, 3), axis=1), n=2, is_exact=False),
    Case("rows_in_lanes", one("softmax", (N, 7), axis=1), n=37, is_exact=False),
    Case("rows_in_lanes_float64", one("log_softmax", (40, 10), dtype=FLOAT64, axis=1),
         is_exact=False),
    Case("rows_in_registers", one("layer_norm", (5, 50), (50,), (50,), axis=1), is_exact=False),
    Case("rows_kept_in_the_output", one("softmax", (9, 105), axis=1), is_exact=False),
    Case("rows_in_chunks", one("rms_norm", (2, 4500), (4500,), axis=1), is_exact=False),
    Case("rows_of_any_length", one("softmax", (N, M), axis=1), n=3, m=75, is_exact=False),
    Case("rows_of_any_number", one("layer_norm", (N, M, 70), (70,), (70,), axis=2), n=2, m=5,
         is_exact=False),
    Case("rows_of_channels", one("group_norm", (2, 6, 5, 7), (6,), (6,), groups=2), is_exact=False),
    Case("rows_to_numbers", log_sum_exp, n=5, is_exact=False),
    Case("lrn", one("lrn", (2, 7, 5, 5), size=5, alpha=0.1, beta=0.75, bias=2.0), is_exact=False),
    Case("max_pool", one("max_pool", (2, 3, 9, 8), **WINDOW)),
    Case("average_pool", one("average_pool", (2, 3, 9, 8), **WINDOW, count_padding=False),
         is_exact=False),
    Case("transpose", one("transpose", (3, 4, 5), permutation=(2, 0, 1))),
    Case("transpose_tiles", one("transpose", (2, 19, 40), permutation=(2, 0, 1))),
    Case("transpose_symbolic", one("transpose", (N, 20), permutation=(1, 0)), n=18),
    Case("max_pool_rows", one("max_pool", (1, 2, 6, 70), **STEP)),
    Case("reshape", one("reshape", (3, 4, 10), shape=(6, 20))),
    Case("slice", one("slice", (9, 10), dtype=INT32, start=(8, 1), size=(4, 3), step=(-2, 3))),
    Case("slice_turned", one("slice", (N, 37), start=(0, 36), size=(N, 37), step=(1, -1)), n=2),
    Case("repeated", repeated(3, 20)),
    Case("repeated_symbolic", repeated(3, M), m=21),
    Case("pad", one("pad", (3, 5), lo=(1, 2), hi=(0, 3), value=1.5)),
    Case("pad_reflect", one("pad", (3, 5), lo=(1, 2), hi=(2, 3), mode="reflect")),
    Case("concat", one("concat", (3, 5), (3, 20), (3, 1), axis=1)),
    Case("concat_many", one("concat", *[(2, 1 + k % 2) for k in range(70)], axis=1)),
    Case("concat_rows", one("concat", (2, 5), (3, 5), axis=0)),
    Case("depth_to_space", one("depth_to_space", (1, 8, 3, 3), block=2)),
    Case("gather", gathered, inputs={"i": (0, 4, -1, -5)}),
    Case("select", selected),
    Case("random_bits", one("random_bits", (4,), dtype=UINT32, shape=(3, 19))),
    Case("conv_plain", convolution((1, 3, 6, 7), (5, 3, 3, 3))),
    Case("conv_blocked", convolution((1, 16, 5, 4), (32, 16, 3, 3), stride=2)),
    Case("conv_blocked_tails", convolution((2, 19, 2, 5), (20, 19, 1, 1), pad=0)),
    Case("conv_residual", convolution((1, 20, 4, 3), (20, 20, 1, 1), pad=0, residual=True)),
    Case("conv_grouped", convolution((1, 6, 5, 5), (9, 2, 3, 3), groups=3)),
    Case("conv_grouped_blocked", convolution((1, 32, 3, 3), (32, 16, 1, 1), groups=2, pad=0)),
    Case("conv_depthwise", convolution((1, 17, 5, 4), (17, 1, 3, 3), groups=17, stride=2)),
    Case("conv_dilated", convolution((1, 4, 7, 7), (5, 4, 2, 2), dilation=2)),
    Case("conv_1d", convolution((2, 3, 20), (4, 3, 4), stride=3)),
    Case("conv_symbolic", convolution((N, 2, 4, 5), (6, 2, 3, 3)), n=3),
    Case("conv_transposed",
         one("conv_input_gradient", (1, 4, 3, 3), (4, 3, 3, 3), spatial=(6, 5), stride=(2, 2),
             dilation=(1, 1),
                                lo=(1, 1), hi=(1, 1), groups=1)),
    Case("conv_gradients", gradients("conv", (2, 2, 4, 5), (3, 2, 3, 3), **PLAIN),
         is_training=True),
    Case("conv_gradients_symbolic", gradients("conv", (N, 2, 4, 4), (3, 2, 3, 3), **PLAIN), n=3,
         is_training=True),
    Case("matmul_gradients", gradients("matmul", (N, 7), (7, 5)), n=6, is_training=True),
    Case("pool_gradients", gradients("max_pool", (1, 3, 9, 8), **WINDOW), is_training=True),
    Case("softmax_gradients", gradients("softmax", (4, 21), axis=1), is_exact=False,
         is_training=True),
    Case("two_layers", two_layers, n=2),
    Case("winograd_input_f2",
         one("winograd_input", (2, 18, 5, 7), m=(2, 2), taps=(3, 3), lo=(1, 1), counts=(3, 4))),
    Case("winograd_input_f4",
         one("winograd_input", (1, 33, 9, 6), m=(4, 4), taps=(3, 3), lo=(1, 1), counts=(3, 2))),
    Case("winograd_input_blocks",
         one("winograd_input", (N, 128, 4, 4), m=(2, 2), taps=(3, 3), lo=(0, 0), counts=(1, 1)),
         n=2),
    Case("winograd_output_f2",
         one("winograd_output", (16, 1, 12, 18), m=(2, 2), taps=(3, 3), shape=(1, 18, 5, 7))),
    Case("winograd_output_f4",
         one("winograd_output", (36, 2, 8, 16), m=(4, 4), taps=(3, 3), shape=(2, 32, 7, 8))),
    Case("winograd_filter_f2",
         one("winograd_filter", (18, 33, 3, 3), m=(2, 2), taps=(3, 3), is_flipped=False)),
    Case("winograd_filter_turned",
         one("winograd_filter", (5, 17, 3, 3), m=(4, 4), taps=(3, 3), is_flipped=True),
         is_exact=False),
    Case("winograd_filter_gradient",
         one("winograd_filter_gradient", (16, 1, 5, 18), m=(2, 2), taps=(3, 3))),
    Case("winograd_output_gradient",
         one("winograd_output_gradient", (N, 18, 5, 4), m=(2, 2), taps=(3, 3)), n=2),
    Case("winograd_gradients", gradients("conv", (1, 3, 4, 4), (4, 3, 3, 3), **PLAIN),
         is_training=True, strategy="winograd_f2"),
    Case("im2col_gradients", gradients("conv", (1, 3, 5, 4), (4, 3, 3, 3), **PLAIN),
         is_training=True, strategy="im2col"),
    Case("blocked_gradients", gradients("conv", (1, 16, 2, 3), (18, 16, 2, 2), **PLAIN),
         is_training=True),
    Case("winograd_f2", convolution((1, 18, 3, 3), (17, 18, 3, 3)), strategy="winograd_f2"),
    Case("winograd_f4", convolution((N, 4, 5, 5), (18, 4, 3, 3)), n=2, is_exact=False,
         strategy="winograd_f4"),
    Case("winograd_bands", convolution((N, 17, 9, 14), (18, 17, 3, 3), residual=False), n=2,
         strategy="winograd_f2", in_bands=True),
    Case("winograd_bands_symbolic", convolution((N, 3, 3, M), (17, 3, 3, 3)), n=2, m=5,
         strategy="winograd_f2", in_bands=True),
    Case("winograd_bands_of_long_sums", convolution((1, 530, 3, 5), (5, 530, 3, 3)),
         strategy="winograd_f2", in_bands=True),
    Case("winograd_bands_trained", one("conv", (2, 3, 9, 4), (17, 3, 5, 3), **PLAIN),
         strategy="winograd_f2", is_exact=False, in_bands=True),
    Case("winograd_trained", one("conv", (1, 3, 4, 4), (2, 3, 3, 3), **PLAIN),
         strategy="winograd_f2"),
    Case("fft_input",
         one("fft_input", (1, 18, 5, 7), m=(6, 6), taps=(3, 3), lo=(1, 1), counts=(1, 2)),
         is_exact=False),
    Case("fft_input_row",
         one("fft_input", (N, 33, 2, 5), m=(1, 2), taps=(1, 3), lo=(0, 1), counts=(2, 3)), n=2),
    Case("fft_output",
         one("fft_output", (94, 2, 2, 16), m=(4, 6), taps=(5, 3), shape=(1, 32, 7, 5)),
         is_exact=False),
    Case("fft_filter", one("fft_filter", (18, 3, 3, 2), m=(2, 3), taps=(3, 2), is_flipped=False)),
    Case("fft_filter_turned",
         one("fft_filter", (5, 17, 5, 3), m=(4, 6), taps=(5, 3), is_flipped=True), is_exact=False),
    Case("fft_filter_gradient", one("fft_filter_gradient", (22, 1, 2, 18), m=(3, 2), taps=(2, 3))),
    Case("fft_output_gradient", one("fft_output_gradient", (N, 18, 3, 4), m=(2, 3), taps=(3, 2)),
         n=2),
    Case("fft_8", convolution((1, 4, 5, 5), (18, 4, 3, 3)), is_exact=False, strategy="fft_8"),
    Case("toeplitz", convolution((2, 3, 4, 4), (5, 3, 3, 3)), strategy="toeplitz"),
    Case("im2col", convolution((2, 5, 6, 7), (9, 5, 3, 3), stride=2), strategy="im2col"),
    Case("conv_padded_channels", convolution((1, 11, 4, 5), (12, 11, 3, 3))),
    Case("conv_grouped_padded", convolution((1, 48, 3, 4), (96, 16, 2, 2), groups=3, stride=2)),
    Case("conv_grouped_rows", convolution((1, 4, 3, 18), (4, 2, 3, 3), groups=2)),
    Case("conv_depthwise_rows", convolution((1, 18, 4, 20), (18, 1, 3, 3), groups=18)),
    Case("conv_3d", convolution((1, 2, 3, 4, 5), (3, 2, 2, 2, 2))),
    Case("conv_float64", one("conv", (1, 3, 5, 5), (20, 3, 3, 3), dtype=FLOAT64, **PLAIN)),
    Case("conv_of_a_slice", of_a_slice),
    Case("conv_transposed_grouped",
         one("conv_input_gradient", (1, 6, 3, 4), (6, 2, 3, 3), spatial=(5, 7), stride=(2, 2),
                                        dilation=(1, 1), lo=(1, 1), hi=(1, 1), groups=3)),
    Case("conv_gradients_grouped",
         gradients("conv", (1, 4, 4, 5), (6, 2, 3, 3), **{**PLAIN, "groups": 2}), is_training=True),
    Case("matmul_panels", product((21, 30), (30, 40))),
    Case("matmul_panels_symbolic", product((N, 5), (5, 100)), n=37),
    Case("matmul_panels_batched", product((2, 3, 12), (2, 12, 17))),
    Case("matmul_of_a_reshape", product((N, 3, 2, 5), (30, 20), ("reshape", {"shape": (N, 30)})),
         n=4),
    Case("matmul_of_a_transpose",
         product((4, 3, 10), (10, 24), ("transpose", {"permutation": (1, 0, 2)}))),
    Case("matmul_of_a_slice",
         product((9, 40), (20, 33), ("slice", {"start": (1, 7), "size": (8, 20), "step": (1, 1)}))),
    Case("matmul_float16", one("matmul", (3, 40), (40, 18), dtype=FLOAT16)),
    Case("matmul_bfloat16", one("matmul", (9, 20), (20, 5), dtype=BFLOAT16)),
    Case("matmul_one_number", one("matmul", (1, 1), (1, 1))),
    Case("scale_channels", normalized),
    Case("max_pool_blocks", one("max_pool", (1, 20, 6, 6), **STEP)),
    Case("average_pool_blocks", between_blocks("average_pool", 19, **STEP, count_padding=False)),
    Case("max_pool_symbolic", one("max_pool", (N, 16, 5, 5), **STEP), n=3),
    Case("pad_blocks", between_blocks("pad", 18, lo=(0, 0, 1, 2), hi=(0, 0, 0, 1), value=2.0)),
    Case("sum_blocks", between_blocks("reduce_sum", 20, axes=(2, 3))),
    Case("concat_blocks", between_blocks("concat", 32, axis=1)),
    Case("relu_blocks", between_blocks("relu", 20)),
    Case("sum_float64", one("reduce_sum", (3, 600), dtype=FLOAT64, axes=(1,))),
    Case("sum_float16", one("reduce_sum", (4, 70), dtype=FLOAT16, axes=(1,))),
    Case("sum_integers", one("reduce_sum", (4, 70), dtype=INT32, axes=(1,))),
    Case("product_all", one("reduce_product", (2, 36), axes=(1,))),
    Case("max_symbolic", one("reduce_max", (3, N), axes=(1,)), n=37),
    Case("gather_elements", one("gather_elements", (5, 6), (3, 6), integers=(1,), axis=0),
         inputs={"x1": (4, 0, -1, -5, 1, 2) * 3}),
    Case("scatter_add",
         one("scatter", (5, 6), (3, 6), (3, 6), integers=(1,), axis=0, reduction="add"),
         inputs={"x1": (4, 0, -1, 0, 1, 2) * 3}),
    Case("scatter_max",
         one("scatter", (4, 21), (4, 9), (4, 9), dtype=INT32, integers=(1,), axis=1,
             reduction="max"),
         inputs={"x1": (20, 3, 3, 0, -1, 7, 7, 7, 11) * 4}),
    Case("scatter_last", one("scatter_last", (5, 6), (3, 6), (3, 6), integers=(1,), axis=0),
         inputs={"x1": (4, 0, -1, 0, 1, 2) * 3}),
    Case("scatter_rows", scattered_rows("scatter_last", (5, 21), 4),
         inputs={"x1": (4, 0, -1, 0)}),
    Case("scatter_added_rows", scattered_rows("scatter", (5, N), 4, reduction="add"),
         inputs={"x1": (4, 0, -1, 0)}, n=19),
    Case("scatter_source", one("scatter_source", (2, 7), integers=(0,), axis=1, extent=18),
         inputs={"x0": (3, 3, -1, 0, 17, 9, 3) * 2}),
    Case("running_sum", one("running_sum", (3, 21), integers=(0,))),
    Case("running_sum_floats", one("running_sum", (2, 19))),
    Case("running_sum_symbolic", one("running_sum", (2, N), integers=(0,)), n=19),
    Case("true_positions", one("true_positions", (3, 21), dtype=BOOL, size=4)),
    Case("true_positions_symbolic", one("true_positions", (2, N), dtype=BOOL, size=17), n=19),
    Case("search_sorted", one("search_sorted", (2, 5), (2, 37), integers=(0, 1)),
         inputs={"x0": (-2, 0, 0, 1, 3, -3, -3, 2, 2, 2)}),
    Case("search_sorted_symbolic", one("search_sorted", (N,), (N,), integers=(0, 1)), n=3,
         inputs={"x0": (-1, 0, 2)}),
    Case("suppress", suppressed(2, 37)),
    Case("suppress_symbolic", suppressed(3, N), n=19),
    Case("run_sum", one("run_sum", (5, 19), (5,), integers=(1,)), inputs={"x1": (0, 1, 1, 1, 4)}),
    Case("run_sum_symbolic", one("run_sum", (N, 3), (N,), integers=(1,)), n=3,
         inputs={"x1": (2, 2, 3)}),
    Case("merge_sort", one("merge_sort", (300,), dtype=INT64)),
    Case("merge_sort_symbolic", one("merge_sort", (2, N), dtype=INT64), n=40),
    Case("first_places", one("first_places", (2, 70), size=20, descending=True)),
    Case("first_places_symbolic", one("first_places", (2, N + 3), dtype=INT32, size=3), n=40),
    Case("first_places_by_digits",
         one("first_places", (2, 39), size=20, descending=True, is_ranked=False)),
    Case("sort_rows", one("sort_positions", (3, 19), axis=1)),
    Case("sort_columns", one("sort_positions", (7, 18), axis=0, descending=True)),
    Case("sort_symbolic", one("sort_positions", (N, 3), axis=0), n=20),
    Case("inverse_positions", one("inverse_positions", (2, 5), integers=(0,), axis=1, size=3),
         inputs={"x0": (4, 2, 0, 1, 3) * 2}),
)  # fmt: skip


def fused(case: Case) -> Graph:
    """The kernels of a case, as a graph."""
    pipeline = TRAINING_PIPELINE if case.is_training else PIPELINE
    least = 0 if case.in_bands else bands.LEAST_ENTRIES
    with patch.object(bands, "LEAST_ENTRIES", least):
        return pipeline.run(case.make(), Options(override=case.strategy))[0]


def feeds(case: Case, graph: Graph) -> dict[str, Array]:
    """Small integers for every input."""
    rng = np.random.default_rng(7)
    found: dict[str, Array] = {}
    for value in graph.inputs:
        shape = value.type.evaluate(case.symbols)
        numbers = case.inputs.get(
            value.label, rng.integers(-3 if value.dtype.is_signed else 0, 4, shape)
        )
        found[value.label] = np.asarray(numbers).astype(value.dtype.numpy).reshape(shape)
    return found


def kernels_of(
    case: Case, item_work: int = items.ITEM_WORK, machine: Machine = MACHINE
) -> list[Kernel]:
    """The loops of every kernel of a case; ``item_work``: multiply-adds or elements that a work
    item should hold.
    """
    return [
        kernel_of(node, item_work, machine)
        for node in fused(case).nodes
        if node.op is OPS["kernel"]
    ]


def kernel_of(node: Node, item_work: int = items.ITEM_WORK, machine: Machine = MACHINE) -> Kernel:
    """The loops of a kernel node; chains of additions are no longer than a work item,
    and every operand counts as one that no cache holds."""
    chain = min(plan.CHAIN, item_work)
    with (
        patch.object(items, "ITEM_WORK", item_work),
        patch.object(plan, "CHAIN", chain),
        patch.object(tiling, "CHAIN", chain),
        patch.object(bands, "CHAIN", chain),
        patch.object(ahead, "NEAR", 0),
    ):
        return build_kernel("kernel", node.attrs.body, machine)


def launches(case: Case) -> Iterator[Launch]:
    """Every kernel of a case in small work items, with the values that the graph's interpretation
    gives its inputs and its output."""
    graph = fused(case)
    values = interpret(graph, feeds(case, graph), values=True)
    for node in graph.nodes:
        if node.op is OPS["kernel"]:
            arrays = [in_memory(v, values[v]) for v in node.inputs]
            yield Launch(
                node,
                kernel_of(node, SMALL_ITEMS),
                arrays,
                in_memory(node.output, values[node.output]),
                case.symbols,
            )


def drawn(kernel: Kernel, symbols: Mapping[str, int], rng: np.random.Generator) -> list[Array]:
    """Random numbers for the inputs of a kernel, as they lie in memory. Floats have 24 bits, so
    that products of two float64 numbers are exact: NumPy has no fma that would round them once
    with the sum."""
    arrays = []
    for buffer in kernel.buffers[:-1]:
        shape = tuple(dim.evaluate(e, symbols) for e in buffer.shape)
        if buffer.dtype.is_float:
            numbers: Array = rng.standard_normal(shape, np.float32)
        else:
            numbers = rng.integers(-4 if buffer.dtype.is_signed else 0, 5, shape)
        arrays.append(scalar.cast_array(np.asarray(numbers), buffer.dtype))
    return arrays


def in_memory(value: Value, array: Array) -> Array:
    """An array as it lies in memory under its value's layout."""
    return array if value.layout is None else np.asarray(value.layout.pack(array))


__all__ = ["CASES", "SMALL_ITEMS", "Case", "Launch", "drawn", "kernels_of", "launches"]
