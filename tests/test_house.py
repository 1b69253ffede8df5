"""The house: what importing costs, and which folder may import which."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "compiler": ("netloom.runtime", "netloom.frontends", "netloom.api", "onnx", "numba"),
    "runtime": (
        "netloom.compiler",
        "netloom.frontends",
        "netloom.api",
        "llvmlite",
        "onnx",
        "networkx",
        "numba",
    ),
    "frontends": ("netloom.runtime", "netloom.api", "llvmlite", "numba"),
}


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


def violations(folder: str, source: str) -> set[str]:
    return {
        name
        for name in imports(source)
        for bad in FORBIDDEN[folder]
        if name == bad or name.startswith(bad + ".")
    }


def test_layers() -> None:
    for folder in FORBIDDEN:
        for path in modules(folder):
            bad = violations(folder, path.read_text(encoding="utf-8"))
            if folder == "frontends" and (ROOT / "frontends" / "onnx") in path.parents:
                bad -= {"onnx"}
            if (ROOT / "compiler" / "targets" / "cuda") in path.parents:
                bad = {name for name in bad if name.split(".")[0] != "numba"}
            assert not bad, f"{path.relative_to(ROOT)} imports {bad}"
    for path in modules("compiler"):
        if "targets" not in path.parts:
            assert "llvmlite" not in {
                name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"))
            }, path


def test_a_violation_is_found() -> None:
    assert violations("runtime", "from netloom.compiler.graph import Graph\nimport numpy")


MAPS = ("compiler/loops", "compiler/passes", "compiler/passes/layouts", "compiler/passes/memory",
        "compiler/targets/cpu", "compiler/targets/cuda",
        "frontends/onnx", "runtime")  # fmt: skip


def missing(folder: Path, text: str) -> set[str]:
    """The modules and folders that a package's text names, and that it has not."""
    named = set(re.findall(r"``([a-z_0-9]+/?)``", text))
    return {name for name in named if not (folder / name).is_dir()
            and not (folder / f"{name}.py").is_file()}  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
def test_packages_name_modules_that_they_have(name: str) -> None:
    text = ast.get_docstring(ast.parse((ROOT / name / "__init__.py").read_text(encoding="utf-8")))
    assert text and not missing(ROOT / name, text)


def test_a_module_that_is_gone_is_found() -> None:
    assert missing(ROOT / "compiler", "``graph``, ``dim/`` and ``schedule``") == {"schedule"}


def test_importing_netloom_imports_little() -> None:
    modules = ("llvmlite", "onnx", "networkx", "numba", "numpy")
    code = f"import sys, netloom; print([m for m in {modules} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_loading_a_program_needs_numpy_alone() -> None:
    code = (
        "import sys, netloom.runtime.session; "
        "print([m for m in ('llvmlite', 'onnx', 'networkx', 'numba', 'netloom.compiler') if m in "
        "sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_wheel_holds_every_module_and_no_tests(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(ROOT),
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
    ]
    # a build folder in the tree would hand modules that are gone by now to the next wheel
    settings = tmp_path / "build.cfg"
    settings.write_text(f"[build]\nbuild_base = {tmp_path / 'build'}\n", encoding="utf-8")
    environment = {**os.environ, "DIST_EXTRA_CONFIG": str(settings)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    expected = {
        f"netloom/{path.relative_to(ROOT)}"
        for folder in ("compiler", "runtime", "frontends", "benchmarks")
        for path in modules(folder)
    }
    face = ROOT / "netloom"
    expected |= {
        f"netloom/{path.relative_to(face)}"
        for pattern in ("*.py", "cli/*.py")
        for path in face.glob(pattern)
    }
    assert held == expected
