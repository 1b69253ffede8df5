"""Tuning with made-up times: what they change, what is kept, and what is measured again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from netloom.compiler import tuning
from netloom.compiler.cache import Cache
from netloom.compiler.dim import Dim, Symbol
from netloom.compiler.driver import Options, plan_graph
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.passes.select_strategies import Decision, select_strategies
from netloom.compiler.strategies import BY_NAME
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.compiler.tuning import Layer, Tuner, close_candidates, layer_of, weight_bytes
from netloom.errors import UsageError

NOWHERE = Cache(None)


@dataclass
class FakeTimer:
    """Gives times out of a table; each measurement takes ``cost`` seconds on ``clock``."""

    table: Mapping[str, float | None]
    identity: str = "machine"
    cached: int = 1 << 30
    cost: float = 1.0
    now: float = 0.0
    asked: list[tuple[Layer, tuple[str, ...]]] = field(default_factory=list)
    closed: int = 0

    def measure(
        self, layer: Layer, strategies: Sequence[str], seconds: float
    ) -> dict[str, float | None]:
        self.asked.append((layer, tuple(strategies)))
        self.now += self.cost
        return {name: self.table[name] for name in strategies if name in self.table}

    def close(self) -> None:
        self.closed += 1

    def clock(self) -> float:
        return self.now


def network(*widths: int, extent: int = 28, batch: int | None = 1, repeated: int = 1) -> Graph:
    """3 x 3 convolutions from 64 channels to each of the widths, side by side."""
    b = Builder("network")
    x = b.input(TensorType(FLOAT32, (batch, 64, extent, extent)), "x")
    results = []
    for number, width in enumerate(width for width in widths for _ in range(repeated)):
        w = b.constant(
            np.random.default_rng(number).standard_normal((width, 64, 3, 3)).astype(np.float32)
        )
        results.append(
            b(
                "conv",
                x,
                w,
                stride=(1, 1),
                dilation=(1, 1),
                lo=(1, 1),
                hi=(1, 1),
                label=f"conv{number}",
            )
        )
    return b.build(results)


def tuned(
    graph: Graph, timer: FakeTimer, seconds: float = 100.0, cache: Cache = NOWHERE, **options: str
) -> tuple[list[Decision], Tuner]:
    tuner = Tuner(timer, seconds, cache, timer.clock)
    decisions: list[Decision] = []
    select_strategies(graph, decisions=decisions, tuner=tuner, **options)
    return decisions, tuner


def estimates(graph: Graph) -> dict[str, float]:
    decisions: list[Decision] = []
    select_strategies(graph, decisions=decisions)
    return dict(decisions[0].seconds)


def close_names(graph: Graph) -> list[str]:
    return close_candidates(estimates(graph))


def against_the_estimate(graph: Graph) -> dict[str, float | None]:
    """Times in which the second-best estimate is the fastest."""
    first, second, *_ = close_names(graph)
    return {**dict.fromkeys(BY_NAME, 3e-3), first: 2e-3, second: 1e-3}


@pytest.fixture(autouse=True)
def wide_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several candidates are close, whatever the estimates of the day are."""
    monkeypatch.setattr(tuning, "CLOSE", 3.0)


@pytest.fixture
def graph() -> Graph:
    found = network(64)
    assert len(close_names(found)) > 1
    return found


def test_close_candidates() -> None:
    assert close_candidates({"a": 3.0, "b": 2.0, "c": 6.0, "d": 6.01}) == ["b", "a", "c"]


def test_measured_times_decide(graph: Graph) -> None:
    first, second = close_names(graph)[:2]
    times = against_the_estimate(graph)
    (decision,), tuner = tuned(graph, FakeTimer(times))
    assert decision.strategy == second and decision.measured == {
        name: times[name] for name in close_names(graph)
    }
    assert (
        dict(decision.seconds) == estimates(graph)
        and min(decision.seconds, key=lambda name: decision.seconds[name]) == first
    )
    assert tuner.summary == {"machine": "machine", "layers": 1, "measured": 1}


