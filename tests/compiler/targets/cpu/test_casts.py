"""Floats to integers on every CPU level of this machine: they truncate and saturate, NaN gives 0,
and lanes are converted together.
"""

import numpy as np
import pytest

from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder, Value
from netloom.compiler.interpret import interpret
from netloom.compiler.targets.cpu.machine import host_cpus
from netloom.compiler.tensor_type import DType, TensorType
from netloom.runtime.session import Session

LEVELS = [cpu.name for cpu in host_cpus()]
FLOATS = (DType.FLOAT16, DType.FLOAT32, DType.FLOAT64)
INTEGERS = [dtype for dtype in DType if dtype.is_integer]


def corners(source: DType) -> np.ndarray:
    """Numbers on both sides of every bound of an integer dtype, and those without an integer."""
    bounds = [bound for t in INTEGERS for bound in (np.iinfo(t.numpy).min, np.iinfo(t.numpy).max)]
    near = np.array(bounds, np.float64)
    near = np.concatenate([near, near - 1, near + 1, near - 0.5, near + 0.5, near / 2])
    wild = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 0.99, -0.99, 1e-45, -1e-45, 1e38, -1e38]
    with np.errstate(over="ignore"):
        found = np.concatenate([near, wild]).astype(source.numpy)
        wide = found.astype(np.float64)
        neighbours = [np.nextafter(found.astype(kind), kind(way)).astype(source.numpy)
                      for kind in (np.float32, np.float64) for way in (np.inf, -np.inf)]  # fmt: skip
    assert np.isnan(wide).any()
    return np.concatenate([found, *neighbours])


@pytest.mark.parametrize("level", LEVELS)
def test_floats_saturate_as_integers(level: str) -> None:
    """All pairs of dtypes in one program; the length leaves lanes at the end."""
    b, arrays = Builder("casts"), {}
    results = []
    for source in FLOATS:
        array = corners(source)
        array = array[: array.size // 16 * 16 - 5]
        x = Value(TensorType(source, array.shape), f"x_{source.value}")
        b.inputs.append(x)
        arrays[x.label] = array
        results += [b("cast", x, dtype=target) for target in INTEGERS]
    graph = b.build(results)
    session = Session.in_process(compile_graph(graph, Options(cpu=level)).image, threads=1)
    found, expected = session.run(None, arrays), interpret(graph, arrays)
    for value, got, want in zip(results, found, expected, strict=True):
        np.testing.assert_array_equal(got, want, err_msg=str(value.type))


@pytest.mark.parametrize(
    ("target", "instruction"),
    [
        *((t, "dq") for t in (DType.INT8, DType.UINT8, DType.INT16, DType.UINT16, DType.INT32)),
        (DType.INT64, "qq"), (DType.UINT64, "uqq"),
    ],
)  # fmt: skip
def test_lanes_are_converted_together(target: DType, instruction: str) -> None:
    b = Builder("cast")
    x = Value(TensorType(DType.FLOAT32, (64,)), "x")
    b.inputs.append(x)
    compiled = compile_graph(b.build([b("cast", x, dtype=target)]), Options(cpu="x86-64-v4"))
    text = compiled.as_text("asm")
    assert f"vcvttps2{instruction}" in text
    assert "vcvttss2" not in text
