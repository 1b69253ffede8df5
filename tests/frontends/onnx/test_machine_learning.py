"""Ops of ai.onnx.ml against ONNX Runtime; forests of random trees, also as compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import netloom as nl
from netloom.compiler.interpret import interpret
from netloom.errors import ModelWarning, NetloomError
from netloom.frontends.onnx import check, from_onnx
from netloom.frontends.onnx.machine_learning import MACHINE_LEARNING
from netloom.frontends.onnx.machine_learning.maps import MAPS
from netloom.frontends.onnx.machine_learning.tree_ensemble import TREE_ENSEMBLE

from .runtime_case import RNG, Array, Case, case, check_case, compare, expected_of, model_of, r

DOMAIN = "ai.onnx.ml"
BOTH = ("label", "scores")
FEATURES = 4


def ml(op: str, *inputs: Array, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> Case:
    """``learning``: the domain's opset."""
    return case(op, *inputs, outputs=outputs, domain=DOMAIN, **attributes)


def numbers(*shape: int) -> list[float]:
    return [float(x) for x in r(*shape).ravel()]


def forest(trees: int, depth: int, modes: tuple[str, ...] = ("BRANCH_LEQ",)) -> dict[str, Any]:
    """Nodes of random trees; ``leaves`` lists (tree, node)."""
    fields = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    nodes: dict[str, list[Any]] = {name: [] for name in fields}
    leaves = []
    for tree in range(trees):
        todo, known = [(0, 0)], 1
        while todo:
            number, level = todo.pop()
            is_leaf = level == depth or (level > 1 and RNG.random() < 0.3)
            row: tuple[Any, ...] = (tree, number, 0, 0.0, "LEAF", 0, 0)
            if is_leaf:
                leaves.append((tree, number))
            else:
                feature, mode = int(RNG.integers(FEATURES)), modes[known % len(modes)]
                value = float(np.float32(RNG.integers(-3, 4) / 4))
                row = (tree, number, feature, value, mode, known, known + 1)
                todo += [(known, level + 1), (known + 1, level + 1)]
                known += 2
            for name, value in zip(fields, row, strict=True):
                nodes[name].append(value)
    return {**{f"nodes_{name}": column for name, column in nodes.items()}, "leaves": leaves}


def trees(
    kind: str, results: int, *, is_signed: bool = True, used: tuple[int, ...] = (), **more: Any
) -> Case:
    """An ensemble with a weight for each leaf and result (only for those ``used``)."""
    attributes = forest(5, 4, more.pop("modes", ("BRANCH_LEQ",)))
    pairs = [(t, n, k) for t, n in attributes.pop("leaves") for k in used or range(results)]
    prefix, ids = ("class", "class_ids") if kind == "Classifier" else ("target", "target_ids")
    weights = RNG.standard_normal(len(pairs)) if is_signed else RNG.random(len(pairs)) / 5
    columns = [list(column) for column in zip(*pairs, strict=True)]
    attributes |= {
        f"{prefix}_treeids": columns[0], f"{prefix}_nodeids": columns[1], ids: columns[2],
        f"{prefix}_weights": [float(np.float32(w)) for w in weights],
    }  # fmt: skip
    x = (RNG.integers(-4, 5, (20, FEATURES)) / 4).astype(np.float32)
    if kind == "Classifier":
        labels = more.pop("labels", list(range(7, 7 + results)))
        attributes["classlabels_int64s"] = labels
        return ml("TreeEnsembleClassifier", x, outputs=BOTH, **attributes, **more)
    return ml("TreeEnsembleRegressor", x, n_targets=results, **attributes, **more)


def machine(kind: str, **more: Any) -> Case:
    """A regressor with 6 support vectors."""
    return ml(
        "SVMRegressor", r(5, FEATURES), kernel_type=kind, support_vectors=numbers(6, FEATURES),
        coefficients=numbers(6), rho=[0.5], n_supports=6, kernel_params=[0.25, 0.5, 3.0], **more,
    )  # fmt: skip


