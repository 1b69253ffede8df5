"""Convolutions' windows as operands: which are read by starts, masks and steps, and that what
they read is right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.targets.cuda.compile import is_available
from netloom.compiler.targets.cuda.driver import PIPELINE, CudaOptions, plan
from netloom.compiler.targets.cuda.forms import Product
from netloom.compiler.tensor_type import FLOAT32, TensorType
from tests.cases import DIMS, N
from tests.compiler.targets.cuda import emulated
from tests.compiler.targets.cuda.test_forms import integers, matmul

needs_compiler = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
DIRECT = CudaOptions(override="direct")
PLAIN = {"stride": (1, 1), "dilation": (1, 1), "lo": (0, 0), "hi": (0, 0), "groups": 1}
SAME = {**PLAIN, "lo": (1, 1), "hi": (1, 1)}


def convolution(x: tuple[Any, ...], w: tuple[int, ...], **attrs: Any) -> Graph:
    b = Builder("conv")
    values = [b.input(TensorType(FLOAT32, shape), name) for shape, name in ((x, "x"), (w, "w"))]
    return b.build([b("conv", *values, **attrs)])


def input_gradient() -> Graph:
    b = Builder("gradient")
    dy, w = (
        b.input(TensorType(FLOAT32, (3, 10, 5, 7)), "dy"),
        b.input(TensorType(FLOAT32, (10, 17, 3, 3)), "w"),
    )
    return b.build([b("conv_input_gradient", dy, w, **SAME, spatial=(5, 7))])


def product_of(graph: Graph) -> Product:
    _, placement, _ = plan({"run": graph}, PIPELINE, DIRECT)
    (form,) = [
        kernel.form for kernel in placement.forms.values() if isinstance(kernel.form, Product)
    ]
    return form


CASES = [  # and how many taps a mask has
    (convolution((2, 5, 7, 7), (17, 5, 3, 3), **SAME), 9),
    (convolution((1, 9, 14, 14), (16, 9, 1, 1), **PLAIN), 1),
    (
        convolution(
            (3, 4, 9, 11),
            (18, 4, 3, 2),
            **{**PLAIN, "stride": (2, 2), "dilation": (1, 2), "lo": (2, 0), "hi": (0, 3)},
        ),
        6,
    ),
    (convolution((2, 3, 9, 7), (16, 3, 5, 5), **{**PLAIN, "lo": (2, 4), "hi": (1, 0)}), 25),
    (convolution((N, 6, 5, 5), (16, 6, 3, 3), **SAME), 9),
    (input_gradient(), 9),
]


@needs_compiler
@pytest.mark.parametrize(
    ("graph", "taps"),
    CASES,
    ids=lambda case: str(case.inputs[0].type) if isinstance(case, Graph) else "",
)
def test_windows(graph: Graph, taps: int) -> None:
    form = product_of(graph)
    (windows,) = [side.windows for side in (form.left, form.right) if side.windows is not None]
    assert np.prod([axis.extent for axis in windows.taps], dtype=int) == taps
    inputs = integers(graph, DIMS)
    (found,) = emulated.run(graph, inputs, DIMS, DIRECT)
    np.testing.assert_array_equal(found, interpret(graph, inputs)[0])


@needs_compiler
def test_what_no_mask_holds_is_decoded() -> None:
    """49 taps; and rows that do not lie near each other."""
    many = product_of(
        convolution((1, 3, 12, 12), (16, 3, 7, 7), **{**PLAIN, "lo": (3, 3), "hi": (3, 3)})
    )
    far = product_of(matmul((40, 9), (33, 9), transpose_b=True))
    assert all(side.windows is None for form in (many, far) for side in (form.left, form.right))


@needs_compiler
def test_weights_are_one_run_of_memory() -> None:
    """Filters of 4 x 3 x 3 numbers: four at a time, though no axis of theirs is a multiple of
    four.
    """
    form = product_of(convolution((1, 4, 6, 6), (16, 4, 3, 3), **SAME))
    assert sorted((form.left.width, form.right.width)) == [1, 4]
