"""MatMulNBits -> a product with weights that are unpacked at import; GatherBlockQuantized -> rows of
a table that are unpacked when they are read.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import FLOAT32, UINT8

from ..context import Context
from ..handler import HandlerTable
from ..matmul import product as matrix_product
from ..node import ModelNode
from ..resampling import repeated

PACKED: Final = HandlerTable()

MOST_BITS: Final = 8


@PACKED.on("MatMulNBits")
def matmul_of_blocks(context: Context, node: ModelNode) -> Value:
    """a [.., k] times the transpose of weights [n, k] of 2, 4 or 8 bits, scaled by block; these
    are unpacked at import.
    """
    a, bias = node.input(0), node.optional(5)
    k, n, block = (node.integer(name, 0) for name in ("K", "N", "block_size"))
    bits = node.integer("bits", 4)
    packed, scales, zeros = (
        context.array(value) for value in (node.input(1), node.input(2), node.optional(3))
    )
    if (
        packed is None
        or scales is None
        or (node.optional(3) is not None and zeros is None)
        or node.optional(4) is not None
    ):
        raise node.unsupported(
            "its weights are computed, or reordered.",
            "Make them initializers, without group indices.",
        )
    if (
        bits not in (2, 4, 8)
        or block < 16
        or block % 16
        or k < 1
        or n < 1
        or packed.dtype != np.uint8
    ):
        raise node.fault(
            f"K = {k}, N = {n}, block_size = {block} and {bits} bits are impossible.",
            "Export it again.",
        )
    blocks = -(-k // block)
    if (
        packed.size != n * blocks * block * bits // 8
        or scales.size != n * blocks
        or a.shape[-1:] != (k,)
    ):
        raise node.misshapen(
            f"its weights are {node.input(1).type} and scales {node.input(2).type}.",
            "Export it again.",
        )
    weights = _unpacked(packed.reshape(n, blocks, -1), bits)[..., :block].astype(np.float32)
    shift = _zero_points(node, zeros, n, blocks, bits)
    real = (weights - shift) * scales.reshape(n, blocks, 1).astype(np.float32)
    matrix = context.constant(real.reshape(n, blocks * block)[:, :k], a.dtype)
    value = matrix_product(context, node, a, context.transpose(matrix, (1, 0)))
    return value if bias is None else context("add", value, bias)


def _unpacked(data: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """Bytes [.., m] as numbers [.., m * 8 / bits], the lowest bits first."""
    shifts = np.arange(0, MOST_BITS, bits, dtype=np.uint8)
    numbers = data[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return np.asarray(numbers.reshape(*data.shape[:-1], -1))


def _zero_points(
    node: ModelNode, zeros: npt.NDArray[Any] | None, n: int, blocks: int, bits: int
) -> Any:
    """[n, blocks, 1], or the middle of the range."""
    if zeros is None:
        return np.float32(1 << (bits - 1))
    if zeros.dtype == np.uint8:
        if zeros.size != n * -(-blocks * bits // 8):
            raise node.misshapen(f"its zero points have {zeros.size} bytes.", "Export it again.")
        zeros = _unpacked(zeros.reshape(n, -1), bits)[:, :blocks]
    if zeros.size != n * blocks:
        raise node.misshapen(
            f"it has {zeros.size} zero points for {n} x {blocks} blocks.", "Export it again."
        )
    return zeros.reshape(n, blocks, 1).astype(np.float32)


@PACKED.on("GatherBlockQuantized")
def gather_of_blocks(context: Context, node: ModelNode) -> Value:
    """Entries of an axis, each (number - zero) * scale of its block along another axis. Bytes hold
    8 / bits numbers of the last axis, the lowest bits first, and are halfway up by default.
    """
    data, scales, rank = node.input(0), node.input(2), node.input(0).type.rank
    at = node.axis(node.integer("gather_axis", 0), rank)
    along = node.axis(node.integer("quantize_axis", 1), rank)
    block, bits = node.integer("block_size", 128), node.integer("bits", 4)
    is_packed = data.dtype is UINT8 and data not in context.narrow
    if bits not in (2, 4, 8) or block < 16 or at == along:
        raise node.fault(
            f"blocks of {block} numbers of {bits} bits along axis {along}, gathered along axis "
            f"{at}, are impossible.",
            "Export it again.",
        )

    def entries(value: Value) -> Value:
        found = context("gather", value, node.input(1), axis=at)
        if value is scales or not is_packed or bits == MOST_BITS:
            return found
        return _unpacked_bytes(context, found, bits)

    numbers, scale = context.cast(entries(data), FLOAT32), entries(scales)
    axis = along + (node.input(1).type.rank - 1 if along > at else 0)
    blocks = (*numbers.shape[:axis], -(-numbers.shape[axis] // block), *numbers.shape[axis + 1 :])
    if scale.shape != blocks:
        raise node.misshapen(f"its scales are {scales.type} for {data.type}.", "Export it again.")
    zero = context.number(float(1 << (bits - 1)) if is_packed else 0.0, FLOAT32)
    if node.optional(3) is not None:
        given = entries(node.input(3))
        given = context.slice_axis(given, given.type.rank - 1, 0, blocks[-1])
        if given.shape != blocks:
            raise node.misshapen(f"its zero points are {node.input(3).type} for {data.type}.",
                                 "Export it again.")  # fmt: skip
        zero = _of_blocks(context, context.cast(given, FLOAT32), axis, block, numbers.shape[axis])
    factor = _of_blocks(context, context.cast(scale, FLOAT32), axis, block, numbers.shape[axis])
    return context.cast(context("mul", context("sub", numbers, zero), factor), scales.dtype)


def _unpacked_bytes(context: Context, data: Value, bits: int) -> Value:
    """Bytes [.., m] as numbers [.., m * 8 / bits], the lowest bits first."""
    shape = data.shape
    parts = [
        context("and", context("shift_right", data, shift), (1 << bits) - 1)
        for shift in range(0, MOST_BITS, bits)
    ]
    columns = [context.reshape(part, (*shape, 1)) for part in parts]
    joined = context("concat", *columns, axis=len(shape))
    return context.reshape(joined, (*shape[:-1], shape[-1] * len(parts)))


def _of_blocks(context: Context, value: Value, axis: int, block: int, extent: Extent) -> Value:
    """A block's entry for each of its numbers; the last block may have fewer."""
    return context.slice_axis(repeated(context, value, axis, block), axis, 0, extent)
