"""Where time is left, of made-up kernels and of a small model."""

from __future__ import annotations

from pathlib import Path

import pytest

from netloom.benchmarks import remaining
from netloom.benchmarks.launches import LaunchCost
from netloom.benchmarks.peaks import Peaks
from netloom.benchmarks.remaining import Rates

from .conftest import tables

RATES = Rates(operations=1e9, read=1e8, cached=1e9)


def launch(
    family: str, seconds: float, operations: int, bytes: int, weight_bytes: int = 0
) -> LaunchCost:
    return LaunchCost("", (), family, "", "", 1, seconds, operations, bytes, weight_bytes)


def test_families_and_their_limits() -> None:
    """A launch is bound by its operations or by its bytes; a family never by more than its time."""
    costs = [
        # 1 ms of operations; 2.9 + 1 ms of bytes
        launch("conv", 0.004, 10**6, 10), launch("conv", 0.004, 0, 3 * 10**6, 10**5),
        launch("dense", 0.010, 10**6, 10**5, 10**5), launch("pool", 0.001, 0, 5 * 10**6),
    ]  # fmt: skip
    found = {family.family: family for family in remaining.families("net", costs, RATES)}
    assert list(found) == ["dense", "conv", "pool"]  # the most to win first
    conv, dense, pool = found["conv"], found["dense"], found["pool"]
    assert (conv.launches, conv.time) == (2, pytest.approx(8)) and conv.limit == pytest.approx(
        1 + 3.9
    )
    assert (dense.products, dense.memory, dense.limit) == pytest.approx(
        (1, 1, 1)
    ) and dense.left == pytest.approx(9)
    assert pool.memory == pytest.approx(5) and pool.limit == pool.time == pytest.approx(1)
    (network,) = remaining.networks(list(found.values()))
    assert network.part == pytest.approx((4.9 + 1 + 1) / 19)


def test_a_run(model: Path, machine: Peaks, tmp_path: Path) -> None:
    """Of two networks, the families of the one that is further from its limit are told."""
    remaining.main(
        [
            "-o",
            str(tmp_path),
            "--networks",
            f"{model},light:squeezenet",
            "--most",
            "1",
            "--runs",
            "1",
        ]
    )
    data, text = tables(tmp_path, "remaining")
    parts = [network["limit"] / network["time"] for network in data["networks"]]
    assert parts == sorted(parts) and {family["network"] for family in data["families"]} == {
        str(model),
        "squeezenet",
    }
    assert text.count("\n## ") == 1 and f"## {data['networks'][0]['name']}\n" in text
    assert all(family["limit"] <= family["time"] for family in data["families"])
