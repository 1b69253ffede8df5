"""Channels to pixels and back: ops that are a transpose between two reshapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..op import Array, ByDecomposition, Op, define
from ..tensor_type import TensorType

if TYPE_CHECKING:
    from ..graph import Builder, Node, Value


@dataclass(frozen=True)
class DepthToSpaceAttrs:
    """``mode``: DCR (blocks are the outer channel axis) or CRD (channels are)."""

    block: int
    mode: str = "DCR"


@dataclass(frozen=True)
class SpaceToDepthAttrs:
    block: int


def _depth_infer(attrs: DepthToSpaceAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if (
        x.rank != 4
        or attrs.block < 1
        or x.shape[1] % (attrs.block**2) != 0
        or attrs.mode not in ("DCR", "CRD")
    ):
        raise ValueError(
            f"a block of {attrs.block} x {attrs.block} does not divide the channels of [n, c, h, w]"
        )
    n, c, h, w = x.shape
    return [x.with_shape((n, c // attrs.block**2, h * attrs.block, w * attrs.block))]


def _depth_to_space(b: Builder, node: Node) -> Sequence[Value]:
    (x,) = node.inputs
    n, c, h, w = x.shape
    k = node.attrs.block
    depth = c // k**2
    if node.attrs.mode == "DCR":
        parts = b(
            "transpose",
            b("reshape", x, shape=(n, k, k, depth, h, w)),
            permutation=(0, 3, 4, 1, 5, 2),
        )
    else:
        parts = b(
            "transpose",
            b("reshape", x, shape=(n, depth, k, k, h, w)),
            permutation=(0, 1, 4, 2, 5, 3),
        )
    return [b("reshape", parts, shape=node.output.shape)]


def _depth_reference(
    attrs: DepthToSpaceAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    n, c, h, w = inputs[0].shape
    k = attrs.block
    if attrs.mode == "DCR":
        parts = inputs[0].reshape(n, k, k, c // k**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = inputs[0].reshape(n, c // k**2, k, k, h, w).transpose(0, 1, 4, 2, 5, 3)
    return [parts.reshape(outputs[0].static_shape)]


def _space_infer(attrs: SpaceToDepthAttrs, inputs: Sequence[TensorType]) -> Sequence[TensorType]:
    (x,) = inputs
    if x.rank != 4 or attrs.block < 1 or any(e % attrs.block != 0 for e in x.shape[2:]):
        raise ValueError(
            f"a block of {attrs.block} does not divide the spatial axes of [n, c, h, w]"
        )
    n, c, h, w = x.shape
    return [x.with_shape((n, c * attrs.block**2, h // attrs.block, w // attrs.block))]


def _space_to_depth(b: Builder, node: Node) -> Sequence[Value]:
    (x,) = node.inputs
    n, c, h, w = x.shape
    k = node.attrs.block
    parts = b("reshape", x, shape=(n, c, h // k, k, w // k, k))
    return [
        b("reshape", b("transpose", parts, permutation=(0, 3, 5, 1, 2, 4)), shape=node.output.shape)
    ]


def _space_reference(
    attrs: SpaceToDepthAttrs, inputs: Sequence[Array], outputs: Sequence[TensorType]
) -> Sequence[Array]:
    n, c, h, w = inputs[0].shape
    k = attrs.block
    parts = inputs[0].reshape(n, c, h // k, k, w // k, k).transpose(0, 3, 5, 1, 2, 4)
    return [parts.reshape(outputs[0].static_shape)]


define(Op("depth_to_space", "blocks of channels become blocks of space", _depth_infer, _depth_reference,
          ByDecomposition(), DepthToSpaceAttrs, "shape", decompose=_depth_to_space))  # fmt: skip
define(Op("space_to_depth", "blocks of space become blocks of channels", _space_infer, _space_reference,
          ByDecomposition(), SpaceToDepthAttrs, "shape", decompose=_space_to_depth))  # fmt: skip
