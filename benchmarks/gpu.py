"""The cuda target on a GPU, in two commands: ``python -m netloom.benchmarks.gpu build FOLDER``,
then ``… run FOLDER``.

``build`` needs numba-cuda and no GPU: it writes one program file a case. ``run`` needs a GPU, NumPy
and cuda-bindings alone: it prints the device and its limits, checks every program against float64
(single kernels) or the CPU (networks and training steps), then times it by replaying its graph
between two events, in rounds with PyTorch (cuBLAS, cuDNN with benchmark mode) if that is there, in
the same precision. It stops measuring after --seconds, and names what was left out; torch.compile,
which takes longest to get ready, comes last. Times are medians over the rounds of the mean of a
block; results also go to FOLDER/results.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from netloom.benchmarks.gpu_cases import (
    MEMORY_BOUND,
    Case,
    cases,
    error_of,
    graph_of,
    inputs_of,
)
from netloom.benchmarks.gpu_networks import (
    NetworkRow,
    build_networks,
    network_cases,
    read_network_cases,
    run_network,
)
from netloom.benchmarks.gpu_torch import seconds_in_torch, torch_on_device
from netloom.errors import ComparisonError, NetloomError
from netloom.runtime.cuda.device import CudaDevice, Device
from netloom.runtime.cuda.session import CudaSession, load

if TYPE_CHECKING:
    from netloom.compiler.targets.cuda.driver import CudaProgram

# relative L2 of sampled results
TOLERANCE = {"f32": 1e-5, "3xtf32": 1e-5, "tf32": 2e-3, "bf16": 2e-2}
ROUNDS, REPLAYS = 5, 20
SECONDS = 500.0  # of a run, after which nothing new is begun
COPIED = 1 << 30  # bytes of the copy that memory-bound kernels are held against
# float32 multiply-adds of a multiprocessor, from compute capability 8.6 on and on 9.0 (64 on 8.0)
FFMA_PER_CYCLE = 128


# -- build: no device ------------------------------------------------------------------------------


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
        programs[case.name].save(folder / case.file)
    (folder / "cases.json").write_text(
        json.dumps([asdict(case) for case in wanted], indent=1), encoding="utf-8"
    )
    return programs


def read_cases(folder: Path) -> list[Case]:
    """What ``build`` wrote."""
    rows: list[dict[str, Any]] = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    return [Case(**{**row, "x": tuple(row["x"]), "w": tuple(row["w"])}) for row in rows]


# -- run: a device, NumPy and cuda-bindings --------------------------------------------------------


def limits(device: Device, copied: int = COPIED) -> dict[str, Any]:
    """What the device is; float32's peak follows from its clock and multiprocessors, the bandwidth
    of copies (read and written bytes) is measured."""
    facts = dict(device.facts())
    if {"multiprocessors", "clock_hz"} <= set(facts):
        facts["f32_peak_tflops"] = (
            2e-12 * FFMA_PER_CYCLE * facts["multiprocessors"] * facts["clock_hz"]
        )
    return {**facts, "copy_gigabytes_per_second": copy_bandwidth(device, copied) * 1e-9}


def copy_bandwidth(device: Device, size: int, times: int = 20) -> float:
    """Bytes a second, read and written, of copies on the device, by the host's clock."""
    source, target = device.allocate(size), device.allocate(size)
    try:
        device.copy(target, source, size)
        device.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            device.copy(target, source, size)
        device.synchronize()
        return 2.0 * size * times / (time.perf_counter() - start)
    finally:
        for address in (source, target):
            device.free(address)


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
    torch = torch_on_device()
    if torch is None:
        return None
    tensors = [torch.from_numpy(array).cuda() for array in inputs_of(case).values()]
    if case.precision == "bf16":
        tensors = [tensor.bfloat16() for tensor in tensors]
    functions: dict[str, Callable[..., Any]] = {
        "relu": torch.relu, "add": torch.add, "matmul": torch.matmul,
        "transpose": lambda x: x.t().contiguous(), "softmax": lambda x: torch.softmax(x, 1),
        "conv": lambda x, w: torch.nn.functional.conv2d(x, w, stride=case.stride, padding=case.pad),
    }  # fmt: skip
    function = functions[case.kind]
    is_rounded = case.precision == "tf32"
    return lambda: seconds_in_torch(
        torch, lambda: function(*tensors), replays, allows_tf32=is_rounded
    )


# -- what is asked of a GPU ------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A figure beside what it must reach: at least, or (``is_most``) at most."""

    name: str
    value: float
    goal: float
    is_most: bool = False

    def __str__(self) -> str:
        is_met = self.value <= self.goal if self.is_most else self.value >= self.goal
        bound = "at most" if self.is_most else "at least"
        return (
            f"{self.name}: {self.value:.2f}, {bound} {self.goal:g}: {'met' if is_met else 'MISSED'}"
        )


