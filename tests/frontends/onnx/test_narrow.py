"""Weights of less than 8 bits and float8: every way to store them, dequantized as the onnx
package reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from netloom.compiler.interpret import interpret
from netloom.errors import ModelError, NetloomError, UnsupportedOpError
from netloom.frontends.onnx import from_onnx
from netloom.frontends.onnx.tensors import NARROW

Array = npt.NDArray[Any]
COUNT = 15


def stored(data_type: int, is_raw: bool) -> onnx.TensorProto:
    """All bit patterns of half a byte and less, or 15 bytes; an odd number of elements."""
    bits = NARROW[data_type].bits
    rng = np.random.default_rng(data_type)
    data = rng.integers(0, 256, -(-COUNT * bits // 8), np.uint8)
    if data_type in (
        TensorProto.FLOAT8E4M3FN,
        TensorProto.FLOAT8E5M2,
        TensorProto.FLOAT8E4M3FNUZ,
        TensorProto.FLOAT8E5M2FNUZ,
    ):
        data &= 0x77  # no infinities and NaN
    tensor = TensorProto(name="w", data_type=data_type, dims=[3, 5])
    if is_raw:
        tensor.raw_data = data.tobytes()
    else:
        tensor.int32_data.extend(data.tolist())
    return tensor


def model_of(tensor: onnx.TensorProto, body: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 11, opset_import: ["" : 25]> g (float[3, 5] x) => (float y) {{ {body} }}'
    )
    model.graph.output[0].ClearField("type")
    model.graph.initializer.append(tensor)
    return model


@pytest.mark.parametrize("is_raw", [True, False])
@pytest.mark.parametrize(
    "data_type", [number for number in NARROW if number != TensorProto.FLOAT8E8M0]
)
def test_dequantized(data_type: int, is_raw: bool) -> None:
    tensor = stored(data_type, is_raw)
    model = model_of(
        tensor, "s = Constant<value_float = 0.5>()  d = DequantizeLinear(w, s)  y = Add(x, d)"
    )
    (found,) = interpret(from_onnx(model), {"x": np.zeros((3, 5), np.float32)})
    np.testing.assert_array_equal(
        found, numpy_helper.to_array(tensor).astype(np.float32) * np.float32(0.5)
    )


def test_blocks_and_zero_points() -> None:
    """Weight-only quantization: a scale and a zero point for each block of two columns,
    transposed before use.
    """
    rng = np.random.default_rng(0)
    weights, zeros = (helper.make_tensor(name, TensorProto.UINT4, shape,
                                         rng.integers(0, 16, shape).reshape(-1))
                      for name, shape in (("w", (4, 6)), ("z", (4, 3))))  # fmt: skip
    scales = rng.random((4, 3)).astype(np.float32)
    body = "d = DequantizeLinear<axis = 1, block_size = 2>(w, s, z)  t = Transpose(d)  y = MatMul(x, t)"
    model = onnx.parser.parse_model(
        '<ir_version: 11, opset_import: ["" : 25]> g (float[2, 6] x) => (float[2, 4] y) '
        f"{{ {body} }}"
    )
    model.graph.initializer.extend([weights, zeros, numpy_helper.from_array(scales, "s")])
    x = rng.standard_normal((2, 6)).astype(np.float32)
    numbers, shifts = (
        numpy_helper.to_array(tensor).astype(np.float32) for tensor in (weights, zeros)
    )
    real = (numbers - shifts.repeat(2, 1)) * scales.repeat(2, 1)
    np.testing.assert_allclose(interpret(from_onnx(model), {"x": x})[0], x @ real.T, rtol=1e-5)


def test_quantized_inside_to_4_bits() -> None:
    zero = helper.make_tensor("w", TensorProto.INT4, [], [2])
    body = """s = Constant<value_float = 0.5>()  q = QuantizeLinear(x, s, w)  r = Reshape(q, h)
              y = DequantizeLinear(r, s, w)"""
    model = model_of(zero, body)
    model.graph.initializer.append(numpy_helper.from_array(np.array([5, 3]), "h"))
    x = np.linspace(-9, 9, 15, dtype=np.float32).reshape(3, 5)
    expected = (np.clip(np.rint(x / 0.5) + 2, -8, 7) - 2) * 0.5
    np.testing.assert_array_equal(interpret(from_onnx(model), {"x": x})[0], expected.reshape(5, 3))


def test_external_data(tmp_path: Path) -> None:
    tensor = stored(TensorProto.INT4, True)
    model = model_of(
        tensor, "s = Constant<value_float = 0.5>()  d = DequantizeLinear(w, s)  y = Add(x, d)"
    )
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    (found,) = interpret(from_onnx(tmp_path / "m.onnx"), {"x": np.zeros((3, 5), np.float32)})
    np.testing.assert_array_equal(
        found, numpy_helper.to_array(tensor).astype(np.float32) * np.float32(0.5)
    )


@pytest.mark.parametrize(("body", "kind", "words"), [
    ("y = Add(x, w)", UnsupportedOpError, "it takes int4"),
    ("y = Identity(w)", UnsupportedOpError, "the output 'y' is int4"),
    ("s = Constant<value_float = 0.5>()  y = QuantizeLinear(x, s, w)", ModelError,
     "a parameter is|the output 'y' is int4"),
    ("y = CastLike(x, w)", UnsupportedOpError, "casts to int4"),
])  # fmt: skip
def test_refusals(body: str, kind: type[NetloomError], words: str) -> None:
    with pytest.raises(kind, match=words):
        from_onnx(model_of(stored(TensorProto.INT4, True), body))


def test_a_tensor_of_the_wrong_size_is_refused() -> None:
    tensor = stored(TensorProto.INT4, True)
    tensor.raw_data = tensor.raw_data[:-1]
    with pytest.raises(ModelError, match="needs 8 bytes, but has 7"):
        from_onnx(
            model_of(
                tensor,
                "s = Constant<value_float = 0.5>()  d = DequantizeLinear(w, s)  y = Add(x, d)",
            )
        )
