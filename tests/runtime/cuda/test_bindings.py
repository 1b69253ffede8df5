"""CudaDevice over cuda-bindings themselves: they hand their calls to a driver of ours, made of
driver.c, which has host memory and one kernel. So types, records and names are theirs.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
needs_bindings = pytest.mark.skipif(
    importlib.util.find_spec("cuda") is None,
    reason="cuda-bindings is not installed (netloom[cuda])",
)


def checked(libraries: Path) -> subprocess.CompletedProcess[str]:
    """driver_check.py with the driver that is in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "tests.runtime.cuda.driver_check"],
        cwd=HERE.parents[2],
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_bindings
@pytest.mark.skipif(shutil.which("cc") is None, reason="cc is not installed")
def test_the_bindings_hand_over_what_is_meant(tmp_path: Path) -> None:
    command = ["cc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-shared",
               "-fPIC", str(HERE / "driver.c"), "-o", str(tmp_path / "libcuda.so.1"), "-ldl"]  # fmt: skip
    subprocess.run(command, check=True)
    found = checked(tmp_path)
    assert found.returncode == 0, found.stderr


@needs_bindings
def test_a_driver_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_text("no library")
    found = checked(tmp_path)
    assert found.returncode == 1 and "no CUDA driver is installed." in found.stderr
