"""The op that a fused group of nodes becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..op import Array, NotDifferentiable, Op, define
from ..tensor_type import TensorType

if TYPE_CHECKING:
    from ..graph import Graph


@dataclass(frozen=True)
class KernelAttrs:
    """``body``: what the kernel computes, as a graph over the node's inputs."""

    body: Graph


def _infer(attrs: KernelAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    expected = [value.type for value in attrs.body.inputs]
    if list(inputs) != expected:
        raise ValueError(f"the kernel's body takes {', '.join(map(str, expected))}")
    return [value.type for value in attrs.body.outputs]


def _reference(
    attrs: KernelAttrs, inputs: Sequence[Array], _outputs: Sequence[TensorType]
) -> Sequence[Array]:
    from ..interpret import interpret  # the interpreter knows ops, and this op is interpreted by it

    names = [value.label for value in attrs.body.inputs]
    return interpret(attrs.body, dict(zip(names, inputs, strict=True)))


define(
    Op(
        "kernel",
        "a fused group of nodes: one loop nest",
        _infer,
        _reference,
        NotDifferentiable("kernels are made after differentiation"),
        KernelAttrs,
        "kernels",
    )
)
