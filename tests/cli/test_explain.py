"""``netloom explain`` on VGG-19 and a network like it: each convolution's strategy, every
candidate's cost, every reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from netloom.compiler.strategies import strategies_for

from .calling import call

NETWORK = """
import netloom as nl

@nl.network
def vgg_like(x):
    for stage, (width, depth) in enumerate(((16, 2), (32, 2)), 1):
        for layer in range(1, depth + 1):
            x = nl.relu(nl.conv2d(x, width, 3, padding=1, name=f"conv{stage}_{layer}"))
        x = nl.max_pool2d(x, 2)
    x = nl.relu(nl.conv2d(x, 32, 3, stride=2, padding=1, name="strided"))
    x = nl.relu(nl.conv2d(x, 32, 3, padding=1, groups=4, name="grouped"))
    x = nl.relu(nl.conv2d(x, 64, 1, name="pointwise"))
    return nl.dense(nl.flatten(x), 10, name="scores")

def graph():
    return vgg_like.graph(x=nl.tensor("N", 3, 32, 32))
"""
CONVOLUTIONS = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "strided", "grouped", "pointwise")
NAMES = {strategy.name for strategy in strategies_for("conv")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("explain") / "net.py"
    path.write_text(NETWORK, encoding="utf-8")
    return f"{path}:graph"


def explained(model: str, *options: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The convolutions as data, and the lines of the text."""
    rows = json.loads(call("explain", model, *options, "--json").stdout)["convolutions"]
    return rows, call("explain", model, *options).output.splitlines()


def below(row: dict[str, Any], lines: list[str]) -> list[str]:
    """The lines below the one that names a convolution, its shapes and its strategy, one for
    each candidate.
    """
    head = f"{row['node']}  {row['shape']}  {row['strategy']}"
    assert lines.count(head) == 1
    return lines[lines.index(head) + 1 :][: len(NAMES)]


def check_candidates(row: dict[str, Any], lines: list[str]) -> None:
    """Every strategy has a line, with its cost where it applies, and the verdict."""
    found = below(row, lines)
    assert {line.split()[0] for line in found} == NAMES
    for item, line in zip(row["candidates"], found, strict=True):
        words = line.split(maxsplit=3 if item["seconds"] is not None else 1)
        assert words[0] == item["strategy"] and words[-1] == item["verdict"], line
        if item["seconds"] is not None:
            assert (
                float(words[1]) == pytest.approx(item["seconds"] * 1e3, abs=5e-4)
                and words[2] == "ms"
            )


def check_verdicts(row: dict[str, Any]) -> None:
    """The chosen one costs least; each of the others says how much more it costs, or why it
    cannot be chosen.
    """
    costs = {
        item["strategy"]: item["seconds"]
        for item in row["candidates"]
        if item["seconds"] is not None
    }
    assert row["strategy"] == min(costs, key=lambda name: costs[name])
    for name, verdict in reasons(row).items():
        if name == row["strategy"]:
            assert verdict == "chosen: the least estimated time"
        elif name in costs:
            assert (
                verdict
                == f"not chosen: {costs[name] / costs[row['strategy']]:.2f} times the time of {row['strategy']}"
            )
        else:
            assert verdict.startswith("rejected: ") and len(verdict) > 20


def reasons(row: dict[str, Any]) -> dict[str, str]:
    return {item["strategy"]: item["verdict"] for item in row["candidates"]}


def test_every_convolution_has_a_line_for_every_strategy(model: str) -> None:
    rows, lines = explained(model)
    assert [row["node"].split("/")[0] for row in rows] == list(CONVOLUTIONS)
    for row in rows:
        check_candidates(row, lines)
        check_verdicts(row)


# filters (Simonyan and Zisserman 2015, table 1, column E)
VGG19 = [*([64] * 2), *([128] * 2), *([256] * 4), *([512] * 8)]


@pytest.mark.parametrize("accuracy", ["default", "strict"])
def test_vgg19(accuracy: str) -> None:
    """All sixteen convolutions of the onnx package's VGG-19."""
    result = call("explain", "light:vgg19", "--accuracy", accuracy, "-v")
    rows = json.loads(call("explain", "light:vgg19", "--accuracy", accuracy, "--json").stdout)[
        "convolutions"
    ]
    lines = result.output.splitlines()
    assert [int(row["shape"].rpartition("[")[2].split(",")[0]) for row in rows] == VGG19
    assert lines[0].split(", ")[2].startswith("16 convolutions: ")
    for row in rows:
        check_candidates(row, lines)
        check_verdicts(row)
    rejected = [
        reasons(row)["winograd_f4"]
        for row in rows
        if reasons(row)["winograd_f4"].startswith("rejected")
    ]
    assert rejected == (
        []
        if accuracy == "default"
        else ["rejected: its error budget of 1e-05 needs --accuracy default"] * 16
    )