def test_only_candidates_that_are_close_are_measured(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = FakeTimer({})
    monkeypatch.setattr(tuning, "CLOSE", 1.0)
    (decision,), tuner = tuned(graph, timer)
    assert timer.asked == [] and not decision.measured and tuner.summary["layers"] == 0


def test_equal_layers_are_measured_once_and_those_with_the_most_time_first() -> None:
    graph = network(32, 128, repeated=3)
    timer = FakeTimer(against_the_estimate(network(128)))
    decisions, tuner = tuned(graph, timer)
    assert len(decisions) == 6 and tuner.summary["layers"] == len(timer.asked) == 2
    assert (
        "float32[128, 64, 3, 3]" in timer.asked[0][0].text
        and "float32[32, 64, 3, 3]" in timer.asked[1][0].text
    )
    assert timer.closed == 1


def test_the_accuracy_asked_for_is_kept(graph: Graph) -> None:
    names = ("direct", "im2col", "winograd_f2", "winograd_f4", "winograd_f6")
    # the least exact are the fastest
    timer = FakeTimer({name: 1e-3 / (place + 1) for place, name in enumerate(names)})
    for accuracy, best in (("strict", "winograd_f2"), ("default", "winograd_f4")):
        (decision,), _ = tuned(graph, timer, accuracy=accuracy)
        assert (
            decision.strategy in (best, *decision.measured)
            and decision.strategy not in decision.rejected
        )
        assert not {"winograd_f6", *(["winograd_f4"] if accuracy == "strict" else [])} & set(
            timer.asked[-1][1]
        )


def test_what_is_asked_for_is_not_measured(graph: Graph) -> None:
    timer = FakeTimer(against_the_estimate(graph))
    for override in ("im2col", "conv0=im2col"):
        (decision,), _ = tuned(graph, timer, override=override)
        assert decision.strategy == "im2col" and not decision.measured
    assert timer.asked == []


def test_the_budget_is_kept() -> None:
    graph = network(16, 32, 64, 128)
    timer = FakeTimer(against_the_estimate(network(128)), cost=1.0)
    decisions, tuner = tuned(graph, timer, seconds=2.0)
    assert len(timer.asked) == 2 and tuner.summary == {
        "machine": "machine",
        "layers": 4,
        "measured": 2,
    }
    plain: list[Decision] = []
    select_strategies(graph, decisions=plain)
    assert [bool(d.measured) for d in decisions] == [False, False, True, True]
    assert [d.strategy for d in decisions[:2]] == [d.strategy for d in plain[:2]]


def test_a_layer_of_which_a_part_was_measured_keeps_the_estimate(
    graph: Graph, tmp_path: Path
) -> None:
    first, second = close_names(graph)[:2]
    cache = Cache(tmp_path / "cache")
    (decision,), tuner = tuned(graph, FakeTimer({second: 1e-3}), cache=cache)
    assert decision.strategy == first and not decision.measured and tuner.summary["measured"] == 0
    assert cache.entries() == []


def test_a_candidate_that_fails_is_left_out(graph: Graph) -> None:
    second = close_names(graph)[1]
    times: dict[str, float | None] = {**dict.fromkeys(close_names(graph)), second: 5e-3}
    (decision,), _ = tuned(graph, FakeTimer(times))
    assert decision.strategy == second and decision.measured == {second: 5e-3}


def test_where_all_of_them_fail_nothing_is_kept(graph: Graph, tmp_path: Path) -> None:
    """The fault may be the timer's, and gone the next time."""
    cache = Cache(tmp_path / "cache")
    (decision,), tuner = tuned(graph, FakeTimer(dict.fromkeys(BY_NAME)), cache=cache)
    assert decision.strategy == close_names(graph)[0] and not decision.measured
    assert tuner.summary["measured"] == 0 and cache.entries() == []


def test_the_cache_is_read_back(graph: Graph, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    times = against_the_estimate(graph)
    before, _ = tuned(graph, FakeTimer(times), cache=cache)
    other = FakeTimer(dict.fromkeys(times, 1.0))
    after, tuner = tuned(graph, other, seconds=1e-9, cache=cache)
    assert other.asked == [] and after == before and tuner.summary["measured"] == 1


def test_a_candidate_more_is_measured_with_the_others(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times of different runs are not compared."""
    cache = Cache(tmp_path / "cache")
    times = {name: 1e-3 for name in estimates(graph)}
    first, second = close_names(graph)[:2]
    monkeypatch.setattr(tuning, "close_candidates", lambda *_: [first, second])
    tuned(graph, FakeTimer(times), cache=cache)
    monkeypatch.setattr(tuning, "close_candidates", close_candidates)
    monkeypatch.setattr(tuning, "CLOSE", 1e9)
    timer = FakeTimer(times)
    tuned(graph, timer, cache=cache)
    assert set(timer.asked[0][1]) == set(times)


def test_keys_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By shape, by machine, level and threads (in the timer's identity), and by the compiler's
    version.
    """
    cache = Cache(tmp_path / "cache")
    graph = network(64)
    times = {name: 1e-3 for name in estimates(graph)}

    def is_known(graph: Graph, identity: str = "machine") -> bool:
        timer = FakeTimer(times, identity)
        tuned(graph, timer, cache=cache)
        return not timer.asked

    assert not is_known(graph) and is_known(graph) and is_known(network(64))
    assert (
        not is_known(network(64, extent=30))
        and not is_known(network(48))
        and not is_known(network(64, batch=2))
    )
    assert not is_known(graph, "another machine")
    monkeypatch.setattr(tuning, "compiler_version", lambda: "another version")
    assert not is_known(graph) and is_known(graph)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no json",
        b"[]",
        b'{"direct": "soon"}',
        b'{"direct": -1.0}',
        b'{"direct": Infinity}',
        b"3",
    ],
)
def test_broken_entries_are_measured_again(
    graph: Graph, tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "cache")
    put = Cache.put
    monkeypatch.setattr(Cache, "put", lambda self, _data, *key: put(self, data, *key))
    times = against_the_estimate(graph)
    tuned(graph, FakeTimer(times), cache=cache)
    assert len(cache.entries()) == 1
    timer = FakeTimer(times)
    (decision,), _ = tuned(graph, timer, cache=cache)
    assert len(timer.asked) == 1 and decision.measured


def test_damaged_files_are_measured_again(graph: Graph, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    times = against_the_estimate(graph)
    tuned(graph, FakeTimer(times), cache=cache)
    (entry,) = cache.entries()
    entry.path.write_bytes(entry.path.read_bytes()[:-3])
    timer = FakeTimer(times)
    tuned(graph, timer, cache=cache)
    assert len(timer.asked) == 1


def test_without_a_cache_nothing_is_kept(graph: Graph) -> None:
    times = against_the_estimate(graph)
    for _ in range(2):
        timer = FakeTimer(times)
        tuned(graph, timer)
        assert len(timer.asked) == 1


def test_a_layer_is_at_nominal_extents() -> None:
    b = Builder("free")
    kind = TensorType(FLOAT32, (Dim.of(Symbol("N", 1, None)), 64, 28, 28))
    x, w = b.input(kind, "x"), b.input(TensorType(FLOAT32, (64, 64, 3, 3)), "w")
    y = b("conv", x, w, stride=(1, 1), dilation=(1, 1), lo=(1, 1), hi=(1, 1), label="own name")
    graph = b.build([y])
    layer = layer_of(graph, graph.nodes[0], 32, False)
    assert "float32[32, 64, 28, 28]" in layer.text and layer.constants == ()
    assert "own name" not in layer.text
    assert layer_of(graph, graph.nodes[0], 1, False).text != layer.text


def test_weights_are_cold_where_the_caches_do_not_hold_them(graph: Graph, tmp_path: Path) -> None:
    assert weight_bytes(graph) == 64 * 64 * 9 * 4
    cache = Cache(tmp_path / "cache")
    for cached, is_cold in ((weight_bytes(graph), False), (weight_bytes(graph) - 1, True)):
        timer = FakeTimer(against_the_estimate(graph), cached=cached)
        tuned(graph, timer, cache=cache)
        assert [layer.is_cold for layer, _ in timer.asked] == [is_cold]


def test_the_program_records_it(graph: Graph) -> None:
    timer = FakeTimer(against_the_estimate(graph))
    compiled = plan_graph(graph, Options(tuner=Tuner(timer, 10.0, NOWHERE, timer.clock)))
    data = compiled.program.metadata
    assert data["tuning"] == {"machine": "machine", "layers": 1, "measured": 1}
    assert data["strategies"][0]["measured"] == dict(compiled.decisions[0].measured)
    assert "tuning" not in plan_graph(graph).program.metadata


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_the_seconds_must_be_positive(graph: Graph, seconds: float) -> None:
    with pytest.raises(UsageError, match="positive number of seconds"):
        plan_graph(graph, Options(tune=seconds))
