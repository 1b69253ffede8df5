"""Neighbouring slices that a concat puts together again are one slice, or what they were taken from;
others stay. What is computed of channels that are split, partly computed on and joined is copied
nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.passes.join_slices import join_slices
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

Part = tuple[int, int, int]  # start, size, step along the rows


def taken(b: Builder, x: Value, part: Part) -> Value:
    start, size, step = part
    return b("slice", x, start=(start, 0), size=(size, 3), step=(step, 1))


def joined(parts: Sequence[Part]) -> Graph:
    b = Builder("joined")
    x, y = (b.input(TensorType(FLOAT32, (12, 3)), name) for name in "xy")
    slices = [taken(b, x, part) for part in parts]
    return b.build([b("concat", *slices, y, taken(b, y, (0, 2, 1)), axis=0)])


@pytest.mark.parametrize(("parts", "left"), [
    ([(0, 4, 1), (4, 8, 1)], ["concat"]),
    ([(0, 4, 1), (4, 4, 1), (8, 4, 1)], ["concat"]),
    ([(2, 4, 1), (6, 3, 1)], ["slice", "concat"]),
    ([(4, 8, 1), (0, 4, 1)], ["slice", "slice", "concat"]),
    ([(0, 4, 1), (5, 7, 1)], ["slice", "slice", "concat"]),
    ([(0, 4, 2), (4, 2, 2)], ["slice", "slice", "concat"]),
])  # fmt: skip
def test_neighbours_become_one(parts: Sequence[Part], left: Sequence[str]) -> None:
    graph = joined(parts)
    names = [node.op.name for node in join_slices(graph).nodes]
    assert sorted(names) == sorted([*left, "slice"])  # that of y stays
    x, y = np.random.default_rng(1).standard_normal((2, 12, 3)).astype(np.float32)
    rows = [x[start : start + size * step : step] for start, size, step in parts]
    (made,) = Session.in_process(compile_graph(graph).image).run(None, {"x": x, "y": y})
    np.testing.assert_array_equal(made, np.concatenate([*rows, y, y[:2]]))


@pytest.mark.parametrize("size", [4, 1])
def test_a_split_and_its_concat_copy_nothing(size: int) -> None:
    """A C2f block: channels are split, the second part is computed on, all are joined."""
    b, rng = Builder("split"), np.random.default_rng(2)
    x = b.input(TensorType(FLOAT32, (1, 16, size, size)), "x")

    def convolved(value: Value, filters: int) -> Value:
        w = rng.integers(-2, 3, (filters, value.shape[1], 1, 1)).astype(np.float32)
        attrs = {"stride": (1, 1), "dilation": (1, 1), "lo": (0, 0), "hi": (0, 0), "groups": 1}
        return b("relu", b("conv", value, b.constant(w), **attrs))

    whole = convolved(x, 64)
    parts = [
        b("slice", whole, start=(0, at, 0, 0), size=(1, 32, size, size), step=(1,) * 4)
        for at in (0, 32)
    ]
    more = b("add", parts[1], convolved(parts[1], 32))
    graph = b.build([convolved(b("concat", *parts, more, axis=1), 16)])
    compiled = compile_graph(graph)
    names = [launch.kernel.split("_", 2)[2] for launch in compiled.program.entries[0].launches]
    assert not {"concat", "copy", "slice"} & {*names}, names
    array = rng.integers(-3, 4, (1, 16, size, size)).astype(np.float32)
    (made,) = Session.in_process(compiled.image).run(None, {"x": array})
    np.testing.assert_array_equal(made, _as_arrays(graph, array))


def _as_arrays(graph: Graph, x: np.ndarray) -> np.ndarray:
    """The same by NumPy, in whole numbers."""
    first, second, third = (
        node.attrs.value.array[:, :, 0, 0].astype(np.float64)
        for node in graph.nodes
        if node.op.name == "constant"
    )

    def convolved(w: np.ndarray, a: np.ndarray) -> np.ndarray:
        return np.maximum(np.einsum("oc,nchw->nohw", w, a), 0)

    whole = convolved(first, x.astype(np.float64))
    part = whole[:, 32:]
    return convolved(third, np.concatenate([whole, part + convolved(second, part)], axis=1))
