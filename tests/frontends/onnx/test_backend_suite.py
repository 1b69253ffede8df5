"""The node tests of the ONNX backend suite: what is imported means what the suite says; the rest is refused clearly.

Many tests feed shapes, axes or dtypes at run time that a compiler must know before: those are refused by design.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from netloom.compiler.interpret import interpret
from netloom.errors import NetloomError
from netloom.frontends.onnx import from_onnx

Array = npt.NDArray[Any]

FEWEST_PASSED = 1155  # a ratchet: what passed when this was written; raise it when more passes


def difference(actual: Array, expected: Array) -> str:
    """What differs beyond the suite's own tolerance (rtol 1e-3; half precision: two of its steps), or ""."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return f"{actual.dtype}{actual.shape} instead of {expected.dtype}{expected.shape}"
    try:
        if expected.dtype.kind in "fV":
            step = float(ml_dtypes.finfo(expected.dtype).eps)  # type: ignore[no-untyped-call]
            a, b = actual.astype(np.float64), expected.astype(np.float64)
            np.testing.assert_allclose(a, b, rtol=max(1e-3, 2 * step), atol=max(1e-5, step))
        else:
            np.testing.assert_array_equal(actual, expected)
    except AssertionError as error:
        return " ".join(str(error).split())[:200]
    return ""


def array(data: Any) -> Array:
    """The suite's data are arrays, or tensors where NumPy lacks the dtype."""
    return numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else np.asarray(data)


def outcome(case: Any) -> str:
    """passed, refused, or what is wrong."""
    try:
        graph = from_onnx(case.model)
    except NetloomError:
        return "refused"
    inputs = [info.name for info in case.model.graph.input]
    for given, expected in case.data_sets:
        feeds = {name: array(x) for name, x in zip(inputs, given, strict=True)}
        results = interpret(graph, {value.label: feeds[value.label] for value in graph.inputs})
        for actual, meant in zip(results, expected, strict=True):
            if found := difference(actual, array(meant)):
                return found
    return "passed"


def test_backend_node_suite() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = {case.name: outcome(case) for case in collect_testcases(None)}
    counts = Counter(outcomes.values())
    wrong = {name: found for name, found in outcomes.items() if found not in ("passed", "refused")}
    assert wrong == {}
    assert counts["passed"] >= FEWEST_PASSED


def test_control_differences_are_seen() -> None:
    x = np.ones((2, 3), np.float32)
    assert difference(x, x) == ""
    assert difference(x * np.float32(1.01), x)
    assert difference(x[0], x)
    assert difference(x.astype(np.float64), x)
    assert difference(np.array([1, 2]), np.array([1, 3]))
