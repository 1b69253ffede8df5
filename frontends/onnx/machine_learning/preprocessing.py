"""Scaler, Normalizer, Binarizer, Imputer and kin -> elementwise ops and gathers."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT32, INT64

from ..context import Context
from ..handler import HandlerTable
from ..indexing import check_indices
from ..node import ModelNode

PREPROCESSING: Final = HandlerTable()


def _parameter(context: Context, node: ModelNode, name: str, x: Value, default: float) -> Value:
    """One number, or one for each feature."""
    given = node.numbers(name) or (default,)
    if len(given) != 1 and x.shape[-1:] != (len(given),):
        raise node.misshapen(f"{name} has {len(given)} numbers for {x.type}.", "Convert it again.")
    array = np.array(given if len(given) > 1 else given[0], np.float32)
    return context.constant(array, x.dtype)


@PREPROCESSING.on("Scaler")
def scaler(context: Context, node: ModelNode) -> Value:
    """(x - offset) * scale as float32, of doubles computed in float64."""
    x = node.input(0)
    x = x if x.dtype.is_float else context.cast(x, FLOAT32)
    centred = context("sub", x, _parameter(context, node, "offset", x, 0.0))
    scaled = context("mul", centred, _parameter(context, node, "scale", x, 1.0))
    return context.cast(scaled, FLOAT32)


@PREPROCESSING.on("Normalizer")
def normalizer(context: Context, node: ModelNode) -> Value:
    """x over the largest, the sum of sizes, or the length of its row; rows of zeros stay."""
    x = context.cast(node.input(0), FLOAT32)
    if not x.type.rank:
        raise node.misshapen("its input is a scalar; rows are needed.")
    axes = (x.type.rank - 1,)
    match node.text("norm", "MAX", ("MAX", "L1", "L2")):
        case "MAX":
            norm = context("reduce_max", x, axes=axes, keep=True)
        case "L1":
            norm = context("reduce_sum", context("abs", x), axes=axes, keep=True)
        case _:
            square = context("reduce_sum", context("mul", x, x), axes=axes, keep=True)
            norm = context("sqrt", square)
    zero = context.number(0.0, x.dtype)
    return context("select", context("equal", norm, zero), x, context("div", x, norm))


@PREPROCESSING.on("Binarizer")
def binarizer(context: Context, node: ModelNode) -> Value:
    """1 where x > threshold, else 0."""
    x, threshold = node.input(0), node.number("threshold", 0.0)
    limit = context.number(threshold if x.dtype.is_float else math.floor(threshold), x.dtype)
    return context.cast(context("less", limit, x), x.dtype)


@PREPROCESSING.on("Imputer")
def imputer(context: Context, node: ModelNode) -> Value:
    """Other numbers, one or one for each feature, in place of one number (or NaN)."""
    x = node.input(0)
    if x.dtype.is_float:
        replaced = node.number("replaced_value_float", 0.0)
        numbers = _parameter(context, node, "imputed_value_floats", x, 0.0)
        is_missing = (
            context("is_nan", x)
            if replaced != replaced
            else context("equal", x, context.number(replaced, x.dtype))
        )
        return context("select", is_missing, numbers, x)
    given = node.integers("imputed_value_int64s") or ()
    if len(given) != 1 and x.shape[-1:] != (len(given),):
        raise node.misshapen(f"it has {len(given)} numbers for {x.type}.", "Convert it again.")
    array = np.array(given if len(given) > 1 else given[0], np.int64)
    wanted = context.number(node.integer("replaced_value_int64", 0), x.dtype)
    return context("select", context("equal", x, wanted), context.constant(array, x.dtype), x)


@PREPROCESSING.on("FeatureVectorizer")
def feature_vectorizer(context: Context, node: ModelNode) -> Value:
    """Columns of all inputs beside each other, as float32."""
    parts = [context.cast(x, FLOAT32) for x in node.present]
    if any(x.type.rank != 2 for x in parts):
        raise node.misshapen("its inputs must be rows of features.", "Convert it again.")
    return context("concat", *parts, axis=1) if len(parts) > 1 else parts[0]


@PREPROCESSING.on("ArrayFeatureExtractor")
def array_feature_extractor(context: Context, node: ModelNode) -> Value:
    """The entries of the last axis that the second input names; of a vector as one row."""
    x, places = node.input(0), node.input(1)
    if not x.type.rank:
        raise node.misshapen("its input is a scalar; features are needed.")
    flat = context.reshape(places, (places.type.elements,))
    check_indices(context, node, flat, x.shape[-1])
    x = context.reshape(x, (1, *x.shape)) if x.type.rank == 1 else x
    return context("gather", x, flat, axis=x.type.rank - 1)


@PREPROCESSING.on("OneHotEncoder")
def one_hot_encoder(context: Context, node: ModelNode) -> Value:
    """1 for the category that an integer is, along a new last axis; zeros for any other."""
    if node.texts("cats_strings"):
        raise node.unsupported("its categories are strings.", "Encode them outside of the model.")
    categories = node.integers("cats_int64s")
    if not categories:
        raise node.fault("attribute cats_int64s is missing.", "Convert it again.")
    if not node.flag("zeros", True):
        raise node.unsupported(
            "zeros = 0 (unknown categories are errors) is not supported.",
            "Convert with handle_unknown='ignore'.",
        )
    x = node.input(0)
    column = context.reshape(context.cast(x, INT64), (*x.shape, 1))
    known = context.constant(np.array(categories, np.int64))
    return context.cast(context("equal", column, known), FLOAT32)


@PREPROCESSING.on("LabelEncoder")
def label_encoder(context: Context, node: ModelNode) -> Value:
    """The value of the key that x equals, else the default; keys and values are numbers."""
    x = node.input(0)
    keys, values = (_listed(context, node, name) for name in ("keys", "values"))
    if keys.shape != values.shape or keys.ndim != 1 or not keys.size:
        raise node.misshapen(
            f"it has {keys.size} keys and {values.size} values.", "Convert it again."
        )
    column = context.reshape(x, (*x.shape, 1))
    is_key = context("equal", column, context.constant(keys, x.dtype))
    if node.opset >= 4 and x.dtype.is_float and np.isnan(keys).any():  # one equals another
        is_nan = context("and", context("is_nan", column), context.constant(np.isnan(keys)))
        is_key = context("or", is_key, is_nan)
    rank = column.type.rank
    hits = context.cast(is_key, INT64)
    first = context("argmax", hits, axis=rank - 1, keep=False, last=False)
    is_known = context("reduce_max", hits, axes=(rank - 1,), keep=False)
    found = context("gather", context.constant(values), first, axis=0)
    one = context.number(1, INT64)
    return context(
        "select", context("equal", is_known, one), found, _default(context, node, values)
    )


def _listed(context: Context, node: ModelNode, name: str) -> npt.NDArray[Any]:
    """Keys or values."""
    if node.texts(f"{name}_strings"):
        raise node.unsupported(f"its {name} are strings.", "Encode them outside of the model.")
    tensor, floats = node.tensor(f"{name}_tensor"), node.numbers(f"{name}_floats")
    if tensor is not None:
        return context.reader.constant(tensor, f"{name} of {node.title}").array
    if floats is not None:
        return np.array(floats, np.float32)
    return np.array(node.integers(f"{name}_int64s") or (), np.int64)


def _default(context: Context, node: ModelNode, values: npt.NDArray[Any]) -> Value:
    """What no key gives, of the values' dtype."""
    tensor = node.tensor("default_tensor")
    if tensor is not None:
        found = context.reader.constant(tensor, f"the default of {node.title}").array.reshape(())
    elif values.dtype.kind == "f":
        found = np.asarray(node.number("default_float", -0.0))
    else:
        found = np.asarray(node.integer("default_int64", -1))
    return context.constant(found.astype(values.dtype))
