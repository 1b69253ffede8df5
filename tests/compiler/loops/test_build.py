"""Building: what a formula uses twice is one expression in its kernel."""

from __future__ import annotations

from netloom.compiler.graph import Builder
from netloom.compiler.loops.build import build_kernel
from netloom.compiler.loops.text import print_kernel
from netloom.compiler.tensor_type import FLOAT32, TensorType

from .case_kernels import MACHINE


def test_shared_values_are_computed_once() -> None:
    """x * x, 24 times over: as a tree it has 2^24 leaves, and a fused kernel may hold as many
    nodes.
    """
    b = Builder("squares")
    y = b.input(TensorType(FLOAT32, (40,)), "x")
    for _ in range(24):
        y = b("mul", y, y)
    assert len(print_kernel(build_kernel("kernel", b.build([y]), MACHINE))) < 2000
