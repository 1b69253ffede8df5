"""What tests of the command line start from, and where they may write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ..cli.calling import call
from .command_line import NETWORK, two_inputs


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound things to start from: sum.onnx, sum.so, net.py, a.npy (an array that fits sum)."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "sum.onnx").write_bytes(two_inputs().SerializeToString())
    (folder / "net.py").write_text(NETWORK, encoding="utf-8")
    np.save(folder / "a.npy", np.ones(4, np.float32))
    call("compile", folder / "sum.onnx", "-o", folder / "sum.so")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder that must stay empty."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder
