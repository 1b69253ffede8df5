"""How many products the steps of a recurrent layer take: the inputs of all steps are one, and each
step adds as few as its equations allow.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from netloom.frontends.onnx.importer import from_onnx

STEPS, BATCH, FEATURES, HIDDEN = 5, 2, 3, 4


def layer(folder: Path, op: str, gates: int, **attributes: int) -> Path:
    rng = np.random.default_rng(0)
    shapes = {"w": (1, gates * HIDDEN, FEATURES), "r": (1, gates * HIDDEN, HIDDEN)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    node = helper.make_node(op, ["x", "w", "r"], ["y"], hidden_size=HIDDEN, **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (STEPS, BATCH, FEATURES))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (STEPS, 1, BATCH, HIDDEN))
    graph = helper.make_graph([node], "layer", [x], [y], weights)
    path = folder / "layer.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.mark.parametrize(("op", "gates", "attributes", "products"), [
    ("RNN", 1, {}, STEPS), ("LSTM", 4, {}, STEPS), ("GRU", 3, {}, 2 * STEPS),
    ("GRU", 3, {"linear_before_reset": 1}, STEPS),
])  # fmt: skip
def test_products(
    tmp_path: Path, op: str, gates: int, attributes: dict[str, int], products: int
) -> None:
    """One for the inputs, and those of all steps but the first, whose state is zero; a gate before
    the product leaves that one too, for it may be NaN."""
    graph = from_onnx(layer(tmp_path, op, gates, **attributes))
    assert sum(node.op.name == "matmul" for node in graph.nodes) == products
