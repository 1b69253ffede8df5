"""docs/adding-an-op.md is true: its file, outside the tree, adds an op that is interpreted,
differentiated and compiled.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np

from netloom.compiler.driver import compile_graph
from netloom.compiler.graph import Builder
from netloom.compiler.interpret import interpret
from netloom.compiler.op import OPS
from netloom.compiler.passes.differentiate import differentiate
from netloom.compiler.tensor_type import FLOAT64, TensorType
from netloom.runtime.session import Session

PAGE = Path(__file__).parents[2] / "docs" / "adding-an-op.md"


def test_the_page(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    file = tmp_path / "swish.py"
    file.write_text(found.group(1), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("swish", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        b = Builder("page")
        x = b.input(TensorType(FLOAT64, (50,)), "x")
        y = b("swish_beta", x, beta=2.0)
        (dx,) = differentiate(b, b("reduce_sum", y, axes=(0,), keep=False), [x])
        graph = b.build([y, dx], ["y", "dx"])
        value = np.linspace(-3, 3, 50)
        expected = value / (1 + np.exp(-2 * value))
        slope = np.gradient(expected, value, edge_order=2)
        for outputs in (
            interpret(graph, {"x": value}),
            Session.in_process(compile_graph(graph).image).run(None, {"x": value}),
        ):
            np.testing.assert_allclose(outputs[0], expected, rtol=1e-13)
            np.testing.assert_allclose(outputs[1], slope, atol=1e-2)
    finally:
        del OPS["swish_beta"]
