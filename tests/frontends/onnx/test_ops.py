# ruff: noqa: E501 - one row for each case
"""Every handler against the ONNX reference evaluator, with awkward attributes and all inputs
random.

A case is one node. Inputs named in ``fixed`` are initializers (shapes, axes, bounds); the others
are graph inputs. Each case runs with static shapes, is exported and imported again, and (``free``)
runs with every axis 0 free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from netloom.compiler.interpret import interpret
from netloom.frontends.onnx import from_onnx, to_onnx

Array = npt.NDArray[Any]
RNG = np.random.default_rng(7)


def r(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Array:
    return (np.abs(RNG.standard_normal(shape)) + 0.1).astype(np.float32)


def i(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def ints(*shape: int, dtype: Any = np.int32, low: int = -9) -> Array:
    return RNG.integers(low, 9, shape).astype(dtype)


def bools(*shape: int) -> Array:
    return RNG.integers(0, 2, shape).astype(bool)


@dataclass(frozen=True)
class Case:
    """inputs -> outputs through one node. ``fixed``: positions that are initializers."""

    op: str
    inputs: tuple[Array | np.generic | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 18
    fixed: tuple[int, ...] = ()
    outputs: int = 1
    free: bool = False
    tolerance: float = 2e-6
    expected: Any = None  # where the reference evaluator has no such opset
    is_exported: bool = True  # False: the default opset has no form of it
    # expected values from ONNX Runtime: the reference evaluator is wrong or incomplete here
    peer: bool = False


def case(
    op: str,
    *inputs: Array | np.generic | None,
    fixed: Sequence[int] = (),
    opset: int = 18,
    outputs: int = 1,
    free: bool = False,
    tolerance: float = 2e-6,
    expected: Any = None,
    is_exported: bool = True,
    peer: bool = False,
    **attributes: Any,
) -> Case:
    return Case(
        op,
        inputs,
        attributes,
        opset,
        tuple(fixed),
        outputs,
        free,
        tolerance,
        expected,
        is_exported,
        peer,
    )


X = r(2, 4, 9, 7)
W = r(6, 4, 3, 3)

CONSTANTS: tuple[tuple[str, Any], ...] = (
    ("value_float", 1.5),
    ("value_int", 3),
    ("value_floats", [1.0, 2.0]),
    ("value_ints", [1, 2]),
    ("value", numpy_helper.from_array(r(2, 3))),
)

CASES = [
    # -- elementwise
    *(case(op, r(3, 4), free=True) for op in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "IsNaN", "Neg", "Reciprocal",
      "Relu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh", "Tan", "Sinh", "Cosh", "Asinh",
      "HardSwish", "Identity", "Mish")),
    case("STFT", r(2, 40), np.int64(8), None, np.int64(16), fixed=(1, 3), peer=True, tolerance=1e-5),
    case("Round", np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.4, 0.6], np.float32)),
    case("Log", positive(3, 4)), case("Sqrt", positive(3, 4)), case("Acosh", positive(3, 4) + 1),
    case("Atanh", np.tanh(r(3, 4))), case("Acos", np.tanh(r(3, 4))), case("Asin", np.tanh(r(3, 4))), case("Atan", r(3, 4) * 4),
    *(case(op, r(3, 4) * np.float32(1e-4)) for op in ("Asin", "Atan", "Sinh", "Asinh", "Atanh")),
    case("Neg", ints(3, 4)), case("Abs", ints(3, 4)), case("Abs", ints(3, 4, dtype=np.uint8, low=0)),
    case("Not", bools(3, 4)), case("BitwiseNot", ints(3, 4)),
    *(case(op, r(2, 1, 4), r(3, 1), free=True) for op in ("Add", "Sub", "Mul", "Div", "Less", "Greater", "LessOrEqual",
      "GreaterOrEqual", "Equal")),
    case("Div", ints(3, 4), np.array([2, -3, 5, -7], np.int32)),
    case("Add", ints(3, 4), ints(4)), case("Equal", ints(3, 4), ints(3, 4)), case("Equal", bools(3, 4), bools(3, 4)),
    *(case(op, bools(3, 4), bools(4)) for op in ("And", "Or", "Xor")),
    *(case(op, ints(3, 4), ints(4)) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    case("Add", r(2, 3, 4, 5), r(3, 4), opset=6, broadcast=1, axis=1, expected=lambda x, y: x + y[:, :, None]),
    case("Mul", r(2, 3), r(3), opset=6, broadcast=1, expected=lambda x, y: x * y),
    case("Sub", r(2, 3), r(2, 3), opset=6, expected=lambda x, y: x - y),
    case("Pow", positive(3, 4), r(4)), case("Pow", r(3, 4), np.array(2, np.float32), fixed=[1]),
    case("Pow", ints(3, 4), np.array(3, np.int64)), case("Pow", positive(3, 4), ints(4)),
    case("Pow", r(3, 1), np.array([[2.0]], np.float32), fixed=[1]),
    case("Mod", ints(20), ints(20, low=1)), case("Mod", ints(20), -ints(20, low=1)),
    case("Mod", r(20), r(20), fmod=1), case("Mod", ints(20), ints(20, low=1), fmod=1),
    case("Mod", ints(20, dtype=np.uint8, low=0), ints(20, dtype=np.uint8, low=1)),
    *(case(op, r(2, 1, 4), r(3, 1), r(4)) for op in ("Sum", "Max", "Min")),
    case("Mean", r(2, 1, 4), r(3, 1), r(4), expected=lambda x, y, z: (x + y + z) / np.float32(3)),
    case("Max", r(3)), case("Max", ints(3, 4), ints(4)), case("Min", ints(3, 4, dtype=np.int64), ints(4, dtype=np.int64)),
    case("BitShift", ints(9, dtype=np.uint8, low=0), ints(9, dtype=np.uint8, low=0), direction="LEFT"),
    case("BitShift", ints(9, dtype=np.uint32, low=0), ints(9, dtype=np.uint32, low=0), direction="RIGHT"),
    case("Where", bools(3, 1), r(4), r(2, 1, 1)), case("Where", bools(3, 1), ints(4), ints(2, 1, 1)),
    case("IsInf", np.array([1, np.inf, -np.inf, np.nan], np.float32)),
    case("IsInf", np.array([1, np.inf, -np.inf, np.nan], np.float32), detect_negative=0),
    case("IsInf", np.array([1, np.inf, -np.inf, np.nan], np.float32), detect_positive=0, detect_negative=0),
    case("LeakyRelu", r(3, 4)), case("LeakyRelu", r(3, 4), alpha=0.3), case("Elu", r(3, 4), alpha=1.7),
    case("Celu", r(3, 4), alpha=1.7), case("Selu", r(3, 4)), case("Selu", r(3, 4), alpha=1.5, gamma=2.0),
    case("HardSigmoid", r(3, 4) * 4), case("HardSigmoid", r(3, 4), alpha=0.6, beta=0.3),
    case("ThresholdedRelu", r(3, 4), alpha=0.4), case("Shrink", r(30), bias=0.3, lambd=0.6),
    case("PRelu", r(2, 3, 4), r(3, 1)), case("PRelu", r(2, 3, 4), r(3), opset=6, expected=lambda x, s: np.where(x < 0, x * s[:, None], x)),
    case("Gelu", r(3, 4), opset=20), case("Gelu", r(3, 4), opset=20, approximate="tanh"),
    case("Swish", r(3, 4), opset=24, alpha=1.3),
    case("Clip", r(3, 4), opset=6, min=-0.3, max=0.4), case("Clip", r(3, 4), opset=10, max=0.4),
    case("Clip", r(3, 4), np.float32(-0.3), np.float32(0.4), fixed=[1, 2]), case("Clip", r(3, 4), None, np.float32(0.4), fixed=[2]),
    case("Clip", r(3, 4), np.float32(-0.3), np.float32(0.4)), case("Clip", ints(3, 4), np.int32(-2), np.int32(3), fixed=[1, 2]),
    case("Clip", r(3, 4)),
    *(case("Cast", r(9) * 4, to=to) for to in (onnx.TensorProto.INT32, onnx.TensorProto.BOOL, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)),
    case("Cast", ints(9), to=onnx.TensorProto.FLOAT), case("CastLike", r(9), ints(1)), case("Cast", bools(9), to=onnx.TensorProto.INT64),
    case("Cast", r(3), opset=1, to="DOUBLE", expected=lambda x: x.astype(np.float64)),
    case("Dropout", r(3, 4), opset=7, expected=lambda x: x), case("Dropout", r(3, 4), outputs=2),
    case("Dropout", r(3, 4), np.float32(0.5), np.array(False), fixed=[1, 2]),
    # -- convolutions
    case("Conv", X, W, tolerance=1e-5, free=True), case("Conv", X, W, r(6), pads=[1, 0, 2, 3], strides=[2, 1], tolerance=1e-5, free=True),
    case("Conv", X, W, r(6), dilations=[2, 3], pads=[2, 1, 0, 3], tolerance=1e-5),
    case("Conv", X, r(6, 2, 3, 2), r(6), group=2, strides=[3, 2], tolerance=1e-5), case("Conv", X, r(4, 1, 3, 3), group=4, pads=[1] * 4, tolerance=1e-5),
    case("Conv", X, W, auto_pad="SAME_UPPER", strides=[2, 2], tolerance=1e-5), case("Conv", X, W, auto_pad="SAME_LOWER", strides=[2, 3], tolerance=1e-5),
    case("Conv", X, r(6, 4, 2, 4), auto_pad="SAME_UPPER", tolerance=1e-5), case("Conv", X, W, auto_pad="VALID", kernel_shape=[3, 3], tolerance=1e-5),
    case("Conv", r(2, 4, 9), r(6, 4, 3), r(6), pads=[2, 1], strides=[2], tolerance=1e-5, free=True),
    case("Conv", r(1, 2, 5, 6, 4), r(3, 2, 2, 3, 2), pads=[1, 0, 1, 0, 1, 0], tolerance=1e-5),
    case("ConvTranspose", r(2, 4, 5, 3), r(4, 6, 3, 3), r(6), tolerance=1e-5, free=True),
    case("ConvTranspose", r(2, 4, 5, 3), r(4, 6, 3, 3), strides=[2, 3], pads=[1, 0, 2, 1], tolerance=1e-5),
    case("ConvTranspose", r(2, 4, 5, 3), r(4, 6, 3, 2), strides=[3, 2], output_padding=[2, 1], tolerance=1e-5),
    case("ConvTranspose", r(2, 4, 5, 3), r(4, 3, 3, 3), group=2, strides=[2, 2], dilations=[2, 1], tolerance=1e-5, peer=True),
    case("ConvTranspose", r(1, 4, 5), r(4, 6, 3), strides=[2], auto_pad="SAME_UPPER", tolerance=1e-5),
    case("ConvTranspose", r(1, 4, 5, 4), r(4, 6, 3, 3), strides=[2, 2], output_shape=[10, 8], tolerance=1e-5, peer=True),
    # -- pools
    case("MaxPool", X, kernel_shape=[3, 2], free=True), case("MaxPool", X, kernel_shape=[3, 2], strides=[2, 3], pads=[1, 0, 1, 1]),
    case("MaxPool", X, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), case("MaxPool", X, kernel_shape=[2, 2], dilations=[3, 2]),
    case("MaxPool", X, kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2], peer=True), case("MaxPool", r(1, 2, 8), kernel_shape=[3], strides=[3], ceil_mode=1),
    case("MaxPool", X, kernel_shape=[3, 3], auto_pad="SAME_LOWER", strides=[2, 2], peer=True), case("MaxPool", r(1, 2, 4, 5, 6), kernel_shape=[2, 2, 3]),
    case("MaxPool", X, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], outputs=2, is_exported=False),
    case("AveragePool", X, kernel_shape=[3, 2], free=True), case("AveragePool", X, kernel_shape=[3, 3], pads=[1, 2, 0, 1], strides=[2, 1]),
    case("AveragePool", X, kernel_shape=[3, 3], pads=[1, 2, 0, 1], strides=[2, 1], count_include_pad=1),
    case("AveragePool", X, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), case("AveragePool", X, kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("AveragePool", X, kernel_shape=[2, 3], strides=[2, 2], pads=[0, 1, 0, 1], ceil_mode=1, count_include_pad=1, opset=19),
    case("AveragePool", r(1, 2, 11), kernel_shape=[3], dilations=[2], opset=19, is_exported=False),
    case("GlobalAveragePool", X, free=True), case("GlobalMaxPool", X, free=True), case("GlobalAveragePool", r(2, 3, 5)),
    case("LpPool", X, kernel_shape=[2, 3], strides=[2, 2]), case("LpPool", X, kernel_shape=[2, 2], p=1), case("LpPool", X, kernel_shape=[2, 2], p=3),
    case("GlobalLpPool", X, expected=lambda x: np.sqrt((x.astype(np.float64) ** 2).sum((2, 3), keepdims=True))),
    # -- products
    *(case("MatMul", a, b, tolerance=1e-5) for a, b in ((r(3, 4), r(4, 5)), (r(4), r(4, 5)), (r(3, 4), r(4)), (r(4), r(4)),
      (r(2, 1, 3, 4), r(5, 4, 2)), (r(2, 3, 4), r(4, 5)), (r(4), r(2, 4, 3)))),
    case("Gemm", r(3, 4), r(4, 5), tolerance=1e-5), case("Gemm", r(4, 3), r(5, 4), r(5), transA=1, transB=1, alpha=0.5, beta=2.0, tolerance=1e-5),
    case("Gemm", r(3, 4), r(4, 5), r(3, 1), tolerance=1e-5, opset=9), case("Gemm", r(3, 4), r(5, 4), r(5), transB=1, opset=9, free=False, tolerance=1e-5),
    # -- normalizations
    case("BatchNormalization", X, r(4), r(4), r(4), positive(4), free=True, opset=9, tolerance=1e-5, peer=True),
    case("BatchNormalization", r(3, 4, 2), r(4, 2), r(4, 2), r(4, 2), positive(4, 2), opset=8, spatial=0, peer=True, tolerance=1e-5),
    case("BatchNormalization", r(5, 4), r(4), r(4), r(4), positive(4), epsilon=0.01, tolerance=1e-5),
    case("BatchNormalization", r(5, 4, 3), r(4), r(4), r(4), positive(4), training_mode=1, outputs=3, tolerance=1e-5),
    case("InstanceNormalization", X, r(4), r(4), epsilon=0.01, tolerance=1e-5), case("InstanceNormalization", r(2, 3, 8), r(3), r(3), tolerance=1e-5),
    case("GroupNormalization", X, r(2), r(2), num_groups=2, tolerance=1e-5), case("GroupNormalization", X, r(4), r(4), num_groups=2, opset=21, tolerance=1e-5),
    case("LayerNormalization", X, r(7), r(7), tolerance=1e-5, free=True), case("LayerNormalization", X, r(9, 7), axis=2, epsilon=0.1, tolerance=1e-5),
    case("LayerNormalization", r(3, 5), r(5), r(5), outputs=3, tolerance=1e-5),
    case("RMSNormalization", r(3, 5), r(5), opset=23, epsilon=0.01, tolerance=1e-5),
    case("LRN", X, size=3, tolerance=1e-5, peer=True), case("LRN", X, size=2, alpha=0.2, beta=0.6, bias=2.0, tolerance=1e-5, expected=lambda x: lrn_of_two(x)), case("LRN", X, size=5, alpha=0.2, opset=9, tolerance=1e-5, peer=True),
    case("MeanVarianceNormalization", X, tolerance=1e-5), case("MeanVarianceNormalization", X, axes=[1, 3], tolerance=1e-5),
    case("LpNormalization", r(3, 4), tolerance=1e-5), case("LpNormalization", r(3, 4), axis=0, p=1, expected=lambda x: x / np.abs(x).sum(0)),
    case("Softmax", r(3, 4, 5)), case("Softmax", r(3, 4, 5), axis=1, free=True), case("LogSoftmax", r(3, 4, 5), axis=0), case("Hardmax", r(3, 4, 5), axis=1), case("Hardmax", r(3, 0, 5), axis=1),
    case("Softmax", r(2, 3, 4), opset=11, expected=lambda x: softmax(x.reshape(2, 12)).reshape(2, 3, 4)),
    case("Softmax", r(2, 3, 4), opset=9, axis=2, expected=lambda x: softmax(x)),
    case("Softmax", r(2, 3, 4), opset=9, axis=0, expected=lambda x: softmax(x.reshape(1, 24)).reshape(2, 3, 4)),
    case("LogSoftmax", r(2, 3, 4), opset=11, axis=-2, expected=lambda x: np.log(softmax(x.reshape(2, 12))).reshape(2, 3, 4)),
    case("Softmax", r(2, 3), opset=11, axis=1, free=True, expected=lambda x: softmax(x)),
    # -- reductions
    *(case(op, r(2, 3, 4), i(1, -1), fixed=[1], keepdims=0, tolerance=1e-5) for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin",
      "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp")),
    *(case(op, positive(2, 3, 4), opset=11, axes=[0], tolerance=1e-5) for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd",
      "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")),
    case("ReduceSum", r(2, 3), tolerance=1e-5), case("ReduceSum", r(2, 3), i(), fixed=[1], noop_with_empty_axes=1), case("ReduceMax", r(2, 3), keepdims=0),
    case("ReduceSum", ints(2, 3)), case("ReduceMax", ints(2, 3)),
    *(case(op, ints(3, 5, dtype=np.int64, low=1), i(1), fixed=[1], expected=lambda x, f=f: f(x).astype(np.int64)) for op, f in (
      ("ReduceL2", lambda x: np.linalg.norm(x, axis=1, keepdims=True)), ("ReduceLogSum", lambda x: np.log(x.sum(1, keepdims=True))),
      ("ReduceLogSumExp", lambda x: np.log(np.exp(x).sum(1, keepdims=True))))),
    case("ReduceLogSumExp", np.array([[1e4, 1e4], [-1e4, -1e4]], np.float32), i(1), fixed=[1]),
    *(case(op, ints(3, 5).astype(np.float32), axis=axis, keepdims=keep, select_last_index=last) for op in ("ArgMax", "ArgMin")
      for axis, keep, last in ((0, 1, 0), (1, 0, 1), (-1, 1, 1), (0, 0, 0))),
    # -- shapes
    case("Reshape", r(2, 3, 4), i(0, -1), fixed=[1], free=True), case("Reshape", r(2, 3, 4), i(4, 0, 2), fixed=[1]), case("Reshape", r(0, 3), i(3, 0), fixed=[1], allowzero=1),
    case("Reshape", r(2, 3), opset=1, shape=[3, -1], expected=lambda x: x.reshape(3, 2)),
    case("Flatten", r(2, 3, 4)), case("Flatten", r(2, 3, 4), axis=0), case("Flatten", r(2, 3, 4), axis=3), case("Flatten", r(2, 3, 4), axis=-1, free=True), case("Flatten", np.float32(3), axis=0),
    case("Squeeze", r(1, 3, 1, 4)), case("Squeeze", r(1, 3, 1, 4), i(-2), fixed=[1]), case("Squeeze", r(1, 3, 1), opset=11, axes=[0, -1]),
    case("Unsqueeze", r(3, 4), i(0, -1), fixed=[1], free=True), case("Unsqueeze", r(3, 4), opset=9, axes=[1, 2]), case("Unsqueeze", r(3, 4), i(3, 0), fixed=[1]),
    case("Shape", r(2, 3, 4), free=True), case("Shape", r(2, 3, 4), start=-2), case("Shape", r(2, 3, 4), start=1, end=-1), case("Size", r(2, 3, 4), free=True),
    case("Transpose", r(2, 3, 4)), case("Transpose", r(2, 3, 4), perm=[1, 0, 2], free=True),
    case("Concat", r(2, 3), r(2, 4), r(2, 1), axis=-1, free=True), case("Concat", r(2, 3), axis=0), case("Concat", r(2, 1), r(2, 2), opset=3, expected=lambda a, b: np.concatenate([a, b], 1)),
    case("Split", r(6, 4), outputs=3, num_outputs=3), case("Split", r(7, 4), outputs=3, num_outputs=3), case("Split", r(4, 6), i(1, 2, 3), fixed=[1], axis=1, outputs=3, free=True),
    case("Split", r(4, 6), opset=11, axis=-1, split=[4, 2], outputs=2), case("Split", r(4, 6), opset=13, outputs=2),
    case("Slice", r(5, 6, 7), i(1, -3), i(4, 1000), i(0, 2), fixed=[1, 2, 3]), case("Slice", r(5, 6), i(-1), i(-1000), i(0), i(-2), fixed=[1, 2, 3, 4]),
    case("Slice", r(5, 6), i(4, 0), i(1, 6), i(0, 1), i(-1, 2), fixed=[1, 2, 3, 4]), case("Slice", r(5, 6), i(3), i(2), i(1), fixed=[1, 2, 3], free=True),
    case("Slice", r(5, 6), i(1), i(2**63 - 1), fixed=[1, 2], free=True), case("Slice", r(5, 6), i(-2), i(2**63 - 1), i(0), fixed=[1, 2, 3], free=True),
    case("Slice", r(5, 6), i(-1), i(-(2**63)), i(0), i(-1), fixed=[1, 2, 3, 4], free=True), case("Slice", r(5, 6), i(-100), i(-1), fixed=[1, 2]),
    case("Slice", r(5, 6), i(-9), i(-9), i(0), i(-1), fixed=[1, 2, 3, 4], expected=lambda x, *_: x[:1]),
    case("Slice", r(5, 6), opset=9, starts=[1, -2], ends=[9, 6], axes=[1, 0], expected=lambda x: x[-2:6, 1:9]),
    case("Pad", r(3, 4), i(1, 0, 2, 3), fixed=[1], free=True), case("Pad", r(3, 4), i(1, 0, 2, 3), np.float32(5), fixed=[1, 2]),
    case("Pad", r(3, 4), i(1, 2, 2, 3), fixed=[1], mode="reflect"), case("Pad", r(3, 4), i(1, 2, 2, 3), fixed=[1], mode="edge"),
    case("Pad", r(3, 4), i(1, 2, 2, 3), fixed=[1], mode="wrap", opset=19), case("Pad", r(3, 4), i(-1, 2, 0, -1), fixed=[1], expected=lambda x: np.pad(x[1:, :-1], ((0, 0), (2, 0)))), case("Pad", r(3, 4, 5), i(2, 1), None, i(-2), fixed=[1, 3]),
    case("Pad", r(3, 4), opset=2, pads=[1, 0, 0, 2], value=2.0, expected=lambda x: np.pad(x, ((1, 0), (0, 2)), constant_values=2)),
    case("Expand", r(3, 1), i(2, 3, 4), fixed=[1]), case("Expand", r(3, 1), i(2, 1, 4), fixed=[1], free=True), case("Expand", r(3, 4), i(1), fixed=[1]), case("Tile", r(2, 3), i(2, 3), fixed=[1]), case("Tile", r(2, 3), i(1, 2), fixed=[1], free=True), case("Tile", r(2, 3), i(0, 2), fixed=[1]),
    case("Tile", r(2, 3), np.array(2, np.float32), np.array(1, np.float32), fixed=[1, 2], opset=5, expected=lambda x: np.tile(x, (1, 2))), case("Pad", r(2, 3), i(1, 0, 0, 2), np.float32(2.5), fixed=[1]), case("Squeeze", r(2, 1, 3, 1), i(), fixed=[1], peer=True),
    case("ConstantOfShape", i(2, 3), fixed=[0]), case("ConstantOfShape", i(2, 3), fixed=[0], value=helper.make_tensor("v", onnx.TensorProto.INT32, [1], [5])),
    case("DepthToSpace", r(2, 12, 3, 5), blocksize=2), case("DepthToSpace", r(2, 12, 3, 5), blocksize=2, mode="CRD", free=True), case("SpaceToDepth", r(2, 3, 4, 6), blocksize=2, free=True),
    # -- resizing
    *(case("Resize", r(1, 2, 4, 6), None, np.array([1, 1, 2, 1.5], np.float32), fixed=[2], mode=m, coordinate_transformation_mode=c, tolerance=1e-5)
      for m in ("nearest", "linear", "cubic") for c in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")),
    *(case("Resize", r(1, 2, 5, 6), None, None, i(1, 2, 3, 9), fixed=[3], nearest_mode=m) for m in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
    case("Resize", r(1, 2, 5, 6), None, np.array([1, 1, 0.6, 0.5], np.float32), fixed=[2], mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5, tolerance=1e-5),
    case("Resize", r(1, 2, 5, 6), None, np.array([0.6, 2.0], np.float32), fixed=[2], axes=[2, 3], mode="linear", tolerance=1e-5),
    case("Resize", r(2, 3, 4, 4), None, np.array([1, 1, 2, 2], np.float32), fixed=[2], free=True),
    case("Resize", r(1, 2, 4, 6), np.array([1, 1, 2, 3], np.float32), opset=10, fixed=[1], expected=lambda x, *_: x.repeat(2, 2).repeat(3, 3)),
    case("Upsample", r(1, 2, 4, 6), np.array([1, 1, 2, 3], np.float32), opset=9, fixed=[1], expected=lambda x, *_: x.repeat(2, 2).repeat(3, 3)),
    case("Upsample", r(1, 2, 4, 6), opset=7, scales=[1.0, 1.0, 2.0, 3.0], expected=lambda x: x.repeat(2, 2).repeat(3, 3)),
    case("MaxRoiPool", r(2, 3, 8, 10), np.array([[0, 1, 2, 6, 7], [1, 0, 0, 9, 3], [1, 12, 2, 18, 5]], np.float32), pooled_shape=[2, 3], peer=True, is_exported=False),
    case("MaxRoiPool", r(1, 2, 8, 8), np.array([[0, 2.4, 3, 12.6, 9.5]], np.float32), pooled_shape=[3, 3], spatial_scale=0.5, peer=True, is_exported=False),
    case("MaxRoiPool", r(1, 2, 8, 8), np.array([[0, 1, 1, 5, 5], [0, 3, 1, 9, 7], [0, -3, -1, 13, 13]], np.float32), pooled_shape=[2, 2], spatial_scale=0.5, peer=True, is_exported=False),
    case("Upsample", r(1, 2, 4, 6), opset=6, height_scale=2.0, width_scale=3.0, expected=lambda x: x.repeat(2, 2).repeat(3, 3)),
    # -- recurrences
    *(case("LSTM", r(5, 2, 3), r(d, 16, 3), r(d, 16, 4), r(d, 32), hidden_size=4, direction=w, outputs=3, peer=True, tolerance=1e-5)
      for d, w in ((1, "forward"), (1, "reverse"), (2, "bidirectional"))),
    case("LSTM", r(5, 2, 3), r(1, 16, 3), r(1, 16, 4), r(1, 32), np.array([5, 2], np.int32), r(1, 2, 4), r(1, 2, 4), r(1, 12), hidden_size=4, outputs=3, peer=True, clip=0.7, tolerance=1e-5),
    case("LSTM", r(5, 2, 3), r(1, 16, 3), r(1, 16, 4), r(1, 32), np.array([5, 2], np.int32), hidden_size=4, direction="reverse", outputs=3, peer=True, tolerance=1e-5),
    case("LSTM", r(1, 2, 3), r(1, 16, 3), r(1, 16, 4), hidden_size=4, outputs=1, activations=["HardSigmoid", "Relu", "Softsign"], activation_alpha=[0.3], peer=True, tolerance=1e-5),
    case("LSTM", r(5, 2, 3), r(1, 16, 3), r(1, 16, 4), r(1, 32), hidden_size=4, outputs=3, input_forget=1, peer=True, tolerance=1e-5),
    case("LSTM", r(2, 5, 3), r(1, 16, 3), r(1, 16, 4), r(1, 32), hidden_size=4, layout=1, outputs=3, tolerance=1e-5),
    *(case("GRU", r(5, 2, 3), r(d, 12, 3), r(d, 12, 4), r(d, 24), None, r(d, 2, 4), hidden_size=4, direction=w, linear_before_reset=b, outputs=2, peer=True, tolerance=1e-5)
      for d, w in ((1, "forward"), (2, "bidirectional")) for b in (0, 1)),
    case("GRU", r(5, 2, 3), r(1, 12, 3), r(1, 12, 4), hidden_size=4, outputs=2, peer=True, tolerance=1e-5),
    *(case("RNN", r(5, 2, 3), r(d, 4, 3), r(d, 4, 4), r(d, 8), hidden_size=4, direction=w, outputs=2, peer=True, tolerance=1e-5) for d, w in ((1, "reverse"), (2, "bidirectional"))),
    *(case("RNN", r(5, 2, 3), r(1, 4, 3), r(1, 4, 4), hidden_size=4, activations=[a], activation_alpha=[1.7], activation_beta=[0.6], outputs=2, peer=True, tolerance=1e-5)
      for a in ("Affine", "ScaledTanh")),
    case("RNN", r(5, 2, 3), r(1, 4, 3), r(1, 4, 4), hidden_size=4, activations=["Relu"], outputs=2, peer=True, tolerance=1e-5),
    # -- quantization
    case("QuantizeLinear", r(4, 5) * 200, np.float32(0.7), np.uint8(120), fixed=[1, 2]), case("QuantizeLinear", r(4, 5) * 20, np.float32(0.5)),
    case("QuantizeLinear", r(4, 5) * 20, positive(5), ints(5, dtype=np.int8), axis=1), case("QuantizeLinear", r(4, 5, 2) * 20, positive(5), ints(5, dtype=np.int8), axis=-2),
    case("DequantizeLinear", ints(4, 5, dtype=np.int8), np.float32(0.7), np.int8(-3), opset=19), case("DequantizeLinear", ints(4, 5, dtype=np.uint8, low=0), positive(4), ints(4, dtype=np.uint8, low=0), axis=0, opset=19),
    case("DequantizeLinear", ints(4), np.float32(0.7), opset=19),
    case("MatMulInteger", ints(3, 4, dtype=np.uint8, low=0), ints(4, 5, dtype=np.int8)), case("MatMulInteger", ints(3, 4, dtype=np.uint8, low=0), ints(4, 5, dtype=np.uint8, low=0), np.uint8(3), np.uint8(2)),
    case("MatMulInteger", ints(3, 4, dtype=np.uint8, low=0), ints(4, 5, dtype=np.uint8, low=0), ints(3, dtype=np.uint8, low=0), ints(5, dtype=np.uint8, low=0), expected=lambda a, b, p, q: (a.astype(np.int32) - p[:, None]) @ (b.astype(np.int32) - q)),
    *(case("Einsum", *operands, equation=e, tolerance=1e-5) for e, operands in (("ij,jk->ik", (r(3, 4), r(4, 5))), ("bhid,bhjd->bhij", (r(2, 3, 4, 5), r(2, 3, 6, 5))),
      ("ij->ji", (r(3, 4),)), ("ijk->j", (r(2, 3, 4),)), ("i,j->ji", (r(3), r(4))), ("ij,ij->", (r(3, 4), r(3, 4))), ("ijl, kj -> ki", (r(2, 3, 4), r(5, 3))), ("...ij,...jk->...ik", (r(2, 1, 3, 4), r(5, 4, 2))), ("ii->i", (r(4, 4),)), ("ijij,j->ij", (r(2, 3, 2, 3), r(3))),
      ("ij,jk,kl->il", (r(3, 4), r(4, 5), r(5, 2))), ("a,b,c", (r(3), r(4), r(5))), ("...a,a...->...", (r(5, 3), r(3, 5))), ("ij,jk", (r(3, 4), r(4, 5))))),
    # -- indices
    case("Gather", r(5, 4, 3), i(0, -1, 2), axis=1), case("Gather", r(5, 4), np.array([[0, 4], [-5, 2]], np.int32)), case("Gather", r(5, 4), np.int64(2), axis=-1),
    case("GatherElements", r(3, 4), np.array([[0, -1, 2, 3], [1, 1, -4, 0]], np.int64), axis=1, expected=lambda x, j: np.take_along_axis(x[:2], j, 1)), case("GatherElements", r(3, 4), np.array([[0, -1, 2, 1]], np.int64), axis=0, expected=lambda x, j: np.take_along_axis(x, j, 0)),
    case("GatherND", r(3, 4, 5), np.array([[0, 1], [-1, -4]], np.int64)), case("GatherND", r(2, 3, 4), np.array([[1], [-1]], np.int64), batch_dims=1), case("GatherND", r(3, 4), np.array([[[0, 3]], [[2, -1]]], np.int64)),
    case("OneHot", i(0, 2, -1, 5), np.int64(4), np.array([2, 7], np.float32), fixed=[1, 2]), case("OneHot", ints(2, 3, dtype=np.int64), np.int64(4), np.array([0, 1], np.int32), fixed=[1], axis=1),
    case("Range", np.int64(3), np.int64(20), np.int64(4), fixed=[0, 1, 2]), case("Range", np.int64(9), np.int64(-4), np.int64(-3), fixed=[0, 1, 2]),
    case("Range", np.float32(0.5), np.float32(3), np.float32(0.25), fixed=[0, 1, 2]),
    case("EyeLike", r(3, 4), k=1), case("EyeLike", r(4, 3), k=-1, dtype=onnx.TensorProto.INT64), case("Trilu", r(2, 3, 4)), case("Trilu", r(2, 3, 4), np.int64(-1), fixed=[1], upper=0), case("Trilu", r(4, 3), np.int64(1), fixed=[1]),
    *(case("Trilu", r(4, 3), np.int64(k), fixed=fixed, upper=upper, free=True, expected=lambda x, *_, whole=(k < 0) == upper: x * whole) for k in (2**63 - 1, -(2**63)) for fixed in ([], [1]) for upper in (0, 1)),
    case("CumSum", np.array([1, np.inf, 2, -3], np.float32), np.int64(0), fixed=[1], exclusive=1),
    *(case("CumSum", r(2, 5, 3), np.int64(1), fixed=[1], reverse=rev, exclusive=exc) for rev in (0, 1) for exc in (0, 1)),
    *(case("Constant", **{k: v}) for k, v in CONSTANTS),
]  # fmt: skip


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def lrn_of_two(x: Array) -> Array:
    """size 2: the channel itself and the one after it; alpha 0.2, beta 0.6, bias 2."""
    squares = np.square(x, dtype=np.float64)
    squares[:, :-1] += np.square(x[:, 1:], dtype=np.float64)
    return np.asarray(x / (2 + 0.1 * squares) ** 0.6)


def model_of(c: Case) -> tuple[onnx.ModelProto, dict[str, Array]]:
    names = ["" if value is None else f"x{k}" for k, value in enumerate(c.inputs)]
    outputs = [f"y{k}" for k in range(c.outputs)]
    given = {f"x{k}": np.asarray(v) for k, v in enumerate(c.inputs) if v is not None}
    fixed = [numpy_helper.from_array(given.pop(f"x{k}"), f"x{k}") for k in c.fixed]
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in given.items()
    ]
    node = helper.make_node(c.op, names, outputs, **c.attributes)
    graph = helper.make_graph(
        [node], "g", inputs, [onnx.ValueInfoProto(name=n) for n in outputs], fixed
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", c.opset)], ir_version=8
    ), given


def run_elsewhere(c: Case, model: onnx.ModelProto, given: dict[str, Array]) -> list[Array]:
    """The reference evaluator's results, or ONNX Runtime's where the former is wrong."""
    if not c.peer:
        return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, given)]
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return [np.asarray(y) for y in session.run(None, given)]


def expected_of(c: Case, model: onnx.ModelProto, given: dict[str, Array]) -> list[Array]:
    if c.expected is not None:
        return [c.expected(*given.values())]
    if c.peer:
        return run_elsewhere(c, model, given)
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    for k, output in enumerate(typed.graph.output):
        output.CopyFrom(helper.make_tensor_value_info(f"y{k}", onnx.TensorProto.UNDEFINED, None))
    return run_elsewhere(c, typed, given)


def assert_close(actual: Array, expected: Array, tolerance: float) -> None:
    """Relative L2 for floats, equality for everything else; NaN and infinity in the same places."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype or expected.dtype == np.float64
    if actual.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected)
        return
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    error = float(np.linalg.norm((actual[finite].astype(np.float64) - expected[finite]).ravel()))
    assert error <= tolerance * max(
        float(np.linalg.norm(expected[finite].astype(np.float64).ravel())), 1e-30
    )


