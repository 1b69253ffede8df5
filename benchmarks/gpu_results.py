"""What a run on a GPU found, as one file that is rewritten before and after each job.

A job is written as begun before it runs, so that a process which dies leaves its name behind. The
digest of a program stands beside what it gave: a run goes on where the file stops, and measures
again those programs alone that have changed. Needs NumPy alone.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from netloom.benchmarks.gpu_cases import MEMORY_BOUND, Case, case_from
from netloom.benchmarks.gpu_networks import NetworkRow
from netloom.errors import ProgramError, UsageError

FORMAT = 1
BEGUN = "the run ended while this was measured"


@dataclass(frozen=True)
class KernelRow:
    """A case's result. ``ratio``: how many times faster than PyTorch, where that was there;
    ``note``: why it was not."""

    case: Case
    error: float
    microseconds: float
    tflops: float
    gigabytes_per_second: float
    torch_microseconds: float | None
    ratio: float | None
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a row of one kind, or why there is none; both where PyTorch took the
    process along."""

    name: str
    digest: str  # of the program's file
    kernel: KernelRow | None = None
    network: NetworkRow | None = None
    failure: str = ""

    @property
    def note(self) -> str:
        """Of a peer that failed."""
        row = self.kernel or self.network
        return row.note if row is not None else ""


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
    """The outcomes so far, by their jobs' names, and what there was no time for."""

    device: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def kernels(self) -> list[KernelRow]:
        return [found.kernel for found in self.outcomes.values() if found.kernel is not None]

    @property
    def networks(self) -> list[NetworkRow]:
        """One a network: what was measured last, PyTorch's compiled form among the peers; of a job
        that failed, if there is no other."""
        found: dict[str, NetworkRow] = {}
        for outcome in self.outcomes.values():
            row = outcome.network
            if row is not None and not (outcome.failure and row.case in found):
                found[row.case] = row
        return list(found.values())

    @property
    def notes(self) -> dict[str, str]:
        """Of peers that failed, by case."""
        notes = [(row.case.name, row.note) for row in self.kernels]
        notes += [(row.case, row.note) for row in self.networks]
        return {name: note for name, note in notes if note}

    @property
    def failures(self) -> dict[str, str]:
        return {found.name: found.failure for found in self.outcomes.values() if found.failure}

    def is_done(self, name: str, digest: str) -> bool:
        """Whether a job has run with this program."""
        known = self.outcomes.get(name)
        return known is not None and known.digest == digest

    def forget(self, *, failures: bool) -> None:
        """Jobs that the end of an earlier run cut off are run again, or all that failed."""
        self.outcomes = {
            name: found
            for name, found in self.outcomes.items()
            if found.failure != BEGUN and not (failures and found.failure)
        }

    def put(self, outcome: Outcome) -> None:
        """As the last one."""
        self.outcomes.pop(outcome.name, None)
        self.outcomes[outcome.name] = outcome

    def on(self, device: dict[str, Any]) -> None:
        """What is measured from now on is measured there; UsageError if the rest was elsewhere."""
        known = self.device.get("name", device["name"])
        if known != device["name"]:
            raise UsageError(
                f"the results so far are of another device, {known}.",
                hint="Name another file with -o.",
            )
        self.device = device

    def write(self, path: Path) -> None:
        """Whole or not at all; UsageError if it cannot be written."""
        record = {
            "format": FORMAT,
            "device": self.device,
            "outcomes": [asdict(found) for found in self.outcomes.values()],
            "figures": [asdict(figure) for figure in self.figures()],
            "left_out": self.left_out,
        }
        temporary = path.with_name(f"{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
            os.replace(temporary, path)
        except OSError as error:
            raise UsageError(f"{str(path)!r} cannot be written: {error.strerror}.") from error

    # -- what is asked of a GPU --------------------------------------------------------------------

    def figures(self) -> list[Figure]:
        """What was measured of what is asked: ratios to PyTorch are geometric means."""
        found = list(self._kernel_figures())
        for batch, goal in (("n1", 1.2), ("n32", 1.2)):
            found += self._network_figures(f"inference {batch}", batch, "torch", goal)
            found += self._network_figures(f"inference {batch}", batch, "torch.compile", 1.0)
        found += self._network_figures("training steps", "step", "torch", 1.0)
        if hosts := [row.host_microseconds for row in self.networks]:
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
            for row in self.kernels:
                wanted = row.case.kind == "matmul" and row.case.precision == precision
                if wanted and row.case.x[0] >= least and row.ratio:
                    yield Figure(f"{row.case.name} to torch", row.ratio, goal)
        best: dict[tuple[Any, ...], float] = {}
        for row in self.kernels:
            if row.case.kind == "conv" and row.ratio:
                best[row.case.layer] = max(best.get(row.case.layer, 0.0), row.ratio)
        if best:
            yield Figure(f"{len(best)} convolutions to torch", mean(list(best.values())), 1.2)
        for row in self.kernels:
            if row.case.kind in MEMORY_BOUND:
                part = row.gigabytes_per_second / self.device["copy_gigabytes_per_second"]
                yield Figure(f"{row.case.name} to a copy", part, 0.9)

    def _network_figures(self, name: str, word: str, peer: str, goal: float) -> list[Figure]:
        """Of the networks whose names have a word."""
        ratios = [
            row.ratios[peer]
            for row in self.networks
            if word in _words(row.case) and peer in row.ratios
        ]
        return [Figure(f"{name}: {len(ratios)} to {peer}", mean(ratios), goal)] if ratios else []


def read_results(path: Path) -> Results:
    """What ``write`` wrote, nothing if there is no file; ProgramError if it is something else."""
    if not path.exists():
        return Results()
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(record["format"])
        outcomes = {row["name"]: _outcome(row) for row in record["outcomes"]}
        return Results(record["device"], outcomes, record["left_out"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProgramError(
            f"{str(path)!r} holds no results of this version.", hint="Name another file with -o."
        ) from error


def _outcome(record: dict[str, Any]) -> Outcome:
    kernel, network = record["kernel"], record["network"]
    return Outcome(
        record["name"],
        record["digest"],
        KernelRow(**{**kernel, "case": case_from(kernel["case"])}) if kernel else None,
        NetworkRow(**network) if network else None,
        record["failure"],
    )


def _words(case: str) -> list[str]:
    """Of a network's case; the batch of a training step does not count."""
    words = case.split()
    return ["step"] if "step" in words else words


def mean(ratios: Sequence[float]) -> float:
    """The geometric mean of some positive numbers."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))
