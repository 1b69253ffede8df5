"""The table of layers: one run at toy size, and the sums and goals of made-up figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from netloom.benchmarks import layers, turns
from netloom.benchmarks.layer_cases import LAYERS, VGG19, Layer
from netloom.benchmarks.layer_sums import Row
from netloom.benchmarks.models import light_models
from netloom.benchmarks.operations import operations
from netloom.benchmarks.peaks import Peaks
from netloom.benchmarks.turns import Core
from netloom.frontends.onnx.importer import from_onnx

from .conftest import tables


def called_once(call: Callable[[], object]) -> float:
    """A block of calls that took 2 ms each."""
    call()
    return 0.002


def test_a_run(machine: Peaks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes that two networks share are measured once; what takes too much memory is said;
    --layers chooses.
    """
    shared, own = Layer(16, 16, 8), Layer(16, 16, 8, 1)
    monkeypatch.setitem(LAYERS, "vgg19", {shared: 2})
    monkeypatch.setattr(layers, "core_of", lambda _: Core(lambda: 64.0, lambda: 60.0))
    monkeypatch.setattr(turns, "_block_of", called_once)
    monkeypatch.setitem(LAYERS, "resnet50", {shared: 1, own: 3, Layer(8, 8, 4): 1})
    arguments = [
        "-o",
        str(tmp_path),
        "--products",
        "32",
        "--batches",
        "1",
        "--seconds",
        "0.001",
        "--workspace",
        "3e-5",
    ]
    layers.main([*arguments, "--layers", "16->16", "--strategies", "direct,im2col,winograd_f4"])
    data, text = tables(tmp_path, "layers")
    found = [(row["layer"], row["strategy"], row["batch"]) for row in data["rows"]]
    assert len(set(found)) == len(found) and found[0] == ("matmul 32x32x32", "matmul", 1)
    assert {(shared.name, s, 1) for s in ("direct", "winograd_f4")} <= set(found)
    assert (own.name, "winograd_f4", 1) not in found and not any(
        "8->8" in layer for layer, _, _ in found
    )
    assert any(
        shared.name in sentence and "batch 1, im2col" in sentence for sentence in data["left_out"]
    )
    for row in data["rows"]:
        assert row["quiet"] == 100
        assert 0 < row["error"] < 1e-5 and row["gflops"] == pytest.approx(
            row["flops"] / row["milliseconds"] / 1e6
        )
        assert row["milliseconds"] == 2.0
        assert row["percent"] == pytest.approx(100 * row["gflops"] / 64.0)
    assert "vgg19 x 2, resnet50 x 1" in text and "Left out: " in text
    (direct,) = [
        s
        for s in data["sums"]
        if (s["network"], s["batch"], s["strategy"]) == ("vgg19", 1, "direct")
    ]
    (row,) = [
        r
        for r in data["rows"]
        if (r["layer"], r["strategy"], r["batch"]) == (shared.name, "direct", 1)
    ]
    assert (
        direct["milliseconds"] == pytest.approx(2 * row["milliseconds"]) and direct["layers"] == 2
    )


def rows_at(percents: dict[str, float]) -> list[Row]:
    """Every layer of VGG-19 at these parts of a peak of 100 GFLOP/s, by strategy."""
    return [Row(layer.name, strategy, 1, 1, layer.flops(1) / percent / 1e6, percent, percent,
                100.0, 1e-6,
                0.0, layer.flops(1), layer.bytes(1))
            for layer in VGG19 for strategy, percent in percents.items()]  # fmt: skip


def test_sums_weigh_layers_by_their_time() -> None:
    """Of 16 convolutions 15 have 64 channels or more: 38.8 GFLOP."""
    rows = rows_at({"direct": 95.0, "winograd_f2": 180.0, "winograd_f4": 260.0})
    found = {(item.which, item.strategy): item for item in layers.sums(rows)}
    # ResNet-50's layers were not measured
    assert {item.network for item in found.values()} == {"vgg19"}
    most = found["3x3 stride 1, >= 64 channels", "winograd"]
    assert (most.layers, most.times_peak) == (
        15,
        pytest.approx(2.6),
    ) and most.gflop == pytest.approx(38.8, abs=0.1)
    assert found["all", "direct"].layers == 16 and found["all", "direct"].gflops == pytest.approx(
        95.0
    )
    mixed = [*rows_at({"winograd_f4": 100.0})[:1], *rows_at({"winograd_f4": 300.0})[1:]]
    whole = next(
        item for item in layers.sums(mixed) if (item.which, item.strategy) == ("all", "winograd")
    )
    first = next(iter(VGG19)).flops(1)
    total = sum(layer.flops(1) * n for layer, n in VGG19.items())
    assert whole.gflops == pytest.approx(total / (first / 100 + (total - first) / 300))


def test_goals_are_of_the_best_winograd_and_of_direct() -> None:
    met = layers.goals(rows_at({"direct": 95.0, "winograd_f2": 100.0, "winograd_f4": 260.0}))
    assert met and all(goal.is_met for goal in met)
    missed = [
        goal.name
        for goal in layers.goals(rows_at({"direct": 85.0, "winograd_f4": 200.0}))
        if not goal.is_met
    ]
    assert any("VGG-19's layers" in name for name in missed) and any(
        name.startswith("direct ") for name in missed
    )
    assert not any("14x14" in name and name.startswith("winograd") for name in missed)
    products = [
        Row(f"matmul {n}", "matmul", 1, 1, 1.0, p, p, 100.0, 0.0, 0.0, 2.0 * n**3, 1.0)
        for n, p in ((512, 86.0), (1024, 86.0))
    ]
    assert [goal.is_met for goal in layers.goals(products)] == [True, False]


@pytest.mark.parametrize("name", LAYERS)
def test_the_layers_are_those_of_the_networks(name: str) -> None:
    convolutions = [
        node for node in from_onnx(light_models()[name]).nodes if node.op.name == "conv"
    ]
    found = Counter(
        Layer(w.shape[1], w.shape[0], x.shape[2], w.shape[2], node.attrs.stride[0])
        for node in convolutions for x, w in [node.inputs[:2]]
    )  # fmt: skip
    assert found == LAYERS[name]
    assert sum(Layer.flops(layer, 1) * n for layer, n in found.items()) == operations(
        convolutions, {}
    )
