"""PyTorch beside the cuda target: contenders in rounds, and, where PyTorch is installed, that its
calls compute the cases, on its own CPU device.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from netloom.benchmarks import gpu_kernels, gpu_networks, gpu_torch
from netloom.benchmarks.gpu_cases import Case, cases, inputs_of
from netloom.benchmarks.gpu_networks import NetworkCase, torch_call
from netloom.benchmarks.gpu_torch import Clock, Pace, in_rounds
from netloom.benchmarks.model_description import as_json, described
from netloom.benchmarks.transformer import transformer
from netloom.compiler.interpret import interpret
from netloom.errors import ComparisonError

TOY = cases("toy")


class Event:
    """A time of the host's clock."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, other: Event) -> float:
        return (other.at - self.at) * 1e3


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """PyTorch as if its CPU were a GPU."""
    found = pytest.importorskip("torch")
    monkeypatch.setattr(gpu_torch, "DEVICE", "cpu")
    monkeypatch.setattr(found.cuda, "Event", Event)
    monkeypatch.setattr(found.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(found.cuda, "is_available", lambda: True)
    return found


# -- rounds ----------------------------------------------------------------------------------------


def at_once(rounds: int) -> Pace:
    return Pace(rounds, 1, block=0.0)


def test_blocks_last_long_enough() -> None:
    """For all contenders; the device has run for a while before."""
    blocks: list[int] = []

    def own(calls: int) -> float:
        blocks.append(calls)
        time.sleep(0.001)
        return 1e-5

    def peer(calls: int) -> float:
        blocks.append(calls)
        return 1.0

    pace = Pace(rounds=2, replays=20, block=2e-3, warm=0.01)
    in_rounds(own, {"torch": lambda: peer}, pace)
    assert set(blocks[:-4]) == {20} and blocks[-4:] == [200] * 4
    assert pace.calls(lambda n: 1.0) == 20 and pace.calls(lambda n: 1e-9) == 1000


def test_medians_over_rounds() -> None:
    own, peer = iter([3.0, 1.0, 2.0]), iter([4.0, 9.0, 5.0])
    times = in_rounds(lambda n: next(own), {"torch": lambda: lambda n: next(peer)}, at_once(3))
    assert (times.own, times.peers, times.note) == (2.0, {"torch": 5.0}, "")


def test_a_peer_that_fails_is_named_and_the_others_go_on() -> None:
    def broken() -> Clock:
        raise RuntimeError("no kernel\nwith a long tale")

    later = iter([1.0])
    peers: dict[str, Callable[[], Clock]] = {
        "a": broken, "b": lambda: lambda n: next(later), "c": lambda: lambda n: 7.0,
    }  # fmt: skip
    times = in_rounds(lambda n: 2.0, peers, at_once(2))
    assert times.own == 2.0 and times.peers == {"c": 7.0}
    assert times.note == "a failed: RuntimeError: no kernel; b failed: StopIteration: "


def test_our_own_time_is_known_before_a_peer_begins() -> None:
    """Which may end the process; what it finds wrong with our results is no note."""
    kept: list[gpu_torch.Times] = []

    def ending() -> Clock:
        assert [times.own for times in kept] == [3.0] and kept[0].note
        raise KeyboardInterrupt

    def differing() -> Clock:
        raise ComparisonError("other results.")

    with pytest.raises(KeyboardInterrupt):
        in_rounds(lambda n: 3.0, {"torch": ending}, at_once(1), kept.append)
    with pytest.raises(ComparisonError):
        in_rounds(lambda n: 3.0, {"torch": differing}, at_once(1))


def test_our_own_failure_is_one() -> None:
    def broken(calls: int) -> float:
        raise RuntimeError("own")

    with pytest.raises(RuntimeError, match="own"):
        in_rounds(broken, {}, at_once(1))


# -- calls -----------------------------------------------------------------------------------------


def exactly(torch: Any, case: Case) -> npt.NDArray[np.float32]:
    tensors = [torch.from_numpy(array).double() for array in inputs_of(case).values()]
    function = gpu_kernels.torch_function(torch, case)
    found: npt.NDArray[np.float32] = function(*tensors).float().numpy()
    return found


@pytest.mark.parametrize("case", TOY, ids=lambda case: case.name)
def test_a_single_tile_that_is_wrong_is_found(torch: Any, case: Case) -> None:
    """Random samples of a large result would miss it."""
    y, inputs = exactly(torch, case), inputs_of(case)
    assert y.shape == case.output
    gpu_kernels.check_all(torch, case, inputs, y)
    y.reshape(-1)[-max(1, y.size // 50) :] = 9.0
    with pytest.raises(ComparisonError, match="all results together"):
        gpu_kernels.check_all(torch, case, inputs, y)
    y.reshape(-1)[-1] = np.nan
    with pytest.raises(ComparisonError, match="by nan"):
        gpu_kernels.check_all(torch, case, inputs, y)


@pytest.mark.parametrize("case", TOY[:8], ids=lambda case: case.name)
def test_kernels_are_timed_in_their_precision(torch: Any, case: Case) -> None:
    assert gpu_kernels.contender(torch, case)(2) > 0
    assert torch.backends.cudnn.allow_tf32 == (case.precision == "tf32")


def feeds(*shape: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal(shape, np.float32),
            "labels": rng.integers(0, 10, shape[0]), "rate": np.array(1e-3, np.float32)}  # fmt: skip


def test_a_training_step_learns(torch: Any, tmp_path: Path) -> None:
    """And not from what it was given to time: its own weights."""
    torch.manual_seed(0)
    modules: list[Any] = []

    def keep(module: Any) -> Any:
        modules.append(module)
        return module

    step = torch_call(torch, NetworkCase("step", "zoo:lenet5", 4, True), tmp_path,
                      feeds(4, 1, 28, 28), keep)  # fmt: skip
    (module,) = modules
    before = [parameter.detach().clone() for parameter in module.parameters()]
    step()
    after = list(module.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_inference_of_the_zoo_and_of_a_model(torch: Any, model: Path, tmp_path: Path) -> None:
    case = NetworkCase("lenet", "zoo:lenet5", 2)
    y = torch_call(torch, case, tmp_path, {"x": feeds(2, 1, 28, 28)["x"]}, lambda m: m)()
    assert tuple(y.shape) == (2, 10) and y.is_inference()
    light = NetworkCase("small n1", "light:small", 1)
    text = json.dumps(as_json(described(onnx.load(model))))
    (tmp_path / f"{light.file}.json").write_text(text)
    outputs = torch_call(torch, light, tmp_path, {"x": feeds(1, 1, 8, 8)["x"]}, lambda m: m)()
    (y,) = outputs.values()
    assert tuple(y.shape) == (1, 3) and y.is_inference()


@pytest.mark.parametrize(("network", "options", "shape"), [
    ("zoo:mlp", {"features": 20, "hidden": [9]}, (2, 20)),
    ("own:transformer", {"length": 6, "width": 16, "heads": 2, "blocks": 1}, (2, 6, 16)),
])  # fmt: skip
def test_a_network_has_its_case_s_options(
    torch: Any, tmp_path: Path, network: str, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    case = NetworkCase("own", network, 2, options=options)
    graph = gpu_networks._traced(case)
    modules: list[Any] = []
    y = torch_call(torch, case, tmp_path, {"x": feeds(*shape)["x"]},
                   lambda module: modules.append(module) or module)()  # fmt: skip
    assert tuple(y.shape) == (2, 10)
    weights = sum(int(np.prod(s.input.type.static_shape)) for s in graph.states)
    assert sum(p.numel() for p in modules[0].parameters()) == weights


def test_the_transformer_is_the_same(torch: Any) -> None:
    """PyTorch's with the weights of ours, against the interpreter."""
    from netloom.benchmarks.torch_networks import Transformer

    graph = transformer(2, 5, 8, 2, 1).inference_form()
    module = Transformer(8, 2, 1)
    block = module.blocks[0]
    first, second = block.norms
    ours = iter(graph.states)
    parts = (first, block.q, block.k, block.v, block.joined, second, block.body[0], block.body[2],
             module.norm, module.head)  # fmt: skip
    rng = np.random.default_rng(0)
    x, states = rng.standard_normal((2, 5, 8), np.float32), {}
    for part in parts:
        for place in (part.weight, part.bias):
            state = next(ours)
            value = rng.standard_normal(state.input.type.static_shape, np.float32)
            states[state.name] = value
            with torch.no_grad():
                place.copy_(torch.from_numpy(value.T.copy()))
    assert next(ours, None) is None
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    found = interpret(graph, {"x": x}, states)[0]
    assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)


def test_compiled_peers_take_part_if_they_are_asked_for(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module: module)
    case, given = NetworkCase("lenet", "zoo:lenet5", 2), {"x": feeds(2, 1, 28, 28)["x"]}
    for is_compiling, names in ((False, ["torch"]), (True, ["torch", "torch.compile"])):
        peers = gpu_networks.peers_of(case, tmp_path, given, is_compiling)
        times = in_rounds(lambda n: 1.0, peers, at_once(1))
        assert list(times.peers) == names and not times.note
