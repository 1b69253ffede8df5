"""The text of an extent -> the extent: the inverse of ``str``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .arithmetic import minimum
from .atoms import Symbol
from .polynomial import Dim, Extent

_TOKEN = re.compile(r"\s*(\d+|[A-Za-z_][A-Za-z_0-9]*|//|[-+*%(),])")


def parse_extent(text: str, symbols: Mapping[str, Symbol]) -> Extent:
    """The inverse of ``str``; ValueError for anything else, or for a name that ``symbols``
    lacks.
    """
    tokens: list[str] = []
    position = 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"{text!r} is not an extent (at column {position})")
        tokens.append(match.group(1))
        position = match.end()
    reader = _Reader(tokens, symbols, text)
    extent = reader.sum()
    if reader.tokens:
        raise ValueError(f"{text!r} has {reader.tokens[0]!r} left over")
    return extent


class _Reader:
    """Recursive descent over the tokens of one extent; nesting is bounded, so the stack is too."""

    def __init__(self, tokens: list[str], symbols: Mapping[str, Symbol], text: str) -> None:
        self.tokens, self.symbols, self.text, self.depth = tokens, symbols, text, 0

    def take(self, expected: str = "") -> str:
        if not self.tokens or (expected and self.tokens[0] != expected):
            raise ValueError(f"{self.text!r} is not an extent: expected {expected or 'more'!r}")
        return self.tokens.pop(0)

    def sum(self) -> Extent:
        self.depth += 1
        if self.depth > 100:
            raise ValueError("an extent nested more than 100 deep")
        negative = bool(self.tokens) and self.tokens[0] == "-" and bool(self.take())
        total = -self.product() if negative else self.product()
        while self.tokens and self.tokens[0] in "+-":
            sign = self.take()
            term = self.product()
            total = total + term if sign == "+" else total - term
        self.depth -= 1
        return total

    def product(self) -> Extent:
        total = self.factor()
        while self.tokens and self.tokens[0] in ("*", "//", "%"):
            sign = self.take()
            if sign == "*":
                total = total * self.factor()
            else:
                divisor = int(self.take())
                total = total // divisor if sign == "//" else total % divisor
        return total

    def factor(self) -> Extent:
        token = self.take()
        if token == "-":
            return -self.factor()
        if token.isdigit():
            return int(token)
        if token == "(":
            inner = self.sum()
            self.take(")")
            return inner
        if token == "min" and self.tokens[:1] == ["("]:
            self.take("(")
            left = self.sum()
            self.take(",")
            right = self.sum()
            self.take(")")
            return minimum(left, right)
        if token in self.symbols:
            return Dim.of(self.symbols[token])
        raise ValueError(f"{self.text!r} names {token!r}, which is not a known symbol")
