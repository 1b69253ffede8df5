"""``netloom cache``: what it shows and removes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from netloom.cli import kept_programs
from netloom.compiler.cache import LIMIT, Cache

from .calling import call


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two entries, which is the user's."""
    place = tmp_path / "kernels"
    for key in ("a", "b"):
        Cache(place).put(bytes(960), key)
    monkeypatch.setenv("NETLOOM_CACHE", str(place))
    return place


def test_show(folder: Path) -> None:
    text = call("cache", "show").output
    assert str(folder) in text and "entries    2" in text and "0.0 MB of at most 268 MB" in text
    row = json.loads(call("cache", "show", "--json").stdout)
    assert row["oldest"] > 1.7e9
    assert row | {"oldest": 0} == {
        "folder": str(folder),
        "usable": True,
        "entries": 2,
        "bytes": 2000,
        "limit": LIMIT,
        "programs": 0,
        "program_bytes": 0,
        "program_limit": kept_programs.LIMIT,
        "oldest": 0,
    }


def test_clear(folder: Path) -> None:
    assert call("cache", "clear").output == "2 entries removed, 0.0 MB\n"
    assert json.loads(call("cache", "clear", "--json").stdout) == {"entries": 0, "bytes": 0}
    assert Cache(folder).entries() == []


def test_a_folder_that_is_not_used(folder: Path) -> None:
    folder.chmod(0o777)
    assert "not used: the folder belongs to another user" in call("cache", "show").output
    assert json.loads(call("cache", "show", "--json").stdout)["usable"] is False


def test_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETLOOM_CACHE", "off")
    assert "NETLOOM_CACHE is off" in call("cache", "show").output
    assert call("cache", "clear").output == "0 entries removed, 0.0 MB\n"


def test_wrong_usage() -> None:
    assert "'show', 'clear'" in call("cache", "sweep", code=2).output
    call("cache", code=2)
