"""Products that do not fit a work item: square blocks of rows and columns, right operands packed
at run time.
"""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session


@pytest.mark.parametrize(("rows", "terms", "columns", "is_packed"), [
    (257, 1152, 1000, True), (130, 600, 2049, True), (999, 640, 515, True),
    (255, 640, 515, False), (999, 250, 515, False),
    (127, 2048, 1536, False), (256, 1537, 3136, True),
])  # fmt: skip
@pytest.mark.parametrize("is_constant", [False, True])
def test_product(rows: int, terms: int, columns: int, is_packed: bool, is_constant: bool) -> None:
    rng = np.random.default_rng(0)
    left, right = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((rows, terms), (terms, columns))
    )
    b = Builder("product")
    x = b.input(TensorType(FLOAT32, left.shape), "x")
    y = b.constant(right) if is_constant else b.input(TensorType(FLOAT32, right.shape), "y")
    compiled = compile_graph(b.build([b("matmul", x, y)]))
    feeds = {"x": left} if is_constant else {"x": left, "y": right}
    one, two = (
        Session.in_process(compiled.image, threads=threads).run(None, feeds)[0]
        for threads in (1, 2)
    )
    exact = left.astype(np.float64) @ right.astype(np.float64)
    assert np.linalg.norm(one - exact) <= 1e-6 * np.linalg.norm(exact)
    assert one.tobytes() == two.tobytes()
    kernels = [launch.kernel.split("_", 2)[2] for launch in compiled.program.entries[0].launches]
    assert kernels == (["reorder", "matmul"] if is_packed and not is_constant else ["matmul"])


@pytest.mark.parametrize("is_given", [False, True])
def test_what_a_caller_gives_is_packed_sooner(is_given: bool) -> None:
    """It may begin anywhere, where the program's own memory begins with a line."""
    b = Builder("product")
    x, y = (b.input(TensorType(FLOAT32, (512, 512)), name) for name in "xy")
    right = y if is_given else b("softmax", y, axis=1)
    program = compile_graph(b.build([b("matmul", x, right)])).program
    kernels = [launch.kernel for launch in program.entries[0].launches]
    assert any("reorder" in name for name in kernels) == is_given
