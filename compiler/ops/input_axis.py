"""Which elements of dy and which taps make dx along an axis: the pairs p, k with p s + k d = q + lo.

A tap k = u s + (q + lo) mod s meets a position for every u, if d mod s is 1: each phase of q has its
own taps, ceil(K / s) of them or one less, and none between them is tested. So a transposed
convolution of stride s costs the products that it has, and its loops, whose axis is split into
phases, store them interleaved. If dy has one position alone, it meets one tap. Of other steps all
taps are tested.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import dim
from ..dim import Extent


@dataclass(frozen=True)
class InputAxis:
    """One spatial axis of a convolution whose input's gradient is made."""

    stride: int
    dilation: int
    lo: int
    taps: int
    length: Extent  # of dy

    @property
    def has_phases(self) -> bool:
        return (self.dilation - 1) % self.stride == 0

    @property
    def is_single(self) -> bool:
        return self.length == 1 and self.dilation == 1

    @property
    def terms(self) -> int:
        """How many pairs are met at each position of dx."""
        if self.is_single:
            return 1
        return -(-self.taps // self.stride) if self.has_phases else self.taps

    def met(self, q: Extent, number: Extent) -> tuple[Extent, Extent, Extent]:
        """(p, k, the condition (extent >= 0) under which they are met) of a pair by its number, if
        dy has such a position and the kernel such a tap."""
        place, s, d = q + self.lo, self.stride, self.dilation
        if self.is_single:
            return 0, place, 0
        if not self.has_phases:
            rest = place - number * d
            return rest // s, number, -(rest % s)
        phase = place % s
        return place // s - phase * ((d - 1) // s) - number * d, number * s + phase, 0

    def padding(self, extent: Extent, hi: int) -> tuple[int, int]:
        """Zeros before and behind dy with which every pair finds an element, for a dx of an
        extent."""
        if self.is_single:
            return 0, 0
        s, d = self.stride, self.dilation
        reach = (self.taps - 1) * d
        before, behind = -(-(reach - self.lo) // s), -(-(reach - hi) // s)
        if self.has_phases:
            before = (d - 1) // s * (s - 1) + (self.terms - 1) * d - self.lo // s
            whole = dim.ceil_div(extent, s) * s  # the last group of s positions may lack some
            last = (whole - 1 + self.lo) // s - (self.length - 1)
            behind = last if isinstance(last, int) else behind
        return max(before, 0), max(behind, 0)


__all__ = ["InputAxis"]
