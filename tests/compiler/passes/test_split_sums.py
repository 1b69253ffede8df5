"""Long sums over outer axes taken apart: what is split, into what, and that results stay."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.passes.split_sums import LEAST_BLOCKS, MOST_BLOCKS, split_sums
from netloom.compiler.tensor_type import FLOAT16, FLOAT32, INT32, DType, TensorType
from netloom.runtime.session import Session

SHAPES = {  # input, axes, blocks
    "rows": ((4096, 64), (0,), 16),
    "divisors": ((33 * 50, 200), (0,), 15),
    "batch and time": ((16, 256, 80), (0, 1), 16),
    "batch of four": ((4, 1024, 80), (0, 1), 16),
    "images": ((8, 32, 32, 48), (0, 1, 2), 8),
}
WHOLE = {
    "short": ((64, 64), (0,)),
    "innermost": ((64, 8192), (1,)),
    "outer axes kept": ((4, 1024, 80), (1,)),
    "wide rows": ((16, 1 << 15), (0,)),
    "few columns": ((1 << 16, 8), (0,)),
    "a prime number of rows": ((4099, 80), (0,)),
}


def reduction(
    shape: tuple[int, ...], axes: tuple[int, ...], op: str = "reduce_sum",
    keep: bool = False, dtype: DType = INT32,
) -> Graph:  # fmt: skip
    b = Builder("sums")
    return b.build([b(op, b.input(TensorType(dtype, shape), "x"), axes=axes, keep=keep)])


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("op", ["reduce_sum", "reduce_max", "reduce_min"])
@pytest.mark.parametrize("name", SHAPES)
def test_blocks_give_the_same(name: str, op: str, keep: bool) -> None:
    shape, axes, blocks = SHAPES[name]
    graph = reduction(shape, axes, op, keep)
    new = split_sums(graph)
    partial, total = (node for node in new.nodes if node.op.name == op)
    lead = partial.output.type.static_shape[: len(total.attrs.axes)]
    assert np.prod(lead) == blocks and LEAST_BLOCKS <= blocks <= MOST_BLOCKS
    x = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int32)
    (before,), (after,) = (interpret(g, {"x": x}) for g in (graph, new))
    assert before.shape == after.shape and before.tobytes() == after.tobytes()


@pytest.mark.parametrize("name", WHOLE)
def test_others_stay_whole(name: str) -> None:
    graph = reduction(*WHOLE[name])
    assert [node.op.name for node in split_sums(graph).nodes] == ["reduce_sum"]


def test_small_floats_are_rounded_once() -> None:
    graph = reduction((4096, 64), (0,), dtype=FLOAT16)
    assert len(split_sums(graph).nodes) == 1
    assert len(split_sums(reduction((4096, 64), (0,), dtype=FLOAT32)).nodes) > 1


@pytest.mark.parametrize("width", [64, 1000, 1040])
def test_sums_are_equal_for_any_number_of_threads(width: int) -> None:
    """A bias's gradient: sums of products over a batch, near the float64 sum."""
    b = Builder("sums")
    x, y = (b.input(TensorType(FLOAT32, (2560, width)), name) for name in "xy")
    graph = b.build([b("reduce_sum", b("mul", x, y), axes=(0,), keep=False)])
    rng = np.random.default_rng(1)
    arrays = {name: rng.random((2560, width), np.float32) - 0.5 for name in "xy"}
    image = compile_graph(graph, Options(threads=1)).image
    results = []
    for threads in (1, 2, 3, 8):
        results.append(Session.in_process(image, threads=threads)(**arrays).tobytes())
    assert len(set(results)) == 1
    products = arrays["x"].astype(np.float64) * arrays["y"]
    expected, magnitude = np.sum(products, axis=0), np.sum(np.abs(products), axis=0)
    found = np.frombuffer(results[0], np.float32)
    assert np.all(np.abs(found - expected) <= 1e-7 * magnitude)
