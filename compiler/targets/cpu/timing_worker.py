"""A process that times layers: ``python -m netloom.compiler.targets.cpu.timing_worker``, requests
in, times out.

Requests and answers are JSON in blocks (worker.py); the first answer says that the process is
ready. A layer stands between two small convolutions, as in a network, so that its operands come in
the layout that a network would give them; these are not timed. Where a network has more weights
than the caches hold, these are emptied before each run, so that the layer's own come from memory
and its operands, just made, do not. A fault of one candidate is its answer; a crash ends this
process only.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...cache import Cache
from ...driver import Compiled, Options, plan_graph
from ...graph import Builder, Graph, Node, Value
from ...layout import BLOCK
from ...strategies.machines import machine_entry
from ...strategies.strategy import geometry
from ...tensor_type import TensorType
from ...text import parse_graph
from ...tuning import LAYER, Layer
from .kernel_objects import compile_kernel_objects
from .launches import Launches
from .machine import cpu_named
from .worker import READY, read_block, write_block

ROUNDS = 5  # at least so many, of all candidates in turn
SECONDS = 0.15  # for each candidate, if that gives more rounds
LEAST = 1e-8  # seconds of a launch
BEFORE, AFTER = "before", "after"  # labels of the convolutions around a layer


@dataclass(frozen=True)
class Request:
    """Measure a layer with each of the strategies; ``cache``: the folder of compiled kernels, or
    None.
    """

    text: str
    constants: tuple[str, ...]
    is_cold: bool
    strategies: tuple[str, ...]
    cpu: str
    threads: int
    cache: str | None

    @property
    def layer(self) -> Layer:
        return Layer(self.text, self.constants, self.is_cold)


def surrounded(layer: Layer) -> Graph:
    """The layer with random constants, between convolutions that make its operands and read its
    result where these would be in channel blocks."""
    inner = parse_graph(layer.text)
    (node,) = inner.nodes
    b = Builder(LAYER)
    operands = [_operand(b, node, value, value.label in layer.constants) for value in inner.inputs]
    result = b.copy(node, operands)[0]
    return b.build([_read(b, result) if _is_activation(node, node.output) else result], ["y"])


def _operand(b: Builder, node: Node, value: Value, is_constant: bool) -> Value:
    if is_constant:
        return b.constant(_random(value.type.static_shape))
    if not _is_activation(node, value) or not _fills_blocks(value):
        return b.input(value.type, value.label)
    n, channels, *spatial = value.type.static_shape
    made = b.input(TensorType(value.dtype, (n, 1, *spatial)), value.label)
    return _pointwise(b, made, channels, BEFORE)


def _read(b: Builder, result: Value) -> Value:
    return _pointwise(b, result, BLOCK, AFTER) if _fills_blocks(result) else result


def _is_activation(node: Node, value: Value) -> bool:
    """Whether a value is no weights and no gradient of them."""
    return value is not geometry(node).w


def _fills_blocks(value: Value) -> bool:
    """Whether networks keep such a value in blocks of channels."""
    return value.type.static_shape[1] > BLOCK // 2


def _pointwise(b: Builder, x: Value, filters: int, label: str) -> Value:
    rank = x.type.rank - 2
    w = b.constant(_random((filters, x.type.static_shape[1], *[1] * rank)))
    ones, zeros = (1,) * rank, (0,) * rank
    return b("conv", x, w, stride=ones, dilation=ones, lo=zeros, hi=zeros, label=label)


def _random(shape: Sequence[int]) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def measure(request: Request, clock: Callable[[], float] = time.perf_counter) -> dict[str, Any]:
    """``seconds``: of each strategy, the best of several rounds; ``failed``: what is wrong with
    the others.
    """
    ready: dict[str, _Candidate] = {}
    failed: dict[str, str] = {}
    for name in request.strategies:
        try:
            ready[name] = _Candidate(request, name)
        # whatever is wrong with a candidate, the others can still be measured
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"[:500]
    best = dict.fromkeys(ready, float("inf"))
    swept = np.zeros(
        2 * machine_entry(cpu_named(request.cpu).name).l3 if request.is_cold else 0, np.uint8
    )
    end = clock() + SECONDS * len(ready)
    rounds = 0
    while ready and (rounds < ROUNDS or clock() < end):
        for name in list(ready)[:: -1 if rounds % 2 else 1]:
            swept += 1  # reads and writes all of it
            best[name] = min(best[name], ready[name].seconds())
        rounds += 1
    return {"seconds": best, "failed": failed}


class _Candidate:
    """The layer compiled with one strategy, loaded."""

    def __init__(self, request: Request, strategy: str) -> None:
        compiled = plan_graph(
            surrounded(request.layer),
            Options(request.cpu, accuracy="fast", override=f"{LAYER}={strategy}"),
        )
        chosen = next(decision for decision in compiled.decisions if decision.node == LAYER)
        if chosen.strategy != strategy:
            raise ValueError(f"{strategy} does not apply: {chosen.rejected.get(strategy)}")
        cache = Cache(Path(request.cache) if request.cache else None)
        objects = compile_kernel_objects(
            compiled.kernels, compiled.kernels.digests, compiled.cpu, 1, cache
        )
        self._launches = Launches(compiled.program, objects, compiled.program.entries[0])
        self._own = [place for place, is_own in enumerate(_own_launches(compiled)) if is_own]
        self._threads = request.threads
        self._pool = ThreadPoolExecutor(request.threads)
        self._barrier = machine_entry(compiled.cpu.name).barrier if request.threads > 1 else 0.0

    def seconds(self) -> float:
        """One run: the sum over the layer's launches."""
        times = (
            self._launches.run()
            if self._threads == 1
            else self._launches.run_on(self._pool, self._threads)
        )
        return sum(
            max(times[place] - self._launches.overhead, LEAST) + self._barrier
            for place in self._own
        )


def _own_launches(compiled: Compiled) -> list[bool]:
    """For each launch, whether it belongs to the layer: not the convolutions around it, nor what
    follows on the last one.
    """
    kernels = [node for node in compiled.graphs["run"].nodes if node.op.name != "constant"]
    around = [_label_around(node) for node in kernels]
    # copies to results, which have no node, come last
    count = len(compiled.program.entries[0].launches)
    end = around.index(AFTER) if AFTER in around else count
    return [
        place < end and (place >= len(around) or around[place] != BEFORE) for place in range(count)
    ]


def _label_around(kernel: Node) -> str:
    """The label of the convolution around the layer that a kernel computes, if it does."""
    labels = (node.label for node in kernel.attrs.body.nodes if node.op.name == "conv")
    return next((label for label in labels if label in (BEFORE, AFTER)), "")


def serve(
    requests: IO[bytes],
    answers: IO[bytes],
    measure: Callable[[Request], Mapping[str, Any]] = measure,
) -> None:
    """Answers every request until the end of the input."""
    write_block(answers, READY)
    while (block := read_block(requests)) is not None:
        given = json.loads(block)
        request = Request(
            **{
                **given,
                "constants": tuple(given["constants"]),
                "strategies": tuple(given["strategies"]),
            }
        )
        write_block(answers, json.dumps(measure(request)).encode())


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
