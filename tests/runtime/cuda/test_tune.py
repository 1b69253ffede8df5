"""Times from a device, from the candidates' file to the program that they decide: with a device
whose clock is made up.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import netloom as nl
from netloom.compiler.cache import compiler_version
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.targets.cuda import candidates as candidates_module
from netloom.compiler.targets.cuda.candidates import (
    Candidate,
    compile_candidate,
    wanted_layers,
    write_candidates,
)
from netloom.compiler.targets.cuda.compile import is_available
from netloom.compiler.targets.cuda.driver import PIPELINE, TRAINING_PIPELINE, CudaOptions, plan
from netloom.compiler.targets.cuda.forms import Product
from netloom.compiler.targets.cuda.measured import candidate_name, read_times
from netloom.compiler.targets.cuda.strategies import PLAIN
from netloom.compiler.targets.cuda.tilings import Tiling
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.compiler.tuning import Layer, Tuner
from netloom.errors import DeviceError, ProgramError, UsageError
from netloom.runtime.cuda import tune
from netloom.runtime.cuda.device import Call
from netloom.runtime.cuda.program import parse_program

ARCHITECTURES = ("sm_80", "sm_90a")
OPS = ("conv", "conv_input_gradient", "conv_weight_gradient")
needs_compiler = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)


class FakeDevice:
    """Takes everything and computes nothing; a replay takes the time that ``clock`` has for its
    kernels."""

    number, stream_handle, name = 0, 7, "Fake H200"

    def __init__(self, clock: Mapping[tuple[str, ...], float], fails: str = "") -> None:
        self.clock, self.fails = clock, fails
        self.live: dict[int, int] = {}
        self.uploaded: list[Any] = []
        self.blocks: list[int] = []
        self._next = 1 << 20

    def allocate(self, size: int) -> int:
        self._next += 1 << 30
        self.live[self._next] = size
        return self._next

    def free(self, address: int) -> None:
        del self.live[address]

    def upload(self, address: int, array: Any) -> None:
        self.uploaded.append(array)

    def download(self, array: Any, address: int) -> None:
        array[...] = 0

    def copy(self, to: int, source: int, size: int) -> None: ...

    def wait_for(self, stream: int) -> None: ...

    def synchronize(self) -> None: ...

    def load(self, name: str, cubins: Mapping[str, bytes], shared: Mapping[str, int]) -> Any:
        if name == self.fails:
            raise DeviceError("the CUDA driver reports CUDA_ERROR_INVALID_IMAGE.")
        return name

    def unload(self, function: Any) -> None: ...

    def capture(self, calls: Sequence[Call], after: Sequence[Sequence[int]]) -> Any:
        return tuple(sorted({call.function for call in calls}))

    def rebind(self, graph: Any, number: int, call: Call) -> None: ...

    def replay(self, graph: Any) -> None: ...

    def release(self, graph: Any) -> None: ...

    def seconds(self, graph: Any, times: int) -> float:
        self.blocks.append(times)
        return self.clock[graph]

    def facts(self) -> Mapping[str, Any]:
        return {"name": self.name, "capability": "9.0", "driver": "13.0"}


def network() -> Graph:
    """Two layers with a choice, and one of equal shape, which is timed once with the first."""
    b = Builder("network")
    x = b.input(TensorType(FLOAT32, (1, 16, 8, 8)), "x")
    rng = np.random.default_rng(0)
    for number, (c, o) in enumerate(((16, 16), (16, 16), (16, 32))):
        w = b.constant(rng.standard_normal((o, c, 3, 3)).astype(np.float32))
        x = b(
            "relu",
            b(
                "conv",
                x,
                w,
                stride=(1, 1),
                dilation=(1, 1),
                lo=(1, 1),
                hi=(1, 1),
                groups=1,
                label=f"conv{number}",
            ),
        )
    return b.build([x], ["y"])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tune") / "candidates"
    summary = write_candidates(
        network(), CudaOptions(accuracy="fast"), path, architectures=("sm_80",)
    )
    assert summary.layers == 2 and summary.candidates > 4 and not summary.left_out
    return path


def clock_of(
    candidates: tune.Candidates, seconds: Mapping[str, float]
) -> dict[tuple[str, ...], float]:
    """The times of strategies as those of their kernels."""
    return {
        tuple(sorted(kernel.name for kernel in parse_program(data).kernels)): seconds.get(
            strategy, 1.0
        )
        for layer in candidates.layers
        for strategy, data in layer.programs.items()
    }


def strategies_chosen(options: CudaOptions) -> list[str]:
    plan({"run": network()}, PIPELINE, options)
    return [decision.strategy for decision in options.decisions]


@needs_compiler
@pytest.mark.parametrize("fastest", ["direct", "winograd_f2", "winograd_f4"])
def test_the_choice_follows_the_table(
    file: Path, tmp_path: Path, fastest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    device = FakeDevice(clock_of(tune.read_candidates(file), {fastest: 2e-5}))
    assert tune.main([str(file), "-o", str(tmp_path / "t.json")], lambda: device) == 0
    said = capsys.readouterr().out
    assert "name: Fake H200" in said and said.count(f"{fastest} 20.0 us") == 2
    assert not device.live  # everything was given back
    tuner = read_times(tmp_path / "t.json", "f32", ARCHITECTURES)
    assert strategies_chosen(CudaOptions(accuracy="fast", tuner=tuner)) == [fastest] * 3
    assert tuner.summary == {"machine": "Fake H200, 9.0, 13.0", "layers": 2, "measured": 2}


def table_of(wanted: Mapping[Layer, Sequence[Candidate]], path: Path, fastest: Candidate) -> Tuner:
    """A table in which one candidate is the fastest wherever it is one."""
    rows = [{"text": layer.text, "constants": layer.constants,
             "seconds": {candidate_name(*c): 1e-6 if c == fastest else 1e-3 for c in candidates}}
            for layer, candidates in wanted.items()]  # fmt: skip
    device = {"name": "Fake", "capability": "9.0"}
    head = {"format": tune.FORMAT, "version": compiler_version(), "precision": "f32"}
    path.write_text(json.dumps({**head, "device": device, "layers": rows}))
    return read_times(path, "f32", ARCHITECTURES)


def test_the_tiling_follows_the_table(tmp_path: Path) -> None:
    """The fastest of all is a strategy with another tiling: the program's products have it. A
    matrix product has tilings, too."""
    b = Builder("network")
    x = b.input(TensorType(FLOAT32, (16, 64, 28, 28)), "x")
    w = b.input(TensorType(FLOAT32, (128, 64, 3, 3)), "w")
    attrs = {"stride": (2, 2), "dilation": (1, 1), "lo": (1, 1), "hi": (1, 1), "groups": 1}
    y = b("reshape", b("conv", x, w, **attrs), shape=(16 * 14 * 14, 128))
    z = b("matmul", y, b.input(TensorType(FLOAT32, (128, 2048)), "v"))
    graph = b.build([z])
    wanted = wanted_layers(graph, CudaOptions())
    for op, strategy in (("conv", "direct"), ("matmul", PLAIN)):
        (candidates,) = [c for layer, c in wanted.items() if f" {op}(" in layer.text]
        assert (strategy, None) in candidates
        fastest = next(c for c in candidates if c[1] is not None and c[1].columns != 128)
        options = CudaOptions(tuner=table_of(wanted, tmp_path / "t", fastest))
        _, placement, _ = plan({"run": graph}, PIPELINE, options)
        assert list(options.measured.values()) == [fastest[1]]
        products = [k.form for k in placement.forms.values() if isinstance(k.form, Product)]
        shape = (fastest[1].rows, fastest[1].columns)
        assert any((p.tile.rows, p.tile.columns) == shape for p in products)


@needs_compiler
def test_a_candidate_has_its_tiling() -> None:
    b = Builder("one")
    x, w = (b.input(TensorType(FLOAT32, (512, 512)), name) for name in "xw")
    (layer,) = wanted_layers(b.build([b("matmul", x, w)]), CudaOptions())
    program = compile_candidate(layer, PLAIN, CudaOptions(), ("sm_80",), tiling=Tiling(128, 64, 2))
    forms = [k.form for k in program.forms.values() if isinstance(k.form, Product)]
    assert {(f.tile.rows, f.tile.columns, f.stages) for f in forms} == {(128, 64, 2)}


def test_the_layers_of_a_training_step_are_candidates(tmp_path: Path) -> None:
    """Forward and both gradients, whose weights are values."""

    @nl.network
    def small(x: nl.Symbolic) -> nl.Symbolic:
        return nl.dense(nl.global_average_pool(nl.conv2d(nl.conv2d(x, 16, 3), 16, 3)), 3)

    graph = small.graph(x=nl.tensor(2, 16, 10, 10))
    step = nl.training_graph(graph, nl.losses.cross_entropy, nl.optimizers.SGD())
    wanted = wanted_layers(graph.inference_form(), CudaOptions(), step)
    ops = {op for layer in wanted for op in OPS if f" {op}(" in layer.text}
    assert ops == set(OPS) and all(not layer.constants for layer in wanted)
    own = CudaOptions(tuner=table_of(wanted, tmp_path / "t", ("winograd_f2", None)))
    plan({"run": graph.inference_form(), "train_step": step}, TRAINING_PIPELINE, own)
    chosen = {d.op: d.strategy for d in own.decisions if "winograd_f2" in d.measured}
    assert set(chosen) == set(OPS) and set(chosen.values()) == {"winograd_f2"}


@needs_compiler
def test_weights_are_made_where_they_are_timed(file: Path) -> None:
    (layer, *_) = tune.read_candidates(file).layers
    assert all(len(data) < 100_000 for data in layer.programs.values())  # without their weights
    device = FakeDevice(clock_of(tune.read_candidates(file), {}))
    assert set(tune.measure(layer, device).values()) == {1.0}
    assert any(np.unique(array).size > 2000 for array in device.uploaded)


@needs_compiler
def test_blocks_of_short_kernels_have_more_replays(file: Path) -> None:
    (layer, *_) = tune.read_candidates(file).layers
    device = FakeDevice(clock_of(tune.read_candidates(file), {"direct": 2e-5, "winograd_f4": 1e-9}))
    tune.measure(layer, device, rounds=1, replays=20)
    places = {name: place for place, name in enumerate(layer.programs)}
    first, counted = device.blocks[: len(places)], device.blocks[len(places) :]
    assert set(first) == {20} and counted[places["direct"]] == 100
    assert counted[places["winograd_f4"]] == 1000 and counted[places["winograd_f2"]] == 20


@needs_compiler
def test_a_candidate_that_fails_has_no_time_and_is_not_chosen(file: Path, tmp_path: Path) -> None:
    candidates = tune.read_candidates(file)
    broken = parse_program(candidates.layers[0].programs["winograd_f4"]).kernels[0].name
    device = FakeDevice(
        clock_of(candidates, {"winograd_f4": 1e-5, "winograd_f2": 2e-5}), fails=broken
    )
    said: list[str] = []
    table = tune.run(file, tmp_path / "t.json", lambda: device, say=said.append)
    assert table["layers"][0]["seconds"]["winograd_f4"] is None and not device.live
    assert any("winograd_f4: the CUDA driver reports" in line for line in said)
    tuner = read_times(tmp_path / "t.json", "f32", ARCHITECTURES)
    assert strategies_chosen(CudaOptions(accuracy="fast", tuner=tuner))[0] == "winograd_f2"


@needs_compiler
def test_a_run_goes_on_where_the_table_stops(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer whose process died has no times, is not begun again, and leaves the choice to the
    prediction; what there was no time for comes later."""
    candidates, path = tune.read_candidates(file), tmp_path / "t.json"
    device = FakeDevice(clock_of(candidates, {"winograd_f4": 1e-5}))

    def died(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tune, "measure", died)
        tune.run(file, path, lambda: device)
    said: list[str] = []
    tune.run(file, path, lambda: device, say=said.append, seconds=-1)
    assert said[-1] == "no time for 1 layers"
    table = tune.run(file, path, lambda: device)
    assert [set(row["seconds"].values()) for row in table["layers"]] == [{None}, {1e-5, 1.0}]
    assert json.loads(path.read_text()) == table
    tuner = read_times(path, "f32", ARCHITECTURES)
    assert strategies_chosen(CudaOptions(accuracy="fast", tuner=tuner))[2] == "winograd_f4"
    device.name = "Another"  # of which the table does not tell
    monkeypatch.setattr(device, "facts", lambda: {"name": "Another", "capability": "9.0"})
    assert None not in tune.run(file, path, lambda: device)["layers"][0]["seconds"].values()


