"""A table's files: what was measured -> FOLDER/NAME.json and FOLDER/NAME.md, both headed by the
machine and its peaks.

Numbers that are not known (NaN, infinite) are null in JSON and "-" in a table, so that any JSON
reader takes the files.
"""

from __future__ import annotations

import json
import math
import os
import platform
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from .conditions import processor
from .peaks import Peaks

FOLDER = Path("docs/benchmarks")  # where tables go unless another place is given


@dataclass(frozen=True)
class Files:
    """Where a table goes: FOLDER/NAME.json and FOLDER/NAME.md."""

    folder: Path
    name: str

    @classmethod
    def of(cls, given: Namespace) -> Files:
        """As the arguments of a command say (``parser_of``)."""
        return cls(given.output, given.name)

    def write(self, machine: Peaks, data: Mapping[str, Any], lines: Sequence[str]) -> None:
        """``data`` (records allowed) as JSON, and ``lines`` below the machine."""
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"machine": _machine_record(machine), **_plain(data)}
        (self.folder / f"{self.name}.json").write_text(
            json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )
        text = [f"# {self.name}", "", *_description(machine), "", *lines]
        (self.folder / f"{self.name}.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def parser_of(text: str | None, name: str) -> ArgumentParser:
    """A command's parser with what all of them know; ``text``: the module's own description;
    ``name``: of the table's files, unless another one is given."""
    parser = ArgumentParser(description=text)
    parser.add_argument(
        "-o", "--output", type=Path, default=FOLDER, help="the folder for the table's files"
    )
    parser.add_argument("--name", default=name, help="of the table's files")
    return parser


def words(text: str) -> list[str]:
    """The parts of a list with commas; none of an empty one."""
    return [word for word in text.split(",") if word]


def numbers(text: str) -> list[int]:
    """The same for whole numbers."""
    return [int(word) for word in words(text)]


def _machine_record(machine: Peaks) -> dict[str, Any]:
    """The machine and its peaks, for JSON."""
    return {"processor": processor(), "processors": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            **machine.as_dict()}  # fmt: skip


def _description(machine: Peaks) -> list[str]:
    """The machine in three lines, and one for each reason to doubt its times."""
    rates = "; ".join(
        f"{n} thread(s) {machine.flops[n]:.1f} GFLOP/s, copy {machine.copy[n]:.1f} GB/s, read "
        f"{machine.read[n]:.1f} GB/s"
        for n in machine.flops
    )
    return [f"Machine: {processor()}, {machine.clock:.2f} GHz ({machine.cpu}).",
            f"Peaks measured in the same run: {rates}",
            f"({machine.chains} chains in registers: {machine.flops_per_cycle:.1f} flop a cycle).",
            *(f"Note: {sentence}" for sentence in machine.warnings)]  # fmt: skip


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    return [
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def spread(ratio: Sequence[float]) -> str:
    """A median with its 10th and 90th percentile."""
    middle, low, high = ratio
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def cell(value: float, form: str = ".1f") -> str:
    """A number, or a dash where it is not known."""
    return format(value, form) if math.isfinite(value) else "-"


def _plain(item: Any) -> Any:
    """What JSON can hold; the records of tables are shallow."""
    match item:
        case float():
            return item if math.isfinite(item) else None
        case Mapping():
            return {str(key): _plain(value) for key, value in item.items()}
        case list() | tuple():
            return [_plain(value) for value in item]
    return _plain(asdict(item)) if is_dataclass(item) and not isinstance(item, type) else item
