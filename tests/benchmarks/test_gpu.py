"""benchmarks/gpu.py from end to end at toy size: built here, run on the emulator."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netloom.benchmarks import gpu, gpu_build, gpu_kernels, gpu_measure
from netloom.benchmarks.gpu_build import build, read_contents
from netloom.benchmarks.gpu_cases import Case, cases
from netloom.benchmarks.gpu_networks import NetworkCase, network_cases
from netloom.benchmarks.gpu_results import read_results
from netloom.compiler.targets.cuda.compile import is_available
from netloom.errors import DeviceError, ToolchainError
from netloom.runtime.cuda.device import Device
from tests.ptx_emulator.device import EmulatedDevice

# without LeNet's and the transformer's, whose kernels take long to compile
OPTIONS = {"features": 20, "hidden": (9,)}
NETWORKS = [NetworkCase("zoo:mlp n2", "zoo:mlp", 2, options=OPTIONS), network_cases("toy")[1]]
KERNELS = ("relu", "transpose", "softmax", "matmul 64 3xtf32", "conv winograd_f2_fused",
           "attention 1x2 20-40 16")  # fmt: skip
QUICK = ("--size", "toy", "--rounds", "1", "--replays", "1")
needs_compiler = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)


def case_named(name: str) -> Case:
    return next(case for case in cases("toy") if case.name == name)


def built(
    folder: Path, kernels: list[Case], networks: list[NetworkCase], words: tuple[str, ...] = ()
) -> tuple[dict[str, str], list[str]]:
    """The PTX of all kernels that were built, and what was said."""
    said: list[str] = []
    programs = list(build(folder, kernels, networks, ["sm_90a"], said.append, words))
    return {k.name: k.ptx for p in programs for k in p.kernels.values()}, said


def failures(folder: Path) -> dict[str, str]:
    return read_results(folder / "results.json").failures


# -- all of it -------------------------------------------------------------------------------------


@needs_compiler
def test_build_and_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    """A kernel of each kind, a network and a training step; --all-kernels: all, and one with
    attention too."""
    is_all = request.config.getoption("--all-kernels")
    networks = network_cases("toy") if is_all else NETWORKS
    kernels = cases("toy") if is_all else [case_named(name) for name in KERNELS]
    ptx, said = built(tmp_path, kernels, networks)
    assert len(said) == len(kernels) + len(networks)
    device = EmulatedDevice(ptx)
    assert gpu.main(["measure", str(tmp_path), *QUICK], lambda: device) == 0
    results = read_results(tmp_path / "results.json")
    assert [row.case for row in results.networks] == [case.name for case in networks]
    assert all(row.error <= 1e-4 and row.host_microseconds > 0 for row in results.networks)
    names = [figure.name for figure in results.figures()]
    assert "host time of a network, µs" in names and "relu to a copy" in names
    assert {row.case for row in results.kernels} == set(kernels) and not results.failures
    assert all(row.error <= 2e-2 and row.microseconds > 0 for row in results.kernels)
    assert results.device["name"] == "emulator" and not results.left_out
    assert "matmul 64 3xtf32" in capsys.readouterr().out
    assert not device.memory  # everything was given back


# -- build -----------------------------------------------------------------------------------------


@needs_compiler
def test_a_build_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Cases of some words first, then the rest; the list keeps the cases' order."""
    wanted = [case_named("relu"), case_named("matmul 64 f32"), case_named("softmax")]
    _, said = built(tmp_path, wanted, [], ("matmul",))
    assert [line.split(":")[0] for line in said] == ["matmul 64 f32"]
    _, said = built(tmp_path, wanted, [])
    assert [line.split(":")[0] for line in said] == ["relu", "softmax"]
    assert list(read_contents(tmp_path).kernels) == [case.name for case in wanted]
    assert built(tmp_path, wanted, []) == ({}, [])


@needs_compiler
def test_another_compiler_builds_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(tmp_path, [case_named("relu")], [])
    monkeypatch.setattr("netloom.compiler.cache.compiler_version", lambda: "another")
    assert len(built(tmp_path, [case_named("relu")], [])[1]) == 1


