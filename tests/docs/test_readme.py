"""README.md: two commands come first, and its Python runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from netloom.cli import main

from .test_user_guide import blocks, execute

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def test_two_commands_come_first() -> None:
    """The first sets up and runs the main job, the second passes the tests."""
    language, text = next(blocks(README))
    commands = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert language == "sh" and len(commands) == 2
    assert README.read_text(encoding="utf-8").index(commands[0]) < 500
    assert (
        "python3 -m venv .venv" in commands[0]
        and "pip install" in commands[0]
        and commands[0].endswith("examples/digits.py")
    )
    assert (
        commands[1].startswith(".venv/bin/python -m pytest")
        and (ROOT / "examples" / "digits.py").is_file()
    )


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "readme"}
    for language, text in blocks(README):
        if language == "python":
            execute(language, text, names)
    assert {"program", "session", "trainer"} <= set(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.h", "model.so"]


def test_its_verbs_exist() -> None:
    text = "".join(text for language, text in blocks(README) if language == "sh")
    verbs = re.findall(r"^netloom (\w+)", text, re.MULTILINE)
    assert len(verbs) >= 5 and set(verbs) <= set(main.commands)


def test_the_folders_that_it_names_exist() -> None:
    rows = re.findall(r"^\| (`.*?) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    places = [place for row in rows for place in re.findall(r"`([\w/]+)`", row)]
    assert len(places) >= 7 and all((ROOT / place).is_dir() for place in places)


def test_the_package_asks_for_this_python() -> None:
    assert sys.version_info >= (3, 11) and "Python 3.11 or newer" in README.read_text(
        encoding="utf-8"
    )