IDS = [f"{k}-{c.op}-{c.opset}" for k, c in enumerate(CASES)]


@pytest.mark.parametrize("c", CASES, ids=IDS)
def test_handler(c: Case) -> None:
    model, given = model_of(c)
    graph = from_onnx(model)
    for actual, expected in zip(interpret(graph, given), expected_of(c, model, given), strict=True):
        assert_close(actual, expected, c.tolerance)


@pytest.mark.parametrize(
    "c", [pytest.param(c, id=k) for c, k in zip(CASES, IDS, strict=True) if c.is_exported]
)
def test_export_and_import_again(c: Case) -> None:
    """What is exported is valid, means the same to the reference evaluator, and comes back."""
    model, given = model_of(c)
    graph = from_onnx(model)
    exported = to_onnx(graph)
    onnx.checker.check_model(exported, full_check=True)
    meant = interpret(graph, given)
    if not (c.op == "LRN" and c.expected):  # neither has an even LRN
        for actual, expected in zip(run_elsewhere(c, exported, given), meant, strict=True):
            assert_close(actual, expected, 2 * c.tolerance)
    for actual, expected in zip(interpret(from_onnx(exported), given), meant, strict=True):
        assert_close(actual, expected, 2 * c.tolerance)


FREE = [c for c in CASES if c.free]


