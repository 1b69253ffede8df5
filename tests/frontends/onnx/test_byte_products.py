"""Convolutions and products between DequantizeLinear and QuantizeLinear: those by weights of 8 bits
are sums of integers, and agree with sums of float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

import netloom as nl
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.ops.convolution import ConvAttrs
from netloom.compiler.tensor_type import FLOAT32, INT32

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """DequantizeLinear of x and of weights, and an op. Zero points of None are left out;
    ``scales``: how many the weights have, along ``axis``."""

    op: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    dtype: str = "uint8"
    zero: int | None = 0
    weight_dtype: str = "int8"
    weight_zero: int | None = None
    scales: int = 1
    axis: int = 0
    attrs: dict[str, Any] = field(default_factory=dict)
    x_scales: int = 1

    def tensors(self) -> dict[str, Array]:
        rng = np.random.default_rng(sum(self.w))
        low = 0 if self.weight_dtype == "uint8" else -128
        found: dict[str, Array] = {
            "w": rng.integers(low, low + 256, self.w).astype(self.weight_dtype),
            "x_scale": rng.uniform(0.01, 0.1, self.x_scales).astype(np.float32),
            "w_scale": rng.uniform(0.01, 0.1, self.scales).astype(np.float32),
        }
        if self.x_scales == 1:
            found["x_scale"] = found["x_scale"].reshape(())
        if self.zero is not None:
            zeros = np.full(found["x_scale"].shape, self.zero)
            found["x_zero"] = zeros.astype(self.dtype)
        if self.weight_zero is not None:
            found["w_zero"] = np.full(self.scales, self.weight_zero).astype(self.weight_dtype)
        return found

    def model(self) -> bytes:
        tensors = self.tensors()
        kinds = {"uint8": onnx.TensorProto.UINT8, "int8": onnx.TensorProto.INT8}
        nodes = [
            helper.make_node("DequantizeLinear", [n for n in names if n in (*tensors, "x")], [out],
                             axis=axis)
            for names, out, axis in (
                (("x", "x_scale", "x_zero"), "xf", 1),
                (("w", "w_scale", "w_zero"), "wf", self.axis),
            )
        ]  # fmt: skip
        nodes.append(helper.make_node(self.op, ["xf", "wf"], ["y"], name="node", **self.attrs))
        graph = helper.make_graph(
            nodes,
            "quantized",
            [helper.make_tensor_value_info("x", kinds[self.dtype], self.x)],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in tensors.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        made.ir_version = 9
        return bytes(made.SerializeToString())

    def input(self) -> Array:
        info = np.iinfo(self.dtype)
        rng = np.random.default_rng(3)
        return rng.integers(info.min, info.max + 1, self.x).astype(self.dtype)

    def expected(self) -> Array:
        """The same in float64, by the meaning of the float op."""
        tensors = self.tensors()

        def real(name: str, array: Array, axis: int) -> Array:
            shape = [-1 if k == axis else 1 for k in range(array.ndim)]
            zero = tensors.get(f"{name}_zero", np.zeros((), np.int64)).astype(np.float64)
            scale = tensors[f"{name}_scale"].astype(np.float64)
            parts = [p.reshape(shape if p.size > 1 else ()) for p in (zero, scale)]
            found: Array = (array.astype(np.float64) - parts[0]) * parts[1]
            return found

        x, w = real("x", self.input(), 1), real("w", tensors["w"], self.axis)
        if self.op != "Conv":
            return np.asarray(x @ (w.T if self.attrs.get("transB") else w))
        pads, stride = self.attrs.get("pads", [0, 0, 0, 0]), self.attrs.get("strides", [1, 1])
        b = Builder("real")
        values = [b.constant(x), b.constant(w)]
        attrs = ConvAttrs(tuple(stride), (1, 1), tuple(pads[:2]), tuple(pads[2:]), self.groups)
        y = b("conv", *values, **vars(attrs))
        return interpret(b.build([y]), {})[0]

    @property
    def groups(self) -> int:
        return int(self.attrs.get("group", 1))


INTEGER = {
    "conv": Case("Conv", (1, 16, 8, 9), (32, 16, 3, 3), zero=17, attrs={"pads": [1, 1, 1, 1]}),
    "conv_of_signed": Case("Conv", (2, 32, 6, 7), (20, 32, 3, 3), "int8", -9, scales=20,
                           attrs={"pads": [0, 1, 2, 1], "strides": [2, 1]}),
    "conv_by_unsigned": Case("Conv", (1, 16, 5, 5), (16, 16, 1, 1), "uint8", None, "uint8", 128),
    "conv_by_bytes_without_sign": Case("Conv", (1, 16, 5, 5), (16, 16, 1, 1), weight_dtype="uint8"),
    "conv_by_bytes_with_zeros": Case("Conv", (1, 16, 6, 5), (20, 16, 3, 3), zero=30, scales=20,
                                     weight_dtype="uint8", weight_zero=99,
                                     attrs={"pads": [1, 1, 1, 1], "strides": [2, 1]}),
    "product_by_bytes": Case("MatMul", (3, 4, 16), (16, 33), "int8", 5, "uint8", 70, 33, 1),
    "depthwise_by_bytes": Case("Conv", (1, 20, 8, 9), (20, 1, 3, 3), zero=90,
                               weight_dtype="uint8", weight_zero=60,
                               attrs={"group": 20, "pads": [1, 1, 1, 1]}),
    "conv_of_half_blocks": Case("Conv", (1, 24, 5, 5), (16, 24, 1, 1)),
    "depthwise": Case("Conv", (1, 20, 8, 9), (20, 1, 3, 3), zero=90, scales=20,
                      attrs={"group": 20, "pads": [1, 1, 1, 1]}),
    "product": Case("MatMul", (5, 24), (24, 40), zero=100),
    "product_of_signed": Case("MatMul", (3, 4, 16), (16, 33), "int8", 0, scales=33, axis=1),
    "product_of_zeros": Case("MatMul", (3, 16), (16, 20), weight_zero=0, scales=20, axis=1),
    "linear": Case("Gemm", (6, 32), (48, 32), zero=4, scales=48, attrs={"transB": 1}),
}  # fmt: skip
FLOAT = {
    "few_channels": Case("Conv", (1, 3, 8, 9), (32, 3, 3, 3)),
    "groups": Case("Conv", (1, 32, 5, 5), (32, 16, 3, 3), attrs={"group": 2}),
    "scales_of_channels": Case("Conv", (1, 16, 5, 5), (32, 16, 3, 3), x_scales=16),
    "scales_of_rows": Case("MatMul", (5, 24), (24, 40), scales=24, axis=0),
    "few_columns": Case("Gemm", (6, 32), (8, 32), attrs={"transB": 1}),
}


def product_of(graph: Graph) -> Any:
    return next(node for node in graph.nodes if node.op.name in ("conv", "matmul"))


@pytest.mark.parametrize("name", [*INTEGER, *FLOAT])
def test_the_sums_are_those_of_float64(name: str) -> None:
    case = {**INTEGER, **FLOAT}[name]
    graph = nl.from_onnx(case.model())
    assert product_of(graph).output.dtype is (INT32 if name in INTEGER else FLOAT32)
    expected = case.expected()
    found = nl.compile(graph, threads=1).session.run(None, {"x": case.input()})[0]
    assert found.shape == expected.shape
    bound = 2e-6 if name in FLOAT else 3e-7  # the sum is exact: three products are rounded
    assert np.linalg.norm(found - expected) <= bound * np.linalg.norm(expected)
