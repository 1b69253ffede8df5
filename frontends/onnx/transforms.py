"""DFT and STFT, Col2Im, MaxUnpool and Det -> products with constant matrices, scatters and
formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx

from netloom.compiler.dim import Extent, product
from netloom.compiler.graph import Value
from netloom.compiler.tensor_type import INT64, DType

from .context import Context
from .handler import HandlerTable
from .node import ModelNode
from .tensors import dtype_of
from .window import FIX_DIMS, LARGEST

TRANSFORMS: Final = HandlerTable()
MOST_POINTS: Final = 1 << 13  # of a transform: its matrix is the square
MOST_ROWS: Final = 4  # of a determinant that is written out


# -- Fourier ---------------------------------------------------------------------------------------


@TRANSFORMS.on("DFT", first=17)
def fourier(context: Context, node: ModelNode) -> Value:
    """x [.., 1 or 2]: the last axis holds real (and imaginary) parts."""
    x = node.input(0)
    axis = _fourier_axis(context, node, x.type.rank)
    is_inverse, is_onesided = node.flag("inverse", False), node.flag("onesided", False)
    parts = x.shape[-1]
    if not isinstance(parts, int) or parts not in (1, 2) or axis == x.type.rank - 1:
        raise node.misshapen(
            f"its input is {x.type}; the last axis holds 1 or 2 parts.", "Export it again."
        )
    return_real = is_inverse and is_onesided  # the inverse of a one-sided transform is real
    given = context.scalar(node.optional(1), node, "dft_length")
    natural = 2 * (x.shape[axis] - 1) if return_real else x.shape[axis]
    length = natural if given is None else given
    if not isinstance(length, int) or not 1 <= length <= MOST_POINTS:
        raise node.unsupported(
            f"it transforms {length} points; 1 to {MOST_POINTS} are possible.", FIX_DIMS
        )
    if (is_onesided and not is_inverse and parts == 2) or (return_real and parts == 1):
        raise node.fault(f"onesided does not fit an input of {parts} parts.", "Export it again.")
    own = length // 2 + 1 if return_real else length
    x = _resized(context, x, axis, own)
    order = [k for k in range(x.type.rank - 1) if k != axis] + [axis, x.type.rank - 1]
    moved = context.transpose(x, order)
    rows = moved.shape[:-2]
    flat = context.reshape(moved, (product(rows), own * parts))
    matrix = _fourier_matrix(length, parts, is_inverse, is_onesided)
    out = context("matmul", flat, context.constant(matrix, x.dtype))
    kept = 1 if return_real else 2
    result = context.reshape(out, (*rows, matrix.shape[1] // kept, kept))
    return context.transpose(result, [order.index(k) for k in range(x.type.rank)])


def _fourier_axis(context: Context, node: ModelNode, rank: int) -> int:
    if rank < 2:
        raise node.misshapen(
            f"its input has rank {rank}; at least 2 is needed.", "Export it again."
        )
    if node.opset < 20:
        return node.axis(node.integer("axis", 1), rank)
    given = context.scalar(node.optional(2), node, "axis")
    return node.axis(-2 if given is None else int(given), rank)


def _resized(context: Context, x: Value, axis: int, size: int) -> Value:
    """Cut, or padded with zeros."""
    extent = x.shape[axis]
    if not isinstance(extent, int):
        return context.slice_axis(x, axis, 0, size)
    if extent >= size:
        return context.slice_axis(x, axis, 0, size)
    hi = tuple(size - extent if k == axis else 0 for k in range(x.type.rank))
    return context("pad", x, lo=(0,) * x.type.rank, hi=hi, value=0.0, mode="constant")


def _fourier_matrix(
    length: int, parts: int, is_inverse: bool, is_onesided: bool
) -> npt.NDArray[np.float64]:
    """[points * parts, frequencies * 2] so that a row of points times it is the transform (inverse:
    divided by length).

    A one-sided inverse maps half the frequencies to real points: the other half are their
    conjugates.
    """
    half = length // 2 + 1
    points = np.arange(half if is_onesided and is_inverse else length)
    frequencies = np.arange(half if is_onesided and not is_inverse else length)
    # k * n mod length keeps the angle small, so that cos and sin are exact to a rounding
    angle = 2 * np.pi * (np.outer(points, frequencies) % length) / length
    sign = 1 if is_inverse else -1
    cosine, sine = np.cos(angle), sign * np.sin(angle)
    if is_onesided and is_inverse:
        count = np.full((half, 1), 2.0)
        count[0] = 1.0
        if length % 2 == 0:
            count[-1] = 1.0
        return np.stack([cosine * count, -sine * count], 1).reshape(half * 2, length) / length
    matrix = np.empty((len(points), parts, len(frequencies), 2))
    matrix[:, 0, :, 0], matrix[:, 0, :, 1] = cosine, sine
    if parts == 2:
        matrix[:, 1, :, 0], matrix[:, 1, :, 1] = -sine, cosine
    return matrix.reshape(len(points) * parts, -1) / (length if is_inverse else 1)


@TRANSFORMS.on("STFT", first=17)
def short_time_fourier(context: Context, node: ModelNode) -> Value:
    """signal [n, length, 1 or 2] -> [n, frames, frequencies, 2]; frames are a convolution with
    windowed waves. PyTorch writes real signals as [n, length].
    """
    signal, window = node.input(0), node.optional(2)
    if signal.type.rank == 2:
        signal = context.reshape(signal, (*signal.shape, 1))
    step = int(context.scalar(node.input(1), node, "frame_step"))
    length = context.scalar(node.optional(3), node, "frame_length")
    if signal.type.rank != 3 or signal.shape[2] not in (1, 2):
        raise node.misshapen(
            f"the signal is {signal.type}; batch, length and 1 or 2 parts are needed."
        )
    if length is None and window is None:
        raise node.fault("it has neither a window nor a frame_length.", "Export it again.")
    size = window.shape[0] if length is None and window is not None else length
    if not isinstance(size, int) or not 1 <= size <= MOST_POINTS or not 1 <= step < LARGEST:
        raise node.unsupported(
            f"its frames have {size} points, {step} apart; 1 to {MOST_POINTS} are possible.",
            FIX_DIMS,
        )
    if window is not None and window.shape != (size,):
        raise node.misshapen(
            f"the window is {window.type} for frames of {size}.", "Export it again."
        )
    parts = int(str(signal.shape[2]))
    is_onesided = node.flag("onesided", True) and parts == 1
    matrix = _fourier_matrix(size, parts, False, is_onesided)  # [size * parts, frequencies * 2]
    # [frequencies * 2, parts, size]
    waves = np.ascontiguousarray(matrix.reshape(size, parts, -1).transpose(2, 1, 0))
    weights = context.constant(waves, signal.dtype)
    if window is not None:
        weights = context("mul", weights, window)
    columns = context.transpose(signal, (0, 2, 1))  # [n, parts, length]
    out = context(
        "conv", columns, weights, stride=(step,), dilation=(1,), lo=(0,), hi=(0,), groups=1
    )
    frames = context.transpose(out, (0, 2, 1))
    return context.reshape(frames, (*frames.shape[:2], len(waves) // 2, 2))


# -- Col2Im ----------------------------------------------------------------------------------------


@TRANSFORMS.on("Col2Im", first=18)
def columns_to_image(context: Context, node: ModelNode) -> Value:
    """columns [n, c * block, windows] added where they came from: the input gradient of a
    convolution by unit filters.
    """
    columns = node.input(0)
    image = context.integers(node.input(1), node, "image_shape")
    block = context.integers(node.input(2), node, "block_shape")
    rank = len(image)
    stride, dilation = (node.integers(name) or (1,) * rank for name in ("strides", "dilations"))
    pads = node.integers("pads") or (0,) * (2 * rank)
    _check_blocks(node, image, block, stride, dilation, pads)
    lo, hi = pads[:rank], pads[rank:]
    windows = tuple(
        (image[k] + lo[k] + hi[k] - (block[k] - 1) * dilation[k] - 1) // stride[k] + 1
        for k in range(rank)
    )
    elements = math.prod(block)
    channels = columns.shape[1]
    if (
        not isinstance(channels, int)
        or channels % elements
        or columns.shape[2] != product(windows)
        or min(windows) < 1
    ):
        raise node.misshapen(
            f"its columns are {columns.type}; blocks have {elements} elements and there are "
            f"{windows} windows.",
            "Export it again.",
        )
    filters = np.eye(elements, dtype=columns.dtype.numpy).reshape(elements, 1, *block)
    samples = columns.shape[0] * (channels // elements)
    apart = context.reshape(columns, (samples, elements, *windows))
    result = context("conv_input_gradient", apart, context.constant(filters), stride=stride, dilation=dilation, lo=lo,
                     hi=hi, groups=1, spatial=image)  # fmt: skip
    return context.reshape(result, (columns.shape[0], channels // elements, *image))


def _check_blocks(
    node: ModelNode,
    image: Sequence[int],
    block: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    pads: Sequence[int],
) -> None:
    """Every attribute has the image's rank and is in range."""
    columns, rank = node.input(0), len(image)
    sizes = (len(block), len(stride), len(dilation), len(pads) // 2)
    if not 1 <= rank <= 3 or any(size != rank for size in sizes) or columns.type.rank != 3:
        raise node.misshapen(
            f"its columns are {columns.type} for an image of rank {rank}.", "Export it again."
        )
    if (
        min(*block, *stride, *dilation) < 1
        or min(pads) < 0
        or max(*block, *stride, *dilation, *pads, *image) > LARGEST
    ):
        raise node.fault("a block, stride, dilation or padding is impossible.", "Export it again.")
    if (elements := math.prod(block)) > MOST_POINTS:
        raise node.unsupported(
            f"its blocks have {elements} elements; the most is {MOST_POINTS}.", "Use less."
        )


# -- MaxUnpool -------------------------------------------------------------------------------------


@TRANSFORMS.on("MaxUnpool", first=9)
def max_unpool(context: Context, node: ModelNode) -> Value:
    """Each element at its index in the flattened tensor, the last of several at one (windows that
    overlap share their largest); zeros elsewhere. Indices count in the shape without padding.
    """
    x, indices = node.input(0), node.input(1)
    rank = x.type.rank - 2
    kernel = node.integers("kernel_shape") or ()
    stride, pads = (
        node.integers("strides") or (1,) * rank,
        node.integers("pads") or (0,) * (2 * rank),
    )
    if (
        rank < 1
        or len(kernel) != rank
        or len(stride) != rank
        or len(pads) != 2 * rank
        or indices.shape != x.shape
    ):
        raise node.misshapen(f"its indices are {indices.type} for {x.type}.", "Export it again.")
    natural: tuple[Extent, ...] = tuple(
        (e - 1) * stride[k] - pads[k] - pads[k + rank] + kernel[k]
        for k, e in enumerate(x.shape[2:])
    )
    plain = (*x.shape[:2], *natural)
    given = node.optional(2)
    wanted = plain if given is None else context.extents(given, node, "output_shape")
    zeros = context.splat(0, x.dtype, (product(plain if given is None else wanted),))
    flat = (product(x.shape),)
    places = context.reshape(indices, flat)
    if given is not None and tuple(wanted) != plain:
        places = _replaced(context, places, plain, wanted)
    result = context("scatter_last", zeros, places, context.reshape(x, flat), axis=0)
    return context.reshape(result, wanted)


def _replaced(
    context: Context, places: Value, old: tuple[Extent, ...], new: Sequence[Extent]
) -> Value:
    """Flat indices into one shape as flat indices into another."""
    total = context.number(0, INT64)
    for axis, extent in enumerate(old):
        stride = context.extent_value(product(old[axis + 1 :]))
        part = context("div", places, stride)
        if axis:
            size = context.extent_value(extent)
            part = context("sub", part, context("mul", context("div", part, size), size))
        total = context("add", context("mul", total, context.extent_value(new[axis])), part)
    return total


# -- Det -------------------------------------------------------------------------------------------


@TRANSFORMS.on("Det", first=11)
def determinant(context: Context, node: ModelNode) -> Value:
    """Leibniz' sum over permutations, for small matrices."""
    x = node.input(0)
    rank = x.type.rank
    if rank < 2 or x.shape[-1] != x.shape[-2]:
        raise node.misshapen(
            f"its input is {x.type}; square matrices are needed.", "Export it again."
        )
    rows = x.shape[-1]
    if not isinstance(rows, int) or not 1 <= rows <= MOST_ROWS:
        raise node.unsupported(
            f"its matrices have {rows} rows; 1 to {MOST_ROWS} are possible.",
            "Use smaller matrices.",
        )
    total: Value | None = None
    for order in permutations(range(rows)):
        term: Value | None = None
        for row, column in enumerate(order):
            part = context.slice_axis(context.slice_axis(x, rank - 2, row, 1), rank - 1, column, 1)
            term = part if term is None else context("mul", term, part)
        assert term is not None
        swaps = sum(a > b for k, a in enumerate(order) for b in order[k + 1 :])
        if total is None:
            total = term
        else:
            total = context("sub" if swaps % 2 else "add", total, term)
    assert total is not None
    return context.reshape(total, x.shape[:-2])


# -- CumProd ---------------------------------------------------------------------------------------


@TRANSFORMS.on("CumProd", first=26)
def cumulative_product(context: Context, node: ModelNode) -> Value:
    """The product over all elements up to each: those behind count as 1."""
    x = node.input(0)
    axis = node.axis(int(context.scalar(node.input(1), node, "axis")), x.type.rank)
    extent = x.shape[axis]
    rest = (1,) * (x.type.rank - axis - 1)
    at = context("iota", shape=(extent, 1, *rest), axis=0, dtype=INT64)  # [to, from, ..]
    source = context("iota", shape=(1, extent, *rest), axis=1, dtype=INT64)
    before, after = (source, at) if not node.flag("reverse", False) else (at, source)
    keep = context("less" if node.flag("exclusive", False) else "less_equal", before, after)
    wide = context.reshape(x, (*x.shape[:axis], 1, extent, *x.shape[axis + 1 :]))
    one = context.number(_one(x.dtype), x.dtype)
    return context(
        "reduce_product", context("select", keep, wide, one), axes=(axis + 1,), keep=False
    )


def _one(dtype: DType) -> float | int:
    return 1.0 if dtype.is_float else 1


# -- MelWeightMatrix -------------------------------------------------------------------------------


@TRANSFORMS.on("MelWeightMatrix", first=17)
def mel_weights(context: Context, node: ModelNode) -> Value:
    """[dft_length // 2 + 1, bins]: triangles between neighbouring bin edges, which are equally
    spaced in mel.
    """
    bins, length, rate = (int(context.scalar(node.input(k), node, "a size")) for k in range(3))
    low, high = (float(context.scalar(node.input(k), node, "a frequency")) for k in (3, 4))
    if not (
        1 <= bins <= MOST_POINTS
        and 1 <= length <= MOST_POINTS
        and rate > 0
        and 0 <= low <= high <= rate
    ):
        raise node.fault(
            f"{bins} bins of {low} to {high} Hz at {rate} Hz, {length} points, are impossible.",
            "Export it again.",
        )
    spaced = np.linspace(np.log1p(low / 700), np.log1p(high / 700), bins + 2, endpoint=False)
    edges = ((length + 1) * 700 * np.expm1(spaced) // rate).astype(np.int64)
    lower, center, upper = (edges[k : k + bins] for k in range(3))
    place = np.arange(length // 2 + 1)[:, None]
    rising = (place - lower) / np.maximum(center - lower, 1)
    falling = (upper - place) / np.maximum(upper - center, 1)
    weights = np.where(place < center, rising, np.where(upper > center, falling, place == center))
    dtype = dtype_of(
        node.integer("output_datatype", onnx.TensorProto.FLOAT), f"{node.title}: the result"
    )
    return context.constant(np.clip(weights, 0, 1), dtype)