@needs_compiler
def test_what_cannot_be_built_or_run_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buffer of more than 2 GiB, and a case without a kernel that passes the gates."""
    huge = Case("huge", "relu", (1 << 30,))
    build_kernel = gpu_kernels.build_kernel

    def failing(folder: Path, case: Case, architectures: Any) -> Any:
        if case.name == "softmax":
            raise ToolchainError("no kernel.")
        return build_kernel(folder, case, architectures)

    monkeypatch.setattr(gpu_build, "build_kernel", failing)
    _, said = built(tmp_path, [huge, case_named("softmax"), case_named("relu")], [])
    contents = read_contents(tmp_path)
    assert list(contents.kernels) == ["relu"] and list(contents.left_out) == ["huge", "softmax"]
    assert "too large" in contents.left_out["huge"] and said[1] == "LEFT OUT softmax: no kernel."
    assert not (tmp_path / huge.file).exists()


def test_the_command_builds_and_tells_the_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not is_available():
        pytest.skip("numba-cuda is not installed (netloom[cuda])")
    assert gpu.main(["build", str(tmp_path), "--size", "toy", "--only", "relu,add"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" MB, 2 programs, 0 left out")


@pytest.mark.parametrize("case", [
    NetworkCase("lenet", "zoo:lenet5", 1, precision="3xtf32", strategy="winograd_f2"),
    NetworkCase("step", "zoo:mlp", 2, True, {"features": 20, "hidden": (9,)}, precision="tf32"),
], ids=lambda case: case.name)  # fmt: skip
def test_a_network_is_compiled_as_its_case_says(
    case: NetworkCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def compiled(*arguments: Any, **_: Any) -> Any:
        asked.append(arguments[-1])
        raise ToolchainError("no kernel.")

    for name in ("compile_for_cuda", "compile_training_for_cuda"):
        monkeypatch.setattr(f"netloom.compiler.targets.cuda.driver.{name}", compiled)
    built(tmp_path, [], [case])
    assert [(o.precision, o.override) for o in asked] == [(case.precision, case.strategy)]


# -- measure: what goes wrong with one case leaves the others --------------------------------------


@needs_compiler
def test_wrong_results_are_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a kernel, and of a network that is not the CPU's."""
    network = network_cases("toy")[1]
    ptx, _ = built(tmp_path, [case_named("matmul 64 f32"), case_named("relu")], [network])
    with np.load(tmp_path / f"{network.file}.npz") as wanted:
        changed = {name: array * 1.001 for name, array in wanted.items()}
    np.savez(tmp_path / f"{network.file}.npz", **changed)
    tolerance = {**gpu_kernels.TOLERANCE, "f32": 0.0}
    monkeypatch.setattr(gpu_kernels, "TOLERANCE", tolerance)
    assert gpu.main(["measure", str(tmp_path), *QUICK], lambda: EmulatedDevice(ptx)) == 1
    found = failures(tmp_path)
    assert list(found) == ["matmul 64 f32", network.name]
    assert "relative error" in found["matmul 64 f32"]
    assert "differs from the CPU" in found[network.name]
    assert [row.case.name for row in read_results(tmp_path / "results.json").kernels] == ["relu"]


class Spoiling(EmulatedDevice):
    """One of many results is no number, or changes from run to run."""

    spoils: Callable[[float], float] = staticmethod(lambda value: np.nan)

    def download(self, array: Any, address: int) -> None:
        super().download(array, address)
        if array.size > 4:
            array.reshape(-1)[77] = self.spoils(array.reshape(-1)[77])


@needs_compiler
def test_one_wrong_result_of_many_is_found(tmp_path: Path) -> None:
    """Which the samples do not hold: a place that nothing wrote, and a race."""
    ptx, _ = built(tmp_path, [case_named("matmul 64 f32")], [])
    arguments = ["measure", str(tmp_path), *QUICK, "-o"]
    device = Spoiling(ptx)
    assert gpu.main([*arguments, str(tmp_path / "a")], lambda: device) == 1
    (told,) = read_results(tmp_path / "a").failures.values()
    assert told == "some results are no numbers, or were not written."
    noise = iter(np.arange(1, 99) * 1e-7)
    device.spoils = lambda value: value + next(noise)
    assert gpu.main([*arguments, str(tmp_path / "b")], lambda: device) == 1
    (told,) = read_results(tmp_path / "b").failures.values()
    assert told == "a second run gives other results."


