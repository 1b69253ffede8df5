"""Branches of a network on the cuda target: memory does not order them, and the session's graph
lets them overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import netloom as nl
from netloom.compiler.interpret import interpret
from netloom.compiler.program import Space
from netloom.compiler.targets.cuda.compile import is_available
from netloom.compiler.targets.cuda.driver import PIPELINE, TRAINING_PIPELINE, compile_for_cuda, plan
from netloom.runtime.cuda.device import Call
from netloom.runtime.cuda.order import Access, predecessors
from netloom.runtime.cuda.program import parse_program
from netloom.runtime.cuda.session import CudaSession
from tests.ptx_emulator.device import EmulatedDevice


@nl.network
def branches(x: nl.Symbolic) -> nl.Symbolic:
    """Three towers side by side, each of two convolutions, as an Inception module has them; then
    one more module."""
    for _ in range(2):
        towers = [
            nl.relu(nl.conv2d(nl.relu(nl.conv2d(x, 16, 1)), 16, size, padding="same"))
            for size in (1, 3, 5)
        ]
        x = nl.concat(towers, axis=1)
    return x


@nl.network
def two_branches(x: nl.Symbolic) -> nl.Symbolic:
    return nl.concat([nl.max_pool2d(nl.exp(x), 2), nl.relu(nl.max_pool2d(nl.sqrt(x), 2))], axis=1)


GRAPH = branches.graph(x=nl.tensor(1, 8, 5, 5)).inference_form()


def depth(edges: tuple[tuple[int, ...], ...]) -> int:
    """The longest chain of launches."""
    found: list[int] = []
    for mine in edges:
        found.append(1 + max((found[i] for i in mine), default=0))
    return max(found)


def test_slots_are_used_again_without_ordering_branches() -> None:
    program, _, fused = plan({"run": GRAPH}, PIPELINE)
    (entry,) = program.entries
    numbers = {
        ref: i
        for i, ref in enumerate(
            {(b.space, b.index): 0 for launch in entry.launches for b in launch.buffers}
        )
    }
    pieces = [
        [(numbers[b.space, b.index], numbers[b.space, b.index] + 1) for b in launch.buffers]
        for launch in entry.launches
    ]
    edges = predecessors([Access(tuple(p[:-1]), (p[-1],)) for p in pieces])
    kernels = [node for node in fused["run"].nodes if node.op.name == "kernel"]
    producers = {node.output: i for i, node in enumerate(kernels)}
    data = tuple(tuple({producers[v] for v in node.inputs if v in producers}) for node in kernels)
    assert len(kernels) == len(edges) and depth(edges) == depth(data) <= len(kernels) // 2
    arena = {b.index for launch in entry.launches for b in launch.buffers if b.space is Space.ARENA}
    assert len(arena) < sum(
        node.output not in fused["run"].outputs for node in kernels
    )  # slots are used again


def test_a_training_step_reuses_slots_as_before() -> None:
    """Where branches were kept apart, no cotangent's slot could be used again while a gradient of
    weights may read it."""
    network = branches.graph(x=nl.tensor(1, 8, 5, 5))
    flat = nl.network(lambda x: nl.dense(nl.flatten(branches(x)), 3)).graph(x=nl.tensor(1, 8, 5, 5))
    step = nl.training_graph(flat, nl.losses.cross_entropy, nl.optimizers.SGD())
    program, placement, _ = plan(
        {"run": network.inference_form(), "train_step": step}, TRAINING_PIPELINE
    )
    assert program.is_training and not placement.keeps_branches_apart


@pytest.mark.skipif(not is_available(), reason="numba-cuda is not installed (netloom[cuda])")
def test_the_graph_of_a_session_gives_the_same_in_another_order() -> None:
    """The emulator's device runs what need not wait in another order than it was compiled in."""
    graph = two_branches.graph(x=nl.tensor(1, 2, 4, 4)).inference_form()
    compiled = compile_for_cuda(graph, architectures=())
    device = EmulatedDevice({kernel.name: kernel.ptx for kernel in compiled.kernels.values()})
    orders = []
    capture = device.capture
    device.capture = lambda calls, after: (
        orders.append(list(capture(calls, after))) or capture(calls, after)
    )  # type: ignore[method-assign, func-returns-value]
    x = np.random.default_rng(0).random((1, 2, 4, 4)).astype(np.float32)
    found = CudaSession(parse_program(compiled.as_bytes()), lambda: device)(x)
    (wanted,) = interpret(graph, {"x": x})
    assert np.linalg.norm(found - wanted) <= 2e-6 * np.linalg.norm(wanted)
    assert orders and orders[0] != sorted(orders[0])


@pytest.mark.skipif(not is_available(), reason="numba-cuda is not installed (netloom[cuda])")
def test_an_edge_that_is_missing_is_seen() -> None:
    """Without any one of the edges, an order that the others allow gives something else: new memory
    is NaN."""
    graph = two_branches.graph(x=nl.tensor(1, 2, 4, 4)).inference_form()
    compiled = compile_for_cuda(graph, architectures=())
    ptx = {kernel.name: kernel.ptx for kernel in compiled.kernels.values()}
    x = np.random.default_rng(0).random((1, 2, 4, 4)).astype(np.float32)

    def result(
        left_out: tuple[int, int] | None,
    ) -> tuple[list[tuple[int, int]], npt.NDArray[np.float32]]:
        """The edges, and what comes out where the one that is left out lets its launch run as early
        as the others allow."""
        edges: list[tuple[int, int]] = []

        class Careless(EmulatedDevice):
            def capture(self, calls: Sequence[Call], after: Sequence[Sequence[int]]) -> Any:
                edges.extend((number, n) for number, mine in enumerate(after) for n in mine)
                needed = {left_out[0]} if left_out else set()
                for number in reversed(range(len(calls))):
                    needed |= {
                        n for n in after[number] if number in needed and (number, n) != left_out
                    }
                return {
                    number: calls[number]
                    for number in sorted(range(len(calls)), key=lambda n: (n not in needed, n))
                }

        found = CudaSession(parse_program(compiled.as_bytes()), lambda: Careless(ptx))(x)
        return edges, found

    edges, wanted = result(None)
    assert edges and not np.isnan(wanted).any()
    assert all(not np.array_equal(result(edge)[1], wanted) for edge in edges)
