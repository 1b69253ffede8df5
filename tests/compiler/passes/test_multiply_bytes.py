"""Products of quantized integers: those by constants of 8 bits become products of bytes, with the
same integers, on every CPU level of this machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from netloom.compiler.dim import Extent, symbol
from netloom.compiler.driver import Options, compile_graph, plan_graph
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.op import Array
from netloom.compiler.passes.fold_constants import fold_constants
from netloom.compiler.passes.multiply_bytes import multiply_bytes
from netloom.compiler.targets.cpu.machine import host_cpus
from netloom.compiler.tensor_type import FLOAT32, INT8, INT32, UINT8, DType, TensorType
from netloom.compiler.verify import verify
from netloom.runtime.session import Session

N = symbol("N", 1)
PLAIN = {"stride": (1, 1), "dilation": (1, 1), "lo": (0, 0), "hi": (0, 0)}
PADDED = {**PLAIN, "lo": (1, 2), "hi": (2, 0)}


@dataclass(frozen=True)
class Case:
    """(x - zero) times weights. ``zero``: a number, or the shape of an input; ``weight_zero``: what
    is taken from weights of that dtype; ``n``: the free dim."""

    op: str
    x: tuple[Extent, ...]
    w: tuple[int, ...]
    dtype: DType = UINT8
    zero: int | tuple[int, ...] = 0
    zero_dtype: DType = INT32  # of a zero that is an input
    weight_dtype: DType = INT8
    weight_zero: int = 0
    attrs: dict[str, Any] = field(default_factory=dict)
    n: int = 3
    most: int = 127  # of the weights without their zero

    def graph(self) -> Graph:
        b = Builder("bytes")
        x = b("cast", b.input(TensorType(self.dtype, self.x), "x"), dtype=INT32)
        if isinstance(self.zero, tuple):
            zero = b.input(TensorType(self.zero_dtype, self.zero), "zero")
            x = b("sub", x, b("cast", zero, dtype=INT32) if self.zero_dtype is not INT32 else zero)
        elif self.zero:
            x = b("sub", x, self.zero)
        info = np.iinfo(self.weight_dtype.numpy)
        low, high = (
            max(info.min, self.weight_zero - 128),
            min(info.max, self.weight_zero + self.most),
        )
        numbers = np.random.default_rng(sum(self.w)).integers(low, high + 1, self.w)
        numbers.reshape(-1)[:2] = low, high
        w: Value = b.constant(numbers.astype(self.weight_dtype.numpy))
        w = b("cast", w, dtype=INT32) if self.weight_dtype is not INT32 else w
        w = b("sub", w, self.weight_zero) if self.weight_zero else w
        return b.build([b(self.op, x, w, **self.attrs)], ["y"])

    def arrays(self) -> dict[str, Array]:
        """Bytes of the whole range, its ends among them."""
        rng, info = np.random.default_rng(1), np.iinfo(self.dtype.numpy)
        shape = tuple(e if isinstance(e, int) else self.n for e in self.x)
        x = rng.integers(info.min, info.max + 1, shape).astype(self.dtype.numpy)
        x.reshape(-1)[:3] = info.min, info.max, info.max
        zero = self.zero if isinstance(self.zero, tuple) else None
        ends = (-200, 300) if self.zero_dtype is INT32 else (info.min, info.max + 1)
        numbers = None if zero is None else rng.integers(*ends, zero)
        more = {} if numbers is None else {"zero": numbers.astype(self.zero_dtype.numpy)}
        return {"x": x, **more}


TAKEN = {
    "product": Case("matmul", (5, 24), (24, 40), zero=113),
    "product_without_zero": Case("matmul", (29, 4), (4, 16)),
    "product_of_signed": Case("matmul", (3, 36), (36, 17), dtype=INT8, zero=-128),
    "product_of_signed_without_zero": Case("matmul", (3, 36), (36, 17), dtype=INT8),
    "product_by_unsigned": Case("matmul", (3, 8), (8, 33), weight_dtype=UINT8, weight_zero=128),
    "product_of_rows": Case("matmul", (2, N, 32), (32, 32), zero=4),
    "product_with_a_zero_of_data": Case("matmul", (6, 20), (20, 50), zero=()),
    "product_with_zeros_of_rows": Case("matmul", (6, 20), (20, 50), dtype=INT8, zero=(6, 1)),
    "long_product": Case("matmul", (2, 4096), (4096, 16), zero=255),
    "product_by_bytes_without_sign": Case("matmul", (5, 24), (24, 40), zero=113,
                                          weight_dtype=UINT8, most=255),
    "product_of_rows_by_bytes": Case("matmul", (2, N, 32), (32, 32), INT8, zero=-4,
                                     weight_dtype=UINT8, weight_zero=90, most=165),
    "product_of_zeros_of_rows_by_bytes": Case("matmul", (6, 20), (20, 50), zero=(6, 1),
                                              weight_dtype=UINT8, weight_zero=200, most=55),
    "conv_by_bytes_without_sign": Case("conv", (1, 32, 9, 8), (32, 32, 3, 2), zero=7, attrs=PADDED,
                                       weight_dtype=UINT8, weight_zero=70, most=185),
    "conv_of_points_by_bytes": Case("conv", (N, 48, 5, 5), (16, 48, 1, 1), zero=(), attrs=PLAIN,
                                    weight_dtype=UINT8, weight_zero=100, most=155),
    "conv_strided_by_bytes": Case("conv", (2, 24, 8, 9), (20, 24, 1, 1), INT8, 3, weight_dtype=UINT8,
                                  attrs={**PLAIN, "stride": (2, 3)}, most=255),
    "borders_of_bytes_of_data": Case("conv", (2, 16, 5, 6), (32, 16, 3, 3), zero=(),
                                     zero_dtype=UINT8, attrs=PADDED),
    "borders_of_signed_bytes_of_data": Case("conv", (1, 16, N, 6), (32, 16, 3, 3), INT8, (),
                                            zero_dtype=INT8, attrs=PADDED, weight_dtype=UINT8,
                                            weight_zero=99, most=156, n=5),
    "conv": Case("conv", (1, 16, 9, 9), (32, 16, 3, 3), zero=7, attrs=PADDED),
    "conv_of_signed": Case("conv", (2, 32, 6, 7), (20, 32, 3, 2), INT8, -5, attrs=PADDED),
    "conv_of_points": Case("conv", (N, 48, 5, 5), (16, 48, 1, 1), zero=(), attrs=PLAIN),
    "conv_strided": Case("conv", (1, 16, 11, 12), (16, 16, 3, 3), zero=200,
                         attrs={**PADDED, "stride": (2, 3), "dilation": (2, 1)}),
    "conv_of_half_blocks": Case("conv", (2, 24, 5, 6), (40, 24, 3, 3), zero=9, attrs=PADDED),
    "conv_of_rows": Case("conv", (2, 16, 30), (17, 16, 5), zero=1,
                         attrs={"stride": (1,), "dilation": (1,), "lo": (2,), "hi": (2,)}),
}  # fmt: skip
FLOATS = {
    "few_channels": Case("conv", (1, 3, 9, 9), (32, 3, 3, 3), zero=121, attrs=PADDED),
    "few_filters": Case("conv", (1, 16, 9, 9), (4, 16, 3, 3), attrs=PLAIN),
    "groups": Case("conv", (1, 32, 5, 5), (32, 16, 3, 3), zero=3, attrs={**PADDED, "groups": 2}),
    "depthwise": Case("conv", (2, 40, 7, 8), (40, 1, 3, 3), zero=200,
                      attrs={**PADDED, "groups": 40}),
    "depthwise_of_signed": Case("conv", (N, 16, 9, 8), (16, 1, 5, 5), INT8, -7,
                                attrs={**PADDED, "groups": 16, "stride": (2, 2)}),
    "depthwise_by_bytes": Case("conv", (1, 20, 7, 8), (20, 1, 3, 3), zero=9, weight_dtype=UINT8,
                               attrs={**PADDED, "groups": 20}, weight_zero=80, most=175),
    "few_columns": Case("matmul", (4, 16), (16, 8), zero=4),
    "part_of_a_quad": Case("matmul", (4, 18), (18, 32), zero=255),
}  # fmt: skip
LEFT = {
    "borders_of_data": Case("conv", (1, 16, 5, 5), (16, 16, 3, 3), zero=(), attrs=PADDED),
    "borders_beyond_bytes": Case("conv", (1, 16, 5, 5), (16, 16, 3, 3), zero=-1, attrs=PADDED),
    "zeros_of_channels": Case("conv", (1, 16, 5, 5), (16, 16, 3, 3), zero=(16, 1, 1), attrs=PLAIN),
    "long_sums": Case("matmul", (4, 1026), (1026, 32)),
    "wide_weights": Case("matmul", (4, 512), (512, 32), weight_dtype=INT32, most=400),
    "zeros_of_columns": Case("matmul", (4, 16), (16, 32), zero=(16,)),
}


def ops_of(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


@pytest.mark.parametrize("name", [*TAKEN, *FLOATS])
def test_the_integers_are_the_same(name: str) -> None:
    case = {**TAKEN, **FLOATS}[name]
    graph, arrays = case.graph(), case.arrays()
    (expected,) = interpret(graph, arrays)
    multiplied = multiply_bytes(fold_constants(graph))
    verify(multiplied)
    node = next(node for node in multiplied.nodes if node.op.name == case.op)
    assert [value.dtype for value in node.inputs] == (
        [FLOAT32] * 2 if name in FLOATS else [UINT8, INT8]
    )
    np.testing.assert_array_equal(interpret(multiplied, arrays)[0], expected)
    for cpu in host_cpus() if name in ("product", "conv") else host_cpus()[-1:]:
        image = compile_graph(graph, Options(cpu=cpu.name)).image
        found = Session.in_process(image, threads=1).run(None, arrays)[0]
        np.testing.assert_array_equal(found, expected, err_msg=cpu.name)


@pytest.mark.parametrize("case", LEFT.values(), ids=LEFT)
def test_others_stay(case: Case) -> None:
    graph = fold_constants(case.graph())
    assert ops_of(multiply_bytes(graph)) == ops_of(graph)


def test_bytes_of_depthwise_convolutions_are_what_is_read() -> None:
    """The numbers that they become are made in the loops of the convolution."""
    graph = compile_graph(FLOATS["depthwise"].graph()).graphs["run"]
    kernels = [node for node in graph.nodes if node.op.name == "kernel"]
    (kernel,) = (k for k in kernels if "conv" in ops_of(k.attrs.body))
    assert kernel.inputs[0].dtype is UINT8


@pytest.mark.parametrize("name", ["conv_of_points_by_bytes", "conv_by_bytes_without_sign"])
def test_sums_of_windows_meet_the_sums_of_products_in_their_kernel(name: str) -> None:
    """Their products with what was taken from the filters are not stored."""
    graph = plan_graph(TAKEN[name].graph()).graphs["run"]
    bodies = [ops_of(node.attrs.body) for node in graph.nodes if node.op.name == "kernel"]
    (body,) = (ops for ops in bodies if "conv" in ops and "sub" in ops)
    assert "mul" in body and "reorder" not in body


def test_sums_wrap() -> None:
    """131,072 products of 255 - 3 and 127 leave int32, as they do without the pass."""
    depth = 1 << 17
    b = Builder("wrapped")
    x = b("sub", b("cast", b.input(TensorType(UINT8, (1, depth)), "x"), dtype=INT32), 3)
    graph = b.build([b("matmul", x, b.constant(np.full((depth, 16), 127, np.int32)))])
    arrays = {"x": np.full((1, depth), 255, np.uint8)}
    expected = np.full((1, 16), (252 * 127 * depth + (1 << 31)) % (1 << 32) - (1 << 31), np.int32)
    assert 252 * 127 * depth >= 1 << 31
    np.testing.assert_array_equal(interpret(graph, arrays)[0], expected)
    found = Session.in_process(compile_graph(graph).image, threads=1).run(None, arrays)[0]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["product", "conv"])
def test_one_instruction_adds_four_products(name: str) -> None:
    graph = TAKEN[name].graph()
    with_dots = compile_graph(graph, Options(cpu="x86-64-v4-vnni")).as_text("asm")
    assert "vpdpbusd" in with_dots and "vpmulld" not in with_dots
    for level in ("x86-64", "x86-64-v3", "x86-64-v4"):
        without = compile_graph(graph, Options(cpu=level)).as_text("asm")
        assert "pmaddwd" in without and "vpdpbusd" not in without, level