@needs_compiler
def test_a_network_gives_the_same_bits_again(tmp_path: Path) -> None:
    class Drifting(EmulatedDevice):
        def download(self, array: Any, address: int) -> None:
            super().download(array, address)
            if array.dtype == np.float32:
                array *= np.float32(1 + 1e-7 * self.launches)

    ptx, _ = built(tmp_path, [], NETWORKS)
    assert gpu.main(["measure", str(tmp_path), *QUICK], lambda: Drifting(ptx)) == 1
    assert set(failures(tmp_path).values()) == {"a second run gives other results."}


@needs_compiler
def test_a_device_without_room_for_one_case_measures_the_others(tmp_path: Path) -> None:
    ptx, _ = built(tmp_path, [case_named("matmul 64 f32"), case_named("relu")], [])
    device = EmulatedDevice(ptx, room=40_000)
    assert gpu.main(["measure", str(tmp_path), *QUICK], lambda: device) == 1
    assert "not enough free memory" in failures(tmp_path)["matmul 64 f32"]
    assert len(read_results(tmp_path / "results.json").kernels) == 1


@needs_compiler
def test_missing_and_damaged_files_are_failures(tmp_path: Path) -> None:
    network = NETWORKS[0]
    ptx, _ = built(tmp_path, [case_named("relu"), case_named("add")], [network])
    (tmp_path / case_named("relu").file).unlink()
    (tmp_path / network.file).write_bytes(b"no archive")
    assert gpu.main(["measure", str(tmp_path), *QUICK], lambda: EmulatedDevice(ptx)) == 1
    assert list(failures(tmp_path)) == ["relu", network.name]
    assert "LZMAError" in failures(tmp_path)[network.name]


class Unanswering(EmulatedDevice):
    """Its context is gone after the first launch."""

    def synchronize(self) -> None:
        if self.launches:
            raise DeviceError("the CUDA driver reports CUDA_ERROR_ILLEGAL_ADDRESS.")

    def download(self, array: Any, address: int) -> None:
        self.synchronize()


@needs_compiler
def test_a_process_without_its_device_ends_and_another_goes_on(tmp_path: Path) -> None:
    """What failed is not begun again, unless its program has changed; --retry is for that."""
    kernels = [case_named("relu"), case_named("add"), case_named("transpose")]
    ptx, _ = built(tmp_path, kernels, [])
    arguments = ["measure", str(tmp_path), *QUICK]
    assert gpu.main(arguments, lambda: Unanswering(ptx)) == gpu_measure.LOST
    assert list(failures(tmp_path)) == ["relu"]
    assert gpu.main(arguments, lambda: EmulatedDevice(ptx)) == 1
    results = read_results(tmp_path / "results.json")
    assert [row.case.name for row in results.kernels] == ["add", "transpose"]
    results.forget(failures=True)
    results.write(tmp_path / "results.json")
    device = EmulatedDevice(ptx)
    assert gpu.main(arguments, lambda: device) == 0 and device.launches > 0
    launches = device.launches
    assert gpu.main(arguments, lambda: device) == 0 and device.launches == launches
    relu = tmp_path / kernels[0].file
    relu.write_bytes(relu.read_bytes() + b" ")  # another program: damaged, and so a failure
    assert gpu.main(arguments, lambda: device) == 1 and list(failures(tmp_path)) == ["relu"]


def test_a_defect_does_not_look_like_a_complete_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Device:
        raise AttributeError("cuGraphAddKernelNode")

    empty(tmp_path)
    assert gpu.main(["measure", str(tmp_path), *QUICK], broken) == gpu_measure.LOST
    assert "cuGraphAddKernelNode" in capsys.readouterr().err


def empty(folder: Path) -> None:
    """A folder without programs."""
    gpu_build.Contents().write(folder)


def listed(folder: Path) -> None:
    """A folder that says it holds the toy cases."""
    gpu_build.Contents({case.name: case for case in cases("toy")}).write(folder)


def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    listed(tmp_path)
    arguments = ["measure", str(tmp_path), *QUICK, "--seconds", "-1"]
    assert gpu.main(arguments, lambda: EmulatedDevice({})) == 0
    results = read_results(tmp_path / "results.json")
    assert results.left_out == [case.name for case in cases("toy")]
    assert gpu.main([*arguments, "--only", "relu,add"], lambda: EmulatedDevice({})) == 0
    assert read_results(tmp_path / "results.json").left_out == ["relu", "add"]