def test_rejections_say_why(model: str) -> None:
    rows = {row["node"].split("/")[0]: reasons(row) for row in explained(model)[0]}
    assert rows["strided"]["winograd_f2"].startswith("rejected: its stride is (2, 2)")
    assert rows["grouped"]["im2col"].startswith("rejected: it has 4 groups")
    assert rows["pointwise"]["winograd_f4"].startswith("rejected: its kernel is [1, 1]")
    assert [
        name for name, verdict in rows["conv2_2"].items() if verdict.startswith("rejected")
    ] == [
        "winograd_f6", "winograd_phases_4", "winograd_phases_6", "winograd_phases_8", "toeplitz",
    ]  # fmt: skip
    assert rows["conv2_2"]["winograd_f6"].endswith("needs --accuracy fast")
    assert rows["conv2_2"]["toeplitz"].startswith("rejected: its matrix would have ")
    assert rows["strided"]["fft_16"].startswith("rejected: its stride is (2, 2)")
    assert "winograd_phases_6" in rows["strided"] and rows["conv2_2"]["winograd_phases_6"] == (
        "rejected: its stride is (1, 1), which has one phase: the image"
    )
    assert rows["strided"]["winograd_phases_8"].endswith("needs --accuracy fast")
    strict = {
        row["node"].split("/")[0]: reasons(row)
        for row in explained(model, "--accuracy", "strict")[0]
    }
    assert (
        strict["conv2_2"]["fft_16"]
        == "rejected: its error budget of 2e-06 needs --accuracy default"
    )
    assert (
        strict["conv2_2"]["winograd_f4"]
        == "rejected: its error budget of 1e-05 needs --accuracy default"
    )


def test_an_asked_for_strategy_is_named_as_such(model: str) -> None:
    rows, _ = explained(model, "--conv-strategy", "im2col")
    chosen = {row["node"].split("/")[0]: row for row in rows}
    assert chosen["conv2_2"]["strategy"] == "im2col" and chosen["grouped"]["strategy"] != "im2col"
    assert any(
        verdict.startswith(("chosen: asked for", "chosen: the least"))
        for verdict in reasons(chosen["conv2_2"]).values()
    )
    node = rows[3]["node"]
    only = explained(model, "--conv-strategy", f"{node}=direct")[0]
    assert only[3]["strategy"] == "direct"


def test_an_override_that_cannot_be_is_refused(model: str) -> None:
    assert (
        "there is no convolution 'nowhere'"
        in call("explain", model, "--conv-strategy", "nowhere=direct", code=2).stderr
    )
    rows, _ = explained(model)
    node = next(row["node"] for row in rows if row["node"].startswith("grouped"))
    assert (
        "im2col does not apply: it has 4 groups"
        in call("explain", model, "--conv-strategy", f"{node}=im2col", code=2).stderr
    )


def test_kernels_memory_and_passes_follow(model: str) -> None:
    data = json.loads(call("explain", model, "--json").stdout)
    (entry,) = data["entries"]
    _, lines = explained(model)
    assert (
        f"run: {len(entry['kernels'])} kernels launched, {data['different_kernels']} different"
        in lines
    )
    assert (
        f"memory: {len(entry['arena_slots'])} slots of {', '.join(entry['arena_slots'])} bytes"
        in lines
    )
    for kernel in entry["kernels"]:
        assert any(f"  {kernel}" in line for line in lines)
    (title,) = (
        line for line in lines if line.startswith("passes, ") and line.endswith(" s in all:")
    )
    assert [item["pass"] for item in entry["passes"]] == [
        line.split()[0] for line in lines[lines.index(title) + 1 :]
    ]


def test_nothing_is_compiled_for_it(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from netloom.compiler import driver

    monkeypatch.setattr(
        driver, "compile_kernel_objects", lambda *_: pytest.fail("machine code was made")
    )
    call("explain", model)
    with pytest.raises(pytest.fail.Exception):
        driver.compile_graph(_graph(Path(model.rpartition(":")[0])))


def _graph(path: Path) -> Any:
    from netloom.cli.models import load_graph
    from netloom.cli.options import Binding

    return load_graph(f"{path}:graph", Binding())
