"""docs/reliability.md names tests that exist, and every promise has one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"


def promises(text: str) -> Iterator[tuple[str, str]]:
    """Each row's promise, and what holds it."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 2 and cells != ["promise", "held by"]:
            yield cells[0], cells[1]


def missing(held_by: str) -> list[str]:
    """The files and tests that do not exist; a name counts for the file before it."""
    found: list[str] = []
    source = ""
    for file, name in re.findall(r"(tests/\S+\.py)|`(test_\w+)`", held_by):
        if file:
            path = ROOT / file
            source = path.read_text(encoding="utf-8") if path.is_file() else ""
            found += [] if path.is_file() else [file]
        elif f"def {name}(" not in source:
            found.append(name)
    return found


def test_every_promise_is_held_by_a_test() -> None:
    rows = list(promises(PAGE.read_text(encoding="utf-8")))
    assert len(rows) > 30
    for promise, held_by in rows:
        assert "`test_" in held_by, promise
        assert missing(held_by) == [], promise


@pytest.mark.parametrize(
    "held_by", ["tests/docs/test_nothing.py `test_it`", "tests/docs/test_reliability.py `test_it`"]
)
def test_a_name_without_a_test_is_found(held_by: str) -> None:
    assert missing(held_by)[-1] == "test_it"


def test_links_lead_somewhere() -> None:
    for page in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
