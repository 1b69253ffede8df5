"""Conv and ConvTranspose -> conv and conv_input_gradient; the bias is an add."""

from __future__ import annotations

from typing import Final

from netloom.compiler.dim import Extent
from netloom.compiler.graph import Value

from .byte_products import scaled, weights_of_filters
from .context import Context
from .handler import HandlerTable
from .node import ModelNode
from .same_padding import with_same_padding, without_padding
from .window import AUTO_PADS, FIX_DIMS, LARGEST, Window, read_window, spatial_rank

CONVOLUTION: Final = HandlerTable()


def kernel_of(node: ModelNode, w: Value, rank: int) -> tuple[int, ...]:
    """The spatial extents of the weights; an attribute kernel_shape must agree."""
    if w.type.rank != rank:
        raise node.misshapen(f"its input has rank {rank}, but its weights are {w.type}.")
    kernel = w.shape[2:]
    if not all(isinstance(extent, int) for extent in kernel):
        raise node.unsupported(f"the weights {w.type} have free dims.", FIX_DIMS)
    sizes = tuple(int(extent) for extent in kernel if isinstance(extent, int))
    given = node.integers("kernel_shape")
    if given is not None and given != sizes:
        raise node.misshapen(
            f"kernel_shape is {list(given)}, but the weights are {w.type}.", "Export it again."
        )
    return sizes


def groups_of(node: ModelNode, channels: Extent, filters: Extent) -> int:
    """The attribute group, which must divide both."""
    groups = node.integer("group", 1)
    if not 1 <= groups < LARGEST:
        raise node.fault(f"attribute group is {groups}; it must be at least 1.", "Export it again.")
    for name, extent in (("input channels", channels), ("filters", filters)):
        if extent % groups != 0:
            raise node.misshapen(
                f"group = {groups} does not divide the {extent} {name}.", "Export it again."
            )
    return groups


def add_bias(
    context: Context, node: ModelNode, value: Value, channels: Extent, position: int = 2
) -> Value:
    """The value with the input at ``position`` added to each channel, if there is one."""
    bias = node.optional(position)
    if bias is None:
        return value
    if bias.shape != (channels,):
        raise node.misshapen(
            f"its bias is {bias.type}; {channels} elements are needed.", "Export it again."
        )
    return context("add", value, context.per_channel(bias, value.type.rank))


@CONVOLUTION.on("Conv")
def conv(context: Context, node: ModelNode) -> Value:
    """w is [o, c / group, kernel...]."""
    x, w = node.input(0), node.input(1)
    integers = weights_of_filters(context, x, w, node.integer("group", 1))
    if integers is None:
        value = convolved(context, node, x, w)
    else:
        total = convolved(context, node, context.dequantized[x].centred, integers)
        value = scaled(context, total, x, w, channel=1)
    return add_bias(context, node, value, value.shape[1])


def convolved(context: Context, node: ModelNode, x: Value, w: Value) -> Value:
    """The convolution of a node's attributes, without a bias."""
    spatial_rank(node, x.type.rank)
    kernel = kernel_of(node, w, x.type.rank)
    x, node = with_same_padding(context, node, x, kernel, 0)
    window = read_window(node, kernel, x.shape[2:])
    channels, filters = x.shape[1], w.shape[0]
    groups = groups_of(node, channels, filters)
    if w.shape[1] * groups != channels:
        raise node.misshapen(f"its input has {channels} channels, but its weights {w.type} are for "
                             f"{w.shape[1]} x {groups} groups.", "Export it again.")  # fmt: skip
    return context(
        "conv",
        x,
        w,
        stride=window.stride,
        dilation=window.dilation,
        lo=window.lo,
        hi=window.hi,
        groups=groups,
    )


