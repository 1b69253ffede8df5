"""benchmarks/gpu.py from end to end at toy size: built here, run on the emulator."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from netloom.benchmarks import gpu
from netloom.benchmarks.gpu_cases import VGG
from netloom.benchmarks.gpu_networks import NetworkRow, Periodic, build_networks, network_cases
from netloom.compiler.targets.cuda.compile import is_available
from netloom.errors import DeviceError
from netloom.runtime.cuda.device import Device
from tests.ptx_emulator.device import EmulatedDevice

QUICK = ("--size", "toy", "--rounds", "1", "--replays", "1")
needs_compiler = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)


@needs_compiler
def test_build_and_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kernels, a network and a training step."""
    programs = gpu.build(tmp_path, gpu.cases("toy"), ["sm_90a"])
    whole = build_networks(tmp_path, network_cases("toy"), ["sm_90a"])
    ptx = {
        kernel.name: kernel.ptx
        for program in (*programs.values(), *whole.values())
        for kernel in program.kernels.values()
    }
    device = EmulatedDevice(ptx)
    assert gpu.main(["run", str(tmp_path), *QUICK], lambda: device) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    networks = {row["case"]: row for row in results["networks"]}
    assert list(networks) == list(whole) and not results["left_out"]
    assert all(row["error"] <= 1e-4 and row["host_microseconds"] > 0 for row in networks.values())
    names = [figure["name"] for figure in results["figures"]]
    assert "host time of a network, µs" in names and "relu to a copy" in names
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
    (tmp_path / "networks.json").write_text("[]")
    assert gpu.main(["run", str(tmp_path), *QUICK], open_device) == 1
    (failure,) = json.loads((tmp_path / "results.json").read_text())["failures"]
    assert "relative error" in failure


@needs_compiler
def test_a_network_that_is_not_the_cpus_fails_the_run(tmp_path: Path) -> None:
    (_, case) = network_cases("toy")
    programs = build_networks(tmp_path, [case], ["sm_90a"])
    with np.load(tmp_path / f"{case.file}.npz") as wanted:
        changed = {name: array * 1.001 for name, array in wanted.items()}
    np.savez(tmp_path / f"{case.file}.npz", **changed)
    (tmp_path / "cases.json").write_text("[]")
    ptx = {kernel.name: kernel.ptx for kernel in programs[case.name].kernels.values()}
    assert gpu.main(["run", str(tmp_path), *QUICK], lambda: EmulatedDevice(ptx)) == 1
    (failure,) = json.loads((tmp_path / "results.json").read_text())["failures"]
    assert "differs from the CPU" in failure


def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    (tmp_path / "cases.json").write_text(json.dumps([asdict(c) for c in gpu.cases("toy")]))
    (tmp_path / "networks.json").write_text("[]")
    arguments = ["run", str(tmp_path), *QUICK, "--seconds", "-1"]
    assert gpu.main(arguments, lambda: EmulatedDevice({})) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["left_out"] == [case.name for case in gpu.cases("toy")]


def test_figures_beside_their_goals() -> None:
    """Made-up times: the best of a layer's strategies counts, and geometric means are taken."""
    rows = {}
    for case, ratio in zip(
        [c for c in gpu.cases("full") if c.name.startswith(("vgg 512-512 14 n1 ", "matmul 4096 "))],
        (2.0, 1.5, 0.5, 0.7, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5), strict=True,
    ):  # fmt: skip
        rows[case] = gpu.Row(case.name, 0.0, 1.0, 1.0, 1.0, ratio, ratio)
    network = NetworkRow(
        "zoo:resnet50 n32", 0.0, 1.0, 12.0, {}, {"torch": 1.0, "torch.compile": 2.0}
    )
    step = NetworkRow("zoo:resnet50 step n64", 0.0, 1.0, 5.0, {}, {"torch": 1.5})
    results = gpu.Results({"copy_gigabytes_per_second": 4000.0}, rows,
                          {row.case: row for row in (network, step)})  # fmt: skip
    found = {figure.name: str(figure) for figure in results.figures()}
    assert found["matmul 4096 f32 to torch"].endswith("2.00, at least 1: met")
    assert found["matmul 4096 3xtf32 to torch"].endswith("1.50, at least 1.4: met")
    assert found["matmul 4096 tf32 to torch"].endswith("0.50, at least 0.8: MISSED")
    assert found["1 convolutions to torch"].endswith("1.50, at least 1.2: met")
    assert found["inference n32: 1 to torch"].endswith("MISSED")
    assert found["inference n32: 1 to torch.compile"].endswith("met")
    assert found["training steps: 1 to torch"].endswith("1.50, at least 1: met")
    assert found["host time of a network, µs"].endswith("12.00, at most 10: MISSED")


def test_periodic_weights_compress_and_have_the_variance_of_random_ones() -> None:
    values = Periodic().standard_normal((512, 256, 3, 3))
    assert abs(float(values.std()) - 1) < 0.1 and abs(float(values.mean())) < 0.1
    assert len(lzma.compress(values.tobytes(), preset=1)) < values.nbytes / 100
    assert len({values[o, :61].tobytes() for o in range(61)}) == 61


def test_a_run_needs_numpy_alone() -> None:
    """What the compiler and other peers need is not imported; cuda-bindings come with the device."""
    others = ("llvmlite", "numba", "onnx", "networkx", "click", "rich", "ml_dtypes", "cuda")
    code = f"import sys\nfor name in {others}: sys.modules[name] = None\n"
    code += "import netloom.benchmarks.gpu as gpu, netloom.runtime.cuda.tune\n"
    code += "import netloom.benchmarks.model_description\nprint(len(gpu.cases('full')))\n"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


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
        case "add":
            y = inputs["x"].astype(np.float64) + inputs["w"]
        case "transpose":
            y = inputs["x"].T.astype(np.float64)
        case "softmax":
            y = np.exp(inputs["x"].astype(np.float64))
            y /= y.sum(1, keepdims=True)
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
    assert vgg == pytest.approx(2 * 9 * sum(c * o * e * e for c, o, e in VGG))
