"""The results of a GPU run: the file, what is asked, what was predicted, and the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from netloom.benchmarks import gpu
from netloom.benchmarks.gpu_cases import Case, cases
from netloom.benchmarks.gpu_networks import NetworkRow
from netloom.benchmarks.gpu_predictions import PREDICTIONS
from netloom.benchmarks.gpu_results import BEGUN, KernelRow, Outcome, Results, read_results
from netloom.errors import ProgramError, UsageError

DEVICE = {"name": "a device", "copy_gigabytes_per_second": 4000.0, "torch": None}
CASES = {case.name: case for case in cases("full")}


def row(case: Case, microseconds: float = 1.0, ratio: float | None = None) -> KernelRow:
    tflops = case.flops / microseconds * 1e-6
    peer = microseconds * ratio if ratio else None
    return KernelRow(case, 1e-7, microseconds, tflops, 3000.0, peer, ratio)


def results_of(*kernels: KernelRow, networks: tuple[NetworkRow, ...] = ()) -> Results:
    found = Results(dict(DEVICE))
    for kernel in kernels:
        found.put(Outcome(kernel.case.name, "d", kernel=kernel))
    for network in networks:
        found.put(Outcome(network.case, "d", network=network))
    return found


def made_up() -> Results:
    """The best of a layer's strategies counts, and geometric means are taken."""
    names = [f"vgg 512-512 14 n1 {s}" for s in ("auto", "direct", "winograd_f4")]
    names += [f"matmul 4096 {p}" for p in ("f32", "3xtf32", "tf32")] + ["relu"]
    ratios = (0.7, 1.0, 1.5, 2.0, 1.5, 0.5, 0.9)
    kernels = [row(CASES[n], 9.0 / r, r) for n, r in zip(names, ratios, strict=True)]
    networks = (
        NetworkRow("zoo:resnet50 n32", 0.0, 1.0, 12.0, {}, {"torch": 1.0, "torch.compile": 2.0}),
        NetworkRow("zoo:resnet50 step n64", 0.0, 1.0, 5.0, {}, {"torch": 1.5}),
    )
    return results_of(*kernels, networks=networks)


def test_figures_beside_their_goals() -> None:
    found = {figure.name: str(figure) for figure in made_up().figures()}
    assert found["matmul 4096 f32 to torch"].endswith("2.00, at least 1: met")
    assert found["matmul 4096 3xtf32 to torch"].endswith("1.50, at least 1.4: met")
    assert found["matmul 4096 tf32 to torch"].endswith("0.50, at least 0.8: MISSED")
    assert found["1 convolutions to torch"].endswith("1.50, at least 1.2: met")
    assert found["relu to a copy"].endswith("0.75, at least 0.9: MISSED")
    assert found["inference n32: 1 to torch"].endswith("MISSED")
    assert found["inference n32: 1 to torch.compile"].endswith("met")
    assert found["training steps: 1 to torch"].endswith("1.50, at least 1: met")
    assert found["host time of a network, µs"].endswith("12.00, at most 10: MISSED")


# -- the file --------------------------------------------------------------------------------------


def test_results_come_back(tmp_path: Path) -> None:
    found = made_up()
    found.put(Outcome("broken", "e", failure="why"))
    found.left_out = ["late"]
    found.write(tmp_path / "new" / "results.json")
    assert read_results(tmp_path / "new" / "results.json") == found
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["results.json"]


def test_a_job_is_done_for_one_program_alone() -> None:
    found = Results(outcomes={"a": Outcome("a", "1", failure="why"), "b": Outcome("b", "1")})
    assert found.is_done("a", "1") and found.is_done("b", "1")
    assert not found.is_done("a", "2") and not found.is_done("c", "1")
    found.put(Outcome("c", "1", failure=BEGUN))
    found.forget(failures=False)
    assert list(found.outcomes) == ["a", "b"]
    found.forget(failures=True)
    assert list(found.outcomes) == ["b"]


def test_a_network_counts_once_with_all_of_its_peers() -> None:
    eager = NetworkRow("net n1", 0.0, 1.0, 5.0, {}, {"torch": 1.0})
    compiled = replace(eager, ratios={"torch": 1.0, "torch.compile": 0.8})
    found = results_of(networks=(eager,))
    found.put(Outcome("net n1 compiled", "d", network=compiled))
    assert found.networks == [compiled]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}', "[1, 2"])
def test_other_files_are_no_results(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ProgramError, match="holds no results of this version. Name another"):
        read_results(tmp_path / "r.json")


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        Results().write(tmp_path / "file" / "results.json")


# -- predictions and the page ----------------------------------------------------------------------


def test_predictions_are_held_against_rows() -> None:
    """Layers that fill a device, in strict float32, of as many channels as the prediction names."""
    direct, f4, fused = ("vgg 128-128 112 n16 direct", "vgg 128-128 112 n16 winograd_f4",
                         "vgg 64-64 224 n16 winograd_f2_fused")  # fmt: skip
    flops = CASES[direct].flops
    rows = [
        row(CASES[direct], flops / 40e6), row(CASES[f4], flops / 70e6),
        row(CASES["vgg 64-64 224 n16 direct"], 100.0), row(CASES[fused], 80.0),
        row(CASES["vgg 128-128 112 n1 winograd_f4"], 1e9),
        row(CASES["matmul 4096 f32"], CASES["matmul 4096 f32"].flops / 39e6),
        row(CASES["matmul 4096 tf32"], CASES["matmul 4096 tf32"].flops / 200e6),
    ]  # fmt: skip
    found = [(item.measured(rows), item) for item in PREDICTIONS]
    values = [value for value, _ in found]
    assert values[0] == pytest.approx(39) and values[1] is None
    assert values[4] == pytest.approx(70 / 40) and values[5] == pytest.approx(100 / 80)
    verdicts = [item.verdict(value) for value, item in found]
    assert verdicts == ["**below**", "not measured", "above", verdicts[3], "holds", "**below**"]


def test_the_page(tmp_path: Path) -> None:
    found = made_up()
    found.put(Outcome("broken", "e", failure="why"))
    found.left_out = ["late"]
    found.write(tmp_path / "results.json")
    assert gpu.main(["report", str(tmp_path / "results.json"), "-o", str(tmp_path / "docs")]) == 0
    assert json.loads((tmp_path / "docs" / "gpu.json").read_text())["device"] == DEVICE
    text = (tmp_path / "docs" / "gpu.md").read_text()
    lines = text.splitlines()
    assert lines[0] == "# gpu" and lines[2].startswith("Device: name: a device; copy gigabytes")
    assert "torch:" not in lines[2]
    assert "| matmul 4096 f32 to torch | 2  | >= 1  | yes |" in lines
    assert "| host time of a network, µs | 12  | <= 10  | **no** |" in lines
    assert "| zoo:resnet50 n32 | 1.0 | 12.0 | 0.0e+00 | 1.00 | 2.00 |" in lines
    assert "takes 2.14 times as long as the fastest (geometric mean of 1 layers" in text
    assert lines[-1] == "- late" and "- broken: why" in lines
    heads = [line for line in lines if line.startswith("## ")]
    assert len(heads) == 8 and heads[0] == "## Goals"


def test_a_report_needs_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["report", str(tmp_path / "nothing.json")]) == 2
    assert "Run the benchmark first" in capsys.readouterr().err