@pytest.mark.parametrize("c", FREE, ids=[f"{k}-{c.op}" for k, c in enumerate(FREE)])
def test_free_first_axis(c: Case) -> None:
    """The same with the first axis of the first input free: no flags are needed."""
    model, given = model_of(c)
    extent = len(given["x0"])
    for info in model.graph.input:
        dims = info.type.tensor_type.shape.dim
        if info.name == "x0" or (c.op in ("Concat",) and dims):
            dims[0].dim_param = "N"
    graph = from_onnx(model)
    assert [str(s) for s in graph.symbols] == ["N"]
    assert graph.inputs[0].shape[0] != extent
    for actual, expected in zip(interpret(graph, given), expected_of(c, model, given), strict=True):
        assert_close(actual, expected, c.tolerance)
    exported = to_onnx(graph)
    onnx.checker.check_model(exported, full_check=True)
    for actual, expected in zip(
        run_elsewhere(c, exported, given), interpret(graph, given), strict=True
    ):
        assert_close(actual, expected, 2 * c.tolerance)


def test_control_a_wrong_result_is_seen() -> None:
    x = r(3, 4)
    with pytest.raises(AssertionError):
        assert_close(x, x * np.float32(1.0001), 2e-6)
    with pytest.raises(AssertionError):
        assert_close(x, np.where(x == x[0, 0], np.float32("nan"), x), 2e-6)
