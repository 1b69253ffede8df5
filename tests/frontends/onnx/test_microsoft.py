# ruff: noqa: E501 - one row for each case
"""ONNX Runtime's own ops against ONNX Runtime. Scales are powers of two, so that quantized
results are exact.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

import netloom as nl
from netloom.compiler.interpret import interpret
from netloom.errors import NetloomError, UnsupportedOpError
from netloom.frontends.onnx import check, from_onnx
from netloom.frontends.onnx.microsoft import ADDED_TO_STANDARD, MICROSOFT

from .runtime_case import (
    RNG,
    Array,
    Case,
    case,
    check_case,
    compare,
    expected_of,
    f,
    model_of,
    q,
    r,
    u,
)
from .test_experimental import CASES as EXPERIMENTAL_CASES
from .test_microsoft_attention import CASES as ATTENTION_CASES
from .test_microsoft_lstm import CASES as LSTM_CASES

CASES = [
    *(case(op, q(2, 3, 4), f(0.5), u(120), q(3, 1), f(0.25), u(7), f(scale), u(100)) for op, scale in (("QLinearAdd", 1.0), ("QLinearMul", 8.0))),
    case("QLinearAdd", q(5, dtype=np.int8), f(0.5), np.array(-3, np.int8), q(5, dtype=np.int8), f(0.5), np.array(9, np.int8), f(1.0), np.array(2, np.int8)),
    case("QLinearSigmoid", q(3, 40), f(0.0625), u(128), f(0.0078125), u(3)), case("QLinearLeakyRelu", q(3, 40), f(0.5), u(128), f(0.25), u(60), alpha=0.125),
    case("QLinearGlobalAveragePool", q(2, 3, 4, 8), f(0.5), u(128), f(0.25), u(3)),
    case("QLinearAveragePool", q(1, 3, 6, 7), f(0.5), u(128), f(0.25), u(90), kernel_shape=[2, 2], strides=[2, 1], pads=[0, 1, 0, 0], count_include_pad=1),
    case("QLinearAveragePool", q(1, 6, 7, 3), f(0.5), u(128), f(0.25), u(90), kernel_shape=[2, 3], strides=[2, 1], pads=[0, 1, 0, 0], channels_last=1),
    case("QLinearConcat", f(0.5), u(10), q(2, 3), f(0.5), u(3), q(2, 4), f(0.25), u(5), axis=1, first_fixed=0),
    case("QGemm", q(3, 8), f(0.5), u(120), q(8, 5, dtype=np.int8), f(0.25), np.array(3, np.int8), RNG.integers(-99, 99, 5).astype(np.int32), f(32.0), u(128)),
    case("QGemm", q(3, 8), f(0.5), u(120), q(5, 8), np.full(5, 0.25, np.float32), q(5), None, transB=1),
    case("MatMulIntegerToFloat", q(3, 8), q(8, 5), f(0.5), f(0.25), u(120), u(99), r(5), first_fixed=2),
    *(case("MatMulNBits", r(2, 3, 40), q(6, 2, 32 * bits // 8), np.abs(r(12)), zeros, K=40, N=6, bits=bits, block_size=32)
      for bits, zeros in ((4, None), (4, q(6)), (8, None))),
    *(case("GatherBlockQuantized", q(6, 40 * bits // 8), np.array([[1, -1, 0]], np.int64), r(6, 3), zeros, bits=bits, block_size=16, quantize_axis=1,
           first_fixed=2) for bits, zeros in ((4, None), (4, q(6, 2)), (8, q(6, 3)), (2, q(6, 1)))),
    case("Gelu", r(4, 5)), case("BiasGelu", r(4, 5), r(5)), case("FastGelu", r(4, 5)), case("FastGelu", r(4, 5), r(5)), case("QuickGelu", r(4, 5), alpha=1.5),
    case("FusedMatMul", r(2, 3, 4), r(5, 4), transB=1, alpha=0.5), case("FusedMatMul", r(4, 3), r(4, 5), transA=1),
    case("FusedConv", r(1, 2, 6, 6), r(3, 2, 3, 3), r(3), activation="Relu", pads=[1, 1, 1, 1]),
    case("FusedConv", r(1, 2, 6, 6), r(3, 2, 3, 3), r(3), activation="LeakyRelu", activation_params=[0.25]),
    case("SkipLayerNormalization", r(2, 3, 8), r(2, 3, 8), r(8), r(8), r(8), epsilon=1e-5, outputs=("y", "", "", "sum")),
    case("SkipLayerNormalization", r(2, 3, 8), r(2, 3, 8), r(8)),
    case("SkipSimplifiedLayerNormalization", r(2, 3, 8), r(2, 3, 8), r(8), epsilon=1e-5, outputs=("y", "", "", "sum")),
    case("DynamicQuantizeMatMul", r(2, 3, 8), q(8, 5, dtype=np.int8), f(0.25), np.array(3, np.int8), r(5)),
    case("DynamicQuantizeMatMul", r(3, 8), q(8, 5), np.full(5, 0.25, np.float32), q(5)),
    case("QLinearSoftmax", q(3, 5), f(0.0625), u(128), f(1 / 256), u(0), axis=-1, opset=13),
    case("QLinearSoftmax", q(2, 3, 5), f(0.0625), u(128), f(1 / 256), u(0), axis=1, opset=12),
    case("QLinearWhere", RNG.random((3, 5)) < 0.5, q(3, 5), f(0.5), u(128), q(3, 5), f(0.25), u(100), f(0.5), u(120)),
    # weights of 7 bits: this op of ONNX Runtime saturates sums of two products at 16 bits where a CPU has no VNNI
    case("QLinearConv", q(1, 6, 6, 2), f(0.5), u(128), q(3, 2, 3, 3, dtype=np.int8) // 2, f(0.25), np.array(0, np.int8), f(16.0), u(120), channels_last=1, pads=[1, 1, 1, 1], first_fixed=3),
    case("QuantizeLinear", r(3, 5), f(0.0625), u(128)), case("DequantizeLinear", q(3, 5), f(0.25), u(3)),
    case("FusedMatMul", r(3, 2, 2, 4), r(2, 2, 4, 5), transBatchA=1), case("FusedMatMul", r(2, 2, 3, 4), r(5, 2, 2, 4), transBatchB=1, transB=1),
    *(case("FusedGemm", r(3, 4), r(4, 5), r(5), activation=name, **more) for name, more in (("Relu", {}), ("LeakyRelu", {"activation_alpha": 0.25}), ("Tanh", {}))),
    case("NhwcMaxPool", q(1, 6, 7, 3, dtype=np.int8), kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 0]),
    case("EmbedLayerNormalization", RNG.integers(0, 9, (2, 4)).astype(np.int32), RNG.integers(0, 2, (2, 4)).astype(np.int32), r(9, 6), r(5, 6), r(2, 6), r(6), r(6), np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.int32), outputs=("y", "lengths", "sum"), first_fixed=2),
    case("EmbedLayerNormalization", RNG.integers(0, 9, (2, 4)).astype(np.int32), None, r(9, 6), r(5, 6), None, r(6), r(6), None, RNG.integers(0, 5, (2, 4)).astype(np.int32), outputs=("y", "lengths"), epsilon=1e-5, first_fixed=2),
    case("QEmbedLayerNormalization", RNG.integers(0, 9, (2, 4)).astype(np.int32), RNG.integers(0, 2, (2, 4)).astype(np.int32), q(9, 6), q(5, 6), q(2, 6), q(6), q(6), None, *(f(0.0625) for _ in range(5)), *(u(100 + k) for k in range(5)), outputs=("y", "lengths"), first_fixed=2),
    case("SimplifiedLayerNormalization", r(2, 3, 8), r(8), epsilon=1e-5, domain=""), case("LayerNormalization", r(2, 3, 8), r(8), r(8), domain="", epsilon=1e-5),
    case("GatherND", r(3, 4, 5), np.array([[0, 1], [2, 3]], np.int64)), case("Trilu", r(4, 5), np.array(1, np.int64), upper=1), case("Range", f(1.0), f(9.0), f(2.0), first_fixed=0),
    case("Pad", r(2, 3), np.array([[0, 1, 1, 2]], np.int64)), case("Range", f(1.0), f(5.0), first_fixed=0),
    case("Pad", r(2, 3), np.array([0, 1, 1, 2], np.int64), f(0.5)), case("GridSample", r(1, 2, 4, 5), r(1, 3, 3, 2) / 2),
]  # fmt: skip


@pytest.mark.parametrize("c", CASES, ids=[f"{k}-{c.op}" for k, c in enumerate(CASES)])
def test_case(c: Case) -> None:
    check_case(c)


def test_every_handler_has_a_case() -> None:
    tested = {
        (c.domain, c.op) for c in (*CASES, *ATTENTION_CASES, *LSTM_CASES, *EXPERIMENTAL_CASES)
    }
    tested |= {("com.microsoft", op) for op in DEFINED}
    assert {("com.microsoft", op) for op in MICROSOFT.entries} <= tested
    assert {("", op) for op in ADDED_TO_STANDARD.entries} <= tested


# -- ops without a kernel for CPUs in ONNX Runtime, by their definition ------------------------------


def erf(x: Array) -> Array:
    return np.vectorize(math.erf)(x.astype(np.float64))


def grouped(x: Array, groups: int) -> Array:
    """x [n, h, w, c] less the mean of its groups of channels, over their deviation."""
    parts = x.astype(np.float64).reshape(*x.shape[:3], groups, -1)
    centred = parts - parts.mean((1, 2, 4), keepdims=True)
    deviation = np.sqrt((centred**2).mean((1, 2, 4), keepdims=True) + 1e-5)
    return np.asarray((centred / deviation).reshape(x.shape))


def split_gelu(x: Array, bias: Array) -> list[Array]:
    u, v = np.split(x + bias, 2, axis=-1)
    return [u * 0.5 * v * (1 + erf(v / math.sqrt(2)))]


def group_norm(x: Array, scale: Array, shift: Array) -> list[Array]:
    y = grouped(x, 2) * scale + shift
    return [y / (1 + np.exp(-y))]


def skip_group_norm(x: Array, scale: Array, shift: Array, skip: Array, bias: Array) -> list[Array]:
    total = x + skip + bias
    return [grouped(total, 2) * scale + shift, total]


def gelu_of_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def nhwc_conv(x: Array, w: Array, bias: Array) -> list[Array]:
    """Two groups; w is [o, kh, kw, c / 2]."""
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[1:3], axis=(1, 2))
    halves = zip(np.split(windows, 2, axis=3), np.split(w, 2), strict=True)
    parts = [np.einsum("nhwckl,oklc->nhwo", part, filters) for part, filters in halves]
    return [np.concatenate(parts, axis=3) + bias]


DEFINED: dict[str, tuple[Case, Any]] = {
    "BiasSplitGelu": (case("BiasSplitGelu", r(2, 3, 8), r(8)), split_gelu),
    "BiasAdd": (case("BiasAdd", r(2, 3, 4), r(4), r(2, 3, 4)), lambda x, b, s: [x + b + s]),
    "GroupNorm": (case("GroupNorm", r(2, 3, 4, 6), r(6), r(6), groups=2, activation=1), group_norm),
    "SkipGroupNorm": (
        case("SkipGroupNorm", r(2, 3, 4, 6), r(6), r(6), r(2, 3, 4, 6), r(6), groups=2, outputs=("y", "s")),
        skip_group_norm,
    ),
    "GemmFastGelu": (case("GemmFastGelu", r(3, 4), r(4, 5), r(5)), lambda x, w, b: [gelu_of_tanh(x @ w + b)]),
    "NhwcConv": (case("NhwcConv", r(1, 5, 6, 4), r(6, 2, 3, 2), r(6), group=2), nhwc_conv),
    "NhwcFusedConv": (
        case("NhwcFusedConv", r(1, 5, 6, 4), r(6, 2, 3, 2), r(6), r(1, 4, 4, 6), group=2, activation="Relu"),
        lambda x, w, b, z: [np.maximum(nhwc_conv(x, w, b)[0] + z, 0)],
    ),
    "TransposeMatMul": (case("TransposeMatMul", r(2, 3, 4), r(2, 5, 4), transB=1), lambda a, b: [a @ np.swapaxes(b, 1, 2)]),
}  # fmt: skip


@pytest.mark.parametrize("op", DEFINED)
def test_definition(op: str) -> None:
    c, definition = DEFINED[op]
    model, given = model_of(c)
    for actual, expected in zip(
        interpret(from_onnx(model), given), definition(*c.inputs), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("op", "remedy"), [
    ("Inverse", "without ONNX Runtime's optimizations"), ("BeamSearch", "import the decoder"),
    ("Tokenizer", "Strings are no tensors"), ("WordConvEmbedding", "Gather, Conv, Tanh"),
])  # fmt: skip
def test_other_ops_of_the_domain_are_refused(op: str, remedy: str) -> None:
    model, _ = model_of(case(op, r(3, 3)))
    assert not check(model).is_supported
    with pytest.raises(UnsupportedOpError, match=f"(?s)com.microsoft.{op}.*{remedy}"):
        from_onnx(model)


@pytest.mark.parametrize(("c", "words"), [
    (case("QLinearAdd", q(2)), "input 1 is missing"),
    (case("QLinearConcat", f(0.5), u(10), q(2, 3), first_fixed=0, axis=1), "it has 3 inputs"),
    (case("MatMulNBits", r(3, 40), q(6, 2, 16), np.abs(r(12)), K=41, N=6, bits=4, block_size=32), "its weights are"),
    (case("MatMulNBits", r(3, 40), q(6, 2, 16), np.abs(r(12)), K=40, N=6, bits=4, block_size=32, first_fixed=2), "computed, or reordered"),
    (case("FusedConv", r(1, 2, 6, 6), r(3, 2, 3, 3), activation="Clip"), "2 are needed"),
    (case("SkipLayerNormalization", r(2, 8), r(2, 8), r(7)), "scale float32"),
])  # fmt: skip
def test_what_is_impossible_is_refused(c: Case, words: str) -> None:
    with pytest.raises(NetloomError, match=words):
        from_onnx(model_of(c)[0])


def test_compiled_convolution_of_integers() -> None:
    """Its shape is one for Winograd's transforms, which integers have none of."""
    x, w = q(1, 32, 16, 16), q(32, 32, 3, 3)
    ports = [helper.make_tensor_value_info("x", 2, x.shape)]
    node = helper.make_node("ConvInteger", ["x", "w", "zero"], ["y"], pads=[1, 1, 1, 1])
    fixed = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(u(3), "zero")]
    graph = helper.make_graph([node], "g", ports, [onnx.ValueInfoProto(name="y")], fixed)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    found = nl.compile(from_onnx(model), threads=1).session.run(None, {"x": x})
    compare(found, expected_of(model, {"x": x}))


