"""How costs grow, of small models; and the bound that memory sets, of made-up kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from netloom.benchmarks import scaling
from netloom.benchmarks.launches import LaunchCost
from netloom.benchmarks.peaks import Peaks

from .conftest import tables


def launch(seconds: float, weight_bytes: int) -> LaunchCost:
    return LaunchCost("", (), "", "", "", 1, seconds, 0, weight_bytes, weight_bytes)


def test_the_bound_that_memory_sets() -> None:
    """A kernel that reads its weights as fast as memory gives them gains nothing; one without
    weights divides.
    """
    assert scaling.memory_bound([launch(1.0, 0), launch(3.0, 1)], 2, 1e9) == pytest.approx(2.0)
    assert scaling.memory_bound([launch(1.0, 10**9)], 2, 1e9) == pytest.approx(1.0)
    assert scaling.memory_bound([launch(1.0, 10**9), launch(1.0, 0)], 2, 1e9) == pytest.approx(
        2 / 1.5
    )


def test_a_run(
    model: Path, machine: Peaks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(scaling.GOALS, str(model), 1e-6)  # type: ignore[index]

    def compile_seconds(names: list[str], file: Path, repeats: int) -> tuple[float, float]:
        from netloom.compiler.driver import compile_graph
        from netloom.frontends.dsl import zoo

        compile_graph(zoo.NETWORKS[names[0].removeprefix("zoo:")]()).save(file)
        return 2.0, 1.0

    monkeypatch.setattr(scaling, "compile_seconds", compile_seconds)
    scaling.main(["-o", str(tmp_path), "--networks", str(model), "--batched", "lenet5", "--batches",
                  "1,32", "--deep", "mlp",
                  "--rounds", "2"])  # fmt: skip
    data, text = tables(tmp_path, "scaling")
    (row,) = data["threads"]
    assert (
        row["speedup"][1] <= row["speedup"][0] <= row["speedup"][2]
        and 1 <= row["bound"] <= 2
        and row["cores"] == 120 / 64
    )
    one, many = data["batches"]
    assert 10 * one["arena"] < many["arena"] < many["resident"] and one["milliseconds"] > 0
    (deep,) = data["depth"]
    assert (
        (deep["cold"], deep["again"]) == (2.0, 1.0)
        and deep["launches"] == 2
        and deep["weights"] > 0.4
    )
    assert "1 of 1 goals are met." in text and "| mlp | 2.00 | 1.00 | 2 | " in text
