"""A row of tests/cases -> arrays, a graph, and what the oracle gives; how results are compared.

Tolerances are derived: eps (k + 1) c S, with eps of the result's dtype, k the terms that an element
adds, S the magnitude of what is added (the two largest inputs' product, or the largest result; for
elementwise ops each element's own) and c = 8 for the few roundings of one formula. Integers and
truth values are exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias
from zlib import crc32

import ml_dtypes
import numpy as np
import numpy.typing as npt

from netloom.compiler import dim
from netloom.compiler.constant import Constant
from netloom.compiler.graph import Builder, Graph, Value, map_extents
from netloom.compiler.layout import Layout
from netloom.compiler.op import OPS
from netloom.compiler.tensor_type import FLOAT32, DType, TensorType

from . import oracle
from .cases import DIMS, FREE, Case, N, draw

Array: TypeAlias = npt.NDArray[Any]
FORMULA_ROUNDINGS = 8


# -- a row as arrays, as a graph, and as the oracle sees it ----------------------------------------


def numbers(attrs: Any) -> dict[str, Any]:
    """An op's attributes as the oracle takes them: no symbols, NumPy's dtypes, plain arrays."""
    values = {
        f.name: map_extents(getattr(attrs, f.name), {FREE: DIMS["N"]})
        for f in dataclasses.fields(attrs)
    }
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    match value:
        case DType():
            return value.numpy
        case Constant():
            return value.array
    return value


def arrays_of(case: Case) -> list[Array]:
    """The row's inputs; the same ones each time."""
    rng = np.random.default_rng(crc32(str(case).encode()))
    found: list[Array] = []
    for position, given in enumerate(case.inputs):
        shape = given.type.evaluate(DIMS)
        if given.domain == "max_pool":  # of the input before
            values = oracle.ORACLES["max_pool"](found[-1], **case.attrs)
        else:
            values = draw(given.domain, rng, shape, given.type.dtype, position)
        with np.errstate(over="ignore"):  # what a small float cannot hold becomes infinite
            found.append(np.asarray(values).astype(given.type.dtype.numpy))
    return found


def expected(case: Case, arrays: Sequence[Array]) -> tuple[Array, np.dtype[Any]]:
    return oracle.expected(case.op, arrays, numbers(OPS[case.op].attrs(**case.attrs)))


def add_case(b: Builder, case: Case, prefix: str = "") -> Value:
    """The row's inputs and its node. A free dim that no input tells gets a witness."""
    values = [b.input(given.type, f"{prefix}x{i}") for i, given in enumerate(case.inputs)]
    result = b(case.op, *values, **case.attrs)
    found = dim.symbols_of([e for value in values for e in value.shape])
    if _uses_free_dim(case) and not found:
        b.input(TensorType(FLOAT32, (N,)), f"{prefix}witness")
    return result


def _uses_free_dim(case: Case) -> bool:
    return any(
        map_extents(value, {FREE: 1}) != value
        for value in case.attrs.values()
        if not isinstance(value, Layout | Graph)
    )


def graph_of(case: Case) -> Graph:
    b = Builder("case")
    return b.build([add_case(b, case)], ["y"])


def named(case: Case, graph: Graph, arrays: Sequence[Array], prefix: str = "") -> dict[str, Array]:
    """The row's arrays by the names of the graph's inputs."""
    found = {f"{prefix}x{i}": array for i, array in enumerate(arrays)}
    witness = f"{prefix}witness"
    return found | (
        {witness: np.zeros(DIMS["N"], np.float32)}
        if any(v.label == witness for v in graph.inputs)
        else {}
    )


# -- comparing -------------------------------------------------------------------------------------


def eps(dtype: np.dtype[Any]) -> float:
    return float(ml_dtypes.finfo(dtype).eps)


def tolerance(case: Case, arrays: Sequence[Array], result: Array, dtype: np.dtype[Any]) -> Array:
    """How far an element may be off."""
    floats = [np.abs(x.astype(np.float64)) for x in arrays if oracle.is_float(x.dtype)]
    if OPS[case.op].is_elementwise:
        scale = np.maximum(1.0, np.abs(result))
        for x in floats:
            scale = np.maximum(scale, x)
    else:
        largest = sorted(x[np.isfinite(x)].max(initial=1.0) for x in floats)[-2:]
        scale = np.full(
            result.shape,
            max(np.prod(largest), np.abs(result[np.isfinite(result)]).max(initial=1.0)),
        )
    return np.asarray(
        eps(dtype) * (case.terms + 1) * FORMULA_ROUNDINGS * np.where(np.isfinite(scale), scale, 0.0)
    )


def differences(case: Case, arrays: Sequence[Array], found: Array) -> str:
    """Where ``found`` is not what the oracle gives; "" if it is."""
    wide, dtype = expected(case, arrays)
    if found.dtype != dtype or found.shape != wide.shape:
        return f"{found.dtype}{list(found.shape)} instead of {dtype}{list(wide.shape)}"
    if not oracle.is_float(dtype):
        same = found == wide
    else:
        with np.errstate(all="ignore"):
            rounded, own = wide.astype(dtype).astype(np.float64), found.astype(np.float64)
            close = np.abs(own - rounded) <= tolerance(case, arrays, rounded, dtype)
        same = (
            (own == rounded)
            | (np.isnan(own) & np.isnan(rounded))
            | (close & np.isfinite(own) & np.isfinite(rounded))
        )
    if np.all(same):
        return ""
    places = np.argwhere(~np.asarray(same))
    first = tuple(places[0])
    return f"{len(places)} of {same.size} differ, the first at {first}: {found[first]} instead of {wide[first]}"
