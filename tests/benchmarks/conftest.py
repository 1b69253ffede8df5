"""What the tables' tests share: a made-up machine, so that nothing is measured twice, and a
small model as a file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import netloom as nl
from netloom.benchmarks import peaks
from netloom.benchmarks.peaks import Peaks

MACHINE = Peaks(
    2.0,
    {1: 64.0, 2: 120.0},
    {1: 10.0, 2: 10.0},
    {1: 10.0, 2: 15.0},
    12,
    "x",
    {n: {1: 10.0, 2: 11.0, 4: 12.0} for n in (1, 2)},
    ("neighbours are out of sight.",),
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Peaks:
    monkeypatch.setattr(peaks, "measure", lambda threads=(): MACHINE)
    return MACHINE


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One convolution, one product: 4 * 9 + 4 and 3 * 64 + 3 weights."""

    @nl.network
    def small(x: Any) -> Any:
        x = nl.relu(nl.conv2d(x, 4, 3, padding=1))
        return nl.dense(nl.flatten(nl.max_pool2d(x, 2)), 3)

    path = tmp_path_factory.mktemp("model") / "small.onnx"
    nl.to_onnx(small.graph(x=nl.tensor(1, 1, 8, 8)), path)
    return path


def tables(folder: Path, name: str) -> tuple[Any, str]:
    """What a command wrote: the data and the text."""
    return json.loads((folder / f"{name}.json").read_text()), (folder / f"{name}.md").read_text()
