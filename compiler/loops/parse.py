"""The text of kernels -> kernels: what text.py prints is read back, anything else refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from .. import scalar
from ..dim import Extent, Symbol, parse_extent
from ..scalar import Bitcast, Cast, Checked, Expr, Guarded, Index, Literal
from ..tensor_type import DType, split_top_level
from .ir import (
    Allocate,
    Buffer,
    For,
    If,
    Kernel,
    Kind,
    LaneFold,
    Let,
    Load,
    Prefetch,
    Statement,
    Store,
    When,
    block,
    variable,
)  # fmt: skip

MOST_DEPTH = 200  # of nested expressions that can be read

_HEAD = re.compile(r"kernel (\w+)\((.*)\)")
_LOOP = re.compile(r"(for|parallel|unrolled|vector) (\w+)(?:: (.*?))? < (.*):")
_LET = re.compile(r"let (\w+): (.*?) = (.*?)(:?)")
_LOCAL = re.compile(r"local (\w+: \w+\[.*\])(:?)")
_STORE = re.compile(r"(stream )?(\w+)\[(.*?)\] = (.*)")
_SHARED = re.compile(r"(#\d+) = (.*)")
_BUFFER = re.compile(r"(\w+): (\w+)\[(.*)\]")
_RANGED = re.compile(r"(\w+): (.*)")
_LITERAL = re.compile(r"(-?[\w.]+(?:[-+]\d+)?):(\w+)")
_LOAD = re.compile(r"(\w+)\[(.*)\]")
_CALL = re.compile(r"(\w+)\((.*)\)")
# what the leaves of expressions have and extents never
_IS_EXPRESSION = re.compile(r"[\[:#]|\bindex\(")


@dataclass
class _Names:
    """What the names at a place stand for."""

    symbols: dict[str, Symbol] = field(default_factory=dict)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    shared: dict[str, Expr] = field(default_factory=dict)

    def copy(self) -> _Names:
        return _Names(dict(self.symbols), dict(self.buffers), self.shared)

    def extent(self, text: str) -> Extent:
        return parse_extent(text, self.symbols)

    def extents(self, text: str) -> tuple[Extent, ...]:
        return tuple(self.extent(part) for part in split_top_level(text))

    def ranged(self, name: str, text: str) -> Symbol:
        """``lo..hi`` -> a symbol of this scope."""
        low, _, high = text.partition("..")
        symbol = Symbol(name, int(low), self.extent(high) if high else None)
        self.symbols[name] = symbol
        return symbol

    def buffer(self, text: str, is_local: bool) -> Buffer:
        name, dtype, shape = _matched(_BUFFER, text)
        self.buffers[name] = Buffer(name, DType(dtype), self.extents(shape), is_local)
        return self.buffers[name]

    def buffer_named(self, name: str) -> Buffer:
        if name not in self.buffers:
            raise ValueError(f"no buffer is called {name!r} here")
        return self.buffers[name]


def parse_kernel(text: str) -> Kernel:
    """The inverse of ``print_kernel``; ValueError for anything else. Nested blocks come back as
    one.
    """
    head, item, *rest = [line for line in text.splitlines() if line.strip()] + ["", ""]
    name, arguments = _matched(_HEAD, head)
    names = _Names()
    parts = split_top_level(arguments)
    ranges = [_matched(_RANGED, part) for part in parts if not part.endswith("]")]
    symbols = tuple(names.ranged(*part) for part in ranges)
    buffers = tuple(names.buffer(part, False) for part in parts if part.endswith("]"))
    _, symbol, spread, items = _matched(_LOOP, item)
    work_item = names.ranged(symbol, spread or "0..")
    lines = [_Line(len(line) - len(line.lstrip()), line.strip()) for line in rest if line]
    body = _block(lines, names) if lines else block()  # of an output without elements
    return Kernel(name, buffers, symbols, names.extent(items), work_item, body)


@dataclass(frozen=True)
class _Line:
    indent: int
    text: str


def _matched(pattern: re.Pattern[str], text: str) -> list[str]:
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not part of a kernel")
    return [group or "" for group in found.groups()]


def _block(lines: Sequence[_Line], names: _Names) -> Statement:
    """Statements of one indentation; the nesting of loops bounds the recursion."""
    if not lines:
        raise ValueError("an empty block")
    statements: list[Statement] = []
    place = 0
    while place < len(lines):
        line = lines[place]
        end = place + 1
        while end < len(lines) and lines[end].indent > line.indent:
            end += 1
        inner, after = lines[place + 1 : end], lines[end:]
        if not line.text.endswith(":") and line.text.startswith(("let ", "local ")):
            return block(*statements, _statement(line.text, after, names))
        if line.text.startswith("#"):
            key, value = _matched(_SHARED, line.text)
            names.shared[key] = _expression(value, names)
        else:
            statements.append(_statement(line.text, inner, names))
        place = end
    return block(*statements)


def _statement(text: str, inner: Sequence[_Line], outer: _Names) -> Statement:
    names = outer.copy()
    match text.split(maxsplit=1)[0]:
        case "if":
            conditions, _, claims = text.removeprefix("if ").removesuffix(":").partition(" with ")
            parsed = _conditions(conditions, outer)
            for claim in split_top_level(claims):
                names.ranged(*_matched(_RANGED, claim))
            return If(parsed, _block(inner, names))
        case "when":
            holds = _expression(text.removeprefix("when ").removesuffix(":"), outer)
            return When(holds, _block(inner, names))
        case "let":
            name, spread, extent, _ = _matched(_LET, text)
            symbol = names.ranged(name, spread)
            return Let(symbol, outer.extent(extent), _block(inner, names))
        case "local":
            declaration, _ = _matched(_LOCAL, text)
            return Allocate(names.buffer(declaration, True), _block(inner, names))
        case "for" | "parallel" | "unrolled" | "vector":
            kind, name, spread, bound = _matched(_LOOP, text)
            trips = outer.extent(bound)
            symbol = names.ranged(name, spread) if spread else variable(name, trips)
            names.symbols[name] = symbol
            return For(symbol, trips, Kind(kind), _block(inner, names))
        case "prefetch":
            element = _expression(text.removeprefix("prefetch "), outer)
            if not isinstance(element, Load):
                raise ValueError(f"{text!r} names no element of a buffer")
            return Prefetch(element)
    hint, name, index, value = _matched(_STORE, text)
    return Store(
        outer.buffer_named(name), _index(index, outer), _expression(value, outer), bool(hint)
    )


def _conditions(text: str, names: _Names) -> tuple[Extent, ...]:
    return tuple(names.extent(part.removesuffix(">= 0")) for part in _top_level(text, " and "))


def _top_level(text: str, word: str) -> list[str]:
    """Parts of a text between those occurrences of a word that stand outside brackets."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if depth == 0 and text.startswith(word, place):
            parts.append(text[start:place])
            start = place + len(word)
    return [*parts, text[start:]]


