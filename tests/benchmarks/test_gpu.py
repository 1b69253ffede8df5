"""benchmarks/gpu.py from end to end at toy size: built here, run on the emulator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from netloom.benchmarks import gpu
from netloom.compiler.targets.cuda.compile import is_available
from netloom.errors import DeviceError
from netloom.runtime.cuda.device import Device
from tests.ptx_emulator.device import EmulatedDevice

needs_compiler = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)


@needs_compiler
def test_build_and_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    programs = gpu.build(tmp_path, gpu.cases("toy"), ["sm_90a"])
    ptx = {
        kernel.name: kernel.ptx
        for program in programs.values()
        for kernel in program.kernels.values()
    }
    device = EmulatedDevice(ptx)
    assert gpu.main(["run", str(tmp_path), "--rounds", "1", "--replays", "1"], lambda: device) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["case"] for row in results["rows"]] == list(programs) and not results["failures"]
    assert all(row["error"] <= 2e-2 and row["microseconds"] > 0 for row in results["rows"])
    assert results["device"]["name"] == "emulator" and "matmul 64 3xtf32" in capsys.readouterr().out
    assert not device.memory  # everything was given back


@needs_compiler
def test_a_wrong_result_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = [case for case in gpu.cases("toy") if case.name == "matmul 64 f32"]
    programs = gpu.build(tmp_path, [case], ["sm_90a"])
    ptx = {kernel.name: kernel.ptx for kernel in programs[case.name].kernels.values()}

    def open_device() -> Device:
        return EmulatedDevice(ptx)

    monkeypatch.setitem(gpu.TOLERANCE, "f32", 0.0)
    assert gpu.main(["run", str(tmp_path), "--rounds", "1", "--replays", "1"], open_device) == 1
    (failure,) = json.loads((tmp_path / "results.json").read_text())["failures"]
    assert "relative error" in failure


def test_without_a_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def none() -> Device:
        raise DeviceError("this machine has no CUDA device.")

    (tmp_path / "cases.json").write_text("[]")
    assert gpu.main(["run", str(tmp_path)], none) == 4
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("case", gpu.cases("toy"), ids=lambda case: case.name)
def test_the_check_finds_wrong_results(case: gpu.Case) -> None:
    """Against NumPy, and off by a hundredth."""
    inputs = gpu.inputs_of(case)
    match case.kind:
        case "matmul":
            y = inputs["x"].astype(np.float64) @ inputs["w"]
        case "conv":
            padded = np.pad(inputs["x"].astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
            y = np.einsum(
                "ncyxij,ocij->noyx",
                np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3)),
                inputs["w"],
            )
        case _:
            y = np.maximum(inputs["x"], 0)
    assert y.shape == case.output
    assert gpu.error_of(case, inputs, y) <= 1e-12
    assert gpu.error_of(case, inputs, y * 1.01) > 5e-3


def test_the_full_size() -> None:
    names = [case.name for case in gpu.cases("full")]
    assert len(set(names)) == len(names)
    assert {case.x[0] for case in gpu.cases("full") if case.kind == "matmul"} == {
        1024,
        2048,
        4096,
        8192,
    }
    vgg = sum(
        case.flops for case in gpu.cases("full") if "vgg" in case.name and "n1 direct" in case.name
    )
    assert vgg == pytest.approx(2 * 9 * sum(c * o * e * e for c, o, e in gpu._VGG))
