"""Scalar expression -> its nodes in order, or an expression made anew from them.

Expressions are DAGs: a shared node is met once. Nothing recurses, so depth has no limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .expression import (
    SCALAR_FUNCTIONS,
    Argument,
    Bitcast,
    Call,
    Cast,
    Checked,
    Expr,
    Guarded,
    Literal,
    cast,
)


def children(expression: Expr) -> tuple[Expr, ...]:
    """Direct sub-expressions."""
    match expression:
        case Call():
            return expression.arguments
        case Cast() | Bitcast():
            return (expression.argument,)
        case Guarded():
            return (expression.value, expression.otherwise)
        case Checked():
            return (expression.index,)
        case Literal():
            return ()
        case _:
            return getattr(expression, "index_expressions", ())


def with_children(expression: Expr, new: Sequence[Expr]) -> Expr:
    """The same node over other sub-expressions."""
    match expression:
        case Call(function, _, _):
            entry = SCALAR_FUNCTIONS[function]
            return Call(function, tuple(new), entry.result([a.dtype for a in new]))
        case Cast(_, dtype):
            return cast(new[0], dtype)
        case Bitcast(_, dtype):
            return Bitcast(new[0], dtype)
        case Guarded(conditions, _, _):
            return Guarded(conditions, new[0], new[1])
        case Checked(_, extent):
            return Checked(new[0], extent)
        case _ if new:
            replaced: Expr = expression.with_index_expressions(tuple(new))  # type: ignore[attr-defined]
            return replaced
        case _:
            return expression


def post_order(
    roots: Sequence[Expr], closed: tuple[type[Expr], ...] = (), known: Iterable[int] = ()
) -> list[Expr]:
    """Every node once, arguments before users; nodes of ``closed`` types are not entered, and nodes
    whose ids are ``known`` left out.

    With Guarded closed, these are the nodes that are evaluated whatever guards say.
    """
    seen = set(known)
    order: list[Expr] = []
    # None: all below the innermost open node is done
    stack: list[Expr | None] = list(reversed(roots))
    open_: list[Expr] = []
    while stack:
        node = stack.pop()
        if node is None:
            order.append(open_.pop())
        elif id(node) not in seen:
            seen.add(id(node))
            below = () if isinstance(node, closed) else children(node)
            if not below:
                order.append(node)
                continue
            open_.append(node)
            stack.append(None)
            stack += reversed(below)
    return order


def rebuild(root: Expr, replace: Callable[[Expr], Expr | None]) -> Expr:
    """The tree with each node for which ``replace`` gives an expression replaced by it (leaves
    first).
    """
    return transform(root, lambda node, _: replace(node))


def transform(root: Expr, make: Callable[[Expr, Sequence[Expr]], Expr | None]) -> Expr:
    """The tree made anew, leaves first: ``make`` gets a node and its new sub-expressions; None:
    the node over these.
    """
    done: dict[int, Expr] = {}
    for node in post_order([root]):
        old = children(node)
        new = [done[id(child)] for child in old]
        found = make(node, new)
        if found is None:
            same = all(a is b for a, b in zip(old, new, strict=True))
            found = node if same else with_children(node, new)
        done[id(node)] = found
    return done[id(root)]


def apply(formula: Expr, arguments: Sequence[Expr]) -> Expr:
    """A formula with its arguments put in."""
    return rebuild(
        formula, lambda node: arguments[node.position] if isinstance(node, Argument) else None
    )