def _expression(text: str, names: _Names, depth: int = 0) -> Expr:
    """Recursive descent; the depth is bounded, so the stack is too."""
    if depth > MOST_DEPTH:
        raise ValueError(f"an expression nested more than {MOST_DEPTH} deep")
    if text in names.shared:
        return names.shared[text]
    if literal := _LITERAL.fullmatch(text):
        return _literal(literal.group(1), DType(literal.group(2)))
    if text.startswith("("):
        return _guarded(text[1:-1], names, depth + 1)
    if load := _LOAD.fullmatch(text):
        return Load(names.buffer_named(load.group(1)), _index(load.group(2), names, depth + 1))
    function, arguments = _matched(_CALL, text)
    return _call(function, split_top_level(arguments), names, depth + 1)


def _index(text: str, names: _Names, depth: int = 0) -> tuple[Extent | Expr, ...]:
    return tuple(
        _expression(part, names, depth) if _IS_EXPRESSION.search(part) else names.extent(part)
        for part in split_top_level(text)
    )


def _literal(text: str, dtype: DType) -> Literal:
    if text in ("True", "False"):
        return Literal(text == "True", dtype)
    return Literal(float(text) if dtype.is_float else int(text), dtype)


def _guarded(text: str, names: _Names, depth: int) -> Guarded:
    value, rest = _top_level(text, " if ")
    conditions, otherwise = _top_level(rest, " else ")
    return Guarded(
        _conditions(conditions, names),
        _expression(value, names, depth),
        _expression(otherwise, names, depth),
    )


def _call(function: str, arguments: list[str], names: _Names, depth: int) -> Expr:
    dtypes = {dtype.value: dtype for dtype in DType}
    if not arguments:
        raise ValueError(f"{function} of nothing")
    if function == "index":
        return Index(names.extent(arguments[0]))
    if function.startswith("fold_"):
        name, index = _matched(_LOAD, arguments[0])
        return LaneFold(
            names.buffer_named(name), names.extents(index), function.removeprefix("fold_")
        )
    first = _expression(arguments[0], names, depth)
    if function == "checked":
        return Checked(first, names.extent(arguments[1]))
    if function in dtypes:
        return Cast(first, dtypes[function])
    if function.startswith("bits_"):
        return Bitcast(first, DType(function.removeprefix("bits_")))
    if function not in scalar.SCALAR_FUNCTIONS:
        raise ValueError(f"there is no scalar function {function!r}")
    operands = [first, *(_expression(a, names, depth) for a in arguments[1:])]
    try:
        return scalar.call(function, *operands)
    except TypeError as error:  # their number or dtypes
        raise ValueError(str(error)) from error


__all__ = ["parse_kernel"]
