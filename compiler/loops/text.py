"""The text of kernels, which parses back (parse.py): ``parse_kernel(print_kernel(kernel))`` has the
same parts.

    kernel f_0_matmul(x0: float32[N, 7], x1: float32[7, 16], y: float32[N, 16], N: 1..)
    parallel w < (N + 8)//9:
      let p0: 0..(N + 8)//9 + -1 = w
      if (N)//9 + -1*p0 + -1 >= 0 with p0: 0..(N)//9 + -1:
        local t0: float32[9, 16]
        ...

A loop variable ranges over 0..extent - 1 unless a range follows its name; ``with`` tells the
narrower range that symbols claim under a condition. A ``let`` or ``local`` holds to the end of its
block, or, with a colon, for what is indented below it. ``#0 = ...`` names an expression that the
next store uses more than once; ``stream`` stores past the caches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from .. import dim, scalar
from ..dim import Extent, Symbol
from ..scalar import Argument, Bitcast, Call, Cast, Checked, Expr, Guarded, Index, Literal
from .ir import (
    Allocate,
    Block,
    Buffer,
    For,
    If,
    Kernel,
    LaneFold,
    Let,
    Load,
    Prefetch,
    Statement,
    Store,
    When,
    expressions_in,
    extents_in,
    variable,
    walk,
)  # fmt: skip


def print_kernel(kernel: Kernel, name: str = "") -> str:
    """A kernel, one statement a line. Two kernels with the same text (and name) mean the same."""
    arguments = [_declaration(b) for b in kernel.buffers] + [_ranged(s) for s in kernel.symbols]
    head = f"kernel {name or kernel.name}({', '.join(arguments)})"
    item = _binder(kernel.variable, Symbol(kernel.variable.name))
    scope = {s.name: s for s in (*kernel.symbols, kernel.variable)}
    return (
        f"{head}\nparallel {item} < {kernel.items}:\n"
        + "\n".join(_lines(kernel.body, 1, scope))
        + "\n"
    )


def print_statement(statement: Statement) -> str:
    """The first line of a statement, for messages; of a block, that of its first statement."""
    return next(
        (line.strip() for line in _lines(statement, 0, {}) if not line.startswith("#")),
        "an empty block",
    )


def _lines(root: Statement, depth: int, scope: Mapping[str, Symbol]) -> Iterator[str]:
    stack: list[tuple[Statement, int, Mapping[str, Symbol], bool]] = [(root, depth, scope, True)]
    while stack:
        item, level, scope, is_last = stack.pop()
        indent = "  " * level
        end, below = ("", level) if is_last else (":", level + 1)
        match item:
            case Block(statements):
                last = len(statements) - 1
                stack += [
                    (s, level, scope, is_last and place == last)
                    for place, s in reversed(list(enumerate(statements)))
                ]
            case For(symbol, extent, kind, body):
                yield f"{indent}{kind.value} {_binder(symbol, variable(symbol.name, extent))} < {extent}:"
                stack.append((body, level + 1, {**scope, symbol.name: symbol}, True))
            case If(conditions, body):
                narrower = _narrower(body, scope)
                claims = f" with {', '.join(map(_ranged, narrower))}" if narrower else ""
                yield f"{indent}if {' and '.join(f'{c} >= 0' for c in conditions)}{claims}:"
                stack.append((body, level + 1, {**scope, **{s.name: s for s in narrower}}, True))
            case When(holds, body):
                yield f"{indent}when {print_expression(holds)}:"
                stack.append((body, level + 1, scope, True))
            case Let(symbol, extent, body):
                yield f"{indent}let {_ranged(symbol)} = {extent}{end}"
                stack.append((body, below, {**scope, symbol.name: symbol}, True))
            case Allocate(buffer, body):
                yield f"{indent}local {_declaration(buffer)}{end}"
                stack.append((body, below, scope, True))
            case Store():
                yield from (f"{indent}{line}" for line in _store_lines(item))
            case Prefetch(element):
                yield f"{indent}prefetch {print_expression(element)}"


def _narrower(body: Statement, scope: Mapping[str, Symbol]) -> list[Symbol]:
    """The symbols of the scope that a body uses with another range than where they were bound."""
    extents: dict[Extent, None] = {}
    for statement in walk(body):
        extents.update(dict.fromkeys(extents_in(statement)))
        for node in scalar.post_order(expressions_in(statement)):
            extents.update(dict.fromkeys(extents_in(node)))
    used = dim.symbols_of(list(extents))
    return sorted((s for s in used if s.name in scope and scope[s.name] != s), key=lambda s: s.name)


def _declaration(buffer: Buffer) -> str:
    return f"{buffer.name}: {buffer.dtype.value}[{', '.join(map(str, buffer.shape))}]"


def _ranged(symbol: Symbol) -> str:
    return f"{symbol.name}: {symbol.lo}..{'' if symbol.hi is None else symbol.hi}"


def _binder(symbol: Symbol, default: Symbol) -> str:
    return symbol.name if symbol == default else _ranged(symbol)


def _store_lines(store: Store) -> Iterator[str]:
    order = scalar.post_order([store.value, *store.index_expressions])
    uses = Counter(id(child) for node in order for child in scalar.children(node))
    texts: dict[int, str] = {}
    shared = 0
    for node in order:
        text = _node_text(node, texts)
        if uses[id(node)] > 1 and scalar.children(node):
            yield f"#{shared} = {text}"
            text, shared = f"#{shared}", shared + 1
        texts[id(node)] = text
    hint = "stream " if store.bypasses_cache else ""
    parts = [texts[id(part)] if isinstance(part, Expr) else str(part) for part in store.index]
    place = f"{store.buffer.name}[{', '.join(parts)}]"
    yield f"{hint}{place} = {texts[id(store.value)]}"


def print_expression(root: Expr) -> str:
    """An expression as nested calls."""
    texts: dict[int, str] = {}
    for node in scalar.post_order([root]):
        texts[id(node)] = _node_text(node, texts)
    return texts[id(root)]


def _node_text(node: Expr, texts: Mapping[int, str]) -> str:
    match node:
        case Literal(value, dtype):
            return f"{value!r}:{dtype.value}"
        case Argument(position, _):
            return f"${position}"
        case Call(function, arguments, _):
            return f"{function}({', '.join(texts[id(a)] for a in arguments)})"
        case Cast(argument, dtype):
            return f"{dtype.value}({texts[id(argument)]})"
        case Bitcast(argument, dtype):
            return f"bits_{dtype.value}({texts[id(argument)]})"
        case Index(extent):
            return f"index({extent})"
        case Guarded(conditions, value, otherwise):
            where = " and ".join(f"{c} >= 0" for c in conditions)
            return f"({texts[id(value)]} if {where} else {texts[id(otherwise)]})"
        case Checked(index, extent):
            return f"checked({texts[id(index)]}, {extent})"
        case Load(buffer, index):
            parts = [texts[id(p)] if isinstance(p, Expr) else str(p) for p in index]
            return f"{buffer.name}[{', '.join(parts)}]"
        case LaneFold(buffer, index, combine):
            return f"fold_{combine}({buffer.name}[{', '.join(map(str, index))}])"
    return f"<{type(node).__name__}>"  # it has no meaning in loops, as the verifier then says


__all__ = ["print_expression", "print_kernel", "print_statement"]
