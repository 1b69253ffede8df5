"""The cuda target on a GPU, in two commands: ``python -m netloom.benchmarks.gpu build FOLDER``,
then ``… run FOLDER``.

``build`` needs numba-cuda and no GPU: it writes one program file a case, and cases.json. ``run``
needs a GPU, NumPy and cuda-bindings alone: it prints the device and its limits, checks every
program against float64, then times it by replaying its graph between two events, in rounds with
PyTorch (cuBLAS, cuDNN with benchmark mode) if that is there, in the same precision. Times are
medians over the rounds of the mean of a block; results also go to FOLDER/results.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from netloom.benchmarks import exact
from netloom.errors import ComparisonError, NetloomError
from netloom.runtime.cuda.device import CudaDevice, Device
from netloom.runtime.cuda.session import CudaSession, load

if TYPE_CHECKING:
    from netloom.compiler.graph import Graph
    from netloom.compiler.targets.cuda.driver import CudaProgram

Array = npt.NDArray[Any]
PRECISIONS = ("f32", "3xtf32", "tf32", "bf16")
# relative L2 of sampled results
TOLERANCE = {"f32": 1e-5, "3xtf32": 1e-5, "tf32": 2e-3, "bf16": 2e-2}
STRATEGIES = ("direct", "winograd_f2", "winograd_f2_fused", "winograd_f4")  # of 3 x 3 convolutions
SAMPLES = 64  # results of a case that are compared with float64
ROUNDS, REPLAYS = 5, 20
# float32 multiply-adds of a multiprocessor, from compute capability 8.6 on and on 9.0 (64 on 8.0)
FFMA_PER_CYCLE = 128


@dataclass(frozen=True)
class Case:
    """One program. ``kind``: elementwise, matmul or conv; ``strategy``: of the convolution;
    ``pad``: its zeros on each side.
    """

    name: str
    kind: str
    x: tuple[int, ...]
    w: tuple[int, ...] = ()
    stride: int = 1
    pad: int = 0
    precision: str = "f32"
    strategy: str = "direct"

    @property
    def output(self) -> tuple[int, ...]:
        match self.kind:
            case "matmul":
                return (self.x[0], self.w[1])
            case "conv":
                extents = ((e + 2 * self.pad - self.w[2]) // self.stride + 1 for e in self.x[2:])
                return (self.x[0], self.w[0], *extents)
        return self.x

    @property
    def flops(self) -> float:
        """Of the op as written, whatever the strategy."""
        terms = {"matmul": self.x[-1], "conv": int(np.prod(self.w[1:]))}.get(self.kind, 0)
        return 2.0 * terms * float(np.prod(self.output))

    @property
    def bytes(self) -> float:
        """That must move at least once."""
        return 4.0 * float(sum(np.prod(shape) for shape in (self.x, self.w, self.output) if shape))


# -- cases -----------------------------------------------------------------------------------------

_VGG = ((3, 64, 224), (64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56), (256, 256, 56), (256, 512, 28),
        (512, 512, 28), (512, 512, 14))  # fmt: skip
_RESNET = (
    (3, 64, 224, 7, 2),
    (64, 64, 56, 1, 1),
    (64, 64, 56, 3, 1),
    (64, 256, 56, 1, 1),
    (256, 128, 56, 1, 2),
    (128, 128, 28, 3, 1),
    (512, 256, 28, 1, 2),
    (256, 256, 14, 3, 1),
    (1024, 512, 14, 1, 2),
    (512, 512, 7, 3, 1),
    (512, 2048, 7, 1, 1),
)


def cases(size: str) -> list[Case]:
    """The cases of a size: ``toy`` for the emulator, ``full`` for a GPU."""
    if size == "toy":
        toys = [Case("relu 1000", "elementwise", (1000,))]
        toys += [
            Case(f"matmul 64 {p}", "matmul", (64, 64), (64, 64), precision=p) for p in PRECISIONS
        ]
        return toys + [Case(f"conv {s}", "conv", (1, 16, 6, 6), (16, 16, 3, 3), pad=1, strategy=s)
                       for s in STRATEGIES]  # fmt: skip
    found = [Case(f"relu {n >> 20}M", "elementwise", (n,)) for n in (1 << 24, 1 << 28)]
    found += [
        Case(f"matmul {n} {p}", "matmul", (n, n), (n, n), precision=p)
        for n in (1024, 2048, 4096, 8192)
        for p in PRECISIONS
    ]
    for n in (1, 16, 64):
        for c, o, extent in _VGG:
            shapes = (n, c, extent, extent), (o, c, 3, 3)
            found += [Case(f"vgg {c}-{o} {extent} n{n} {s}", "conv", *shapes, pad=1, strategy=s)
                      for s in STRATEGIES]  # fmt: skip
            found.append(
                Case(
                    f"vgg {c}-{o} {extent} n{n} 3xtf32", "conv", *shapes, pad=1, precision="3xtf32"
                )
            )
    found += [
        Case(
            f"resnet {c}-{o} {e} {k}x{k} n{n} {p}",
            "conv",
            (n, c, e, e),
            (o, c, k, k),
            stride,
            k // 2,
            p,
        )
        for n in (1, 32)
        for c, o, e, k, stride in _RESNET
        for p in ("f32", "3xtf32")
    ]
    return found


# -- build: no device ------------------------------------------------------------------------------


def graph_of(case: Case) -> Graph:
    """The case as a graph; weights are inputs, so that program files stay small."""
    from netloom.compiler.graph import Builder
    from netloom.compiler.tensor_type import FLOAT32, TensorType

    b = Builder(case.kind)
    x = b.input(TensorType(FLOAT32, case.x), "x")
    if case.kind == "elementwise":
        return b.build([b("relu", x)], ["y"])
    w = b.input(TensorType(FLOAT32, case.w), "w")
    if case.kind == "matmul":
        return b.build([b("matmul", x, w)], ["y"])
    pads = (case.pad, case.pad)
    return b.build(
        [b("conv", x, w, stride=(case.stride,) * 2, dilation=(1, 1), lo=pads, hi=pads, groups=1)],
        ["y"],
    )


def build(
    folder: Path, wanted: Sequence[Case], architectures: Sequence[str]
) -> dict[str, CudaProgram]:
    """Writes the programs and cases.json; the programs by their cases' names."""
    from netloom.compiler.targets.cuda.driver import CudaOptions, compile_for_cuda

    folder.mkdir(parents=True, exist_ok=True)
    programs = {}
    for case in wanted:
        options = CudaOptions(case.precision, accuracy="fast", override=case.strategy)
        programs[case.name] = compile_for_cuda(graph_of(case), options, architectures=architectures)
        programs[case.name].save(folder / _file(case))
    (folder / "cases.json").write_text(
        json.dumps([asdict(case) for case in wanted], indent=1), encoding="utf-8"
    )
    return programs


