"""Whole networks and training steps for benchmarks/gpu.py: built without a device, run without the
compiler.

``build_network`` compiles one for the cuda target, runs it on the CPU for what it must give, and
keeps of it what a small file can hold: inference programs have weights of a short period, from
which all that is folded and transformed has one too, so that LZMA takes them to a hundredth;
initial states of training are made where they are used, from their number alone. ``run_network``
needs NumPy, cuda-bindings and, for peers, PyTorch.
"""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from netloom.benchmarks import gpu_torch
from netloom.benchmarks.gpu_torch import (
    Clock,
    Pace,
    Times,
    in_rounds,
    placed,
    seconds_in_torch,
    torch_on_device,
)
from netloom.benchmarks.gpu_weights import RATE, Periodic, feeds_of, made, scaled
from netloom.benchmarks.model_description import as_json, described, from_json
from netloom.errors import ComparisonError
from netloom.runtime.cuda.device import Device
from netloom.runtime.cuda.program import parse_program
from netloom.runtime.cuda.session import CudaSession

if TYPE_CHECKING:
    from netloom.compiler.graph import Graph
    from netloom.compiler.targets.cuda.driver import CudaProgram

Array = npt.NDArray[Any]
STEPS = 3  # of training, whose losses must be the CPU's
TOLERANCE = 1e-4  # of the range of the CPU's results


@dataclass(frozen=True)
class NetworkCase:
    """A network (``light:NAME``, or ``zoo:NAME`` or ``own:transformer`` with ``options``) and a batch;
    of a training step, ``made`` has the states that are made where they are used, and ``strategy``
    is the one that must be taken. Its batch has its samples ``repeats`` times, so that its losses are
    those of a smaller batch, for which a CPU needs less memory."""

    name: str
    network: str
    batch: int
    is_training: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    made: tuple[str, ...] = ()
    precision: str = "f32"
    strategy: str = "auto"
    repeats: int = 1

    @property
    def file(self) -> str:
        return self.name.replace(" ", "_").replace(":", "_") + ".nlc.xz"


@dataclass(frozen=True)
class NetworkRow:
    """``error``: the largest distance from the CPU's results, as part of their range;
    ``host_microseconds``: of the host, to hand a run to the device; ``peers``: microseconds;
    ``note``: which peers failed."""

    case: str
    error: float
    microseconds: float
    host_microseconds: float
    peers: dict[str, float]
    ratios: dict[str, float]
    note: str = ""


LIGHT = ("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet",
         "squeezenet", "vgg19", "zfnet512")  # fmt: skip


def network_cases(size: str) -> list[NetworkCase]:
    """The networks of a size: ``toy`` for the emulator, ``full`` for a GPU."""
    if size == "toy":
        return [
            NetworkCase("zoo:lenet5 n1", "zoo:lenet5", 1),
            NetworkCase(
                "zoo:mlp step n4",
                "zoo:mlp",
                4,
                True,
                {"features": 20, "hidden": (9,)},
                repeats=2,
            ),
            NetworkCase(
                "transformer step n2 3xtf32",
                "own:transformer",
                2,
                True,
                {"length": 20, "width": 16, "heads": 2, "blocks": 1},
                precision="3xtf32",
                strategy="attention_gradient_fused",
            ),
        ]
    found = [NetworkCase(f"light:{name} n1", f"light:{name}", 1) for name in LIGHT]
    found += [
        NetworkCase(f"zoo:{name} n{n}", f"zoo:{name}", n)
        for name in ("resnet50", "vgg16")
        for n in (1, 32)
    ]
    found += [
        NetworkCase("zoo:lenet5 step n64", "zoo:lenet5", 64, True),
        NetworkCase("zoo:resnet50 step n64", "zoo:resnet50", 64, True, repeats=4),
    ]
    return found + [
        NetworkCase(f"transformer step n4{end}", "own:transformer", 4, True, precision=precision)
        for precision, end in (("f32", ""), ("3xtf32", " 3xtf32"))
    ]


# a case with all that is known of it, its program, what it must give, and its description for peers
Built: TypeAlias = "tuple[NetworkCase, CudaProgram, dict[str, Array], dict[str, Any] | None]"

# -- build: no device ------------------------------------------------------------------------------


def build_network(
    folder: Path, case: NetworkCase, architectures: Sequence[str]
) -> tuple[CudaProgram, NetworkCase]:
    """Writes a program, what it must give and, for peers, its description; the program, and the case
    with all that is known of it."""
    build = _build_step if case.is_training else _build_inference
    case, program, wanted, description = build(case, architectures)
    (folder / case.file).write_bytes(lzma.compress(program.as_bytes(), preset=1))
    np.savez_compressed(folder / f"{case.file}.npz", **wanted)  # type: ignore[arg-type]
    if description is not None:
        (folder / f"{case.file}.json").write_text(json.dumps(description), encoding="utf-8")
    return program, case


