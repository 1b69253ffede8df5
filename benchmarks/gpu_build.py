"""A folder of programs for a GPU, built case by case: what is there already, made by the same
compiler, is not made again, so that a build may be stopped.

``cases.json`` lists what the folder holds, in the order of the cases, and why a case was left out.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netloom.benchmarks.gpu_cases import Case, case_from
from netloom.benchmarks.gpu_kernels import build_kernel
from netloom.benchmarks.gpu_networks import NetworkCase, build_network, network_case_from
from netloom.errors import NetloomError, UsageError

if TYPE_CHECKING:
    from netloom.compiler.targets.cuda.driver import CudaProgram


@dataclass
class Contents:
    """What a folder holds, by name. ``stamps``: what built it; ``left_out``: reasons."""

    kernels: dict[str, Case] = field(default_factory=dict)
    networks: dict[str, NetworkCase] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        record = {
            "kernels": [asdict(case) for case in self.kernels.values()],
            "networks": [asdict(case) for case in self.networks.values()],
            "stamps": self.stamps,
            "left_out": self.left_out,
        }
        temporary = folder / "cases.json.new"
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
        os.replace(temporary, folder / "cases.json")

    def drop(self, name: str) -> None:
        for part in (self.kernels, self.networks, self.stamps, self.left_out):
            part.pop(name, None)

    def in_order(self, kernels: Sequence[Case], networks: Sequence[NetworkCase]) -> Contents:
        """The same, listed as the cases are."""
        return Contents(
            _ordered(self.kernels, [case.name for case in kernels]),
            _ordered(self.networks, [case.name for case in networks]),
            self.stamps,
            self.left_out,
        )


def _ordered(part: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Names that are not listed come last."""
    return {name: part[name] for name in (*names, *part) if name in part}


def read_contents(folder: Path) -> Contents:
    """What ``build`` wrote; UsageError if the folder holds nothing of it."""
    place = folder / "cases.json"
    try:
        record: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        kernels = [case_from(row) for row in record["kernels"]]
        networks = [network_case_from(row) for row in record["networks"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{str(folder)!r} holds no programs for a GPU.", hint="Build them first."
        ) from error
    return Contents(
        {case.name: case for case in kernels},
        {case.name: case for case in networks},
        record["stamps"],
        record["left_out"],
    )


def build(
    folder: Path,
    kernels: Sequence[Case],
    networks: Sequence[NetworkCase],
    architectures: Sequence[str],
    say: Callable[[str], None] = print,
    words: Sequence[str] = (),
) -> Iterator[CudaProgram]:
    """Writes programs, what they must give, and cases.json; each program as it is made. ``words``:
    only cases whose names have one. A case that cannot be built is left out, with the reason.
    """
    from netloom.compiler.cache import compiler_version

    folder.mkdir(parents=True, exist_ok=True)
    stamp = f"{compiler_version()} {' '.join(architectures)}"
    contents = read_contents(folder) if (folder / "cases.json").exists() else Contents()
    wanted: list[Case | NetworkCase] = [*kernels, *networks]
    for case in wanted:
        if contents.stamps.get(case.name) == stamp or not is_wanted(case.name, words):
            continue
        start = time.monotonic()
        contents.drop(case.name)
        try:
            if isinstance(case, Case):
                program = build_kernel(folder, case, architectures)
                contents.kernels[case.name] = case
            else:
                program, contents.networks[case.name] = build_network(folder, case, architectures)
            contents.stamps[case.name] = stamp
            size = sum(file.stat().st_size for file in folder.glob(f"{case.file}*"))
            say(f"{case.name}: {time.monotonic() - start:.1f} s, {size / 1e6:.2f} MB")
            yield program
        except NetloomError as error:
            contents.left_out[case.name] = str(error)
            say(f"LEFT OUT {case.name}: {error}")
        contents.in_order(kernels, networks).write(folder)


def is_wanted(name: str, words: Sequence[str]) -> bool:
    """Whether a case's name has one of the words; without words, always."""
    return not words or any(word in name for word in words)
