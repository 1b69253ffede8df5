"""One op outside the standard as a model, and the comparison of its graph's meaning with what ONNX
Runtime computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]
from onnx import helper, numpy_helper

from netloom.compiler.interpret import interpret
from netloom.frontends.onnx import from_onnx

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
    domain: str = "com.microsoft"
    standard: int = 16  # its opset
    learning: int = 3  # opset of ai.onnx.ml


def case(
    op: str,
    *inputs: Array | None,
    outputs: tuple[str, ...] = ("y",),
    first_fixed: int = 1,
    domain: str = "com.microsoft",
    standard: int = 16,
    learning: int = 3,
    **attributes: Any,
) -> Case:
    return Case(op, inputs, attributes, outputs, first_fixed, domain, standard, learning)


def model_of(c: Case) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model and its inputs."""
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
    node = helper.make_node(c.op, names, list(c.outputs), domain=c.domain, **c.attributes)
    graph = helper.make_graph(
        [node], "g", ports, [onnx.ValueInfoProto(name=n) for n in c.outputs if n], fixed
    )
    opsets = [
        helper.make_opsetid("", c.standard),
        helper.make_opsetid("com.microsoft", 1),
        helper.make_opsetid("ai.onnx.ml", c.learning),
    ]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), given


def expected_of(model: onnx.ModelProto, given: dict[str, Array]) -> list[Array]:
    """What ONNX Runtime computes. Where a CPU has no VNNI, sums of two products of bytes saturate
    at 16 bits there unless it is asked for the exact ones."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, given))


def check_case(c: Case) -> None:
    """Integers are equal; floats agree to 1e-5 of the largest."""
    model, given = model_of(c)
    compare(interpret(from_onnx(model), given), expected_of(model, given))


def compare(found: Any, wanted: list[Array]) -> None:
    for actual, expected in zip(found, wanted, strict=True):
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        if expected.dtype.kind != "f":
            np.testing.assert_array_equal(actual, expected)
        else:
            largest = np.abs(expected[np.isfinite(expected)]).max(initial=0)
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * largest)
