"""``netloom bench`` and ``netloom profile``: what they measure, print and write, and what they
refuse.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from netloom.benchmarks import comparison, contender, peaks
from netloom.cli.bench import PEERS

from .calling import ROOT, call

QUICK = ("--no-peaks", "--rounds", "2")
NETWORK = """
import netloom as nl

@nl.network
def small(x):
    x = nl.max_pool2d(nl.relu(nl.conv2d(x, 4, 3, padding=1, name="first")), 2)
    return nl.dense(nl.flatten(nl.relu(nl.conv2d(x, 4, 3, stride=2, name="second"))), 3)

@nl.network
def flat(x):
    return nl.dense(nl.relu(nl.dense(x, 16, name="one")), 3, name="two")

def graph():
    return small.graph(x=nl.tensor("N", 1, 8, 8))

def dense():
    return flat.graph(x=nl.tensor("N", 8))

def fixed():
    return flat.graph(x=nl.tensor(2, 8))

def double():
    return nl.network(nl.gelu).graph(x=nl.tensor("N", 8, dtype="float64"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bench")
    (place / "net.py").write_text(NETWORK, encoding="utf-8")
    call("compile", f"{place}/net.py:dense", "-o", place / "net.so")
    return place


def measured(*arguments: str | Path) -> Any:
    return json.loads(call("bench", *arguments, *QUICK, "--json").stdout)


def test_the_peers_are_the_engines() -> None:
    assert (
        {*PEERS, "netloom", "netloom_training"} <= set(contender.ENGINES) == set(contender.MODULES)
    )


def test_lenet_against_another_engine_with_every_strategy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole table, text and JSON alike, with the machine's peaks (measured over less work
    than usual).
    """
    monkeypatch.setattr(peaks, "COPIED", 8 << 20)
    monkeypatch.setattr(peaks, "TRIPS", 1 << 17)
    arguments = (
        "bench",
        "zoo:lenet5",
        "--strategies",
        "all",
        "--against",
        "onnxruntime",
        "--threads",
        "1",
        "--rounds",
        "2",
    )
    text = call(*arguments, "--json", tmp_path / "out.json").output
    data = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    (group,) = data["groups"]
    assert [row["contender"] for row in group["rows"]] == [
        "netloom", "netloom/direct", "netloom/im2col", "netloom/winograd_f2", "netloom/winograd_f4",
        "netloom/fft_8", "netloom/fft_16", "netloom/fft_32", "onnxruntime",
    ]  # fmt: skip
    left_out = [
        remark.split()[0]
        for remark in group["remarks"]
        if remark.endswith(" applies to 0 of 2 convolutions: left out")
    ]
    assert left_out == [
        "winograd_f6", "winograd_phases_4", "winograd_phases_6", "winograd_phases_8", "toeplitz",
    ]  # fmt: skip
    assert (
        data["machine"]["peaks"]["flops"]["1"] > 0
        and min(data["machine"]["peaks"]["copies"]["1"].values()) > 0
    )
    for row in group["rows"]:
        times = [row["times"][f"{name}_ms"] for name in ("min", "p50", "p90", "p95", "p99")]
        assert 0 < times[0] and times == sorted(times) and row["ready_s"] > 0
        assert row["error"] < (1e-5 if "winograd" in row["contender"] else 2e-6)
        assert row["gflops"] == pytest.approx(2 * 416_520 / row["times"]["p50_ms"] / 1e6, rel=1e-3)
        assert math.isfinite(row["gflops"] / data["machine"]["peaks"]["flops"]["1"])
    ratio, low, high = group["rows"][0]["ratios"]["onnxruntime"]
    assert low <= ratio <= high and group["rows"][-1]["ratios"] == {}
    for words in (
        "GFLOP/s, copy ",
        "ms a call ",
        " p99 ",
        " % of peak",
        " compile s ",
        " error ",
        "faster than onnxruntime",
    ):
        assert words in text, words


def test_threads_and_batches_make_groups(folder: Path) -> None:
    groups = measured(folder / "net.so", "--threads", "1,2", "--batch", "1,4")["groups"]
    assert [(group["batch"], group["threads"]) for group in groups] == [
        (1, 1),
        (1, 2),
        (4, 1),
        (4, 2),
    ]
    small, large = (
        measured(f"{folder}/net.py:dense", "--batch", batch)["groups"][0]["rows"][0]
        for batch in ("1", "4")
    )
    operations = [row["gflops"] * row["times"]["p50_ms"] for row in (small, large)]
    assert operations[1] == pytest.approx(4 * operations[0])


def test_a_program_is_timed_alone(folder: Path) -> None:
    (group,) = measured(folder / "net.so", "--batch", "3", "--threads", "1")["groups"]
    (row,) = group["rows"]
    assert (
        row["contender"] == "netloom" and row["error"] is row["gflops"] is row["compile_s"] is None
    )
    assert row["times"]["p50_ms"] > 0 and row["bytes"] == (folder / "net.so").stat().st_size
    assert " - " in call("bench", folder / "net.so", *QUICK).output


def test_the_training_step(folder: Path) -> None:
    arguments = (
        f"{folder}/net.py:dense",
        "--train",
        "loss=cross_entropy,optimizer=sgd",
        "--batch",
        "4",
        "--threads",
        "1",
    )
    (group,) = measured(*arguments)["groups"]
    (row,) = group["rows"]
    assert row["contender"] == "netloom/train" and row["error"] < 1e-5
    inference = measured(arguments[0], *arguments[3:])["groups"][0]["rows"][0]
    operations, forward = (item["gflops"] * item["times"]["p50_ms"] for item in (row, inference))
    # each product has two gradients, but the input needs none
    assert operations == pytest.approx(3 * forward - 2 * 4 * 8 * 16 / 1e6)


def test_a_plot(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from netloom.cli.bench_plot import drawn

    row = comparison.Row(
        "net", "netloom", "1", 1, {"p50_ms": 1.0, "p95_ms": 1.5}, {}, 0.0, 1.0, 1.0, 100, 1.0
    )
    for form, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        assert drawn([("a title", [row])], form).startswith(magic)
        assert drawn([("a title", [row])], form) == drawn([("a title", [row])], form)
    call("bench", folder / "net.so", *QUICK, "-q", "--plot", tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes().startswith(magic)


@pytest.mark.parametrize("package", [*PEERS, "matplotlib"])
def test_what_is_not_installed_is_said_before_the_work(
    package: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(comparison, "compare", lambda *_: pytest.fail("something was measured"))
    option = ("--plot", tmp_path / "a.png") if package == "matplotlib" else ("--against", package)
    result = call("bench", f"{folder}/net.py:graph", *option, *QUICK, code=4)
    assert (
        result.stderr == f"netloom: {package} is not installed. Run: pip install {package}\n"
        and result.stdout == ""
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments, says", [
    (("net.py:graph", "--strategies", "magic"), "no strategy 'magic'. Choose all, direct"),
    (("net.py:fixed", "--batch", "4"), "is not free: its inputs begin with '2'"),
    (("net.so", "--against", "onnxruntime"), "can be timed alone only. Give the model"),
    (("net.so", "--train", "loss=cross_entropy"), "can be timed alone only"),
    (("net.py:graph", "--train", "loss=cross_entropy", "--against", "onnxruntime"),
     "no peer trains"),
    (("net.py:graph", "--train", "loss=joy"), "no loss 'joy'"),
    (("net.so", "--plot", "a.gif"), "cannot be written as '.gif'"),
    (("net.so", "--json", "none/a.json"), "its folder does not exist"),
    (("net.py:graph", "--strategies", "all", "--accuracy", "sloppy"),
     "no accuracy 'sloppy'. Choose strict"),
    (("net.so", "--threads", "1,4000"), "at most 1024, but is 4000"),
    (("net.so", "--batch", "4", "--dim", "M=3"), "no free dim 'M'"),
    (("light:nothing",), "no light model 'nothing'. Choose bvlc_alexnet"),
])  # fmt: skip
def test_what_cannot_be_measured(
    arguments: tuple[str, ...], says: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    result = call("bench", *arguments, *QUICK, code=2)
    assert says in result.stderr and result.stderr.count("netloom: ") == 1 and result.stdout == ""
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [("--against", "abacus"), ("--threads", "0"), ("--batch", "x"), ("--json", "net.onnx")],
)
def test_options_of_a_wrong_form(arguments: tuple[str, ...], folder: Path) -> None:
    assert call("bench", folder / "net.so", *arguments, code=2).stderr.count("Error: ") == 1


def test_a_model_is_never_taken_for_the_json_file(folder: Path) -> None:
    program = folder / "net.so"
    before = program.read_bytes()
    assert "is neither a .json file nor -" in call("bench", "--json", program, code=2).stderr
    assert program.read_bytes() == before


def test_an_engine_that_fails_is_one_message(folder: Path) -> None:
    message = call(
        "bench", f"{folder}/net.py:double", "--against", "onnxruntime", *QUICK, code=2
    ).stderr
    assert (
        message.startswith("netloom: the contender onnxruntime cannot run it: NotImplemented")
        and message.count("\n") == 1
    )


def test_sigint_ends_all_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    """As from a terminal: every process of the foreground group gets it."""
    code = (
        "import os, sys; os.setpgid(0, 0); "
        "os.execv(sys.executable, [sys.executable, '-u', '-m', 'netloom', *sys.argv[1:]])"
    )
    arguments = ("bench", str(folder / "net.so"), "--no-peaks", "--rounds", "100000")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, text=True,
                               stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)  # fmt: skip
    while not list(tmp_path.glob("*/feeds.npz")) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (
        process.returncode == 130
        and err == "netloom: stopped.\n"
        and list(tmp_path.iterdir()) == []
    )


# -- profile ---------------------------------------------------------------------------------------


def test_profile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        peaks, "measure", lambda threads: peaks.Peaks(2.0, {1: 64.0}, {1: 10.0}, {1: 10.0}, 12, "x")
    )
    model = f"{folder}/net.py:graph"
    text = call("profile", model, "--dim", "N=3").output
    data = json.loads(call("profile", model, "--dim", "N=3", "--json").stdout)
    products = {
        row["node"]: row for row in data["kernels"] if row["operations"] and row["strategy"]
    }
    assert products["first"]["strategy"] in ("direct", "im2col", "winograd_f2", "winograd_f4")
    rows = [row for row in data["kernels"] if "conv" in row["ops"] and row["node"] == "second"]
    assert rows[0]["operations"] >= 2 * 3 * 4 * 1 * 1 * 4 * 9
    assert data["seconds"] == pytest.approx(sum(row["seconds"] for row in data["kernels"]))
    lines = text.splitlines()
    assert lines[1] == "peaks: 64.0 GFLOP/s of multiply-adds, 10.0 GB/s of a copy"
    assert lines[2].split()[0] == "ms" and len(lines) == 3 + len(data["kernels"])
    assert sum(float(line.split()[1]) for line in lines[3:]) == pytest.approx(100, abs=1)


def test_the_trace_is_one_event_for_each_launch_end_to_end(folder: Path, tmp_path: Path) -> None:
    call("profile", f"{folder}/net.py:dense", "--no-peaks", "-q", "--trace", tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))["traceEvents"]
    assert events and all(event["ph"] == "X" and event["dur"] > 0 for event in events)
    for one, next_one in zip(events, events[1:], strict=False):
        assert next_one["ts"] == pytest.approx(one["ts"] + one["dur"])


def test_what_cannot_be_profiled(folder: Path, tmp_path: Path) -> None:
    message = call(
        "profile", f"{folder}/net.py:dense", "--trace", tmp_path / "none" / "t.json", code=2
    ).stderr
    assert "its folder does not exist" in message and message.count("\n") == 1
    assert (
        "Give the model that it was compiled from"
        in call("profile", folder / "net.so", code=2).stderr
    )
