"""Vectors divided by one number: the division's bits, whatever the numbers, and no division where
there is a reciprocal.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler.dim import Dim
from netloom.compiler.loops.ir import LANE, LANES, Buffer, Kernel, Kind, Load, Store, loop, variable
from netloom.compiler.scalar import Expr, literal
from netloom.compiler.targets.cpu.llvm import compile_kernels, kernels_as_assembly
from netloom.compiler.targets.cpu.lowering.quotients import RANGE
from netloom.compiler.targets.cpu.machine import CPUS, Cpu, host_cpu, host_cpus
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, DType
from tests.compiler.targets.cpu.test_vector_math import KERNEL, _run

Array = npt.NDArray[Any]
VECTORS = 256  # by one divisor
DTYPES = pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=lambda dtype: dtype.value)
LEVELS = [cpu for cpu in host_cpus() if cpu.has_fma]
SPECIAL = (0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -3.0)


def kernel(dtype: DType, rows: int, divisor: float | None = None) -> Kernel:
    """Each row of VECTORS vectors by its own number, or all by one that is known."""
    row, vector = variable("w", rows), variable("v", VECTORS)
    at = (Dim.of(row), Dim.of(vector), Dim.of(LANE))
    x, y = (Buffer(name, dtype, (rows, VECTORS, LANES)) for name in ("x", "y"))
    d = Buffer("d", dtype, (rows,))
    by: Expr = Load(d, at[:1]) if divisor is None else literal(divisor, dtype)
    body = loop(vector, VECTORS, loop(LANE, LANES, Store(y, at, Load(x, at) / by), Kind.VECTOR))
    return Kernel(KERNEL, (x, d, y), (), rows, row, body)


def quotients(x: Array, d: Array, cpu: Cpu, divisor: float | None = None) -> Array:
    y = np.zeros_like(x)
    code = compile_kernels({KERNEL: kernel(DType.of(x.dtype), len(x), divisor)}, cpu)
    _run(code, np.asarray([x.ctypes.data, d.ctypes.data, y.ctypes.data, 0], np.uint64), len(x))
    return y


def expected(x: Array, d: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(x / d[:, None, None])


def numbers(dtype: DType, count: int, most: int, rng: np.random.Generator) -> Array:
    """Of both signs and every exponent up to a power of two."""
    sign = rng.choice([-1.0, 1.0], count)
    return (sign * np.exp2(rng.uniform(-most, most, count))).astype(dtype.numpy)


@DTYPES
def test_quotients_are_the_divisions(dtype: DType) -> None:
    """To the bit, also beside the middle between two numbers, as multiples of the divisor are."""
    rng = np.random.default_rng(1)
    d = np.concatenate([numbers(dtype, 90, 20, rng), np.arange(1, 40).astype(dtype.numpy)])
    x = numbers(dtype, d.size * VECTORS * LANES, 60, rng).reshape(d.size, VECTORS, LANES)
    near = (d[:, None, None] * (1 + np.arange(LANES) / 8)).astype(dtype.numpy)
    x[:, 0], x[:, 1] = np.nextafter(near, 0)[:, 0], near[:, 0]
    for cpu in LEVELS:
        assert quotients(x, d, cpu).tobytes() == expected(x, d).tobytes()


@DTYPES
def test_special_values(dtype: DType) -> None:
    """Zeros, infinities, NaN, denormals and overflow on either side: only a denormal quotient may
    be the division's neighbour.
    """
    info = np.finfo(dtype.numpy)
    ends = (
        info.max,
        info.tiny,
        info.smallest_subnormal,
        info.max / 3,
        1 / RANGE[dtype.bytes],
        3e-3,
    )
    d = np.asarray([*SPECIAL, *ends, *(-np.asarray(ends))], dtype.numpy)
    x = np.resize(d, (d.size, VECTORS, LANES))
    exact = expected(x, d)
    bits = f"i{dtype.bytes}"
    is_denormal = (np.abs(exact) < 2 * info.tiny) & (exact != 0)
    for cpu in LEVELS:
        found = quotients(x, d, cpu)
        apart = np.abs(found.view(bits) - exact.view(bits))
        assert np.array_equal(np.isnan(found), np.isnan(exact)) and is_denormal.any()
        assert np.all((apart <= is_denormal) | np.isnan(exact))


@DTYPES
@pytest.mark.parametrize("divisor", [3.0, -0.1, 4.0, 1e-36, 0.0, math.inf])
def test_constant_divisors(dtype: DType, divisor: float) -> None:
    x = numbers(dtype, 2 * VECTORS * LANES, 60, np.random.default_rng(2)).reshape(2, VECTORS, LANES)
    d = np.full(2, divisor, dtype.numpy)
    assert quotients(x, d, host_cpu(), divisor).tobytes() == expected(x, d).tobytes()


def test_known_divisors_need_no_division() -> None:
    cpu = CPUS["x86-64-v3"]
    assert "vdivps" not in kernels_as_assembly({KERNEL: kernel(FLOAT32, 2, 3.0)}, cpu)
    assert "vdivps" in kernels_as_assembly({KERNEL: kernel(FLOAT32, 2)}, cpu)  # for others
    assert "vdivps" in kernels_as_assembly({KERNEL: kernel(FLOAT32, 2, 1e-36)}, cpu)