@pytest.mark.parametrize(("gathered", "quantized"), [(0, 2), (2, 0), (1, 2)])
def test_gather_of_four_bits(gathered: int, quantized: int) -> None:
    shape, blocks = (18, 4, 20), [18, 4, 20]
    blocks[quantized] = -(-shape[quantized] // 16)
    numbers = [RNG.integers(-8, 8, math.prod(size)) for size in (shape, blocks)]
    int4 = onnx.TensorProto.INT4
    fixed = [helper.make_tensor("data", int4, shape, numbers[0].tolist()),
             numpy_helper.from_array(r(*blocks), "scales"),
             helper.make_tensor("zeros", int4, blocks, numbers[1].tolist())]  # fmt: skip
    node = helper.make_node("GatherBlockQuantized", ["data", "at", "scales", "zeros"], ["y"], block_size=16,
                            gather_axis=gathered, quantize_axis=quantized, domain="com.microsoft")  # fmt: skip
    ports = [helper.make_tensor_value_info("at", onnx.TensorProto.INT64, (2, 1))]
    graph = helper.make_graph([node], "g", ports, [onnx.ValueInfoProto(name="y")], fixed)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    given = {"at": np.array([[3], [-1]])}
    compare(interpret(from_onnx(model), given), expected_of(model, given))


def test_a_model_without_the_opset_of_the_domain() -> None:
    """ONNX Runtime does not ask for it, and TensorFlow's exporter leaves it out."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> counted (int64 n) => (int64[m] y)
        { zero = Constant<value_int = 0>() one = Constant<value_int = 1>() k = Constant<value_int = 4>()
          y = com.microsoft.Range(zero, k, one) }"""
    )
    (result,) = interpret(from_onnx(model), {"n": np.array(2)})
    np.testing.assert_array_equal(result, np.arange(4))
