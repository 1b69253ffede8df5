"""What int32 indices cannot count is refused: by the compiler where sizes are known, else by a run."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.dim import Extent, symbol
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.targets.cuda.compile import is_available
from netloom.compiler.targets.cuda.driver import compile_for_cuda
from netloom.compiler.targets.cuda.schedule import plan_kernel
from netloom.compiler.tensor_type import BOOL, FLOAT32, DType, TensorType
from netloom.errors import DeviceError, MemoryBudgetError
from netloom.runtime.cuda.program import parse_program
from netloom.runtime.cuda.session import CudaSession
from tests.ptx_emulator.device import EmulatedDevice


def sum_of_products(n: Extent, m: Extent) -> Graph:
    """The sum of x[i] * y[j]: n m terms, of n and of m elements."""
    b = Builder("sum")
    x = b.input(TensorType(FLOAT32, (n, 1)), "x")
    y = b.input(TensorType(FLOAT32, (1, m)), "y")
    return b.build([b("reduce_sum", b("mul", x, y), axes=(0, 1), keep=False)])


def test_a_sum_of_more_terms_than_an_index_counts_is_refused() -> None:
    message = "a sum of 4294967296 terms is too large for the cuda target"
    with pytest.raises(MemoryBudgetError, match=message):
        plan_kernel(sum_of_products(1 << 16, 1 << 16))
    plan_kernel(sum_of_products(1 << 15, (1 << 16) - 1))


def test_a_tensor_of_more_bytes_than_a_run_takes_is_refused() -> None:
    def kernel(dtype: DType, op: str) -> Graph:
        b = Builder(op)
        return b.build([b(op, b.input(TensorType(dtype, (1 << 29,)), "x"))])

    plan_kernel(kernel(BOOL, "not"))
    with pytest.raises(MemoryBudgetError, match="a tensor of 2147483648 bytes is too large"):
        plan_kernel(kernel(FLOAT32, "neg"))


@pytest.mark.skipif(not is_available(), reason="numba-cuda is not installed (netloom[cuda])")
def test_a_run_refuses_a_sum_that_free_dims_make_too_long() -> None:
    graph = sum_of_products(symbol("N", 1), symbol("M", 1))
    compiled = compile_for_cuda(graph, architectures=())
    ptx = {kernel.name: kernel.ptx for kernel in compiled.kernels.values()}
    session = CudaSession(parse_program(compiled.as_bytes()), lambda: EmulatedDevice(ptx))
    x, y = np.arange(3, dtype=np.float32), np.arange(4, dtype=np.float32) - 1
    assert session(x[:, None], y[None]) == x.sum() * y.sum()
    ones = np.ones((1 << 16, 1), np.float32)
    with pytest.raises(DeviceError, match="a sum of 4294967296 terms is too large"):
        session(ones, ones.T)
