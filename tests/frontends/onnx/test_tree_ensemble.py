"""TreeEnsemble (ai.onnx.ml 5), compared with a walk through the trees in NumPy's float64 and with
ONNX's reference evaluator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from netloom.compiler.driver import compile_graph
from netloom.compiler.interpret import interpret
from netloom.errors import NetloomError
from netloom.frontends.onnx import from_onnx
from netloom.runtime.session import Session

Array = npt.NDArray[Any]
COMPARE = (np.less_equal, np.less, np.greater_equal, np.greater, np.equal, np.not_equal)
MEMBER = 6
SETS = ((2.0, 5.0), (1.0,))
# two trees: branches 0 to 3 and 4 to 5, of which 1 and 5 ask for members; a leaf of two parents
TREES: dict[str, Any] = {
    "tree_roots": [0, 4],
    "nodes_featureids": [0, 1, 2, 0, 1, 1],
    "nodes_modes": np.array([0, MEMBER, 3, 5, 1, MEMBER], np.uint8),
    "nodes_splits": np.array([2.0, 0, 3.0, 1.0, 4.0, 0], np.float32),
    "nodes_truenodeids": [1, 0, 3, 2, 0, 5], "nodes_trueleafs": [0, 1, 0, 1, 1, 1],
    "nodes_falsenodeids": [2, 1, 2, 3, 5, 4], "nodes_falseleafs": [0, 1, 1, 1, 0, 1],
    "nodes_missing_value_tracks_true": [1, 0, 0, 1, 0, 0],
    "leaf_targetids": [0, 1, 0, 1, 1, 0],
    "leaf_weights": np.array([1.5, -2, 3, 0.25, 5, -6], np.float32),
    "membership_values": np.array([*SETS[0], np.nan, *SETS[1], np.nan], np.float32),
    "n_targets": 2,
}  # fmt: skip


def model_of(**changed: Any) -> onnx.ModelProto:
    given = {**TREES, **changed}
    attributes = {
        name: numpy_helper.from_array(value, name) if isinstance(value, np.ndarray) else value
        for name, value in given.items()
    }
    node = helper.make_node("TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    port = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("n", 3))
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ("n", 2))
    opsets = [helper.make_opsetid("ai.onnx.ml", 5), helper.make_opsetid("", 21)]
    return helper.make_model(
        helper.make_graph([node], "g", [port], [y]), opset_imports=opsets, ir_version=10
    )


def leaf(x: Array, at: int) -> int:
    """Where the walk of one row from a branch ends."""
    while True:
        value, mode = x[TREES["nodes_featureids"][at]], TREES["nodes_modes"][at]
        if mode == MEMBER:
            holds = value in SETS[0 if at == 1 else 1]
        else:
            holds = COMPARE[mode](value, TREES["nodes_splits"][at])
        if np.isnan(value) and TREES["nodes_missing_value_tracks_true"][at]:
            holds = True
        side = "true" if holds else "false"
        is_leaf, at = TREES[f"nodes_{side}leafs"][at], TREES[f"nodes_{side}nodeids"][at]
        if is_leaf:
            return at


def walked(x: Array, function: int) -> Array:
    """[n, 2]: leaves of another target count as 0 in sums, and not among the least or largest, which is
    0 where no leaf is of a target (as in ONNX Runtime).
    """
    absent = (0, 0, np.inf, -np.inf)[function]
    found = np.full((len(x), len(TREES["tree_roots"]), 2), absent, np.float64)
    for row, numbers in enumerate(x):
        for tree, root in enumerate(TREES["tree_roots"]):
            at = leaf(numbers, root)
            found[row, tree, TREES["leaf_targetids"][at]] = TREES["leaf_weights"][at]
    result = (np.mean, np.sum, np.min, np.max)[function](found, axis=1)
    return np.asarray(np.where(np.isinf(result), 0, result))


def features() -> Array:
    x = np.random.default_rng(4).integers(0, 7, (60, 3)).astype(np.float32)
    x[::9, 0] = np.nan
    x[4::9, 1] = np.nan
    return x


@pytest.mark.parametrize("function", range(4))
def test_walks(function: int) -> None:
    model, x = model_of(aggregate_function=function), features()
    (found,) = interpret(from_onnx(model), {"x": x})
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, walked(x, function))


def test_nothing_need_end_the_last_set() -> None:
    model, x = model_of(membership_values=TREES["membership_values"][:-1]), features()
    np.testing.assert_array_equal(interpret(from_onnx(model), {"x": x})[0], walked(x, 1))


def test_reference_and_program() -> None:
    model, x = model_of(), features()
    x = np.nan_to_num(x)  # of which the evaluator has no meaning in sets
    session = Session.in_process(compile_graph(from_onnx(model)).image)
    (found,) = session.run(None, {"x": x})
    np.testing.assert_array_equal(found, ReferenceEvaluator(model).run(None, {"x": x})[0])


def test_transform_and_a_tree_of_one_leaf() -> None:
    """Whose both sides lead to that leaf."""
    one = {"tree_roots": [0], "nodes_featureids": [0], "nodes_modes": np.array([0], np.uint8),
           "nodes_splits": np.zeros(1, np.float32), "nodes_truenodeids": [0], "nodes_trueleafs": [1],
           "nodes_falsenodeids": [0], "nodes_falseleafs": [1], "leaf_targetids": [1],
           "nodes_missing_value_tracks_true": [0], "leaf_weights": np.ones(1, np.float32)}  # fmt: skip
    (found,) = interpret(from_onnx(model_of(**one, post_transform=2)), {"x": features()})
    np.testing.assert_allclose(found, np.tile([0.5, 1 / (1 + np.exp(-1))], (60, 1)), rtol=1e-6)


@pytest.mark.parametrize(("changed", "words"), [
    ({"tree_roots": [6]}, "a root is no node"),
    ({"nodes_featureids": [0, 1, 3, 0, 1, 1]}, "outside of 3"),
    ({"nodes_truenodeids": [1, 0, 3, 9, 0, 5]}, "leads to no node"),
    ({"nodes_falsenodeids": [0, 1, 2, 3, 5, 4]}, "more than 1024 levels"),  # a circle
    ({"leaf_targetids": [0, 1, 0, 1, 2, 0]}, "do not belong to 2 targets"),
    ({"nodes_trueleafs": [0, 1]}, "differ in length"),
    ({"membership_values": np.array([1, np.nan], np.float32)}, "1 sets for 2 nodes"),
    ({"nodes_modes": np.array([0, MEMBER, 3, 5, 1, 7], np.uint8)}, "up to 7; uint8 below 7"),
    ({"nodes_modes": np.array([0, MEMBER, 3, 5, 1, -1], np.int32)}, "modes are int32 numbers"),
    ({"post_transform": 4}, "post_transform is 4; known are 0 to 3"),
])  # fmt: skip
def test_what_is_impossible_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(NetloomError, match=words):
        from_onnx(model_of(**changed))