@needs_compiler
def test_a_device_that_does_not_answer_ends_the_run(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its table has no times that such a device gave."""
    candidates = tune.read_candidates(file)
    broken = parse_program(candidates.layers[0].programs["winograd_f4"]).kernels[0].name
    device = FakeDevice(clock_of(candidates, {}), fails=broken)

    def lost() -> None:
        raise DeviceError("the CUDA driver reports CUDA_ERROR_ILLEGAL_ADDRESS.")

    monkeypatch.setattr(device, "synchronize", lost)
    monkeypatch.setattr(device, "upload", lambda address, array: None)
    assert tune.main([str(file), "-o", str(tmp_path / "t.json")], lambda: device) == 4
    (row,) = json.loads((tmp_path / "t.json").read_text())["layers"]
    assert set(row["seconds"].values()) == {None}


@needs_compiler
def test_candidates_are_the_same_bytes_again_and_are_refused_when_damaged(
    file: Path, tmp_path: Path
) -> None:
    write_candidates(
        network(), CudaOptions(accuracy="fast"), tmp_path / "again", architectures=("sm_80",)
    )
    data = file.read_bytes()
    assert (tmp_path / "again").read_bytes() == data
    for wrong in (b"", b"nothing", data[: len(data) // 2], data[:200] + bytes(100) + data[300:]):
        (tmp_path / "wrong").write_bytes(wrong)
        with pytest.raises(ProgramError, match="is no file of candidates, or it is damaged"):
            tune.read_candidates(tmp_path / "wrong")
    with zipfile.ZipFile(tmp_path / "wrong", "w") as archive:
        archive.writestr("candidates.json", json.dumps({"format": "2"}))
    with pytest.raises(ProgramError, match="is no file of candidates"):
        tune.read_candidates(tmp_path / "wrong")


def test_candidates_of_another_format_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old", "w") as archive:
        archive.writestr("candidates.json", json.dumps({"format": 1}))
    with pytest.raises(ProgramError, match="holds candidates of format 1; this version reads 2"):
        tune.read_candidates(tmp_path / "old")


def test_what_is_missing_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> FakeDevice:
        raise DeviceError("this machine has no CUDA device.")

    assert tune.main([str(tmp_path / "none"), "-o", str(tmp_path / "t")], none) == 2
    assert "cannot be read" in capsys.readouterr().err
    with zipfile.ZipFile(tmp_path / "empty", "w") as archive:
        archive.writestr(
            "candidates.json",
            json.dumps({"format": 2, "version": "", "precision": "f32", "layers": []}),
        )
    assert tune.main([str(tmp_path / "empty"), "-o", str(tmp_path / "t")], none) == 4
    assert "no CUDA device" in capsys.readouterr().err


@needs_compiler
def test_a_model_without_a_choice_has_no_candidates(tmp_path: Path) -> None:
    b = Builder("one")
    x = b.input(TensorType(FLOAT32, (1, 4)), "x")
    with pytest.raises(UsageError, match="no layer of this model has more than one candidate"):
        write_candidates(b.build([b("relu", x)], ["y"]), CudaOptions(), tmp_path / "none")


@needs_compiler
def test_a_file_that_would_be_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates_module, "MOST_BYTES", 1000)
    with pytest.raises(UsageError, match="the candidates take 0 MiB, more than 0"):
        write_candidates(
            network(), CudaOptions(accuracy="fast"), tmp_path / "large", architectures=("sm_80",)
        )
    assert not list(tmp_path.iterdir())