@CONVOLUTION.on("ConvTranspose")
def conv_transpose(context: Context, node: ModelNode) -> Value:
    """w is [c, o / group, kernel...]: the input gradient of a convolution whose filters are our
    channels.
    """
    x, w = node.input(0), node.input(1)
    rank = spatial_rank(node, x.type.rank)
    kernel = kernel_of(node, w, x.type.rank)
    if w.shape[0] != x.shape[1]:
        raise node.misshapen(
            f"its input has {x.shape[1]} channels, but its weights are {w.type}.",
            "Export it again.",
        )
    groups = groups_of(node, x.shape[1], w.shape[0])
    window, spatial = _transposed_window(node, kernel, x.shape[2:], rank)
    missing = tuple(max(-h, 0) for h in window.hi)
    value = context(
        "conv_input_gradient", x, w, stride=window.stride, dilation=window.dilation, lo=window.lo,
        hi=tuple(max(h, 0) for h in window.hi), groups=groups,
        spatial=tuple(extent - m for extent, m in zip(spatial, missing, strict=True)),
    )  # fmt: skip
    if any(missing):
        value = context(
            "pad", value, lo=(0,) * value.type.rank, hi=(0, 0, *missing), value=0.0, mode="constant"
        )
    return add_bias(context, node, value, w.shape[1] * groups)


def _transposed_window(
    node: ModelNode, kernel: tuple[int, ...], inputs: tuple[Extent, ...], rank: int
) -> tuple[Window, tuple[Extent, ...]]:
    """Window and spatial extents of the result: stride (i - 1) + output_padding + reach - lo -
    hi.
    """
    added = node.integers("output_padding") or (0,) * rank
    wanted = node.integers("output_shape")
    automatic = node.text("auto_pad", "NOTSET", AUTO_PADS)
    # The padding trims the result, so the window is checked without an input to slide over.
    unpadded = read_window(without_padding(node), kernel, (LARGEST * LARGEST,) * rank)
    limits = [max(s, d) for s, d in zip(unpadded.stride, unpadded.dilation, strict=True)]
    if len(added) != rank or any(
        not 0 <= a < limit for a, limit in zip(added, limits, strict=True)
    ):
        raise node.fault(
            f"output_padding is {list(added)}; each must be less than the stride.",
            "Export it again.",
        )
    full = tuple(
        s * (i - 1) + a + r
        for s, i, a, r in zip(unpadded.stride, inputs, added, unpadded.reach, strict=True)
    )
    if wanted is None and automatic == "NOTSET":
        pads = node.integers("pads") or (0,) * (2 * rank)
        if len(pads) != 2 * rank or any(not 0 <= pad < LARGEST for pad in pads):
            raise node.fault(
                f"attribute pads is {list(pads)}; {2 * rank} entries >= 0 are needed.",
                "Export it again.",
            )
        lo, hi = pads[:rank], pads[rank:]
    else:
        lo, hi = _trimmed(node, automatic, wanted, full, unpadded, inputs)
    spatial = tuple(f - a - b for f, a, b in zip(full, lo, hi, strict=True))
    if any(isinstance(extent, int) and extent < 1 for extent in spatial):
        raise node.misshapen(
            f"its result would have the spatial shape {list(spatial)}.", "Export it again."
        )
    return Window(kernel, unpadded.stride, unpadded.dilation, lo, hi, (0,) * rank), spatial


def _trimmed(
    node: ModelNode, automatic: str, wanted: tuple[int, ...] | None, full: tuple[Extent, ...], window: Window,
    inputs: tuple[Extent, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:  # fmt: skip
    """Padding that makes the result as large as asked for (output_shape, or SAME: stride * input).

    An odd element goes to the start, but for SAME_UPPER. Negative padding adds zeros.
    """
    rank = len(full)
    if wanted is None:
        same = tuple(s * i for s, i in zip(window.stride, inputs, strict=True))
        targets: tuple[Extent, ...] = full if automatic == "VALID" else same
    else:
        targets = wanted[-rank:]
        if len(wanted) not in (rank, rank + 2):
            raise node.fault(
                f"output_shape is {list(wanted)}; {rank} entries are needed.", "Export it again."
            )
    lo, hi = [], []
    for extent, target in zip(full, targets, strict=True):
        total = extent - target
        if not isinstance(total, int):
            raise node.unsupported(f"its padding depends on the free dim {extent}.", FIX_DIMS)
        if total < 0:  # larger than the windows reach: zeros at the end
            lo.append(0)
            hi.append(total)
            continue
        small, large = total // 2, total - total // 2
        lo.append(small if automatic == "SAME_UPPER" else large)
        hi.append(large if automatic == "SAME_UPPER" else small)
    return tuple(lo), tuple(hi)
