"""docs/user-guide.md is true: its blocks are run in order in one folder, and its consoles print
what they show.

A ``python`` or ``c`` block that begins with ``file: NAME`` is written to that file; other Python is
executed. In a ``console`` block, lines after ``$ command`` are the output, where ``...`` stands for
anything; ``[exit code N]`` ends a command that fails. ``text`` blocks are not run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from netloom.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "user-guide.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"(?:#|/\*) file: (\S+)")


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The language and text of each fenced block."""
    return (
        (found.group(1), found.group(2))
        for found in _BLOCK.finditer(page.read_text(encoding="utf-8"))
    )


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console, and what it should print."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def matches(expected: str, found: str) -> bool:
    """Whether an output is the one shown; columns may be wider."""
    parts = (re.escape(part).replace(r"\ ", r"\ +") for part in expected.strip().split("..."))
    return re.fullmatch(".*".join(parts), found.strip(), re.DOTALL) is not None


def run(command: str) -> str:
    """What a command prints, and its exit code if that is not 0."""
    words = shlex.split(command)
    variables = dict(word.split("=", 1) for word in takewhile(lambda word: "=" in word, words))
    words = words[len(variables) :]
    if words[0] == "netloom":
        result = CliRunner().invoke(main, words[1:], env=variables)
        code, output = result.exit_code, result.output
    else:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, env={**os.environ, **variables}
        )
        code, output = done.returncode, done.stdout + done.stderr
    return output + (f"[exit code {code}]\n" if code else "")


def execute(language: str, text: str, names: dict[str, Any]) -> None:
    first = _FILE.match(text)
    if first is not None:
        Path(first.group(1)).write_text(text, encoding="utf-8")
    elif language == "python":
        exec(compile(text, str(PAGE), "exec", dont_inherit=True), names)
    elif language == "console":
        for command, expected in commands(text):
            found = run(command)
            assert matches(expected, found), f"$ {command}\n{found}\nis not\n{expected}"
    else:
        assert language == "text", f"a block in {language} is neither a file nor run"


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PAGE.parents[1]), str(tmp_path)]))
    names: dict[str, Any] = {"__name__": "user_guide"}
    for language, text in blocks(PAGE):
        execute(language, text, names)


def test_every_verb_is_described() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [
        verb for verb in main.commands if f"`{verb}" not in text and f"### {verb}" not in text
    ] == []


def test_a_wrong_output_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="is not"):
        execute("console", "$ netloom strategies\nnothing\n", {})
    with pytest.raises(AssertionError):
        execute("python", "assert 1 == 2\n", {})
    with pytest.raises(AssertionError, match="neither a file nor run"):
        execute("rust", "fn main() {}\n", {})
