"""Where programs for devices are written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netloom.compiler.targets.cuda.program_file import write_file
from netloom.errors import UsageError


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    for path in (pipe, tmp_path, tmp_path / "missing" / "model.nlcuda"):
        with pytest.raises(UsageError, match="cannot be written"):
            write_file(path, b"program")
    assert list(tmp_path.iterdir()) == [pipe]
