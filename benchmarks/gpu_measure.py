"""Measures the programs of a folder on a device, one job after another, in one process.

Results are written before and after each job. A job that fails leaves its reason, and the others go
on, unless the device does not answer any more: then the process must end (``LOST``), and another one
goes on where it stopped. Needs NumPy, cuda-bindings and, for peers, PyTorch.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from netloom.benchmarks.gpu_build import is_wanted, read_contents
from netloom.benchmarks.gpu_cases import Case
from netloom.benchmarks.gpu_kernels import measure_kernel
from netloom.benchmarks.gpu_networks import NetworkCase, run_network
from netloom.benchmarks.gpu_results import BEGUN, Outcome, read_results
from netloom.benchmarks.gpu_torch import Pace, give_memory_back, torch_on_device
from netloom.errors import DeviceError, NetloomError
from netloom.runtime.cuda.device import Device

SECONDS = 500.0  # of a run, after which nothing new is begun
COPIED = 1 << 30  # bytes of the copy that memory-bound kernels are held against
# float32 multiply-adds of a multiprocessor, from compute capability 8.6 on and on 9.0 (64 on 8.0)
FFMA_PER_CYCLE = 128
RESERVE = 90.0  # seconds that torch.compile and what follows may take
LOST = 6  # the exit code of a process whose device does not answer any more
COMPILED = "compiled"  # the last word of a job in which torch.compile takes part


@dataclass(frozen=True)
class Plan:
    """How a run measures. ``words``: only jobs whose names have one."""

    pace: Pace = Pace()
    seconds: float = SECONDS
    copied: int = COPIED
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """A program to measure. ``is_compiling``: torch.compile takes part."""

    name: str
    case: Case | NetworkCase
    is_compiling: bool = False

    @property
    def reserve(self) -> float:
        """Seconds that must be left when it begins, so that little is cut off."""
        return RESERVE if self.is_compiling else 0.0

    def run(
        self, begun: Outcome, folder: Path, device: Device, plan: Plan, keep: Callable[[Outcome], None]
    ) -> Outcome:  # fmt: skip
        """What was measured; any error of the runtime or of a peer. ``keep`` has what is known, of
        a job that has only begun, before PyTorch begins."""
        if isinstance(self.case, Case):
            row = measure_kernel(self.case, folder, device, plan.pace,
                                 lambda row: keep(replace(begun, kernel=row)))  # fmt: skip
            return replace(begun, kernel=row, failure="")
        network = run_network(self.case, folder, device, plan.pace, self.is_compiling,
                              lambda row: keep(replace(begun, network=row)))  # fmt: skip
        return replace(begun, network=network, failure="")


def jobs(folder: Path, words: Sequence[str], *, has_torch: bool) -> list[Job]:
    """What there is to measure; what matters most comes first."""
    contents = read_contents(folder)
    kernels, networks = list(contents.kernels.values()), list(contents.networks.values())
    small = [case for case in kernels if case.kind != "conv" or case.x[0] == 1]
    large = [case for case in kernels if case not in small]
    wanted: list[Case | NetworkCase] = [*small, *networks, *large]
    found = [Job(case.name, case) for case in wanted]
    if has_torch:
        found += [
            Job(f"{case.name} {COMPILED}", case, True) for case in networks if not case.is_training
        ]
    return [job for job in found if is_wanted(job.name, words)]


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
    addresses: list[int] = []
    try:
        for _ in range(2):
            addresses.append(device.allocate(size))
        source, target = addresses
        device.copy(target, source, size)
        device.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            device.copy(target, source, size)
        device.synchronize()
        return 2.0 * size * times / (time.perf_counter() - start)
    finally:
        for address in addresses:
            device.free(address)


def measure(
    folder: Path,
    path: Path,
    open_device: Callable[[], Device],
    plan: Plan,
    say: Callable[[str], None] = print,
) -> int:
    """Measures what the results at a path do not hold yet: 0 if all went well, 1 if a job failed,
    LOST; DeviceError without a device.
    """
    end = time.monotonic() + plan.seconds
    results = read_results(path)
    device = open_device()
    torch = torch_on_device()
    results.on({**limits(device, plan.copied), **_versions(torch)})
    say("\n".join(f"{key}: {value}" for key, value in results.device.items()))
    wanted = jobs(folder, plan.words, has_torch=torch is not None)
    results.left_out = []

    def keep(outcome: Outcome) -> None:
        results.put(outcome)
        results.write(path)

    for job in wanted:
        digest = _digest(folder / job.case.file)
        if results.is_done(job.name, digest):
            continue
        if time.monotonic() + job.reserve > end:
            results.left_out.append(job.name)
            continue
        outcome = _outcome(job, digest, folder, device, plan, keep)
        keep(outcome)
        say(_line(outcome))
        if (outcome.failure or outcome.note) and not _answers(device):
            say("the device does not answer any more.")
            return LOST
        give_memory_back(torch)
    results.write(path)
    say("\n".join(map(str, results.figures())))
    if results.left_out:
        say(f"no time for {', '.join(results.left_out)}")
    return 1 if results.failures else 0


def _outcome(
    job: Job, digest: str, folder: Path, device: Device, plan: Plan, keep: Callable[[Outcome], None]
) -> Outcome:
    begun = Outcome(job.name, digest, failure=BEGUN)
    keep(begun)
    try:
        return job.run(begun, folder, device, plan, keep)
    except NetloomError as error:
        return replace(begun, failure=str(error))
    except Exception as error:  # a defect: whatever is wrong with one, the others go on
        return replace(begun, failure=f"{type(error).__name__}: {error}")


def _answers(device: Device) -> bool:
    """Whether the device still works: an error in a kernel ends a process's use of it."""
    gc.collect()  # what the failure held is freed before others need room
    try:
        device.synchronize()
    except DeviceError:
        return False
    return True


def _line(outcome: Outcome) -> str:
    if outcome.failure:
        return f"FAILED {outcome.name}: {outcome.failure}"
    if (kernel := outcome.kernel) is not None:
        peer = f"  {kernel.ratio:.2f} x torch" if kernel.ratio else ""
        return (
            f"{outcome.name:36} {kernel.microseconds:12.1f} us {kernel.tflops:8.2f} TFLOP/s "
            f"{kernel.gigabytes_per_second:8.1f} GB/s  error {kernel.error:.1e}{peer}"
            f"  {kernel.note}".rstrip()
        )
    assert outcome.network is not None
    row = outcome.network
    peers = "".join(f"  {ratio:.2f} x {name}" for name, ratio in row.ratios.items())
    return (
        f"{outcome.name:36} {row.microseconds:12.1f} us  host {row.host_microseconds:.1f} us"
        f"  error {row.error:.1e}{peers}  {row.note}".rstrip()
    )


def _digest(path: Path) -> str:
    """Of a program; empty where it is missing, which its job will say."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def _versions(torch: Any) -> dict[str, str | None]:
    """Of what takes part."""
    try:
        bindings: str | None = importlib.metadata.version("cuda-bindings")
    except importlib.metadata.PackageNotFoundError:
        bindings = None
    return {
        "cuda_bindings": bindings,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "torch": None if torch is None else str(torch.__version__),
    }
