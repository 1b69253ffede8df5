"""``addends``: a product as a tensor of sums over parts of its terms, and what that makes of a
kernel's form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ... import scalar
from ...dim import Extent
from ...graph import Graph
from ...loops.elements import Axis
from ...op import Array, Compute, NotDifferentiable, Op, Read
from ...scalar import Expr
from ...tensor_type import TensorType
from .forms import Form, Product


@dataclass(frozen=True)
class AddendsAttrs:
    """``number``: how many addends."""

    number: int


def _infer(attrs: AddendsAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    return [x.with_shape((attrs.number, *x.shape))]


def _reference(
    attrs: AddendsAttrs, inputs: Sequence[Array], _outputs: Sequence[TensorType]
) -> Sequence[Array]:
    (x,) = inputs
    return [np.concatenate([x[None], np.zeros((attrs.number - 1, *x.shape), x.dtype)])]


def _compute(
    _attrs: AddendsAttrs, inputs: Sequence[TensorType], _outputs: Sequence[TensorType]
) -> Compute:
    def term(index: tuple[Extent, ...], _reduce: tuple[Extent, ...], read: Read) -> Expr:
        return scalar.guarded([0 - index[0]], read(0, index[1:]))

    return Compute(term)


ADDENDS = Op(
    "addends",
    "a tensor as the sum of several: which, is left to the code",
    _infer,
    _reference,
    NotDifferentiable("it is made after differentiation"),
    AddendsAttrs,
    "kernels",
    _compute,
)


def whole_product(body: Graph) -> tuple[Graph, int]:
    """A kernel's graph before it was cut, and the number of its parts; 1 if it was not."""
    last = body.nodes[-1] if body.nodes else None
    if last is None or last.op is not ADDENDS:
        return body, 1
    return replace(body, nodes=body.nodes[:-1], outputs=last.inputs), last.attrs.number


def in_parts(form: Form, number: int) -> Product:
    """The product with as many sums for each element, one a part."""
    assert isinstance(form, Product), "only products are cut"
    part = Axis.of("pk", number)
    return replace(
        form, batch=(part, *form.batch), position=(part.position, *form.position), part=part
    )


__all__ = ["ADDENDS", "AddendsAttrs", "in_parts", "whole_product"]