def _file(case: Case) -> str:
    return case.name.replace(" ", "_") + ".nlc"


def read_cases(folder: Path) -> list[Case]:
    """What ``build`` wrote."""
    rows: list[dict[str, Any]] = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    return [Case(**{**row, "x": tuple(row["x"]), "w": tuple(row["w"])}) for row in rows]


# -- run: a device, NumPy and cuda-bindings --------------------------------------------------------


def inputs_of(case: Case) -> dict[str, Array]:
    """Random numbers, the weights scaled as He et al. do."""
    rng = np.random.default_rng(0)
    found = {"x": rng.standard_normal(case.x, np.float32)}
    if case.w:
        terms = case.x[-1] if case.kind == "matmul" else int(np.prod(case.w[1:]))
        found["w"] = rng.standard_normal(case.w, np.float32) * np.float32((2 / terms) ** 0.5)
    return found


def error_of(case: Case, inputs: Mapping[str, Array], y: Array) -> float:
    """Relative L2 distance of some results from float64."""
    return exact.sampled_error(y, lambda place: _exactly(case, inputs, place), SAMPLES)


def _exactly(case: Case, inputs: Mapping[str, Array], place: Sequence[int]) -> float:
    """One result in float64."""
    x = inputs["x"]
    match case.kind:
        case "matmul":
            return exact.product(x, inputs["w"], place)
        case "conv":
            return exact.convolution(x, inputs["w"], case.stride, case.pad, place)
    return max(float(x[place[0]]), 0.0)


def limits(device: Device) -> dict[str, Any]:
    """What the device is; float32's peak follows from its clock and multiprocessors."""
    facts = dict(device.facts())
    if {"multiprocessors", "clock_hz"} <= set(facts):
        facts["f32_peak_tflops"] = (
            2e-12 * FFMA_PER_CYCLE * facts["multiprocessors"] * facts["clock_hz"]
        )
    return facts


