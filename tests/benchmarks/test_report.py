"""Files of tables, and figures beside their goals."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from netloom.benchmarks import report
from netloom.benchmarks.goals import Goal, Sense, goal_lines
from netloom.benchmarks.peaks import Peaks


@dataclass(frozen=True)
class Row:
    name: str
    values: tuple[float, ...]


def test_the_files(machine: Peaks, tmp_path: Path) -> None:
    """Records nest, numbers that are not known are null, and the machine stands at the head of
    both.
    """
    given = report.parser_of("text", "s").parse_args(["-o", str(tmp_path / "new"), "--name", "t"])
    report.Files.of(given).write(
        machine,
        {"rows": [Row("a", (1.0, math.nan))], "flags": {2: math.inf}},
        ["text"],
    )
    data = json.loads((tmp_path / "new" / "t.json").read_text())
    assert data["rows"] == [{"name": "a", "values": [1.0, None]}] and data["flags"] == {"2": None}
    assert (
        data["machine"]["flops"] == {"1": 64.0, "2": 120.0}
        and data["machine"]["copies"]["2"]["4"] == 12.0
    )
    assert data["machine"]["copy"] == {"1": 10.0, "2": 10.0} and data["machine"]["processor"]
    lines = (tmp_path / "new" / "t.md").read_text().splitlines()
    assert lines[0] == "# t" and lines[-1] == "text"
    assert "2 thread(s) 120.0 GFLOP/s, copy 10.0 GB/s, read 15.0 GB/s" in lines[3]
    assert "Note: neighbours are out of sight." in lines


def test_pieces() -> None:
    assert report.table(["a", "b"], [["1", "2"]]) == ["| a | b |", "|---|---|", "| 1 | 2 |"]
    assert report.words("") == [] and report.numbers("1,16") == [1, 16]
    assert report.spread((1.234, 1.0, 2.0)) == "1.23 (1.00–2.00)"
    assert report.cell(1.25) == "1.2" and report.cell(math.nan) == "-"


@pytest.mark.parametrize(
    ("sense", "value", "met", "cell"),
    [(Sense.LEAST, 2.0, True, "| 2 s | >= 2 s | yes |"), (Sense.LEAST, 1.9, False, "| 1.9 s | >= 2 s | **no** |"),
     (Sense.MOST, 2.0, True, "| 2 s | <= 2 s | yes |"), (Sense.MOST, 2.1, False, "| 2.1 s | <= 2 s | **no** |"),
     (Sense.NONE, 9.0, True, "| 9 s | - | - |"), (Sense.LEAST, math.nan, False, "| - s | >= 2 s | **no** |")],
)  # fmt: skip
def test_goals(sense: Sense, value: float, met: bool, cell: str) -> None:
    goal = Goal("figure", value, 2.0, "s", sense)
    assert goal.is_met is met
    lines = goal_lines([goal])
    assert lines[-1] == "| figure " + cell
    assert lines[0] == (
        "0 of 0 goals are met." if sense is Sense.NONE else f"{int(met)} of 1 goals are met."
    )
    assert goal_lines([]) == []
