"""Calls of the command line as a user makes them: in this process, or as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from netloom.cli import main

ROOT = Path(__file__).parents[2]


def call(*arguments: str | Path, code: int = 0) -> Result:
    """The result of a call that must end with the code; a traceback never is part of what it
    says.
    """
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    assert "Traceback" not in result.output
    return result


def start(*arguments: str | Path, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """A process of the command line in a folder."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen([sys.executable, "-m", "netloom", *map(str, arguments)], cwd=folder,
                            env=variables, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def spawn(
    *arguments: str | Path, folder: Path, code: int = 0, **environment: str
) -> tuple[str, str]:
    """Standard output and standard error of such a process, which must end with the code."""
    process = start(*arguments, folder=folder, **environment)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, (process.returncode, out, err)
    assert "Traceback" not in out + err
    return out, err
