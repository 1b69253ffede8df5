"""Wrong calls of the Python interface, and odd options of the command line: one clear error, of
the class and exit code that say whose mistake it is.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner

import netloom as nl
from netloom.cli import main
from netloom.errors import InputError, NetloomError, ProgramError, ShapeError, UsageError
from netloom.runtime.training import Trainer

from ..cli.calling import call


@nl.network
def layer(x: Any) -> Any:
    return nl.dense(x, 3)


GRAPH = layer.graph(x=nl.tensor("N", 4))
X, Y = np.ones((5, 4), np.float32), np.array([0, 1, 2, 0, 1])


class Things(NamedTuple):
    """What calls are made on."""

    program: Path
    model: Path
    trainer: Trainer


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Things:
    folder = tmp_path_factory.mktemp("usage")
    nl.compile(GRAPH).save(folder / "m.so")
    nl.to_onnx(GRAPH, folder / "m.onnx")
    trainer = nl.compile_training(
        GRAPH, loss=nl.losses.cross_entropy, optimizer=nl.optimizers.SGD(0.1)
    )
    return Things(folder / "m.so", folder / "m.onnx", trainer)


def no_graph(value: Any) -> Callable[[Things], Any]:
    return lambda _: nl.compile(value)


def traced(*shape: Any) -> Callable[[Things], Any]:
    return lambda _: layer.graph(x=nl.tensor(*shape))


def fitted(x: Any, y: Any, **options: Any) -> Callable[[Things], Any]:
    return lambda t: t.trainer.fit((x, y), **{"epochs": 1, **options})


def dense(units: int) -> Any:
    @nl.network
    def network(x: Any) -> Any:
        return nl.dense(x, units)

    return network.graph(x=nl.tensor(2, 3))


def loss(value: Any) -> Callable[[Things], Any]:
    return lambda _: nl.compile_training(GRAPH, loss=value, optimizer=nl.optimizers.SGD(0.1))


def optimizer(value: Any) -> Callable[[Things], Any]:
    return lambda _: nl.compile_training(GRAPH, loss=nl.losses.cross_entropy, optimizer=value)


def imported(**options: Any) -> Callable[[Things], Any]:
    return lambda t: nl.from_onnx(t.model, **options)


CALLS: dict[str, tuple[Callable[[Things], Any], type[NetloomError], str]] = {
    "compile a number": (no_graph(3), UsageError, "a int cannot be compiled"),
    "compile a network": (no_graph(layer), UsageError, "network.graph(x="),
    "threads 0": (lambda t: nl.load(t.program, threads=0), UsageError, "at least 1"),
    "compile: threads 0": (lambda _: nl.compile(GRAPH, threads=0), UsageError, "at least 1"),
    "threads 2^33": (lambda t: nl.load(t.program, threads=1 << 33), UsageError, "at most 1024"),
    "threads 1.5": (lambda t: nl.load(t.program, threads=1.5), UsageError, "but is 1.5"),  # type: ignore[arg-type]
    "threads text": (lambda t: nl.load(t.program, threads="2"), UsageError, "but is '2'"),  # type: ignore[arg-type]
    "load NUL": (lambda _: nl.load("a\0b.so"), ProgramError, "NUL"),
    "save NUL": (lambda _: nl.compile(GRAPH).save("a\0b.so"), UsageError, "NUL"),
    "dims wrap": (
        lambda t: nl.load(t.program).arena_bytes(N=(1 << 64) + 3), InputError, "out of their ranges"),
    "dim is text": (imported(dims={"N": "a"}), UsageError, "cannot be 'a'"),
    "dim is half": (imported(dims={"N": 1.5}), UsageError, "cannot be 1.5"),
    "shape of halves": (imported(shapes={"x": (1.5, 4)}), UsageError, "more than numbers"),
    "extent 1.5": (traced(1.5, 4), ShapeError, "1.5"),
    "extent None": (traced(None, 4), ShapeError, "None"),
    "units -2": (lambda _: dense(-2), UsageError, "units is -2"),
    "loss by name": (loss("cross_entropy"), UsageError, "'cross_entropy', which is no function"),
    "optimizer by name": (optimizer("adam"), UsageError, "'adam', which cannot build an update"),
    "optimizer's class": (optimizer(nl.optimizers.Adam), UsageError, "Adam(1e-3)"),
    "arrays that differ": (fitted(X, Y[:4]), UsageError, "lengths [4, 5] do not belong"),
    "network on an array": (lambda _: layer(X), UsageError, "no network is being traced"),
    "inputs without names": (lambda _: layer.graph(nl.tensor(2, 4)), UsageError, "without names"),
    "seed -1": (fitted(X, Y, seed=-1), UsageError, "a seed lies in"),
    "seed 2^64": (fitted(X, Y, seed=1 << 64), UsageError, "a seed lies in"),
    "no samples": (fitted(X[:0], Y[:0]), UsageError, "no samples"),
    "batch 0": (fitted(X, Y, batch=0), UsageError, "batch is 0"),
    "batch 1.5": (fitted(X, Y, batch=1.5), UsageError, "batch is 1.5"),
    "no validation": (fitted(X, Y, validation=(X[:0], Y[:0])), InputError, "no samples"),
    "validation lengths": (fitted(X, Y, validation=(X, Y[:2])), InputError, "lengths [2, 5]"),
    "predict nothing": (lambda t: t.trainer.predict(), InputError, "takes 1 arrays (x)"),
    "predict none": (lambda t: t.trainer.predict(X[:0]), InputError, "no samples"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_wrong_calls(name: str, things: Things) -> None:
    function, kind, says = CALLS[name]
    with pytest.raises(kind) as caught:
        function(things)
    assert says in str(caught.value)


def test_controls(things: Things) -> None:
    """The right forms of these calls are taken."""
    assert nl.load(things.program, threads=1024).arena_bytes(N=3) >= 0
    assert imported(dims={"N": 3}, shapes=None)(things).outputs
    assert imported(shapes={"x": ("M", 4)})(things).outputs
    assert fitted(X, Y, seed=(1 << 63) - 1, validation=(X, Y))(things)
    assert things.trainer.predict(X).shape == (5, 3)


OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "a file named -": (("compile", "{model}", "-o", "-"), "standard output"),
    "a program for devices": (("compile", "{model}", "-o", "m.nlc"), "--target cuda"),
    "a program for CPUs": (("compile", "{model}", "--target", "cuda", "-o", "m.so"), "model.nlc"),
    "seed of run": (("run", "{program}", "--seed", "-1"), "--seed"),
    "seed of compare": (("compare", "{model}", "--seed", "-1"), "--seed"),
    "an input twice": (("run", "{program}", "--in", "x=rand", "--in", "x=rand"), "--in gives"),
    "an output twice": (("run", "{program}", "--out", "y=a", "--out", "y=b"), "--out gives"),
    "nothing to require": (
        ("train", "zoo:mlp", "--data", "{data}", "--require", "0.5"), "validation data"),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_odd_options(
    name: str, things: Things, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(things.program.parent / "d.npz", x=np.ones((3, 784), np.float32), y=np.zeros(3, int))
    words, says = OPTIONS[name]
    names = {"model": things.model, "program": things.program}
    names["data"] = things.program.parent / "d.npz"
    result = CliRunner().invoke(main, [word.format(**names) for word in words])
    assert result.exit_code == 2, result.output
    assert says in result.output and "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_json_holds_no_nan(things: Things, tmp_path: Path) -> None:
    """Programs that read JSON know no NaN and no infinities."""
    np.save(tmp_path / "x.npy", np.full((1, 4), np.inf, np.float32))
    result = call("run", things.program, "--in", f"x={tmp_path}/x.npy", "--json")

    def refuse(word: str) -> None:
        raise AssertionError(word)

    (row,) = json.loads(result.stdout, parse_constant=refuse)
    assert row["name"] == "y" and row["top5"][0]["value"] is None


def test_version_of_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs without being installed."""

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0 and "not installed" in result.output
