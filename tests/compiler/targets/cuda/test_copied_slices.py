"""Products whose slices arrive by copies that do not wait: what is copied, and that every wait
and barrier is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.targets.cuda.compile import compile_kernel, is_available
from netloom.compiler.targets.cuda.driver import PIPELINE, CudaOptions, plan
from netloom.compiler.targets.cuda.forms import Product
from netloom.compiler.tensor_type import FLOAT16, TensorType
from tests.compiler.targets.cuda import emulated
from tests.compiler.targets.cuda.test_forms import (
    CONVOLUTIONS,
    MATMULS,
    barriers,
    convolutions,
    integers,
    launch,
    matmul,
    without_barrier,
)
from tests.ptx_emulator.machine import emulate
from tests.ptx_emulator.memory import MemoryFault

pytestmark = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
Array = npt.NDArray[Any]


def stages(graph: Graph, precision: str = "f32") -> list[int]:
    _, placement, _ = plan({"run": graph}, PIPELINE, CudaOptions(precision, override="direct"))
    return [
        kernel.form.stages
        for kernel in placement.forms.values()
        if isinstance(kernel.form, Product)
    ]


def of_halves() -> Graph:
    """Operands that are converted where they are fetched."""
    b = Builder("halves")
    x, w = b.input(TensorType(FLOAT16, (18, 40)), "x"), b.input(TensorType(FLOAT16, (40, 33)), "w")
    return b.build([b("matmul", x, w)])


def test_plain_and_guarded_reads_are_copied() -> None:
    for precision in ("f32", "tf32", "3xtf32"):
        for graph in (*MATMULS, *(g for row in CONVOLUTIONS for g in convolutions(*row))):
            assert all(number >= 3 for number in stages(graph, precision))
        assert stages(matmul((4096, 4096), (4096, 4096)), precision) == [
            4 if precision == "f32" else 3
        ]
    assert stages(MATMULS[0], "bf16") == stages(of_halves()) == [0]


@pytest.mark.parametrize("precision", ["tf32", "3xtf32"])
@pytest.mark.parametrize("graph", [
    matmul((72, 52), (52, 36)), matmul((52, 72), (52, 36), transpose_a=True),
    matmul((72, 52), (36, 52), transpose_b=True),
    matmul((17, 53), (53, 31)), matmul((53, 17), (31, 53), transpose_a=True, transpose_b=True),
    of_halves(),
], ids=lambda graph: " ".join(str(v.type) for v in graph.inputs))  # fmt: skip
def test_every_order_of_operands(graph: Graph, precision: str) -> None:
    """Rows that run along the terms or not, in groups of four or one by one."""
    inputs = integers(graph)
    (found,) = emulated.run(graph, inputs, options=CudaOptions(precision))
    np.testing.assert_array_equal(found, interpret(graph, inputs)[0])


GRAPH = matmul((40, 90), (90, 33))


@pytest.mark.parametrize("precision", ["f32", "tf32"])
def test_each_wait_and_barrier_is_needed(precision: str) -> None:
    (name,) = (
        source.text
        for source in plan({"run": GRAPH}, PIPELINE, CudaOptions(precision))[1].sources.values()
    )
    ((_, ptx),) = emulated.ptx_of(GRAPH, CudaOptions(precision)).items()
    assert "arrive_2()" in name and ptx.count("cp.async.wait_group 2;") == 1
    launch(GRAPH, ptx)
    for wrong in ("", "cp.async.wait_group 3;"):
        with pytest.raises(MemoryFault, match="nobody has waited for"):
            launch(GRAPH, ptx.replace("cp.async.wait_group 2;", wrong))
    with pytest.raises(MemoryFault, match="nobody has waited for"):
        launch(GRAPH, ptx.replace("cp.async.commit_group;", ""))
    for number in range(barriers(ptx)):
        with pytest.raises(MemoryFault, match="race|never written|barrier|nobody has waited for"):
            launch(GRAPH, without_barrier(ptx, number))


@pytest.mark.parametrize("precision", ["f32", "tf32", "bf16"])  # 3xtf32 reads as tf32 does
@pytest.mark.parametrize("order", [{}, {"transpose_a": True}, {"transpose_b": True}], ids=str)
def test_single_words_lie_in_different_banks(order: dict[str, bool], precision: str) -> None:
    """Operands that allow no wide access."""
    graph = matmul((63, 63), (63, 63), **order)
    _, placement, _ = plan({"run": graph}, PIPELINE, CudaOptions(precision))
    ((name, source),) = placement.sources.items()
    form = placement.forms[name].form
    assert isinstance(form, Product) and form.left.width == form.right.width == 1
    arrays = [*integers(graph).values(), np.zeros((63, 63), np.float32), np.zeros(1, np.int32)]
    traffic = emulate(compile_kernel(source, ()).ptx, 1, source.threads, arrays, inputs=2, flag=3)
    assert traffic.cycles <= traffic.least * (1.07 if precision == "f32" else 1.0)
