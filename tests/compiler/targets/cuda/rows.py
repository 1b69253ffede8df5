"""What the tests of attention's kernels are run on: the first of their rows, or with
``--all-kernels`` all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest


def parametrize_rows(
    metafunc: pytest.Metafunc, rows: Mapping[str, tuple[int, Sequence[Any]]]
) -> None:
    """``rows``: by the argument that they are for, how many a run takes, and all."""
    is_all = metafunc.config.getoption("--all-kernels")
    for name in rows.keys() & set(metafunc.fixturenames):
        number, all_rows = rows[name]
        metafunc.parametrize(name, all_rows if is_all else all_rows[:number], ids=str)


def parametrize_shapes(
    metafunc: pytest.Metafunc, shapes: Mapping[str, Any], precisions: Iterable[str]
) -> None:
    """``shape`` and ``precision``: of each name those that a run takes, which come last in its row,
    or all."""
    if "shape" in metafunc.fixturenames:
        is_all = metafunc.config.getoption("--all-kernels")
        rows = [
            (name, precision)
            for name, (*_, own) in shapes.items()
            for precision in (precisions if is_all else own)
        ]
        metafunc.parametrize(("shape", "precision"), rows)
