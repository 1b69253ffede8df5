"""Flat loops: every element once, whatever the size, and four vectors an iteration of what is short."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.dim import symbol
from netloom.compiler.driver import compile_graph, plan_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.loops.ir import Allocate, For, Kernel, Kind, Load, Store, walk
from netloom.compiler.loops.linear import CHUNK
from netloom.compiler.loops.unrolling import COPIES
from netloom.compiler.loops.verify import verify_kernel
from netloom.compiler.scalar import post_order
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.runtime.session import Session

GROUP, ITEM = 16 * COPIES, 16 * CHUNK
SIZES = (
    1,
    15,
    16,
    17,
    GROUP - 1,
    GROUP,
    GROUP + 1,
    GROUP + 33,
    ITEM - 1,
    ITEM,
    ITEM + 1,
    ITEM + 99,
)


def graph_of(op: str, *shapes: tuple[object, ...]) -> Graph:
    b = Builder(op)
    inputs = [b.input(TensorType(FLOAT32, s), f"x{i}") for i, s in enumerate(shapes)]  # type: ignore[arg-type]
    return b.build([b(op, x) for x in inputs], [f"y{i}" for i in range(len(inputs))])


def kernel_of(op: str, size: object) -> Kernel:
    (kernel,) = plan_graph(graph_of(op, (size,))).program.kernels.values()
    return kernel


def test_every_size() -> None:
    """All in one program, each with room behind it that stays as it is."""
    rng = np.random.default_rng(1)
    arrays = {f"x{i}": rng.standard_normal(n).astype(np.float32) for i, n in enumerate(SIZES)}
    program = compile_graph(graph_of("relu", *((n,) for n in SIZES)))
    found = Session.in_process(program.image).run(None, arrays)
    for array, result in zip(arrays.values(), found, strict=True):
        assert np.array_equal(result, np.maximum(array, 0))


def test_any_size() -> None:
    session = Session.in_process(compile_graph(graph_of("relu", (symbol("N", 1),))).image)
    for size in SIZES:
        room = np.full(size + 64, 7, np.float32)
        x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
        session.bind(x0=x, y0=room[:size])()
        assert np.array_equal(room[:size], np.maximum(x, 0)) and (room[size:] == 7).all()


@pytest.mark.parametrize("size", [*SIZES, symbol("N", 1)], ids=str)
def test_indices_are_proved(size: object) -> None:
    assert not [str(obligation) for obligation in verify_kernel(kernel_of("relu", size))]


def copies(kernel: Kernel) -> list[object]:
    return [s.extent for s in walk(kernel.body) if isinstance(s, For) and s.kind is Kind.UNROLLED]


def test_short_formulas_are_copied_and_made_before_they_are_stored() -> None:
    kernel = kernel_of("relu", 1 << 20)
    assert copies(kernel) == [COPIES, COPIES]
    (group,) = [s for s in walk(kernel.body) if isinstance(s, Allocate)]
    made, stored = [s for s in walk(group) if isinstance(s, Store)]
    reads = [n.buffer for n in post_order([stored.value]) if isinstance(n, Load)]
    assert made.buffer is group.buffer and reads == [group.buffer]
    assert copies(kernel_of("tanh", 1 << 20)) == []
    assert copies(kernel_of("gelu", 1 << 20)) == []