def test_results_of_another_device_are_not_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(tmp_path)
    arguments = ["measure", str(tmp_path), *QUICK, "--seconds", "-1"]
    device = EmulatedDevice({})
    assert gpu.main(arguments, lambda: device) == 0
    device.name = "another"
    assert gpu.main(arguments, lambda: device) == 2
    assert "of another device, emulator. Name another file" in capsys.readouterr().err


def test_without_a_device_or_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def none() -> Device:
        raise DeviceError("this machine has no CUDA device.")

    assert gpu.main(["measure", str(tmp_path)], none) == 4
    assert "no CUDA device" in capsys.readouterr().err
    assert gpu.main(["run", str(tmp_path)]) == 2
    assert "Build them first" in capsys.readouterr().err


# -- what a GPU machine has ------------------------------------------------------------------------

_BLOCKED = ("llvmlite", "numba", "onnx", "networkx", "click", "rich", "ml_dtypes", "safetensors")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    if is_available():
        built(folder, [case_named("relu")], NETWORKS)
    return folder


@needs_compiler
@pytest.mark.parametrize("torch", ["absent", "broken", "without a device"])
def test_a_run_needs_numpy_and_a_device_alone(toy: Path, torch: str, tmp_path: Path) -> None:
    """In a process that has neither the compiler nor what it needs, nor a PyTorch to compare with;
    its device hands out memory and runs nothing, so that results are wrong and nothing else is."""
    stand_in = {
        "absent": "sys.modules['torch'] = None",
        "broken": "sys.path.insert(0, sys.argv[3])",
        "without a device": "sys.modules['torch'] = SimpleNamespace("
        "cuda=SimpleNamespace(is_available=lambda: False))",
    }[torch]
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open')\n")
    code = f"""
import sys
from types import SimpleNamespace
for name in {_BLOCKED}: sys.modules[name] = None
sys.modules['netloom.compiler'] = sys.modules['netloom.frontends'] = None
{stand_in}
import numpy as np
import netloom.runtime.cuda.tune
from netloom.benchmarks import gpu
from netloom.benchmarks.gpu_cases import cases
assert len(cases('full')) > 200

class Idle:
    name, number, stream_handle, place = 'idle', 0, 0, 256
    def allocate(self, size):
        self.place += size + 256
        return (self.place - size) // 256 * 256
    def download(self, array, address): array[...] = 7
    def seconds(self, graph, times): return 1e-6
    def facts(self): return {{'name': 'idle'}}
    def nothing(self, *arguments): return None
    free = upload = copy = wait_for = synchronize = load = capture = rebind = nothing
    replay = release = unload = nothing

code = gpu.main(['measure', sys.argv[1], '-o', sys.argv[2], '--size', 'toy'], Idle)
assert 'cuda' not in sys.modules
sys.exit(code)
"""
    path = tmp_path / "results.json"
    found = subprocess.run([sys.executable, "-c", code, str(toy), str(path), str(tmp_path)],
                           capture_output=True, text=True, check=False)  # fmt: skip
    assert found.returncode == 1 and not found.stderr, found.stderr
    told = read_results(path).failures
    assert list(told) == ["relu", *(case.name for case in NETWORKS)]
    assert all("relative error" in text or "differs from" in text for text in told.values())


def test_what_matters_most_comes_first(tmp_path: Path) -> None:
    """Large convolutions behind networks; what PyTorch compiles last, and not at the end of a
    run's time."""
    wanted = [case for case in cases("full") if case.name in ("relu", "vgg 64-64 224 n16 direct")]
    networks = [c for c in network_cases("full") if c.network == "zoo:lenet5"]
    networks += [c for c in network_cases("full") if c.name == "zoo:resnet50 n1"]
    contents = gpu_build.Contents({c.name: c for c in wanted}, {c.name: c for c in networks})
    contents.write(tmp_path)
    names = ["relu", "zoo:lenet5 step n64", "zoo:resnet50 n1", "vgg 64-64 224 n16 direct"]
    assert [job.name for job in gpu_measure.jobs(tmp_path, (), has_torch=False)] == names
    found = gpu_measure.jobs(tmp_path, (), has_torch=True)
    assert [job.name for job in found] == [*names, "zoo:resnet50 n1 compiled"]
    assert [job.reserve for job in found] == [0, 0, 0, 0, gpu_measure.RESERVE]
