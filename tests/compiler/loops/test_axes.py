"""Axes of kernels over free dims: neighbours that are walked as one become one, images are walked in
the order of memory, and what a kernel computes stays the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from netloom.compiler.dim import symbol
from netloom.compiler.driver import compile_graph, plan_graph
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.loops.ir import For, Kernel, Kind, walk
from netloom.compiler.loops.verify import verify_kernel
from netloom.compiler.op import Array
from netloom.compiler.tensor_type import FLOAT32, INT64, TensorType
from netloom.runtime.session import Session

N, H, W = (symbol(name, 1) for name in "NHW")
SIZES = ((1, 1, 1), (2, 5, 7), (1, 9, 33))


@dataclass(frozen=True)
class Case:
    """Something made of an image [N, 3, H, W] and perhaps of ``other``; ``wanted``: the same by
    NumPy; ``loops``: those inside a work item, by the axes that they run along."""

    name: str
    make: Callable[..., Value]
    wanted: Callable[..., Array]
    loops: str
    other: tuple[object, ...] | None = None


def sliced(b: Builder, x: Value) -> Value:
    return b("slice", x, start=(0, 1, 0, 0), size=(N, 2, H, W), step=(1, 1, 1, 1))


def padded(b: Builder, x: Value) -> Value:
    return b("pad", x, lo=(0, 0, 1, 2), hi=(0, 0, 0, 1), value=2.0)


def product(b: Builder, x: Value, y: Value) -> Value:
    return b("mul", x, y)


CASES = [
    Case("by_channel", product, np.multiply, "p2p3v", (3, 1, 1)),
    Case("by_image_and_channel", product, np.multiply, "p2p3v", (N, 3, 1, 1)),
    Case("by_column", product, np.multiply, "p3v", (W,)),
    Case("by_row", product, np.multiply, "p2 p3v", (H, 1)),
    Case("sliced", sliced, lambda x: x[:, 1:], "p1p2p3v"),
    Case("padded", padded,
         lambda x: np.pad(x, ((0, 0), (0, 0), (1, 0), (2, 1)), constant_values=2), "p2 p3v"),
    Case("sum_of_channels", lambda b, x: b("reduce_sum", x, axes=(1,)), lambda x: x.sum(1), "p1p2v r0 p0f p0t"),
    Case("sum_of_images", lambda b, x: b("reduce_sum", x, axes=(0,)), lambda x: x.sum(0), "r0o r0i"),
    Case("sum_of_pixels", lambda b, x: b("reduce_sum", x, axes=(2, 3)),
         lambda x: x.sum((2, 3)), "r0r1vo r0r1vi"),
    Case("sum_of_images_and_pixels", lambda b, x: b("reduce_sum", x, axes=(0, 2, 3)),
         lambda x: x.sum((0, 2, 3)), "p0 r0 r1r2vo r1r2vi"),
    Case("largest_of_columns", lambda b, x: b("reduce_max", x, axes=(2,)),
         lambda x: x.max(2), "p2v r0 p0p1f p0p1t"),
]  # fmt: skip


def graph_of(case: Case) -> Graph:
    b = Builder(case.name)
    inputs = [b.input(TensorType(FLOAT32, (N, 3, H, W)), "x")]
    if case.other is not None:
        inputs.append(b.input(TensorType(FLOAT32, case.other), "y"))  # type: ignore[arg-type]
    return b.build([case.make(b, *inputs)], ["z"])


def kernel_of(case: Case) -> Kernel:
    (kernel,) = plan_graph(graph_of(case)).program.kernels.values()
    return kernel


def serial_loops(kernel: Kernel) -> str:
    """The loops' variables, outermost first, each once."""
    loops = (s for s in walk(kernel.body) if isinstance(s, For) and s.kind is Kind.SERIAL)
    return " ".join(dict.fromkeys(s.variable.name for s in loops if s.extent != 1))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_axes_that_are_walked_as_one_are_one(case: Case) -> None:
    kernel = kernel_of(case)
    assert serial_loops(kernel) == case.loops
    assert not [str(obligation) for obligation in verify_kernel(kernel)]


def test_results() -> None:
    """All in one program, at several sizes; small integers make sums exact."""
    b = Builder("all")
    inputs = {
        other: b.input(TensorType(FLOAT32, other), f"x{place}")  # type: ignore[arg-type]
        for place, other in enumerate(dict.fromkeys([(N, 3, H, W), *(c.other for c in CASES)]))
        if other is not None
    }
    image = inputs[N, 3, H, W]
    made = [
        case.make(b, image, *([inputs[case.other]] if case.other is not None else []))
        for case in CASES
    ]
    session = Session.in_process(compile_graph(b.build(made, [c.name for c in CASES])).image)
    rng = np.random.default_rng(1)
    for size in SIZES:
        numbers = dict(zip((N, H, W), size, strict=True))
        arrays = {
            shape: rng.integers(-4, 5, [numbers.get(e, e) for e in shape]).astype(np.float32)  # type: ignore[call-overload]
            for shape in inputs
        }
        found = session.run(None, {value.label: arrays[s] for s, value in inputs.items()})
        for case, result in zip(CASES, found, strict=True):
            others = [arrays[case.other]] if case.other is not None else []
            wanted = case.wanted(arrays[N, 3, H, W], *others)
            assert np.array_equal(result, wanted), (case.name, size)


def test_groups_of_an_axis_whose_element_a_number_says() -> None:
    """Frames of two blocks of 4, each at a place that is computed: a last axis in groups."""
    b = Builder("frames")
    x = b.input(TensorType(FLOAT32, (N, 4)), "x")
    at = b.input(TensorType(INT64, (H, 2)), "at")
    frames = b("reshape", b("gather", x, at, axis=0), shape=(H, 8))
    graph = b.build([b("mul", frames, b.constant(np.arange(8, dtype=np.float32)))])
    session = Session.in_process(compile_graph(graph).image, threads=1)
    values = np.arange(20, dtype=np.float32).reshape(5, 4)
    places = np.array([[0, 1], [3, 2], [4, 4]])
    (found,) = session.run(None, {"x": values, "at": places})
    np.testing.assert_array_equal(found, values[places].reshape(3, 8) * np.arange(8))