@dataclass(frozen=True)
class Row:
    """A case's result. ``ratio``: how many times faster than PyTorch, where that was there."""

    case: str
    error: float
    microseconds: float
    tflops: float
    gigabytes_per_second: float
    torch_microseconds: float | None
    ratio: float | None


def measure(
    case: Case, session: CudaSession, torch: Callable[[], float] | None, rounds: int, replays: int
) -> Row:
    """ComparisonError if the results are wrong; else the times, both contenders in every round."""
    inputs = inputs_of(case)
    error = error_of(case, inputs, session(**inputs))
    if not error <= TOLERANCE[case.precision]:
        raise ComparisonError(
            f"{case.name}: the relative error {error:.1e} is above {TOLERANCE[case.precision]:.0e}."
        )
    own, others = [], []
    for _ in range(rounds):
        own.append(session.seconds(inputs, replays))
        others += [torch()] if torch else []
    seconds, peer = float(np.median(own)), float(np.median(others)) if others else None
    return Row(case.name, error, seconds * 1e6, case.flops / seconds * 1e-12, case.bytes / seconds * 1e-9,
               peer * 1e6 if peer else None, peer / seconds if peer else None)  # fmt: skip


def torch_contender(case: Case, replays: int) -> Callable[[], float] | None:
    """Seconds of one call in PyTorch at the case's precision (3xtf32 stands against strict
    float32); None without it.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = (
        case.precision == "tf32"
    )
    tensors = [torch.from_numpy(array).cuda() for array in inputs_of(case).values()]
    if case.precision == "bf16":
        tensors = [tensor.bfloat16() for tensor in tensors]
    functions: dict[str, Callable[..., Any]] = {
        "elementwise": torch.relu, "matmul": torch.matmul,
        "conv": lambda x, w: torch.nn.functional.conv2d(x, w, stride=case.stride, padding=case.pad),
    }  # fmt: skip
    function = functions[case.kind]

    def seconds() -> float:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = (
            case.precision == "tf32"
        )
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        function(*tensors)
        start.record()
        for _ in range(replays):
            function(*tensors)
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) * 1e-3 / replays

    return seconds


def run(
    folder: Path,
    open_device: Callable[[], Device],
    rounds: int,
    replays: int,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """All cases in the folder; DeviceError without a device. Failed cases are listed, and the
    others go on.
    """
    device = open_device()
    facts = {**limits(device), "numpy": np.__version__, "python": sys.version.split()[0]}
    say("\n".join(f"{key}: {value}" for key, value in facts.items()))
    rows, failures = [], []
    for case in read_cases(folder):
        try:
            session = load(folder / _file(case), open_device=lambda: device)
            row = measure(case, session, torch_contender(case, replays), rounds, replays)
            session.close()
        except NetloomError as error:
            failures.append(f"{case.name}: {error}")
            say(f"FAILED {failures[-1]}")
            continue
        rows.append(asdict(row))
        peer = f"  {row.ratio:.2f} x torch" if row.ratio else ""
        say(f"{row.case:36} {row.microseconds:12.1f} us {row.tflops:8.2f} TFLOP/s {row.gigabytes_per_second:8.1f} GB/s"
            f"  error {row.error:.1e}{peer}")  # fmt: skip
    results = {"device": facts, "rows": rows, "failures": failures}
    (folder / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    return results


def main(
    arguments: Sequence[str] | None = None, open_device: Callable[[], Device] = CudaDevice
) -> int:
    """0 if all went well; 1 if results were wrong; 4 without a device or the tools."""
    parser = argparse.ArgumentParser(prog="python -m netloom.benchmarks.gpu", description=__doc__)
    parser.add_argument("verb", choices=["build", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=["toy", "full"], default="full")
    parser.add_argument("--architectures", default="sm_90a", help="with commas between")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--replays", type=int, default=REPLAYS)
    options = parser.parse_args(arguments)
    try:
        if options.verb == "build":
            build(options.folder, cases(options.size), options.architectures.split(","))
            return 0
        results = run(options.folder, open_device, options.rounds, options.replays)
    except NetloomError as error:
        print(f"netloom: {error}", file=sys.stderr)
        return error.exit_code
    return 1 if results["failures"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