def voters(counts: tuple[int, ...], *, is_fitted: bool = False, **more: Any) -> Case:
    """A classifier with so many support vectors of each class."""
    classes, total = len(counts), sum(counts)
    pairs = classes * (classes - 1) // 2
    fitted = {"prob_a": [-k for k in numbers(pairs)], "prob_b": numbers(pairs)} if is_fitted else {}
    return ml(
        "SVMClassifier", r(9, FEATURES), outputs=BOTH, vectors_per_class=list(counts),
        support_vectors=numbers(total, FEATURES), coefficients=numbers(classes - 1, total),
        rho=numbers(pairs), classlabels_ints=list(range(5, 5 + classes)),
        kernel_params=[0.25, 0.5, 3.0], **{"kernel_type": "RBF", **fitted, **more},
    )  # fmt: skip


def tensor(*numbers: float, dtype: Any = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(numbers, dtype), "numbers")


def stumps(kind: str, x: Array, *, is_double: bool = False, **more: Any) -> Case:
    """Two trees of one branch each, one for each of two results."""
    prefix, ids = ("class", "class_ids") if kind == "Classifier" else ("target", "target_ids")
    reals = {"nodes_values": [0.1, 0, 0, 0.3, 0, 0], f"{prefix}_weights": [1.5, -2.5, 3.1, -4.0]}
    if is_double:
        tensors = {name: tensor(*row, dtype=np.float64) for name, row in reals.items()}
        more |= {f"{name}_as_tensor": made for name, made in tensors.items()}
    else:
        more |= reals
    results = {"n_targets": 2} if kind == "Regressor" else {"classlabels_int64s": [4, 7, 9]}
    return ml(
        f"TreeEnsemble{kind}", x, nodes_treeids=[0, 0, 0, 1, 1, 1], nodes_nodeids=[0, 1, 2] * 2,
        nodes_featureids=[1, 0, 0, 2, 0, 0], nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"] * 2,
        nodes_truenodeids=[1, 0, 0] * 2, nodes_falsenodeids=[2, 0, 0] * 2,
        outputs=BOTH if kind == "Classifier" else ("y",),
        **{f"{prefix}_treeids": [0, 0, 1, 1], f"{prefix}_nodeids": [1, 2] * 2, ids: [0, 0, 1, 1]},
        **results, **more,
    )  # fmt: skip


