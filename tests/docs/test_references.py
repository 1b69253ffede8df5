"""What the documents say of the code by name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "compiler", "examples", "frontends", "netloom", "runtime", "tests")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# file.py or module.name; what ends in fewer letters is a file of another kind (train.c)
REFERENCE = re.compile(r"`(?:[a-z_]+/)*([a-z_]\w*)\.(py|[A-Za-z_]\w{2,})(?:\(\))?`")


def sources() -> dict[str, str]:
    """The text of all modules of a name."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            found[path.stem] = found.get(path.stem, "") + path.read_text(encoding="utf-8")
    return found


SOURCES = sources()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_their_names_are_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = []
    for module, name in REFERENCE.findall(text):
        if name == "py":
            missing += [module] if module not in SOURCES else []
        elif module in SOURCES and not re.search(rf"\b{name}\b", SOURCES[module]):
            missing.append(f"{module}.{name}")
    assert not missing


def test_there_are_references() -> None:
    """The control: the pattern finds what it is for."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert len(REFERENCE.findall(text)) > 50 and "emit" in SOURCES
