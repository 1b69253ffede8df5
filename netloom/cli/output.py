"""Printing and exit codes: what a verb says goes through here, as text for people or as JSON for
programs.

Results go to standard output, faults and remarks to standard error. A fault is one message without
control characters and of bounded length, whatever a model or an argument holds; with ``--json`` it
is one JSON object.
"""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import click

from netloom.environment import wants_color
from netloom.errors import NetloomError

EXIT_CODES: Final = {
    0: "ok",
    1: "a comparison failed",
    2: "wrong usage",
    3: "the model is malformed or not supported",
    4: "a tool, a device or a CPU feature is missing",
    5: "a fault while running",
    130: "stopped by SIGINT",
}
RUN_TIME, STOPPED = 5, 130
_LONGEST_LINE, _MOST_LINES = 1000, 200


@dataclass
class Output:
    """How one command prints."""

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    warnings: list[str] = field(default_factory=list)  # what was warned of

    def say(self, text: str) -> None:
        """A line for people: not with --quiet, nor with --json."""
        if not self.quiet and not self.as_json:
            click.echo(text)

    def remark(self, text: str) -> None:
        """A line on standard error, with --verbose only."""
        if self.verbose:
            click.echo(text, err=True)

    def progress(self, text: str) -> None:
        """What is being done now, for someone who waits at a terminal."""
        if not self.quiet and not self.as_json and sys.stderr.isatty():
            click.echo(text, err=True)

    def result(self, data: Any, text: str) -> None:
        """What the verb found: ``data`` with --json, else ``text``."""
        if self.as_json:
            click.echo(json.dumps(_finite(data), default=str, allow_nan=False))
        else:
            self.say(text)

    def styled(self, text: str, **style: Any) -> str:
        """The text in colour, if standard output is a terminal and NO_COLOR is not set."""
        plain = self.as_json or not sys.stdout.isatty() or not wants_color()
        return text if plain else click.style(text, **style)

    def warn(self, text: str) -> None:
        """A line on standard error about what does no harm."""
        self.warnings.append(text)
        if not self.quiet and not self.as_json:
            click.echo(f"netloom: {displayable(text)}", err=True)

    def fault(self, error: BaseException, code: int, text: str = "") -> None:
        """One message about what went wrong; --verbose adds the traceback."""
        if self.verbose:
            click.echo("".join(traceback.format_exception(error)), err=True)
        message = displayable(text or str(error))
        if not self.as_json:
            click.echo(f"netloom: {message}", err=True)
            return
        row = {"error": type(error).__name__, "message": message, "exit_code": code}
        if isinstance(error, NetloomError):
            row |= {"node": displayable(error.node), "hint": displayable(error.hint)}
        click.echo(json.dumps(row), err=True)


def _finite(data: Any) -> Any:
    """The data with None for numbers that JSON does not have: NaN and infinities."""
    match data:
        case float():
            return data if math.isfinite(data) else None
        case dict():
            return {key: _finite(value) for key, value in data.items()}
        case list() | tuple():
            return [_finite(value) for value in data]
    return data


def displayable(text: str) -> str:
    """The text with control characters escaped, long lines cut in the middle, and a bounded
    number of lines.
    """
    lines = text.split("\n")
    shown = [
        _cut("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line))
        for line in lines[:_MOST_LINES]
    ]
    left = len(lines) - len(shown)
    return "\n".join([*shown, f"... and {left} lines more"] if left else shown)


def _is_numeric(cell: object) -> bool:
    """Whether it is a number, or the text of one; a dash stands for a number that is not known."""
    if isinstance(cell, int | float) or cell == "-":
        return True
    try:
        float(str(cell))
    except ValueError:
        return False
    return True


def _cut(line: str) -> str:
    if len(line) <= _LONGEST_LINE:
        return line
    half = _LONGEST_LINE // 2
    return f"{line[:half]} ... {line[-half:]}"


def columns(rows: Sequence[Sequence[object]], heads: Sequence[str] = ()) -> str:
    """A table in plain text: columns of numbers to the right, the rest to the left, each cell on
    one line.
    """
    cells = [[displayable(str(cell)).replace("\n", " ") for cell in row] for row in rows]
    body = [list(heads), *cells] if heads else cells
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    right = [all(_is_numeric(row[place]) for row in rows) for place in range(len(widths))]

    def line(row: Sequence[str]) -> str:
        parts = (
            cell.rjust(width) if flag else cell.ljust(width)
            for cell, width, flag in zip(row, widths, right, strict=True)
        )
        return "  ".join(parts).rstrip()

    return "\n".join(map(line, body))
