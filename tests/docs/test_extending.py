"""docs/extending.md is true: its blocks are run in order; what they put into the compiler's
tables is taken out again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from netloom.compiler.passes import select_strategies as selection
from netloom.frontends.onnx.registry import HANDLERS

from .test_user_guide import blocks, execute

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def test_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "STRATEGIES", selection.STRATEGIES)
    monkeypatch.setattr(selection, "BY_NAME", dict(selection.BY_NAME))
    monkeypatch.setitem(HANDLERS.entries, "HardSwish", HANDLERS.entries["HardSwish"])
    names: dict[str, Any] = {"__name__": "extending"}
    for language, text in blocks(PAGE):
        execute(language, text, names)
    assert names["EXTRA"].find("HardSwish", 17) is HANDLERS.find("HardSwish", 17)


def test_what_the_page_did_is_undone() -> None:
    assert "pointwise" not in selection.BY_NAME and "pointwise" not in {
        s.name for s in selection.STRATEGIES
    }


def test_the_places_that_it_names_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    root = PAGE.parents[1]
    rows = [line.split("|")[3] for line in text.splitlines() if line.startswith("| a")]
    places = {part for row in rows for part in row.split("`")[1::2] if "/" in part}
    assert len(places) > 10
    assert [
        place
        for place in places
        if not (root / place).exists() and not (root / "frontends/dsl" / place).exists()
    ] == []
