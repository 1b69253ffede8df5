"""Options and fixtures of the whole test suite."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from netloom.cli import COLLECTED
from netloom.environment import data_folder


def pytest_collection_finish() -> None:
    """Garbage is searched for as rarely as on the command line, and never in what collection
    leaves: thousands of tests and all modules."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the golden texts anew instead of comparing",
    )
    parser.addoption(
        "--shapes",
        type=int,
        default=15,
        help="random shapes for each test of a convolution strategy",
    )
    parser.addoption(
        "--all-kernels",
        action="store_true",
        help="the cuda target: every row and network, not a sample",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A process that is done takes tests from one that is not: with `-n 2` the slow ones at the end
    would otherwise all be run by one."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(scope="session")
def shapes(request: pytest.FixtureRequest) -> int:
    """How many random shapes a sweep draws."""
    count: int = request.config.getoption("--shapes")
    return count


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with data sets and trained models."""
    folder = data_folder()
    if folder is None:
        pytest.skip("NETLOOM_DATA does not name the folder with data sets and models")
    return Path(folder)
