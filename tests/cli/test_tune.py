"""``--tune`` from the command line and from Python: what is measured, said, recorded and read
back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import netloom as nl
from netloom.compiler import driver, tuning
from netloom.compiler.targets.cpu.layer_timer import LayerTimer

from .calling import call

NETWORK = """
import netloom as nl

@nl.network
def small(x):
    x = nl.relu(nl.conv2d(x, 32, 3, padding=1, name="first"))
    return nl.conv2d(x, 16, 3, padding=1, name="second")

def graph():
    return small.graph(x=nl.tensor(1, 16, 12, 12))
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A network of two layers; every strategy's estimate is close enough to be measured."""
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "CLOSE", 1e9)
    (tmp_path / "net.py").write_text(NETWORK, encoding="utf-8")
    return f"{tmp_path / 'net.py'}:graph"


def explained(model: str, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call("explain", model, *options, "--json").stdout)
    return found


def test_it_is_measured_once_and_for_all(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = call("compile", model, "-o", tmp_path / "a.so", "--tune", "100", "--threads", "1").stdout
    assert ", tuned: 2 of 2 layers with a choice measured" in text.splitlines()[0]
    monkeypatch.setattr(LayerTimer, "measure", lambda *_: pytest.fail("it was measured again"))
    row = json.loads(
        call(
            "compile", model, "-o", tmp_path / "b.so", "--tune", "100", "--threads", "1", "--json"
        ).stdout
    )
    assert row["tuning"]["layers"] == row["tuning"]["measured"] == 2
    assert (tmp_path / "a.so").read_bytes() == (tmp_path / "b.so").read_bytes()
    metadata = nl.load(tmp_path / "a.so").metadata
    assert metadata["tuning"]["measured"] == 2 and "1 threads" in metadata["tuning"]["machine"]
    check_explained(explained(model, "--tune", "100", "--threads", "1"), metadata)
    lines = call("explain", model, "--tune", "100", "--threads", "1").output.splitlines()
    assert ", tuned: 2 of 2 layers with a choice measured, 2 convolutions: " in lines[0]
    assert (
        sum("chosen: measured " in line and line.endswith(" ms, the least") for line in lines) == 2
    )
    with pytest.raises(pytest.fail.Exception):  # other threads are another matter
        nl.compile(nl.from_onnx(exported(model, tmp_path)), tune=100.0, threads=2)


def exported(model: str, folder: Path) -> str:
    call("export", model, "-o", folder / "net.onnx", "-q")
    return str(folder / "net.onnx")


def check_explained(data: dict[str, Any], metadata: Any) -> None:
    """The chosen candidate is the one of the least measured time, which the program holds too."""
    for row, record in zip(data["convolutions"], metadata["strategies"], strict=True):
        times = {
            item["strategy"]: item["measured"]
            for item in row["candidates"]
            if item["measured"] is not None
        }
        assert times == record["measured"] and len(times) > 2
        assert row["strategy"] == record["strategy"] == min(times, key=lambda name: times[name])
        first = row["candidates"][0]
        assert (
            first["verdict"] == f"chosen: measured {times[row['strategy']] * 1e3:.3f} ms, the least"
        )


def test_when_the_time_is_over_the_estimates_decide(model: str) -> None:
    plain, tuned = explained(model), explained(model, "--tune", "1e-6")
    assert [row["strategy"] for row in tuned["convolutions"]] == [
        row["strategy"] for row in plain["convolutions"]
    ]
    text = call("explain", model, "--tune", "1e-6").output.splitlines()[0]
    assert (
        ", tuned: 0 of 2 layers with a choice measured (2 left to the estimate: the time was over"
        in text
    )


def test_from_python(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = nl.from_onnx(exported(model, Path(model.partition(":")[0]).parent))
    slow = {"direct": 2e-3, "im2col": 1e-3, "winograd_f2": 3e-3, "winograd_f4": 4e-3}
    monkeypatch.setattr(
        LayerTimer,
        "measure",
        lambda _self, _layer, names, _seconds: {name: slow.get(name, 5e-3) for name in names},
    )
    tuned = nl.compile(graph, tune=1.0)
    assert {decision.strategy for decision in tuned.compiled.decisions} == {"im2col"}
    x = np.random.default_rng(0).standard_normal((1, 16, 12, 12)).astype(np.float32)
    expected = nl.compile(graph, conv_strategy="direct")(x)
    assert np.linalg.norm(tuned(x) - expected) <= 4e-6 * np.linalg.norm(expected)


def measured_without_a_timer(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every candidate takes a millisecond; the texts of the layers that are asked for."""
    texts: list[str] = []

    def measure(
        _self: LayerTimer, layer: tuning.Layer, names: list[str], _seconds: float
    ) -> dict[str, float]:
        texts.append(layer.text)
        return dict.fromkeys(names, 1e-3)

    monkeypatch.setattr(LayerTimer, "measure", measure)
    return texts


def test_without_a_cache_nothing_is_stored(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETLOOM_CACHE", "off")
    calls = measured_without_a_timer(monkeypatch)
    for _ in range(2):
        assert all(
            row["candidates"][0]["measured"] == 1e-3
            for row in explained(model, "--tune", "10")["convolutions"]
        )
    assert len(calls) == 4


def test_what_cannot_be_tuned(model: str, tmp_path: Path) -> None:
    assert (
        "Invalid value for '--tune'"
        in call("compile", model, "-o", tmp_path / "a.so", "--tune", "0", code=2).stderr
    )
    text = call(
        "compile", model, "-o", tmp_path / "a.nlc", "--target", "cuda", "--tune", "1", code=2
    ).stderr
    assert (
        "not timed by the compiler. Give --tune-candidates, time them on the device, and give --tuned."
        in text
    )
    text = call(
        "compile", model, "-o", tmp_path / "a.so", "--tuned", tmp_path / "t.json", code=2
    ).stderr
    assert "the cpu target takes no times of a device" in text


def test_a_training_step_is_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients have candidates of their own, at the batch that training is compiled for."""
    texts = measured_without_a_timer(monkeypatch)
    monkeypatch.setattr(tuning, "CLOSE", 1e9)
    monkeypatch.setenv("NETLOOM_CACHE", "off")

    @nl.network
    def network(x: nl.Tensor) -> nl.Tensor:
        return nl.dense(nl.flatten(nl.relu(nl.conv2d(nl.relu(nl.conv2d(x, 16, 3)), 16, 3))), 10)

    nl.compile_training(
        network.graph(x=nl.tensor("N", 1, 8, 8)),
        loss=nl.losses.cross_entropy,
        optimizer=nl.optimizers.Adam(),
        tune=5,
    )
    assert any("conv_input_gradient" in text for text in texts) and any(
        "conv_weight_gradient" in text for text in texts
    )
    assert all(f"float32[{driver.TRAINING_BATCH}, " in text for text in texts)
