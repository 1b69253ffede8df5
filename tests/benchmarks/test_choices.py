"""The table of choices, with a made-up timer and two small networks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from netloom.benchmarks import choices
from netloom.benchmarks.choices import Row, gathered, line, main, measured, summary
from netloom.benchmarks.peaks import Peaks
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.strategies import rates_of
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.compiler.tuning import Layer, Times

RATES = rates_of("x86-64-v4")
PEAKS = Peaks(3.0, {1: 96.0}, {1: 20.0}, {1: 24.0}, 28, "x86-64-v4")


def network(*kernels: int) -> Graph:
    """Convolutions of 32 channels, one behind the other."""
    b = Builder("network")
    x = b.input(TensorType(FLOAT32, (1, 32, 8, 8)), "x")
    for k in kernels:
        w, pad = b.constant(np.zeros((32, 32, k, k), np.float32)), (k // 2,) * 2
        x = b("conv", x, w, stride=(1, 1), dilation=(1, 1), lo=pad, hi=pad)
    return b.build([x])


class FakeTimer:
    """Every strategy takes as many ms as its place among the estimates says; im2col fails."""

    identity, cached = "machine", 1 << 30

    def __init__(self, *_: object) -> None:
        pass

    def measure(self, layer: Layer, strategies: Sequence[str], seconds: float) -> Times:
        return {
            name: None if name == "im2col" else 1e-3 * (place + 1)
            for place, name in enumerate(strategies)
        }

    def close(self) -> None:
        pass


def test_equal_layers_are_one_case() -> None:
    cases = gathered([("a", network(3, 3, 1)), ("b", network(1, 5))], "default", RATES, 1 << 30)
    assert sorted(tuple(sorted(case.counts.items())) for case in cases) == [
        (("a", 1), ("b", 1)),
        (("a", 2),),
        (("b", 1),),
    ]
    assert [case.weight for case in cases] == sorted((case.weight for case in cases), reverse=True)
    cold = gathered([("a", network(1)), ("b", network(1, 5))], "default", RATES, 32 * 32 * 4)
    assert sorted((case.layer.is_cold, *case.counts) for case in cold) == [
        (False, "a"),
        (True, "b"),
        (True, "b"),
    ]


def test_rows() -> None:
    (case,) = gathered([("a", network(1, 1))], "default", RATES, 1 << 30)
    (row,) = measured([case], FakeTimer())
    assert row.measured == {"direct": 1.0} and row.best == "direct" and row.count == 2
    assert row.ratio == 1.0 and "x 2: direct is 1.00 times the best" in line(row)


def test_the_summary() -> None:
    rows = [Row("s", False, {"a": 1}, "x", "x", 1.0, {"x": 1.0}, {"x": 2.0}),
            Row("s", False, {"a": 2, "b": 1}, "x", "y", 1.1, {"x": 1.0}, {"x": 1.1, "y": 1.0}),
            Row("s", True, {"a": 1}, "x", "y", 1.5, {"x": 1.0}, {"x": 1.5, "y": 1.0})]  # fmt: skip
    assert summary(rows) == {"layers": 3, "good": 2, "percent": pytest.approx(66.67, abs=0.01),
                             "chosen_ms": pytest.approx(6.8),
                             "best_ms": pytest.approx(6.0)}  # fmt: skip
    assert summary([])["percent"] == 0


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = {"a": network(3, 1), "b": network(5, 3)}
    monkeypatch.setattr(choices, "_network", networks.__getitem__)
    monkeypatch.setattr(choices, "LayerTimer", FakeTimer)
    monkeypatch.setattr(choices.peaks, "measure", lambda _threads: PEAKS)
    main(["-o", str(tmp_path), "--networks", "a,b", "--limit", "2"])
    data = json.loads((tmp_path / "choices.json").read_text())
    assert len(data["rows"]) == data["summary"]["layers"] == 2 and data["machine"]["clock"] == 3.0
    text = (tmp_path / "choices.md").read_text()
    assert (
        f"on {data['summary']['good']} of 2 layers" in text
        and text.count("float32[1, 32, 8, 8] * ") == 2
    )
