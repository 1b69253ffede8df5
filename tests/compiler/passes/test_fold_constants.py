"""What is folded, what is left, and that splats cost nothing."""

from __future__ import annotations

import numpy as np
import pytest

from netloom.compiler.constant import Constant
from netloom.compiler.dim import symbol
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.passes import fold_constants as module
from netloom.compiler.passes.fold_constants import fold_constants
from netloom.compiler.tensor_type import FLOAT32, TensorType


def constant_of(graph: Graph, position: int = 0) -> Constant | None:
    return graph.constant_of(graph.outputs[position])


def splat(b: Builder, value: float, *shape: int) -> Value:
    return b.constant(Constant.splat(value, TensorType(FLOAT32, shape)))


def test_a_chain_is_folded_in_one_go() -> None:
    b = Builder("g")
    y = b("mul", b("add", b.constant(np.arange(4.0)), 1.0), 2.0, label="last")
    graph = fold_constants(b.build([y]))
    assert len(graph.nodes) == 1
    assert graph.nodes[0].label == "last"
    found = constant_of(graph)
    assert found is not None
    assert np.array_equal(found.array, [2, 4, 6, 8])


def test_a_splat_of_a_terabyte_is_folded() -> None:
    b = Builder("g")
    huge = splat(b, 2.0, 1 << 20, 1 << 18)
    y = b(
        "reshape", b("transpose", b("mul", huge, huge), permutation=(1, 0)), shape=(1 << 30, 1 << 8)
    )
    found = constant_of(fold_constants(b.build([b("concat", y, y, axis=0)])))
    assert found is not None
    assert found.is_splat
    assert (found.splat_value, found.type.shape) == (4.0, (1 << 31, 1 << 8))


def test_different_splats_side_by_side_are_no_splat() -> None:
    b = Builder("g")
    y = b("concat", splat(b, 1.0, 2), splat(b, 3.0, 2), axis=0)
    z = b("pad", splat(b, 1.0, 2), lo=(1,), hi=(0,), value=7.0)
    s = b("concat", splat(b, 0.0, 2), splat(b, -0.0, 2), axis=0)
    graph = fold_constants(b.build([y, z, s]))
    found = [constant_of(graph, position) for position in range(3)]
    assert [constant.is_splat for constant in found if constant] == [False] * 3
    assert found[0] is not None
    assert np.array_equal(found[0].array, [1, 1, 3, 3])
    assert found[1] is not None
    assert np.array_equal(found[1].array, [7, 1, 1])
    assert found[2] is not None
    assert np.array_equal(np.signbit(found[2].array), [False, False, True, True])


def test_large_and_growing_results_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder("g")
    dense = b.constant(np.arange(16, dtype=np.float32))
    grown = b("broadcast", dense, shape=(1 << 15, 16))  # 2 MiB
    small = b("broadcast", dense, shape=(1 << 10, 16))
    graph = fold_constants(b.build([grown, small]))
    assert constant_of(graph, 0) is None
    assert constant_of(graph, 1) is not None
    monkeypatch.setattr(module, "MAX_BYTES", 63)
    b = Builder("g")
    graph = b.build([b("neg", b.constant(np.arange(16, dtype=np.float32)))])
    assert fold_constants(graph) is graph


def test_free_dims_are_left() -> None:
    b = Builder("g")
    b.input(TensorType(FLOAT32, (symbol("N", 1, 4),)), "x")
    graph = b.build([b("broadcast", b.number(1.0, FLOAT32), shape=(symbol("N", 1, 4),))])
    assert fold_constants(graph) is graph


def test_inputs_and_states_are_left() -> None:
    b = Builder("g")
    w = b.state("w", Constant(np.ones(3)))
    graph = b.build([b("neg", w)])
    assert fold_constants(graph) is graph
