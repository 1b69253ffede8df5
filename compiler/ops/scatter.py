"""Access by an index for each element: gather_elements, and its reverse, scatter.

Updates are taken in their order, so equal indices have one meaning. CPUs go through them once for each
line (loops/scatter.py). By the formulas here, for devices, a scatter is computed where it lands: each
element of the result looks at all updates of its line, and no two threads write one element. An
index out of range is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from netloom.errors import UnsupportedOpError

from .. import scalar
from ..dim import Extent, product
from ..op import Array, ByDecomposition, Compute, NotDifferentiable, Op, Read, define
from ..scalar import Checked, Expr, Index
from ..tensor_type import INT64, TensorType

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value


@dataclass(frozen=True)
class AxisAttrs:
    axis: int


def _check_line(axis: int, x: TensorType, indices: TensorType) -> None:
    """Indices have x's shape but for the axis."""
    if not 0 <= axis < x.rank:
        raise ValueError(f"there is no axis {axis} in rank {x.rank}")
    if not indices.dtype.is_integer:
        raise ValueError("indices must be integers")
    if _without(indices.shape, axis) != _without(x.shape, axis):
        raise ValueError(f"indices {indices} do not fit {x} along axis {axis}")


def _without(shape: Sequence[Extent], axis: int) -> tuple[Extent, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _with(index: Sequence[Extent], axis: int, entry: Any) -> list[Any]:
    return [*index[:axis], entry, *index[axis + 1 :]]


def _checked(indices: Array, extent: int) -> Array:
    """Indices counted from 0."""
    wide = indices.astype(np.int64)
    if wide.size and not (-extent <= int(wide.min()) and int(wide.max()) < extent):
        raise ValueError(f"an index is outside [-{extent}, {extent})")
    return np.where(wide < 0, wide + extent, wide)


# -- gather_elements -------------------------------------------------------------------------------


def _gather_infer(attrs: AxisAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    x, indices = inputs
    _check_line(attrs.axis, x, indices)
    return [TensorType(x.dtype, indices.shape)]


def _gather_reference(
    attrs: AxisAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    x, indices = inputs
    return [np.take_along_axis(x, _checked(indices, x.shape[attrs.axis]), attrs.axis)]


def _gather_compute(
    attrs: AxisAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    x, _ = inputs

    def term(i: tuple[Extent, ...], _r: tuple[Extent, ...], read: Read) -> Expr:
        found = Checked(scalar.cast(read(1, i), INT64), x.shape[attrs.axis])
        return read(0, _with(i, attrs.axis, found))

    return Compute(term)


def _gather_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    x, indices = node.inputs
    zeros = b("broadcast", b.number(0, x.dtype), shape=x.shape)
    return [
        b("scatter", zeros, indices, cotangents[0], axis=node.attrs.axis, reduction="add"),
        None,
    ]


define(Op("gather_elements", "y[i] = x[i with indices[i] at the axis]; an index out of range is an "
                             "error", _gather_infer,
          _gather_reference, _gather_vjp, AxisAttrs, "indexing", _gather_compute))  # fmt: skip


# -- scatter ---------------------------------------------------------------------------------------

# reduction -> its NumPy meaning and its identity
REDUCTIONS: Final[dict[str, tuple[Any, float]]] = {
    "add": (np.add, 0.0), "mul": (np.multiply, 1.0),
    "max": (np.maximum, float("-inf")), "min": (np.minimum, float("inf")),
}  # fmt: skip


@dataclass(frozen=True)
class ScatterAttrs:
    """``reduction``: add, mul, max or min."""

    axis: int
    reduction: str = "add"


def _scatter_infer(attrs: ScatterAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    x, indices, updates = inputs
    _check_line(attrs.axis, x, indices)
    if attrs.reduction not in REDUCTIONS:
        raise ValueError(f"there is no reduction {attrs.reduction}")
    _check_updates(x, indices, updates)
    if not (x.dtype.is_float or x.dtype.is_integer):
        raise ValueError(f"there is no {attrs.reduction} of {x}")
    return [x]


def _check_updates(x: TensorType, indices: TensorType, updates: TensorType) -> None:
    if updates != TensorType(x.dtype, indices.shape):
        raise ValueError(f"updates are {updates} for indices {indices} and {x}")


def _scatter_reference(
    attrs: ScatterAttrs, inputs: Sequence[Array], o: Sequence[TensorType]
) -> Sequence[Array]:
    x, indices, updates = inputs
    is_narrow = o[0].dtype.is_float and x.dtype.itemsize < 4
    result = x.astype(np.float32) if is_narrow else x.copy()
    at: list[Array] = list(np.indices(indices.shape, sparse=True))
    at[attrs.axis] = _checked(indices, x.shape[attrs.axis])
    with np.errstate(all="ignore"):
        REDUCTIONS[attrs.reduction][0].at(result, tuple(at), updates.astype(result.dtype))
    return [result.astype(x.dtype)]


def _identity(reduction: str, type: TensorType) -> float | int:
    number = REDUCTIONS[reduction][1]
    if type.dtype.is_float:
        return number
    info = np.iinfo(type.dtype.numpy)
    return int(min(max(number, info.min), info.max))


def _hit(attrs: Any, extent: Extent, i: tuple[Extent, ...], r: Extent, read: Read) -> Expr:
    """Whether update r of the line lands at i."""
    found = Checked(scalar.cast(read(1, _with(i, attrs.axis, r)), INT64), extent)
    return scalar.call("equal", found, Index(i[attrs.axis]))


def _scatter_compute(
    attrs: ScatterAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    x, indices, _ = inputs
    missing = _identity(attrs.reduction, x)

    def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
        update = read(2, _with(i, attrs.axis, r[0]))
        return scalar.select(_hit(attrs, x.shape[attrs.axis], i, r[0], read), update, missing)

    def finish(total: Expr, i: tuple[Extent, ...], read: Read) -> Expr:
        return scalar.call(attrs.reduction, read(0, i), scalar.cast(total, x.dtype))

    return Compute(
        term, (indices.shape[attrs.axis],), attrs.reduction, REDUCTIONS[attrs.reduction][1], finish
    )


def _pairs(attrs: Any, inputs: Sequence[TensorType], _outputs: Sequence[TensorType]) -> Extent:
    return product((*inputs[0].shape, inputs[1].shape[attrs.axis]))


def _scatter_vjp(b: Builder, node: Node, cotangents: Sequence[Value]) -> Sequence[Value | None]:
    if node.attrs.reduction != "add":
        raise UnsupportedOpError(f"scatter with {node.attrs.reduction} has no gradient",
                                 node=node.label,
                                 hint="Only sums can be trained through.")  # fmt: skip
    return [
        cotangents[0],
        None,
        b("gather_elements", cotangents[0], node.inputs[1], axis=node.attrs.axis),
    ]


define(
    Op(
        "scatter",
        "x with each update added (multiplied, ..) at its index along the axis",
        _scatter_infer,
        _scatter_reference,
        _scatter_vjp,
        ScatterAttrs,
        "indexing",
        _scatter_compute,
        flops=_pairs,
    )
)


# -- scatter_last ----------------------------------------------------------------------------------


def _last_infer(attrs: AxisAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    x, indices, updates = inputs
    _check_line(attrs.axis, x, indices)
    _check_updates(x, indices, updates)
    return [x]


def _last_reference(
    attrs: AxisAttrs, inputs: Sequence[Array], _o: Sequence[TensorType]
) -> Sequence[Array]:
    x, indices, updates = inputs
    result, found = x.copy(), _checked(indices, x.shape[attrs.axis])
    for number in range(indices.shape[attrs.axis]):
        at, update = (a.take([number], attrs.axis) for a in (found, updates))
        np.put_along_axis(result, at, update, attrs.axis)
    return [result]


def _last_parts(b: Builder, node: Node) -> Sequence[Value]:
    """For devices, and for gradients: each element finds the update that it takes."""
    (x, indices, updates), axis = node.inputs, node.attrs.axis
    if indices.shape[axis] == 0:
        return [x]
    source = b("scatter_source", indices, axis=axis, extent=x.shape[axis])
    new = b("gather_elements", updates, b("max", source, b.number(0, INT64)), axis=axis)
    return [b("select", b("less", source, b.number(0, INT64)), x, new)]


define(
    Op(
        "scatter_last",
        "x with the last of the updates at each index along the axis in the element's place",
        _last_infer,
        _last_reference,
        ByDecomposition(),
        AxisAttrs,
        "indexing",
        decompose=_last_parts,
    )
)


# -- scatter_source --------------------------------------------------------------------------------


@dataclass(frozen=True)
class SourceAttrs:
    """``extent``: of the axis that the indices point into."""

    axis: int
    extent: Extent


def _source_infer(attrs: SourceAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (indices,) = inputs
    if not 0 <= attrs.axis < indices.rank or not indices.dtype.is_integer:
        raise ValueError(f"indices {indices} do not fit axis {attrs.axis}")
    return [TensorType(INT64, tuple(_with(indices.shape, attrs.axis, attrs.extent)))]


def _source_reference(
    attrs: SourceAttrs, inputs: Sequence[Array], o: Sequence[TensorType]
) -> Sequence[Array]:
    (indices,) = inputs
    result = np.full(o[0].static_shape, -1, np.int64)
    at: list[Array] = list(np.indices(indices.shape, sparse=True))
    order = at[attrs.axis]
    at[attrs.axis] = _checked(indices, result.shape[attrs.axis])
    np.maximum.at(result, tuple(at), order)
    return [result]


def _source_compute(
    attrs: SourceAttrs, inputs: Sequence[TensorType], _o: Sequence[TensorType]
) -> Compute:
    (indices,) = inputs

    def term(i: tuple[Extent, ...], r: tuple[Extent, ...], read: Read) -> Expr:
        first: Callable[..., Expr] = lambda _position, at: read(0, at)  # noqa: E731 - _hit reads input 1
        return scalar.select(_hit(attrs, attrs.extent, i, r[0], first), Index(r[0]), -1)

    return Compute(term, (indices.shape[attrs.axis],), "max", -1.0)


define(
    Op(
        "scatter_source",
        "y[p] = the last i with indices[i] = p along the axis, -1 if there is none",
        _source_infer,
        _source_reference,
        NotDifferentiable("indices are integers"),
        SourceAttrs,
        "indexing",
        _source_compute,
    )
)
