"""How a fault must meet a user of the command line: one clear message, the right exit code, no
traceback, no file left. Used by the tests ``test_command_line_*.py``.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from netloom.frontends.dsl import zoo  # noqa: F401  (imported once, so that single tests are quick)

from ..cli.calling import call

NETWORK = """
import netloom as nl

@nl.network
def small(x):
    return nl.dense(nl.relu(x), 2)

def graph():
    return small.graph(x=nl.tensor("N", 4))

def raises():
    raise ValueError("no such luck")

def returns_a_number():
    return 7

value = 3
"""


def two_inputs() -> onnx.ModelProto:
    """y = a + b for float32[4]."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("a", "b")]
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"])], "sum", ports, [onnx.ValueInfoProto(name="y")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def refused(code: int, says: str, *arguments: str | Path, left: Path | None = None) -> str:
    """The one message of a call that fails with the code; the folder ``left`` must be empty
    then.
    """
    result = call(*arguments, code=code)
    assert result.stdout == ""
    assert result.stderr.count("netloom: ") == 1 and result.stderr.startswith("netloom: ")
    assert says in result.stderr, result.stderr
    assert all(c.isprintable() or c == "\n" for c in result.stderr) and len(result.stderr) < 5000
    assert left is None or list(left.iterdir()) == []
    return result.stderr