@dataclass
class Results:
    """A run's results so far, by their cases."""

    device: dict[str, Any]
    rows: dict[Case, Row] = field(default_factory=dict)
    networks: dict[str, NetworkRow] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def figures(self) -> list[Figure]:
        """What was measured of what is asked: ratios to PyTorch are geometric means."""
        found = list(self._kernel_figures())
        for batch, goal in (("n1", 1.2), ("n32", 1.2)):
            found += self._network_figures(f"inference {batch}", batch, "torch", goal)
            found += self._network_figures(f"inference {batch}", batch, "torch.compile", 1.0)
        found += self._network_figures("training steps", "step", "torch", 1.0)
        if hosts := [row.host_microseconds for row in self.networks.values()]:
            found.append(Figure("host time of a network, µs", max(hosts), 10.0, is_most=True))
        return found

    def _kernel_figures(self) -> Iterator[Figure]:
        goals = (
            ("f32", 1024, 1.0),
            ("3xtf32", 4096, 1.4),
            ("tf32", 1024, 0.8),
            ("bf16", 1024, 0.8),
        )
        for precision, least, goal in goals:
            for case, row in self.rows.items():
                wanted = case.kind == "matmul" and case.precision == precision
                if wanted and case.x[0] >= least and row.ratio:
                    yield Figure(f"{case.name} to torch", row.ratio, goal)
        best: dict[tuple[Any, ...], float] = {}
        for case, row in self.rows.items():
            if case.kind == "conv" and row.ratio:
                best[case.layer] = max(best.get(case.layer, 0.0), row.ratio)
        if best:
            yield Figure(f"{len(best)} convolutions to torch", _mean(list(best.values())), 1.2)
        copied = self.device["copy_gigabytes_per_second"]
        for case, row in self.rows.items():
            if case.kind in MEMORY_BOUND:
                yield Figure(f"{case.name} to a copy", row.gigabytes_per_second / copied, 0.9)

    def _network_figures(self, name: str, word: str, peer: str, goal: float) -> list[Figure]:
        """Of the networks whose names have a word."""
        ratios = [
            row.ratios[peer]
            for row in self.networks.values()
            if word in _words(row.case) and peer in row.ratios
        ]
        return [Figure(f"{name}: {len(ratios)} to {peer}", _mean(ratios), goal)] if ratios else []

    def as_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "rows": [asdict(row) for row in self.rows.values()],
            "networks": [asdict(row) for row in self.networks.values()],
            "figures": [asdict(figure) for figure in self.figures()],
            "failures": self.failures,
            "left_out": self.left_out,
        }


def _words(case: str) -> list[str]:
    """Of a network's case; the batch of a training step does not count."""
    words = case.split()
    return ["step"] if "step" in words else words


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def run(
    folder: Path,
    open_device: Callable[[], Device],
    rounds: int,
    replays: int,
    say: Callable[[str], None] = print,
    seconds: float = SECONDS,
    copied: int = COPIED,
) -> dict[str, Any]:
    """All cases in the folder, as long as there is time; DeviceError without a device. Failed cases
    are listed, and the others go on.
    """
    end = time.monotonic() + seconds
    device = open_device()
    torch = torch_on_device()
    facts = {**limits(device, copied), "numpy": np.__version__, "python": sys.version.split()[0],
             "torch": None if torch is None else str(torch.__version__)}  # fmt: skip
    say("\n".join(f"{key}: {value}" for key, value in facts.items()))
    results = Results(facts)

    def kernel(case: Case) -> None:
        session = load(folder / case.file, open_device=lambda: device)
        try:
            row = measure(case, session, torch_contender(case, replays), rounds, replays)
        finally:
            session.close()
        results.rows[case] = row
        peer = f"  {row.ratio:.2f} x torch" if row.ratio else ""
        rate = f"{row.tflops:8.2f} TFLOP/s {row.gigabytes_per_second:8.1f} GB/s"
        say(f"{row.case:36} {row.microseconds:12.1f} us {rate}  error {row.error:.1e}{peer}")  # fmt: skip

    def network(case: Any, is_compiling: bool = False) -> None:
        row = run_network(case, folder, device, rounds, replays, is_compiling)
        results.networks[case.name] = row
        peers = "".join(f"  {ratio:.2f} x {name}" for name, ratio in row.ratios.items())
        say(f"{row.case:36} {row.microseconds:12.1f} us  host {row.host_microseconds:.1f} us"
            f"  error {row.error:.1e}{peers}")  # fmt: skip

    for name, job in _jobs(folder, kernel, network, torch is not None):
        if time.monotonic() > end:
            results.left_out.append(name)
            continue
        try:
            job()
        except Exception as error:  # a peer's too: whatever is wrong with one, the others go on
            if not isinstance(error, NetloomError) and torch is None:
                raise
            results.failures.append(f"{name}: {error}")
            say(f"FAILED {results.failures[-1]}")
    found = results.as_json()
    say("\n".join(map(str, results.figures())))
    if results.left_out:
        say(f"no time for {', '.join(results.left_out)}")
    (folder / "results.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def _jobs(
    folder: Path, kernel: Callable[[Case], None], network: Callable[..., None], has_torch: bool
) -> list[tuple[str, Callable[[], None]]]:
    """What there is to measure, by name; what matters most comes first."""
    small = [case for case in read_cases(folder) if case.kind != "conv" or case.x[0] == 1]
    large = [case for case in read_cases(folder) if case not in small]
    networks = read_network_cases(folder)
    return [
        *((case.name, partial(kernel, case)) for case in small),
        *((case.name, partial(network, case)) for case in networks),
        *((case.name, partial(kernel, case)) for case in large),
        *((f"{case.name} compiled", partial(network, case, True))
          for case in networks if has_torch and not case.is_training),
    ]  # fmt: skip


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
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a run")
    options = parser.parse_args(arguments)
    try:
        if options.verb == "build":
            architectures = options.architectures.split(",")
            build(options.folder, cases(options.size), architectures)
            build_networks(options.folder, network_cases(options.size), architectures)
            size = sum(file.stat().st_size for file in options.folder.iterdir())
            print(f"{options.folder}: {size / 1e6:.1f} MB")
            return 0
        copied = COPIED if options.size == "full" else 1 << 12
        results = run(
            options.folder,
            open_device,
            options.rounds,
            options.replays,
            print,
            options.seconds,
            copied,
        )
    except NetloomError as error:
        print(f"netloom: {error}", file=sys.stderr)
        return error.exit_code
    return 1 if results["failures"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
