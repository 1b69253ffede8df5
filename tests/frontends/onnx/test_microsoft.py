# ruff: noqa: E501 - one row for each case
"""ONNX Runtime's own ops against ONNX Runtime. Scales are powers of two, so that quantized
results are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import helper, numpy_helper

from netloom.compiler.interpret import interpret
from netloom.errors import NetloomError, UnsupportedOpError
from netloom.frontends.onnx import check, from_onnx
from netloom.frontends.onnx.microsoft import MICROSOFT

Array = npt.NDArray[Any]
RNG = np.random.default_rng(3)


def r(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def q(*shape: int, dtype: Any = np.uint8) -> Array:
    low, high = (0, 256) if dtype is np.uint8 else (-128, 128)
    return RNG.integers(low, high, shape).astype(dtype)


def f(number: float) -> Array:
    return np.array(number, np.float32)


def u(number: int) -> Array:
    return np.array(number, np.uint8)


@dataclass(frozen=True)
class Case:
    """Inputs from ``first_fixed`` on are initializers."""

    op: str
    inputs: tuple[Array | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    first_fixed: int = 1


def case(
    op: str,
    *inputs: Array | None,
    outputs: tuple[str, ...] = ("y",),
    first_fixed: int = 1,
    **attributes: Any,
) -> Case:
    return Case(op, inputs, attributes, outputs, first_fixed)


CASES = [
    *(case(op, q(2, 3, 4), f(0.5), u(120), q(3, 1), f(0.25), u(7), f(scale), u(100)) for op, scale in (("QLinearAdd", 1.0), ("QLinearMul", 8.0))),
    case("QLinearAdd", q(5, dtype=np.int8), f(0.5), np.array(-3, np.int8), q(5, dtype=np.int8), f(0.5), np.array(9, np.int8), f(1.0), np.array(2, np.int8)),
    case("QLinearSigmoid", q(3, 40), f(0.0625), u(128), f(0.0078125), u(3)), case("QLinearLeakyRelu", q(3, 40), f(0.5), u(128), f(0.25), u(60), alpha=0.125),
    case("QLinearGlobalAveragePool", q(2, 3, 4, 8), f(0.5), u(128), f(0.25), u(3)),
    case("QLinearAveragePool", q(1, 3, 6, 7), f(0.5), u(128), f(0.25), u(90), kernel_shape=[2, 2], strides=[2, 1], pads=[0, 1, 0, 0], count_include_pad=1),
    case("QLinearConcat", f(0.5), u(10), q(2, 3), f(0.5), u(3), q(2, 4), f(0.25), u(5), axis=1, first_fixed=0),
    case("QGemm", q(3, 8), f(0.5), u(120), q(8, 5, dtype=np.int8), f(0.25), np.array(3, np.int8), RNG.integers(-99, 99, 5).astype(np.int32), f(32.0), u(128)),
    case("QGemm", q(3, 8), f(0.5), u(120), q(5, 8), np.full(5, 0.25, np.float32), q(5), None, transB=1),
    case("MatMulIntegerToFloat", q(3, 8), q(8, 5), f(0.5), f(0.25), u(120), u(99), r(5), first_fixed=2),
    *(case("MatMulNBits", r(2, 3, 40), q(6, 2, 32 * bits // 8), np.abs(r(12)), zeros, K=40, N=6, bits=bits, block_size=32)
      for bits, zeros in ((4, None), (4, q(6)), (8, None))),
    case("Gelu", r(4, 5)), case("BiasGelu", r(4, 5), r(5)), case("FastGelu", r(4, 5)), case("FastGelu", r(4, 5), r(5)), case("QuickGelu", r(4, 5), alpha=1.5),
    case("FusedMatMul", r(2, 3, 4), r(5, 4), transB=1, alpha=0.5), case("FusedMatMul", r(4, 3), r(4, 5), transA=1),
    case("FusedConv", r(1, 2, 6, 6), r(3, 2, 3, 3), r(3), activation="Relu", pads=[1, 1, 1, 1]),
    case("FusedConv", r(1, 2, 6, 6), r(3, 2, 3, 3), r(3), activation="LeakyRelu", activation_params=[0.25]),
    case("SkipLayerNormalization", r(2, 3, 8), r(2, 3, 8), r(8), r(8), r(8), epsilon=1e-5, outputs=("y", "", "", "sum")),
    case("SkipLayerNormalization", r(2, 3, 8), r(2, 3, 8), r(8)),
    case("SkipSimplifiedLayerNormalization", r(2, 3, 8), r(2, 3, 8), r(8), epsilon=1e-5, outputs=("y", "", "", "sum")),
]  # fmt: skip


def model_of(c: Case) -> tuple[onnx.ModelProto, dict[str, Array]]:
    names = ["" if x is None else f"x{k}" for k, x in enumerate(c.inputs)]
    given = {f"x{k}": x for k, x in enumerate(c.inputs) if x is not None}
    fixed = [
        numpy_helper.from_array(given.pop(n), n)
        for k, n in enumerate(names)
        if n and k >= c.first_fixed
    ]
    ports = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in given.items()
    ]
    node = helper.make_node(c.op, names, list(c.outputs), domain="com.microsoft", **c.attributes)
    graph = helper.make_graph(
        [node], "g", ports, [onnx.ValueInfoProto(name=n) for n in c.outputs if n], fixed
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), given


@pytest.mark.parametrize("c", CASES, ids=[f"{k}-{c.op}" for k, c in enumerate(CASES)])
def test_case(c: Case) -> None:
    model, given = model_of(c)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for actual, expected in zip(
        interpret(from_onnx(model), given), session.run(None, given), strict=True
    ):
        if expected.dtype.kind != "f":
            np.testing.assert_array_equal(actual, expected)
        else:
            assert actual.dtype == expected.dtype
            np.testing.assert_allclose(
                actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
            )


def test_every_handler_has_a_case() -> None:
    assert set(MICROSOFT.entries) == {c.op for c in CASES}


def test_other_ops_of_the_domain_are_refused() -> None:
    model, _ = model_of(case("Inverse", r(3, 3)))
    assert not check(model).is_supported
    with pytest.raises(UnsupportedOpError, match="com.microsoft.Inverse"):
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