def network_case_from(record: Mapping[str, Any]) -> NetworkCase:
    """A case from its fields as JSON has them."""
    return NetworkCase(**{**record, "made": tuple(record["made"])})


def _build_inference(case: NetworkCase, architectures: Sequence[str]) -> Built:
    from netloom.compiler.driver import compile_graph
    from netloom.compiler.targets.cuda.driver import CudaOptions, compile_for_cuda
    from netloom.runtime.session import Session

    graph, description = _network(case)
    options = CudaOptions(case.precision, override=case.strategy)
    compiled = compile_for_cuda(graph, options, architectures=architectures)
    session = Session.in_process(compile_graph(graph).image)
    outputs = session.run(None, feeds_of(session.inputs))
    if not all(np.ptp(output) > 0 for output in outputs):
        raise ComparisonError(f"{case.name}: with these weights its results say nothing.")
    wanted = {str(place): output for place, output in enumerate(outputs)}
    return case, compiled, wanted, description


def _network(case: NetworkCase) -> tuple[Graph, dict[str, Any] | None]:
    """The graph for inference with periodic weights, and what PyTorch needs to run it too (None: it
    has the network itself)."""
    import netloom as nl

    kind, _, name = case.network.partition(":")
    if kind == "light":
        import onnx

        from netloom.benchmarks.models import light_models, with_random_weights
        from netloom.frontends.onnx.importer import from_onnx

        model = with_random_weights(onnx.load(light_models()[name]), 0, Periodic())
        return from_onnx(model), as_json(described(model))
    graph = _traced(case)
    values = {
        state.name: scaled(Periodic(), state.input.type.static_shape)
        for state in graph.states
        if len(state.input.shape) > 1
    }
    return nl.with_states(graph.inference_form(), values), None


def _traced(case: NetworkCase) -> Any:
    """The network's own graph."""
    import netloom as nl
    from netloom.benchmarks.transformer import transformer

    kind, _, name = case.network.partition(":")
    made = transformer if kind == "own" else getattr(nl.zoo, name)
    return made(batch=case.batch, **case.options)


def step_of(case: NetworkCase) -> tuple[Any, Graph]:
    """The network's own graph and that of a training step."""
    import netloom as nl

    graph = _traced(case)
    optimizer = nl.optimizers.SGD(momentum=0.9)
    return graph, nl.training_graph(graph, nl.losses.cross_entropy, optimizer)