GAPS = np.where(RNG.random((5, FEATURES)) < 0.3, np.nan, r(5, FEATURES)).astype(np.float32)
WHOLE = RNG.integers(0, 4, (5, 3)).astype(np.int64)
DOUBLES = RNG.standard_normal((9, FEATURES))
CASES = [
    ml("Scaler", r(5, 4), offset=numbers(4), scale=numbers(4)),
    ml("Scaler", WHOLE, offset=[1.0], scale=[0.5]),
    *(ml("Normalizer", r(5, 4), norm=norm) for norm in ("MAX", "L1", "L2")),
    ml("Binarizer", r(5, 4), threshold=0.25),
    ml("Imputer", GAPS, imputed_value_floats=numbers(4), replaced_value_float=float("nan")),
    ml("Imputer", WHOLE, imputed_value_int64s=[9], replaced_value_int64=2),
    ml("FeatureVectorizer", r(5, 2), r(5, 3), inputdimensions=[2, 3]),
    ml("ArrayFeatureExtractor", r(5, 4), np.array([2, 0], np.int64)),
    ml("OneHotEncoder", WHOLE, cats_int64s=[0, 2, 3], zeros=1),
    ml("LabelEncoder", WHOLE, keys_int64s=[0, 2, 3], values_floats=[0.5, 1.5, 2.5],
       default_float=-2.0),
    ml("LabelEncoder", WHOLE, keys_int64s=[1, 2], values_int64s=[7, 9], default_int64=-5),
    *(ml("LinearRegressor", r(5, 4), coefficients=numbers(8), intercepts=numbers(2), targets=2,
         post_transform=transform) for transform in ("NONE", "LOGISTIC", "SOFTMAX")),
    *(ml("LinearClassifier", r(5, 4), coefficients=numbers(12), intercepts=numbers(3),
         classlabels_ints=[4, 5, 9], multi_class=1, post_transform=transform, outputs=BOTH)
      for transform in ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO")),
    *(ml("LinearClassifier", r(9, 4), coefficients=numbers(4), intercepts=numbers(1),
         classlabels_ints=[4, 5], post_transform=transform, outputs=BOTH)
      for transform in ("NONE", "LOGISTIC")),
    *(machine(kind) for kind in ("LINEAR", "POLY", "RBF", "SIGMOID")), machine("RBF", one_class=1),
    ml("SVMRegressor", r(5, 4), kernel_type="LINEAR", coefficients=numbers(4), rho=[0.5],
       kernel_params=[0.0, 0.0, 0.0]),
    *(voters((3, 2), is_fitted=is_fitted, post_transform=transform)
      for is_fitted in (True, False) for transform in ("NONE", "SOFTMAX")),
    voters((3, 2, 4, 1)), voters((3, 0, 4), is_fitted=True), voters((2, 3, 2, 4, 3), is_fitted=True),
    voters((2, 3, 1), kernel_type="LINEAR", post_transform="LOGISTIC"),
    trees("Regressor", 1), trees("Regressor", 3, aggregate_function="AVERAGE"),
    trees("Regressor", 2, aggregate_function="MAX", base_values=[0.5, 1.0]),
    trees("Regressor", 2, modes=("BRANCH_LT", "BRANCH_GTE", "BRANCH_EQ", "BRANCH_GT")),
    *(trees("Classifier", 3, post_transform=transform) for transform in ("NONE", "SOFTMAX")),
    *(trees("Classifier", 2, used=used, is_signed=is_signed, post_transform=transform)
      for used in ((0,), (1,)) for is_signed in (True, False)
      for transform in ("NONE", "LOGISTIC")),
    trees("Classifier", 3, post_transform="NONE", base_values=[0.25, 0.5, -0.5]),
    *(stumps("Regressor", r(9, 4), aggregate_function=how) for how in ("MIN", "MAX", "AVERAGE")),
    *(stumps(kind, DOUBLES, is_double=True) for kind in ("Regressor", "Classifier")),
    ml("Scaler", DOUBLES, offset=[0.5], scale=[2.0]),
    ml("Scaler", np.array([[1600000050.0]]), offset=[1.6e9], scale=[1.0]), ml("Normalizer", DOUBLES, norm="L2"),
    ml("LinearClassifier", DOUBLES, coefficients=numbers(12), intercepts=numbers(3),
       classlabels_ints=[4, 5, 9], outputs=BOTH),
    *(ml("LabelEncoder", WHOLE, keys_tensor=tensor(1, 2), values_tensor=values, learning=4)
      for values in (tensor(7, 8), tensor(7.5, 8, dtype=np.float32))),
    *(ml("LabelEncoder", GAPS, keys_floats=[float("nan")], values_int64s=[7], learning=learning)
      for learning in (2, 4)),
]  # fmt: skip


@pytest.mark.parametrize("c", CASES, ids=[f"{k}-{c.op}" for k, c in enumerate(CASES)])
def test_case(c: Case) -> None:
    check_case(c)


def test_every_handler_has_a_case() -> None:
    """In CASES, in test_tree_ensemble.py, or below."""
    others = {*TREE_ENSEMBLE.entries, *MAPS.entries}
    assert set(MACHINE_LEARNING.entries) == {c.op for c in CASES} | others


@pytest.mark.parametrize("labels", [
    {"classlabels_int64s": [5, 3, 9]}, {"classlabels_strings": ["a", "b", "c"]},
])  # fmt: skip
def test_maps_are_tensors(labels: dict[str, Any]) -> None:
    """What ONNX Runtime's maps hold, a column for each label, and a warning that says so."""
    model, given = model_of(ml("ZipMap", r(4, 3), **labels))
    (keys,) = labels.values()
    with pytest.warns(ModelWarning, match=f"label .{', '.join(map(str, keys))}"):
        graph = from_onnx(model)
    maps: Any = expected_of(model, given)[0]
    assert sorted(maps[0]) == sorted(keys)
    wanted = np.array([[row[key] for key in keys] for row in maps], np.float32)
    np.testing.assert_array_equal(interpret(graph, given)[0], wanted)


def test_missing_values_follow_the_tree() -> None:
    c = trees("Regressor", 1)
    count = len(c.attributes["nodes_nodeids"])
    c.attributes["nodes_missing_value_tracks_true"] = [int(k % 3 == 0) for k in range(count)]
    c.inputs[0][::3, 1] = np.nan  # type: ignore[index]
    check_case(c)


def test_compiled_forest() -> None:
    model, given = model_of(trees("Classifier", 3, post_transform="SOFTMAX"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    found = nl.compile(from_onnx(model), threads=1).session.run(None, given)
    compare(found, expected_of(model, given))


def test_turns_of_many_classes() -> None:
    """Their probabilities get a turn for each class, 100 at least, as those of LIBSVM."""
    for classes, expected in ((3, 100), (103, 103)):
        graph = from_onnx(model_of(voters((1,) * classes, is_fitted=True))[0])
        (turns,) = (node for node in graph.nodes if node.op.name == "iterate")
        assert turns.attrs.count == expected


def changed(c: Case, **attributes: Any) -> Case:
    return Case(c.op, c.inputs, {**c.attributes, **attributes}, c.outputs, c.first_fixed, c.domain)


TREES = trees("Regressor", 1)
CIRCLE = {
    "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0],
    "nodes_values": [0.0, 0.0, 0.0], "nodes_modes": ["LEAF", "BRANCH_LEQ", "BRANCH_LEQ"],
    "nodes_truenodeids": [0, 2, 1], "nodes_falsenodeids": [0, 2, 1],
}  # fmt: skip


@pytest.mark.parametrize(("c", "words"), [
    (changed(TREES, **CIRCLE), "two branches lead to one node"),
    (changed(TREES, nodes_modes=["LEAF"]), "differ in length"),
    (changed(TREES, target_nodeids=[999] * len(TREES.attributes["target_nodeids"])), "no node"),
    (changed(TREES, nodes_featureids=[9] * len(TREES.attributes["nodes_nodeids"])), "outside of 4"),
    (ml("LinearClassifier", r(5, 4), coefficients=numbers(8), intercepts=numbers(2),
        classlabels_strings=["a", "b"], outputs=BOTH), "labels are strings"),
    (ml("LinearRegressor", r(5, 4), coefficients=numbers(7)), "7 coefficients"),
    (changed(voters((2, 3)), rho=numbers(2)), "2 numbers rho for 2 classes"),
    (changed(voters((2, 3)), prob_a=numbers(2), prob_b=numbers(2)), "2 and 2 numbers for 1 pairs"),
    (ml("SVMClassifier", r(5, 4), classlabels_ints=[0, 1], coefficients=numbers(8), outputs=BOTH),
     "no support vectors"),
    (ml("Scaler", r(5, 4), offset=numbers(3)), "offset has 3 numbers"),
    (ml("OneHotEncoder", WHOLE, cats_int64s=[1], zeros=0), "zeros = 0"),
    (ml("ZipMap", r(5, 4), classlabels_int64s=[1, 2]), "2 labels for float32"),
    (ml("DictVectorizer", r(5, 4), string_vocabulary=["a"]), "without DictVectorizer"),
])  # fmt: skip
def test_what_is_impossible_is_refused(c: Case, words: str) -> None:
    with pytest.raises(NetloomError, match=words):
        from_onnx(model_of(c)[0])


def test_tensors_of_keys() -> None:
    c = ml("LabelEncoder", WHOLE)
    model, given = model_of(c)
    node = model.graph.node[0]
    for name, array in (("keys", [1, 2]), ("values", [10, 20]), ("default", [3])):
        entry = node.attribute.add(name=f"{name}_tensor", type=4)
        entry.t.CopyFrom(numpy_helper.from_array(np.array(array, np.int64)))
    assert check(model).is_supported
    found = nl.compile(from_onnx(model), threads=1).session.run(None, given)
    wanted = np.select([given["x0"] == 1, given["x0"] == 2], [10, 20], 3)
    np.testing.assert_array_equal(found[0], wanted)


def test_integers_above_a_negative_threshold() -> None:
    """0 is above -0.5; ONNX Runtime has no Binarizer of integers."""
    model, given = model_of(ml("Binarizer", WHOLE - 2, threshold=-0.5))
    found = interpret(from_onnx(model), given)[0]
    np.testing.assert_array_equal(found, (given["x0"] > -0.5).astype(np.int64))
