"""Compiled random networks give what the graph means, at every CPU level and accuracy, by every
strategy, for any number of threads; their gradients too. ``--shapes N`` tries N networks.

A failure is shrunk to a small graph, whose text is in the message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from netloom.compiler.driver import Options, compile_graph
from netloom.compiler.graph import Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.op import Array
from netloom.compiler.passes.bind_dims import bind_dims
from netloom.compiler.text import print_graph
from netloom.runtime.session import Session

from .networks import BATCH, network_inputs, networks
from .random_graphs import with_gradient

LEVELS = ("host", "x86-64", "x86-64-v2", "x86-64-v3")
STRATEGIES = ("auto", "direct", "im2col", "winograd_f2", "winograd_f4", "fft_8")
# The errors of at most 12 steps, 1e-5 of the largest value each, add up.
TOLERANCE = 12e-5


@dataclass(frozen=True)
class Way:
    """How a network is compiled and run."""

    cpu: str = "host"
    accuracy: str = "default"
    strategy: str = "auto"
    threads: int = 1
    is_bound: bool = False


@dataclass(frozen=True)
class Drawn:
    """A network, shown as its text where a test fails."""

    graph: Graph

    def __repr__(self) -> str:
        return print_graph(self.graph)


ways = st.builds(
    Way,
    st.sampled_from(LEVELS),
    st.sampled_from(["default", "strict", "fast"]),
    st.sampled_from(STRATEGIES),
    st.sampled_from([1, 3]),
    st.booleans(),
)


def sweep(count: int, test: Callable[..., None], *strategies: st.SearchStrategy[Any]) -> None:
    """Runs the test on so many examples, always the same ones."""
    settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )(given(*strategies)(test))()


def result_of(graph: Graph, way: Way, inputs: Mapping[str, Array]) -> list[Array]:
    options = Options(way.cpu, accuracy=way.accuracy, override=way.strategy, workers=1)
    if way.is_bound and graph.symbols:
        graph = bind_dims(graph, {"N": BATCH})
    program = compile_graph(graph, options)
    return Session.in_process(program.image, threads=way.threads).run(None, inputs)


def magnitude(graph: Graph, inputs: Mapping[str, Array]) -> float:
    """The largest number that any node makes, or 1."""
    values = [value for node in graph.nodes for value in node.outputs]
    names = tuple(str(place) for place in range(len(values)))
    results = interpret(replace(graph, outputs=tuple(values), output_names=names), inputs)
    floats = [r for r in results if r.size and r.dtype.kind == "f"]
    return max([1.0, *(float(np.abs(r).max()) for r in floats)])


def differences(found: Sequence[Array], expected: Sequence[Array], scale: float) -> list[str]:
    """Which outputs are not what they should be."""
    wrong = []
    for place, (own, other) in enumerate(zip(found, expected, strict=True)):
        if own.shape != other.shape or own.dtype != other.dtype:
            wrong.append(f"output {place}: {own.dtype}{own.shape}, not {other.dtype}{other.shape}")
        elif own.dtype.kind == "f" and own.size:
            distance = float(np.abs(own - other).max())
            if not distance <= TOLERANCE * scale:
                wrong.append(f"output {place}: off by {distance} where values reach {scale}")
        elif not np.array_equal(own, other):
            wrong.append(f"output {place}: integers differ")
    return wrong


def check_network(drawn: Drawn, way: Way) -> None:
    graph = drawn.graph
    inputs = network_inputs(graph)
    found = result_of(graph, way, inputs)
    assert not differences(found, interpret(graph, inputs), magnitude(graph, inputs))


def test_networks(shapes: int) -> None:
    sweep(max(1, shapes // 3), check_network, networks().map(Drawn), ways)


def test_threads_do_not_matter(shapes: int) -> None:
    def check(drawn: Drawn) -> None:
        graph, inputs = drawn.graph, network_inputs(drawn.graph)
        image = compile_graph(graph, Options(workers=1)).image
        one, three = (Session.in_process(image, threads).run(None, inputs) for threads in (1, 3))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, three, strict=True))

    sweep(max(1, shapes // 15), check, networks().map(Drawn))


def test_gradients_of_networks(shapes: int) -> None:
    """Of sin(outputs), by all inputs that are floats, compiled and interpreted. Winograd's
    roundings would turn the zeros of a ReLU into other numbers, so convolutions are direct.
    """

    def check(drawn: Drawn, cpu: str, strategy: str) -> None:
        inputs, graph = network_inputs(drawn.graph), with_gradient(drawn.graph)
        found = result_of(graph, Way(cpu, strategy=strategy), inputs)
        scale = magnitude(graph, inputs)
        assert not differences(found, interpret(graph, inputs), scale)

    sweep(
        max(1, shapes // 6),
        check,
        networks(max_steps=7, is_smooth=True).map(Drawn),
        st.sampled_from(LEVELS),
        st.sampled_from(["direct", "im2col"]),
    )


@pytest.mark.parametrize("place", [0, -1])
def test_control_one_wrong_element_is_found(place: int) -> None:
    right = np.linspace(-1, 1, 1000, dtype=np.float32)
    wrong = right.copy()
    wrong[place] += 1e-3
    assert not differences([right], [right], 1.0)
    assert differences([wrong], [right], 1.0)


def test_control_networks_are_not_trivial() -> None:
    """Ops of every kind occur."""
    seen: set[str] = set()

    def look(drawn: Drawn) -> None:
        seen.update(node.op.name for node in drawn.graph.nodes)

    sweep(150, look, networks().map(Drawn))
    assert seen >= {
        "conv", "concat", "slice", "pad", "transpose", "reshape", "matmul", "attention", "gather",
        "softmax", "max_pool", "average_pool", "cast", "broadcast",
    }  # fmt: skip
    assert seen & {"layer_norm", "rms_norm", "group_norm"}
