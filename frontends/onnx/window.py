"""The sliding windows of convolutions and pools: kernel, stride, dilation and padding from a node's
attributes.

Everything is validated here (the checker of the onnx package passes many impossible windows):
kernel, stride and dilation >= 1, no negative padding, at least one window along every axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from netloom.compiler import dim
from netloom.compiler.dim import Extent

from .node import ModelNode

AUTO_PADS: Final = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
LARGEST: Final = 1 << 31  # of a kernel, stride, dilation or padding
FIX_DIMS: Final = "Fix the free dims (dims=, shapes=; --dim, --shape)."


@dataclass(frozen=True)
class Window:
    """One entry per spatial axis. ``extra`` is the part of ``hi`` that comes from ceil_mode."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    lo: tuple[int, ...]
    hi: tuple[int, ...]
    extra: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """Elements from the first to the last of a window: (kernel - 1) * dilation + 1."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))


def spatial_rank(node: ModelNode, rank: int) -> int:
    """Rank less batch and channel; ShapeError outside 1..3."""
    if not 3 <= rank <= 5:
        raise node.misshapen(
            f"its input has rank {rank}; windows slide over inputs of rank 3, 4 or 5."
        )
    return rank - 2


def read_window(node: ModelNode, kernel: Sequence[int], spatial: Sequence[Extent]) -> Window:
    """The window of a node over an input with the given spatial extents."""
    rank = len(spatial)
    sizes = _positive(node, "kernel_shape", kernel, rank)
    stride = _positive(node, "strides", node.integers("strides") or (1,) * rank, rank)
    dilation = _positive(node, "dilations", node.integers("dilations") or (1,) * rank, rank)
    plain = Window(sizes, stride, dilation, (0,) * rank, (0,) * rank, (0,) * rank)
    lo, hi = _padding(node, plain, spatial)
    window = Window(sizes, stride, dilation, lo, hi, (0,) * rank)
    if "ceil_mode" in node.attributes and node.flag("ceil_mode", False):
        window = _with_ceil_mode(node, window, spatial)
    for axis, extent in enumerate(spatial):
        _check_fits(node, window, axis, extent)
    return window


def _positive(node: ModelNode, name: str, values: Sequence[int], rank: int) -> tuple[int, ...]:
    if len(values) != rank:
        raise node.fault(
            f"attribute {name} has {len(values)} entries for {rank} spatial axes.",
            "Export it again.",
        )
    if any(not 1 <= value < LARGEST for value in values):
        raise node.fault(
            f"attribute {name} is {list(values)}; every entry must be at least 1.",
            "Export it again.",
        )
    return tuple(values)


def _padding(
    node: ModelNode, window: Window, spatial: Sequence[Extent]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rank = len(spatial)
    automatic = node.text("auto_pad", "NOTSET", AUTO_PADS)
    pads = node.integers("pads")
    if automatic != "NOTSET":
        if pads and any(pads):
            raise node.fault(
                f"both pads and auto_pad {automatic} are given.", "Keep one of the two."
            )
        return _automatic_padding(node, automatic, window, spatial)
    pads = pads or (0,) * (2 * rank)
    if len(pads) != 2 * rank:
        raise node.fault(
            f"attribute pads has {len(pads)} entries; {2 * rank} are needed.", "Export it again."
        )
    if any(not 0 <= pad < LARGEST for pad in pads):
        raise node.fault(
            f"attribute pads is {list(pads)}; no entry may be negative.", "Use Slice to crop."
        )
    return pads[:rank], pads[rank:]


def _automatic_padding(
    node: ModelNode, automatic: str, window: Window, spatial: Sequence[Extent]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """SAME: ceil(extent / stride) windows; the odd element goes to the end (UPPER) or the start
    (LOWER).
    """
    lo, hi = [], []
    for extent, stride, reach in zip(spatial, window.stride, window.reach, strict=True):
        total: Extent = 0
        if automatic != "VALID":
            total = total_of_same(extent, stride, reach)
        if not isinstance(total, int):
            raise node.unsupported(
                f"the padding {automatic} depends on the free dim {extent}.", FIX_DIMS
            )
        small, large = total // 2, total - total // 2
        lo.append(large if automatic == "SAME_LOWER" else small)
        hi.append(small if automatic == "SAME_LOWER" else large)
    return tuple(lo), tuple(hi)


def total_of_same(extent: Extent, stride: int, reach: int) -> Extent:
    """The padding of an axis that makes ceil(extent / stride) windows."""
    return dim.maximum(-extent % stride + (reach - stride), 0)


def _with_ceil_mode(node: ModelNode, window: Window, spatial: Sequence[Extent]) -> Window:
    """A last partial window counts if it starts inside the input or the padding before it."""
    extra = []
    for axis, extent in enumerate(spatial):
        stride, reach = window.stride[axis], window.reach[axis]
        free = extent + (window.lo[axis] + window.hi[axis] - reach)
        missing = -free % stride
        if not isinstance(missing, int) and window.hi[axis] + stride <= reach:
            # every partial window counts: ceil(free / stride) = floor((free + stride - 1) / stride)
            missing = stride - 1
        if not isinstance(missing, int):
            raise node.unsupported(
                f"with ceil_mode, the padding depends on the free dim {extent}.", FIX_DIMS
            )
        # The partial window starts at free + missing < lo + extent  <=>  hi + missing < reach.
        extra.append(missing if window.hi[axis] + missing < reach else 0)
    hi = tuple(h + e for h, e in zip(window.hi, extra, strict=True))
    return Window(window.kernel, window.stride, window.dilation, window.lo, hi, tuple(extra))


def _check_fits(node: ModelNode, window: Window, axis: int, extent: Extent) -> None:
    padded = extent + window.lo[axis] + window.hi[axis]
    room = padded - window.reach[axis]
    if isinstance(room, int) and room < 0:
        raise node.misshapen(
            f"the window reaches over {window.reach[axis]} elements along spatial axis {axis}, but the padded input "
            f"has {padded}.", "The input is too small for this network, or the attributes are wrong.",
        )  # fmt: skip
