"""The tables of networks and of training steps, of made-up figures."""

from __future__ import annotations

from pathlib import Path

from netloom.benchmarks import models, networks, training
from netloom.benchmarks.comparison import Row
from netloom.benchmarks.peaks import Peaks
from netloom.benchmarks.report import Files

from .conftest import tables


def row(network: str, contender: str, milliseconds: float, **ratios: float) -> Row:
    times = {"p50_ms": milliseconds, "p95_ms": milliseconds}
    return Row(
        network,
        contender,
        "1",
        1,
        times,
        {peer: (m, m, m) for peer, m in ratios.items()},
        1e-6,
        1.0,
        1.0,
        1,
        9.0,
    )


def test_networks(machine: Peaks, tmp_path: Path) -> None:
    rows = []
    for network, openvino in (("vgg19", 2.4), ("shufflenet", 1.1), ("other", 1.0)):
        rows += [row(network, "netloom", 1.0, onnxruntime=3.0, openvino=openvino), row(network, "netloom/strict", 2.0),
                 row(network, "onnxruntime", 3.0), row(network, "openvino", openvino)]  # fmt: skip
    networks.write(Files(tmp_path, "networks"), machine, rows)
    data, text = tables(tmp_path, "networks")
    assert data["rows"][0]["ratios"]["openvino"] == [2.4, 2.4, 2.4]
    assert (
        "| vgg19 | 1 | 1.00 | 2.00 | 3.00 | 2.40 | 3.00 (3.00–3.00) | 2.40 (2.40–2.40) | 2.40 | 2 / 2.5 | 9 |"
        in text
    )
    assert "| other | 1 |" in text and " | 1.00 | - | 9 |" in text
    assert "faster peer 1.38. 1 of 2 at or above what they must be, 0 at or above the aim." in text
    assert set(networks.GOALS) == set(models.LIGHT)


def test_training(machine: Peaks, tmp_path: Path) -> None:
    ratios = {"torch": (3.1, 3.0, 3.2), "torch.compile": (3.0, 2.9, 3.1)}
    found = training.Row(
        "lenet5", 64, 2, {"netloom": 1.0, "torch": 3.1, "torch.compile": 3.0}, ratios
    )
    training.write(Files(tmp_path, "training"), machine, [found])
    text = tables(tmp_path, "training")[1]
    assert (
        "| lenet5 | 64 | 2 | 1.00 | 3.10 | 3.00 | 3.10 (3.00–3.20) | 3.00 (2.90–3.10) | 3.00 | 2 / 3 |"
        in text
    )
    assert "1 of 1 at or above what they must be, 1 at or above the aim." in text
    assert set(training.GOALS) == set(training.TASKS)