def _build_step(case: NetworkCase, architectures: Sequence[str]) -> Built:
    from netloom.compiler.constant import Constant
    from netloom.compiler.driver import compile_entries
    from netloom.compiler.targets.cuda.driver import CudaOptions, compile_training_for_cuda
    from netloom.runtime.session import Session

    graph, step = step_of(case)
    run = graph.inference_form()
    options = CudaOptions(case.precision, override=case.strategy)
    compiled = compile_training_for_cuda(step, run, options, architectures=architectures)
    names = [s.name for s in graph.states if len(s.input.shape) > 1]
    case = replace(case, made=tuple(names))
    initial = {state.initial for state in compiled.program.states if state.name in names}
    emptied = tuple(
        Constant.splat(0, constant.type) if number in initial else constant
        for number, constant in enumerate(compiled.program.constants)
    )
    small, small_step = step_of(replace(case, batch=case.batch // case.repeats))
    session = Session.in_process(compile_entries(small_step, small.inference_form()).image)
    state = session.create_state()
    feeds = feeds_of(session.entry("train_step").inputs)
    losses = _losses(case, session, state, feeds)
    program = replace(compiled.program, constants=emptied)
    return case, replace(compiled, program=program), {"losses": losses}, None


def _losses(case: NetworkCase, session: Any, state: Any, feeds: Mapping[str, Array]) -> Array:
    """Of the first steps, on one batch."""
    for number, name in enumerate(case.made):
        state[name] = made(number, state[name].shape)
    return np.array([float(session.train_step(state, **feeds)[0]) for _ in range(STEPS)])


# -- run: a device, NumPy, cuda-bindings and, for peers, PyTorch -----------------------------------


class _Subject:
    """A loaded program with its inputs and, of a training step, its state."""

    def __init__(self, case: NetworkCase, session: CudaSession) -> None:
        self.case, self.session = case, session
        self.entry = "train_step" if case.is_training else "run"
        ports = [port.info for port in session.entry(self.entry).inputs]
        self.feeds = feeds_of(ports, case.repeats)
        self.state = session.create_state() if case.is_training else None

    def results(self) -> dict[str, Array]:
        """Its outputs; of training, the first losses, from the initial state on."""
        if self.state is not None:
            return {"losses": _losses(self.case, self.session, self.state, self.feeds)}
        outputs = self.session.run(None, self.feeds)
        return {str(place): output for place, output in enumerate(outputs)}

    def check(self, wanted: Mapping[str, Array]) -> float:
        """The largest distance from the CPU's results, as part of their range; ComparisonError if
        it is too large, or if a second run gives other bits."""
        found = self.results()
        error = max(_distance(y, wanted[name]) for name, y in found.items())
        if not error <= TOLERANCE:
            raise ComparisonError(
                f"it differs from the CPU by {error:.1e} of the range, more than {TOLERANCE:.0e}."
            )
        if self.state is not None:
            self.state = self.session.create_state()
        again = self.results()
        if not all(np.array_equal(y, again[name]) for name, y in found.items()):
            raise ComparisonError("a second run gives other results.")
        return error

    def seconds(self, replays: int) -> float:
        return self.session.seconds(self.feeds, replays, self.entry, self.state)

    def host_seconds(self, replays: int) -> float:
        return self.session.host_seconds(self.feeds, replays, self.entry, self.state)


def _distance(found: Array, wanted: Array) -> float:
    """Infinite where something is no number."""
    distance = float(np.abs(found.astype(np.float64) - wanted).max())
    return distance / max(float(np.abs(wanted).max()), 1e-30) if np.isfinite(distance) else math.inf


def run_network(
    case: NetworkCase, folder: Path, device: Device, pace: Pace, is_compiling: bool,
    keep: Callable[[NetworkRow], None] = lambda _: None,
) -> NetworkRow:  # fmt: skip
    """ComparisonError if the results are not the CPU's; else the times, all contenders in every
    round. ``is_compiling``: torch.compile takes part; ``keep`` has what is known before PyTorch
    begins."""
    data = lzma.decompress((folder / case.file).read_bytes())
    session = CudaSession(parse_program(data, case.name), lambda: device)
    try:
        subject = _Subject(case, session)
        with np.load(folder / f"{case.file}.npz", allow_pickle=False) as wanted:
            error = subject.check(dict(wanted))
        host = subject.host_seconds(pace.replays)

        def row(times: Times) -> NetworkRow:
            peers = times.peers.items()
            return NetworkRow(
                case.name, error, times.own * 1e6, host * 1e6,
                {name: seconds * 1e6 for name, seconds in peers},
                {name: seconds / times.own for name, seconds in peers}, times.note,
            )  # fmt: skip

        peers = peers_of(case, folder, subject.feeds, is_compiling)
        return row(in_rounds(subject.seconds, peers, pace, lambda times: keep(row(times))))
    finally:
        session.close()


def peers_of(
    case: NetworkCase, folder: Path, feeds: Mapping[str, Array], is_compiling: bool
) -> dict[str, Callable[[], Clock]]:
    """What gets PyTorch ready in strict float32, eager and, if asked for, compiled; nothing without
    PyTorch and a device for it."""
    torch = torch_on_device()
    if torch is None:
        return {}
    forms: dict[str, Callable[[Any], Any]] = {"torch": lambda module: module}
    if is_compiling:
        forms["torch.compile"] = torch.compile

    def ready(form: Callable[[Any], Any]) -> Clock:
        call = torch_call(torch, case, folder, feeds, form)
        return partial(seconds_in_torch, torch, call, allows_tf32=False)

    return {name: partial(ready, form) for name, form in forms.items()}


def torch_call(
    torch: Any, case: NetworkCase, folder: Path, feeds: Mapping[str, Array],
    compiled: Callable[[Any], Any],
) -> Callable[[], Any]:  # fmt: skip
    """One inference, or one training step with its optimizer, over tensors on the device."""
    from netloom.benchmarks.torch_networks import NETWORKS

    tensors = {name: placed(torch, array) for name, array in feeds.items()}
    kind, _, name = case.network.partition(":")
    if kind == "light":
        from netloom.benchmarks.torch_model import TorchModel

        text = (folder / f"{case.file}.json").read_text(encoding="utf-8")
        model = compiled(TorchModel(from_json(json.loads(text)), gpu_torch.DEVICE))
        return _without_gradients(torch, lambda: model(tensors))
    module = NETWORKS[name](**case.options).to(gpu_torch.DEVICE)
    (x,) = (tensors[name] for name in tensors if name not in ("labels", "rate"))
    if not case.is_training:
        module = compiled(module.eval())
        return _without_gradients(torch, lambda: module(x))
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=0.9)
    loss_of, forward = torch.nn.CrossEntropyLoss(), compiled(module)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(forward(x), tensors["labels"]).backward()
        optimizer.step()

    return step


def _without_gradients(torch: Any, call: Callable[[], Any]) -> Callable[[], Any]:
    def inference() -> Any:
        with torch.inference_mode():
            return call()

    return inference
