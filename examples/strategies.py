"""Compute one convolution in every way that netloom knows; compare estimated and measured times and
errors.

    python examples/strategies.py [--channels 64] [--size 56] [--kernel 3] [--batch 1] [--seconds 1]

The error is the relative L2 distance from the same convolution in float64. The times are those of
this process on this machine as it is: for a fair comparison let nothing else run.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import numpy.typing as npt

import netloom as nl
from netloom.compiler.interpret import interpret
from netloom.compiler.strategies import strategies_for

Array = npt.NDArray[np.float32]


def network(channels: int, kernel: int) -> nl.Network:
    """One convolution without bias, as wide as its input."""

    @nl.network
    def layer(x: nl.Symbolic) -> nl.Symbolic:
        return nl.conv2d(x, channels, kernel, padding=kernel // 2, bias=False, name="layer")

    return layer


def milliseconds(program: nl.CompiledNetwork, x: Array, seconds: float) -> float:
    """The median time of a call on bound buffers."""
    call = program.bind(x=x)
    call()
    times = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("channels", 64), ("size", 56), ("kernel", 3), ("batch", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=1.0, help="to measure each for")
    arguments = parser.parse_args()
    shape = (arguments.batch, arguments.channels, arguments.size, arguments.size)
    layer = network(arguments.channels, arguments.kernel)
    graph = layer.graph(x=nl.tensor(*shape))
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    exact = in_float64(graph, layer, x)

    print(f"{'strategy':12} {'estimated':>12} {'measured':>12} {'error':>9}")
    for strategy in strategies_for("conv"):
        program = nl.compile(graph, conv_strategy=strategy.name, accuracy="fast", threads=1)
        (decision,) = program.compiled.decisions
        if decision.strategy != strategy.name:
            print(f"{strategy.name:12} does not apply: {decision.rejected[strategy.name]}")
            continue
        error = np.linalg.norm(program(x) - exact) / np.linalg.norm(exact)
        measured = milliseconds(program, x, arguments.seconds)
        print(
            f"{strategy.name:12} {decision.seconds[strategy.name] * 1e3:9.3f} ms {measured:9.3f} ms {error:9.1e}"
        )
    (chosen,) = nl.compile(graph).compiled.decisions
    print(f"chosen unless asked otherwise: {chosen.strategy}")
    return 0


def in_float64(graph: nl.TracedGraph, layer: nl.Network, x: Array) -> npt.NDArray[np.float64]:
    """The same convolution, with the same weights, in float64 by the interpreter."""
    wide = layer.graph(x=nl.tensor(*x.shape, dtype="float64"))
    weights = {state.name: state.initial.array.astype(np.float64) for state in graph.states}
    (result,) = interpret(wide, {"x": x.astype(np.float64)}, weights)
    exact: npt.NDArray[np.float64] = result
    return exact


if __name__ == "__main__":
    raise SystemExit(main())
