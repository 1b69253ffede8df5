"""What no line of the product may do: evaluate text, unpickle, call a shell, or read the
environment elsewhere than in one file.

Models and programs are data. The one place that runs a user's code is the loader of
``file.py:function``, by importlib.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("compiler", "runtime", "frontends", "netloom", "benchmarks")
EVALUATING = {"eval", "exec", "__import__"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
PICKLES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
ENVIRONMENT = Path("netloom/environment.py")
# Numba reads Python; names in that text are the compiler's own
ALLOWED = {("compiler/targets/cuda/compile.py", "exec()")}


def faults(source: str, may_read_environment: bool = False) -> Iterator[str]:
    """Every forbidden thing in a file's text, with its line."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in EVALUATING:
                yield f"line {node.lineno}: {name}()"
            case ast.Call(keywords=keywords) if any(k.arg == "shell" for k in keywords):
                yield f"line {node.lineno}: shell="
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="np"), attr="load"), keywords=keywords
            ) if not _is_safe(keywords):
                yield f"line {node.lineno}: np.load without allow_pickle=False"
            case ast.Attribute(value=ast.Name(id=module), attr=attr) if (
                f"{module}.{attr}" in SHELLS
            ):
                yield f"line {node.lineno}: {module}.{attr}"
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "getenv") if (
                not may_read_environment
            ):
                yield f"line {node.lineno}: the environment"
            case ast.Import(names=names) if PICKLES & {item.name for item in names}:
                yield f"line {node.lineno}: a pickle"
            case ast.ImportFrom(module=str(module)) if module in PICKLES:
                yield f"line {node.lineno}: a pickle"


def _is_safe(keywords: list[ast.keyword]) -> bool:
    return any(
        k.arg == "allow_pickle" and isinstance(k.value, ast.Constant) and k.value.value is False
        for k in keywords
    )


def files() -> list[Path]:
    found = {
        path.resolve().relative_to(ROOT)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    return sorted(found)


def test_the_source_does_none_of_it() -> None:
    assert len(files()) > 100
    found = [
        (str(path), fault)
        for path in files()
        for fault in faults((ROOT / path).read_text(encoding="utf-8"), path == ENVIRONMENT)
    ]
    assert [item for item in found if (item[0], item[1].partition(": ")[2]) not in ALLOWED] == []


@pytest.mark.parametrize("source", [
    "eval('1')", "exec(text)", "__import__(name)", "subprocess.run('ld', shell=True)",
    "os.system('ld')", "np.load(path)",
    "np.load(path, allow_pickle=True)", "import pickle", "from pickle import loads",
    "os.environ['HOME']",
])  # fmt: skip
def test_each_of_them_would_be_found(source: str) -> None:
    assert len(list(faults(source))) == 1
