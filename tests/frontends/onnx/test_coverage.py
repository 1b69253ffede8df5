"""docs/onnx-coverage.md is what the code says."""

from __future__ import annotations

from pathlib import Path

import onnx.defs

from netloom.frontends.onnx import coverage
from netloom.frontends.onnx.handler import LATEST_OPSET

PAGE = Path(__file__).parents[3] / "docs" / "onnx-coverage.md"


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text() == coverage.table(), (
        f"write it anew: python -m {coverage.__name__} > docs/{PAGE.name}"
    )


def test_latest_opset_is_known_to_the_onnx_package() -> None:
    assert onnx.defs.onnx_opset_version() >= LATEST_OPSET


def test_control_rows() -> None:
    lines = coverage.table().splitlines()
    assert "| Reshape | 1-28 | own rule | shape |" in lines
    assert "| Scatter | 9-10 | own rule |  |" in lines
    assert any(line.startswith("| StringConcat | Strings and files") for line in lines)
