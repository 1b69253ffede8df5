"""Times of real layers: what is timed, what becomes of candidates that fail, of processes that
die, and of the time.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from netloom.compiler.cache import Cache
from netloom.compiler.driver import Options, plan_graph
from netloom.compiler.graph import Builder
from netloom.compiler.targets.cpu import timing_worker
from netloom.compiler.targets.cpu.layer_timer import LayerTimer, processor
from netloom.compiler.targets.cpu.machine import cpu_named, host_cpu
from netloom.compiler.targets.cpu.timing_worker import Request, measure, surrounded
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.compiler.tuning import Layer, layer_of
from netloom.errors import UsageError


def layer(channels: int = 16, filters: int = 16, op: str = "conv", is_cold: bool = False) -> Layer:
    """A 3 x 3 convolution of 12 x 12, or a gradient of it."""
    b = Builder("network")
    x = b.input(TensorType(FLOAT32, (1, channels, 12, 12)), "x")
    w = b.constant(np.zeros((filters, channels, 3, 3), np.float32))
    attrs = {"stride": (1, 1), "dilation": (1, 1), "lo": (1, 1), "hi": (1, 1)}
    y = b("conv", x, w, **attrs, label="conv")
    match op:
        case "conv_input_gradient":
            y = b(op, y, w, **attrs, spatial=(12, 12))
        case "conv_weight_gradient":
            y = b(op, x, y, **attrs, kernel=(3, 3))
    graph = b.build([y])
    return layer_of(graph, next(node for node in graph.nodes if node.op.name == op), 1, is_cold)


def request_for(given: Layer, *strategies: str, threads: int = 1) -> Request:
    return Request(
        given.text, given.constants, given.is_cold, strategies, host_cpu().name, threads, None
    )


def launches(given: Layer, strategy: str = "direct") -> tuple[int, int]:
    """How many launches the timed program has, and how many of them are the layer's."""
    compiled = plan_graph(surrounded(given), Options(override=f"layer={strategy}", accuracy="fast"))
    own = timing_worker._own_launches(compiled)
    return len(own), sum(own)


def test_only_the_layer_is_timed() -> None:
    # (before), padding, the convolution, (after, reorder of its result)
    assert launches(layer()) == (5, 2)
    # (before), transform, product, transform, (after, reorder)
    assert launches(layer(), "winograd_f4") == (6, 3)
    assert launches(layer(3, 16)) == (4, 2)  # an image comes as it is
    # (before, before), padding, the gradient, reorder of it
    assert launches(layer(op="conv_weight_gradient")) == (5, 3)
    assert launches(layer(op="conv_input_gradient")) == (5, 2)


def test_constants_stay_constants() -> None:
    names = [value.label for value in surrounded(layer()).inputs]
    assert layer().constants == ("operand1",) and names == ["operand0"]
    assert [value.label for value in surrounded(layer(op="conv_weight_gradient")).inputs] == [
        "operand0",
        "operand1",
    ]


@pytest.mark.parametrize("is_cold", [False, True])
def test_each_strategy_gets_a_time(is_cold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing_worker, "SECONDS", 0.0)
    found = measure(
        request_for(layer(is_cold=is_cold), "direct", "winograd_f4", "winograd_f6", threads=2)
    )
    assert (
        list(found["seconds"]) == ["direct", "winograd_f4", "winograd_f6"] and not found["failed"]
    )
    assert all(0 < seconds < 0.1 for seconds in found["seconds"].values())


def test_the_least_of_rounds_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates take turns in who is first; rounds go on until the time is over."""
    order: list[str] = []
    times = {"direct": iter([5.0, 3.0, 4.0, 6.0, 7.0, 2.0, 9.0]), "im2col": iter([1.0] * 7)}

    class Candidate:
        def __init__(self, _request: Request, name: str) -> None:
            self.name = name

        def seconds(self) -> float:
            order.append(self.name[0])
            return next(times[self.name])

    monkeypatch.setattr(timing_worker, "_Candidate", Candidate)
    clock = iter([0.0, 0.1, 0.2, 9.0])
    found = measure(request_for(layer(), "direct", "im2col"), lambda: next(clock))
    assert found["seconds"] == {"direct": 2.0, "im2col": 1.0} and "".join(order) == "diiddiiddiiddi"


def test_a_fault_is_a_candidate_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing_worker, "SECONDS", 0.0)
    found = measure(request_for(layer(3, 5), "direct", "nonsense"))
    assert list(found["seconds"]) == ["direct"] and "nonsense" in found["failed"]["nonsense"]


def test_a_process_measures(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    timer = LayerTimer(host_cpu(), 1, cache)
    try:
        times = timer.measure(layer(), ["direct", "winograd_f4"], 100.0)
        assert all(seconds is not None and seconds > 0 for seconds in times.values()) and set(
            times
        ) == {"direct", "winograd_f4"}
        assert cache.entries()
    finally:
        timer.close()


FRAGILE = """
import json, os, sys
from netloom.compiler.targets.cpu.timing_worker import serve

def measure(request):
    if "dead" in request.strategies:
        os.abort()
    return {"seconds": dict.fromkeys(request.strategies, 1.0), "failed": {}}

serve(sys.stdin.buffer, sys.stdout.buffer, measure)
"""


def test_a_candidate_that_kills_the_process(tmp_path: Path) -> None:
    timer = LayerTimer(host_cpu(), 1, Cache(None), (sys.executable, "-c", FRAGILE))
    try:
        assert timer.measure(layer(), ["direct", "dead", "im2col"], 100.0) == {
            "direct": 1.0,
            "dead": None,
            "im2col": 1.0,
        }
        assert timer.measure(layer(), ["direct"], 100.0) == {"direct": 1.0}
    finally:
        timer.close()


def test_without_a_process_nothing_is_measured() -> None:
    timer = LayerTimer(host_cpu(), 1, Cache(None), ("/nowhere/python",))
    assert timer.measure(layer(), ["direct", "im2col"], 100.0) == {"direct": None, "im2col": None}


def test_the_time_is_kept() -> None:
    timer = LayerTimer(
        host_cpu(), 1, Cache(None), (sys.executable, "-c", "import time; time.sleep(60)")
    )
    start = time.monotonic()
    try:
        assert timer.measure(layer(), ["direct", "im2col"], 0.3) == {}
        assert time.monotonic() - start < 10
    finally:
        timer.close()


def test_identities_differ() -> None:
    names = [
        LayerTimer(cpu_named(cpu), threads, Cache(None)).identity
        for cpu in ("x86-64-v2", "host")
        for threads in (1, 2)
    ]
    assert len(set(names)) == len(names) if host_cpu().name != "x86-64-v2" else 2


def test_a_level_that_this_machine_lacks() -> None:
    cpu = replace(host_cpu(), name="future", required=("avx9",))
    with pytest.raises(
        UsageError, match="future cannot be tuned for on this machine, which lacks avx9"
    ):
        LayerTimer(cpu, 1, Cache(None))


def test_the_processor_s_name(tmp_path: Path) -> None:
    assert processor(tmp_path) == "unknown"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Example 9000\n")
    assert processor(tmp_path) == "Example 9000"
