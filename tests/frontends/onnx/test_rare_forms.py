# ruff: noqa: E501 - one row for each case
"""Forms of ops that exporters seldom write: integers where floats are usual, parameters that
broadcast, attributes of late opsets. Against the ONNX reference evaluator, ONNX Runtime or NumPy.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from netloom.compiler.driver import compile_graph
from netloom.compiler.interpret import interpret
from netloom.frontends.onnx import from_onnx
from netloom.runtime.session import Session

from .test_ops import Array, Case, assert_close, case, expected_of, ints, model_of, r

HALF = np.float16


def halves(*shape: int) -> Array:
    return r(*shape).astype(HALF)


def dequantized(x: Array, scale: Array, zero: Any = 0) -> Array:
    return (x.astype(np.float64) - zero) * scale.astype(np.float64)


def layer_norm(x: Array) -> Array:
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5))


STEPS = {"hidden_size": 4, "direction": "bidirectional", "peer": True, "tolerance": 1e-5}
WIDE = np.array([[-300, 70], [1234, 5]], np.int32)
CASES = [
    # -- recurrences: numbers of activations in the order of all directions; the hidden size follows from R
    case("RNN", r(5, 2, 3), r(2, 4, 3), r(2, 4, 4), activations=["LeakyRelu"] * 2, activation_alpha=[0.1, 0.7], outputs=2, **STEPS),
    case("GRU", r(5, 2, 3), r(2, 12, 3), r(2, 12, 4), activations=["HardSigmoid", "Tanh", "HardSigmoid", "Affine"], activation_alpha=[0.3, 0.1, 0.5], activation_beta=[0.5, 0.2, 0.1], outputs=2, **STEPS),
    *(case(op, r(5, 2, 3), r(1, g * 4, 3), r(1, g * 4, 4), outputs=2, tolerance=1e-5) for op, g in (("RNN", 1), ("GRU", 3), ("LSTM", 4))),
    # -- quantization
    case("DequantizeLinear", ints(4, 5, dtype=np.int8), np.float32(0.7), opset=23, output_dtype=TensorProto.FLOAT16, expected=lambda x, s: dequantized(x, s).astype(HALF)),
    case("DequantizeLinear", np.array([0, 255, 65535], np.uint16), HALF(0.25), opset=21, expected=lambda x, s: dequantized(x, s).astype(HALF)),
    case("DequantizeLinear", np.array([-(10**6), 70000], np.int32), HALF(0.01), opset=21, expected=lambda x, s: dequantized(x, s).astype(HALF)),
    case("DequantizeLinear", ints(4, 5, dtype=np.int8), np.array(0.7, ml_dtypes.bfloat16), opset=23, output_dtype=TensorProto.FLOAT, expected=lambda x, s: dequantized(x, s).astype(np.float32)),
    case("QuantizeLinear", r(4, 5) * 20, np.int32(3), opset=23, expected=lambda x, s: np.clip(np.rint(x / s), 0, 255).astype(np.uint8)),
    case("QuantizeLinear", np.array([-9, 100, 30000, 99999], np.int32), HALF(512), np.uint8(3), opset=23, expected=lambda x, s, z: np.clip(np.rint(x / float(s)) + z, 0, 255).astype(np.uint8)),
    case("QuantizeLinear", halves(40) * 20, HALF(0.3), np.int8(3), opset=23, precision=TensorProto.FLOAT, expected=lambda x, s, z: np.clip(np.rint(x / np.float32(s)) + z, -128, 127).astype(np.int8)),
    # -- powers of integers are exact, whatever the exponents are
    case("Pow", np.array([3, -7, 10, 2097151], np.int64), np.int64(3), fixed=[1]), case("Pow", np.array([3, -7, 10, 1291], np.int64), np.array([39, 21, 18, 6], np.int64)),
    case("Pow", np.array([-1, 1, -1, 5, 0, 9], np.int32), np.array([-3, -4, 10, -1, 0, 1], np.int32), expected=lambda *_: np.array([-1, 1, 1, 0, 1, 9], np.int32)),
    case("Pow", np.arange(2, 60, dtype=np.int32), np.arange(0, 5, dtype=np.uint8)[:, None]), case("Pow", np.arange(60, dtype=np.int64), np.float32(5)),
    case("Pow", np.array([8, 9, 17], np.int32), np.float32(0.5), fixed=[1]),
    # -- normalizations whose parameters broadcast to the whole input, or are wider than it
    case("LayerNormalization", r(2, 3, 5), r(2, 1, 5), r(3, 1), expected=lambda x, s, b: layer_norm(x) * s + b, tolerance=1e-5),
    case("LayerNormalization", r(2, 3, 5), r(1, 1, 5), expected=lambda x, s: layer_norm(x) * s, tolerance=1e-5),
    case("RMSNormalization", r(2, 3, 5), r(3, 1), opset=23, expected=lambda x, s: x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5) * s, tolerance=1e-5),
    case("BatchNormalization", halves(2, 3, 4) * HALF(900), halves(3), halves(3), r(3), np.array([8e5, 3e5, 1e6], np.float32), opset=15, tolerance=2e-3,
         expected=lambda x, s, b, m, v: ((x - m[:, None].astype(np.float64)) / np.sqrt(v[:, None] + 1e-5) * s[:, None] + b[:, None]).astype(HALF)),
    # -- integers
    case("Shrink", WIDE, lambd=1.5, bias=1.5), case("Shrink", np.array([0, 1, 2, 9], np.uint8), lambd=1.5, bias=0.5),
    case("PRelu", ints(3, 4), ints(4)),
    case("Gemm", ints(3, 4), ints(4, 5), ints(5), alpha=0.5, beta=2.0, expected=lambda a, b, c: np.trunc((a @ b) * 0.5).astype(np.int32) + 2 * c),
    case("Gemm", r(3, 4), r(4, 5), np.full(5, np.nan, np.float32), beta=0.0, tolerance=1e-5),
    # -- axes that are repeated several times
    case("Pad", r(3, 4), np.array([5, 9], np.int64), None, np.array([-1], np.int64), opset=19, fixed=(1, 3), mode="wrap"), case("Pad", r(1, 4), np.array([2, 0, 1, 4], np.int64), opset=19, fixed=(1,), mode="wrap"),
    # -- letters of one element stand for more
    case("Einsum", r(3, 1), r(4, 5), equation="ij,jk->ik", tolerance=1e-5), case("Einsum", r(2, 3, 1), r(1, 3, 4), equation="bij,bij->bj", tolerance=1e-5),
]  # fmt: skip


@pytest.mark.parametrize("c", CASES, ids=[f"{k}-{c.op}" for k, c in enumerate(CASES)])
def test_form(c: Case) -> None:
    model, given = model_of(c)
    results = interpret(from_onnx(model), given)
    for actual, expected in zip(results, expected_of(c, model, given), strict=True):
        assert_close(actual, expected, c.tolerance)


def test_quantized_to_four_bits_without_a_zero_point() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"], output_dtype=TensorProto.INT4),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [9]), ("s", []), ("y", [9]))
    ]
    graph = helper.make_graph(nodes, "g", ports[:2], ports[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    x, scale = r(9) * 9, np.float32(0.75)
    (found,) = interpret(from_onnx(model), {"x": x, "s": scale})
    np.testing.assert_array_equal(found, np.clip(np.rint(x / scale), -8, 7) * scale)


def test_compiled_powers_of_integers() -> None:
    """A power in float64 may be a unit in the last place below an integer."""
    x = np.arange(-40, 41, dtype=np.int64)
    model, given = model_of(case("Pow", x, np.float32(7)))
    session = Session.in_process(compile_graph(from_onnx(model)).image)
    (found,) = session.run(None, given)
    np.testing.assert_array_equal(found, x**7)


def test_functions_of_short_floats_are_rounded_once() -> None:
    """Near 0 and far from it, where steps in float16 would cancel or overflow."""
    x = np.array([-11.5, -9.5, -6, -5, -3, -0.01, 0.02, 2, 7, 11.5], HALF)
    wide = x.astype(np.float64)
    softplus = np.log1p(np.exp(wide))
    exact: dict[str, Array] = {
        "Sigmoid": 1 / (1 + np.exp(-wide)),
        "Softplus": softplus,
        "Softsign": wide / (1 + np.abs(wide)),
        "Mish": wide * np.tanh(softplus),
        "Elu": np.where(wide < 0, np.expm1(np.minimum(wide, 0)), wide),
        "Cosh": np.cosh(wide),
        "Softmax": np.exp(wide - 11.5) / np.exp(wide - 11.5).sum(),
        "LogSoftmax": wide - 11.5 - np.log(np.exp(wide - 11.5).sum()),
    }
    for op, expected in exact.items():
        model, given = model_of(case(op, x))
        (found,) = interpret(from_onnx(model), given)
        assert found.dtype == HALF
        np.testing.assert_allclose(
            found.astype(np.float64), expected, rtol=2**-10, atol=2**-20, err_msg=op
        )
