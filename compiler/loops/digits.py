"""Loops of first_places without ranks: which elements of a line are the first so many is decided by
the digits of their keys.

Keys are the integers that order as the numbers do. Of the upper digit it is counted how many keys
have each value; so the value that the last wanted key has is known, and how many keys come before
all of that value. The next digit is counted among those alone, and so on. Then one pass over the
line lists what comes before that key, and as many of its equals as are wanted. The work does not
depend on the order of the line.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from .. import dim, scalar
from ..dim import Dim, Extent
from ..ops.merging import LEAST_NUMBER, ordered_integer
from ..scalar import Checked, Expr, Index
from ..tensor_type import INT64
from .elements import Elements
from .ir import (
    LANE,
    LANES,
    Allocate,
    Buffer,
    Kind,
    Load,
    Statement,
    Store,
    When,
    block,
    guard,
    loop,
    variable,
)
from .scans import Line, in_lanes, with_any

SHORT: Final = 4096  # elements of a line for which more counts cost more than another digit


class Known(enum.IntEnum):
    """What is known of the last wanted key, and of what is listed."""

    UPPER = 0  # its digits as far as they are known
    BEFORE = 1  # how many keys have smaller ones
    SUM = 2  # how many have at most the digit that is looked at
    EQUAL = 3  # how many of its equals were met
    COUNT = 4  # how many elements are listed
    PLACE = 5  # the last of them


@dataclass(frozen=True)
class Digits:
    """The first so many elements of a line, in the order of the line."""

    k: Elements
    at: Line
    size: int
    descending: bool

    @property
    def bits(self) -> int:
        """Of a key."""
        return 64 if self.k.anchored.inputs[0].dtype.bytes == 8 else 32

    @cached_property
    def digit(self) -> int:
        """Bits of a digit: the counts lie in the L1 cache."""
        most = dim.bounds(self.extent)[1]
        return 8 if most is not None and most <= SHORT else 11

    @property
    def others(self) -> int:
        """Where keys are counted whose upper digits differ."""
        return 1 << self.digit

    @cached_property
    def counts(self) -> Buffer:
        # twice what is used: bits alone prove that a value lies inside
        return Buffer(self.k.local_name("t"), INT64, (2 * self.others,), is_local=True)

    @cached_property
    def known(self) -> Buffer:
        return Buffer(self.k.local_name("t"), INT64, (len(Known),), is_local=True)

    @property
    def extent(self) -> Extent:
        return self.k.anchored.inputs[0].shape[-1]

    def statement(self) -> Statement:
        """Digit after digit, then the list."""
        ends = [*range(self.bits, 0, -self.digit), 0]
        digits = (self._digit(end, low) for end, low in zip(ends[:-1], ends[1:], strict=True))
        begun = (self._put(item, scalar.literal(0, INT64)) for item in Known)
        return Allocate(self.counts, Allocate(self.known, block(*begun, *digits, self._listed())))

    def _is(self, item: Known) -> Expr:
        return Load(self.known, (int(item),))

    def _put(self, item: Known, value: Expr) -> Statement:
        return Store(self.known, (int(item),), value)

    def _key(self, place: Extent) -> Expr:
        """Bits that order, without a sign, as the elements are wanted."""
        x = self.k.element(self.k.anchored.inputs[0], (*self.at, place), None)
        whole = ordered_integer(x)
        whole = scalar.call("not", whole) if self.descending else whole
        return whole + (1 << 31) if x.dtype.bytes < 8 else scalar.call("xor", whole, LEAST_NUMBER)

    def _over_line(
        self,
        whole: Callable[[Extent, Extent], Statement],
        alone: Callable[[Extent], Statement],
    ) -> Statement:
        """What is done with vectors of elements, at the places of their lanes and of the first of
        them, and with each element that is left.
        """
        vectors = self.extent // LANES
        number, left = variable("b", vectors), variable("i", LANES)
        first, behind = Dim.of(number) * LANES, vectors * LANES + Dim.of(left)
        return block(
            loop(number, vectors, whole(first + Dim.of(LANE), first)),
            loop(left, LANES, guard((self.extent - 1 - behind,), alone(behind))),
        )

    def _where_any(self, seen: Expr, then: Statement) -> Statement:
        """A statement, if something holds in any lane."""
        return with_any(
            self.k, seen, lambda found: found,
            lambda is_none: When(scalar.call("not", is_none), then),
        )  # fmt: skip

    # -- which key is the last ---------------------------------------------------------------------

    def _digit(self, end: int, low: int) -> Statement:
        """The bits from ``low`` to ``end`` of the last wanted key."""
        values = 1 << end - low
        clear, digit = variable("v", self.others // LANES + 1), variable("d", values)
        zero = scalar.literal(0, INT64)
        cleared = Store(self.counts, (Dim.of(clear) * LANES + Dim.of(LANE),), zero)
        is_less = self._is(Known.SUM) < self.size
        sum_ = self._is(Known.SUM) + Load(self.counts, (Dim.of(digit),))
        upper = self._is(Known.UPPER)
        return block(
            loop(clear, self.others // LANES + 1, in_lanes(cleared)),
            self._counted(end, low),
            self._put(Known.SUM, self._is(Known.BEFORE)),
            self._put(Known.UPPER, scalar.call("shift_left", upper, end - low)),
            loop(digit, values, block(
                self._put(Known.SUM, sum_),
                self._put(Known.BEFORE,
                          scalar.select(is_less, self._is(Known.SUM), self._is(Known.BEFORE))),
                self._put(Known.UPPER, upper + scalar.cast(is_less, INT64)),
            )),
        )  # fmt: skip

    def _counted(self, end: int, low: int) -> Statement:
        """How many keys have each value of the digit, if the upper ones are those that are known."""
        found = Buffer(self.k.local_name("t"), INT64, (LANES,), is_local=True)
        entry = variable("i", LANES)

        def count(value: Expr) -> Statement:
            at = Checked(value, 2 * self.others)
            return Store(self.counts, (at,), Load(self.counts, (at,)) + 1)

        def whole(here: Extent, first: Extent) -> Statement:
            each = block(
                in_lanes(Store(found, (Dim.of(LANE),), self._value(self._key(here), end, low))),
                loop(entry, LANES, count(Load(found, (Dim.of(entry),))), Kind.UNROLLED),
            )
            is_same = self._is_same(self._key(here), end)
            return each if is_same is None else self._where_any(is_same, each)

        def alone(place: Extent) -> Statement:
            return count(self._value(self._key(place), end, low))

        return Allocate(found, self._over_line(whole, alone))

    def _is_same(self, key: Expr, end: int) -> Expr | None:
        """Whether the digits above ``end`` are those that are known; None if there are none."""
        if end == self.bits:
            return None
        return scalar.call("equal", _shifted(key, end), self._is(Known.UPPER))

    def _value(self, key: Expr, end: int, low: int) -> Expr:
        """The digit of a key, or ``others``."""
        digit = scalar.call("and", scalar.call("shift_right", key, low), (1 << end - low) - 1)
        is_same = self._is_same(key, end)
        return digit if is_same is None else scalar.select(is_same, digit, self.others)

    # -- the list ----------------------------------------------------------------------------------

    def _listed(self) -> Statement:
        """Vectors that have any of what is wanted are met element after element."""
        place = variable("i", LANES)

        def whole(here: Extent, first: Extent) -> Statement:
            seen = scalar.call("not", self._last < _signed(self._key(here)))
            return self._where_any(seen, loop(place, LANES, self._met(first + Dim.of(place))))

        return self._over_line(whole, self._met)

    @property
    def _last(self) -> Expr:
        """The last wanted key, as an integer with a sign."""
        return _signed(self._is(Known.UPPER))

    def _met(self, place: Extent) -> Statement:
        """An element is listed behind the others, or the last of these stored again."""
        key = _signed(self._key(place))
        is_equal = scalar.call("equal", key, self._last)
        is_left = self._is(Known.EQUAL) < self.size - self._is(Known.BEFORE)
        is_wanted = scalar.call("or", key < self._last, scalar.call("and", is_equal, is_left))
        own = scalar.select(is_wanted, Index(place), self._is(Known.PLACE))
        into = Checked(scalar.call("min", self._is(Known.COUNT), self.size - 1), self.size)
        taken = Buffer(self.k.local_name("t"), INT64, (1,), is_local=True)
        return Allocate(taken, block(
            Store(taken, (0,), scalar.cast(is_wanted, INT64)),
            self._put(Known.PLACE, own),
            self._put(Known.EQUAL, self._is(Known.EQUAL) + scalar.cast(is_equal, INT64)),
            Store(self.k.out, (*self.at, into), self._is(Known.PLACE)),
            self._put(Known.COUNT, self._is(Known.COUNT) + Load(taken, (0,))),
        ))  # fmt: skip


def _shifted(key: Expr, low: int) -> Expr:
    """The bits of a key from ``low`` on, as a number that is not negative."""
    return scalar.call("and", scalar.call("shift_right", key, low), (1 << 64 - low) - 1)


def _signed(key: Expr) -> Expr:
    """Integers with a sign that order as 64 bits without one."""
    return scalar.call("xor", key, LEAST_NUMBER)
