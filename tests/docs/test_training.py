"""docs/training.md is true: its Python is executed in order, in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_user_guide import blocks, execute

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "training"}
    found = [text for language, text in blocks(PAGE) if language == "python"]
    for text in found:
        execute("python", text, names)
    assert len(found) >= 5 and (tmp_path / "run.safetensors").is_file()
