"""Scalar expressions: the one representation of an elementwise formula.

A formula such as ``x / (1 + exp(-x))`` is written once, with Python operators over ``Expr``. From
that tree come the NumPy value (``evaluate``), the gradient (``differentiate``), the code of every
target, and its text. Loops add two leaves of their own (a load from a buffer, an index), so a
kernel's body is the same tree. Trees are shared DAGs: walk them with ``rebuild``, which visits each
node once and needs no recursion limit.

Each file builds on those before it: ``expression`` (nodes, and how they are built), ``arrays``
(what NumPy computes otherwise), ``functions`` (the table of scalar functions), ``walk`` (order,
rebuilding), then ``meaning`` (values) and ``gradient``.
"""

from .expression import (
    SCALAR_FUNCTIONS,
    Argument,
    Bitcast,
    Call,
    Cast,
    Checked,
    Expr,
    Guarded,
    Index,
    Literal,
    Number,
    ScalarFunction,
    call,
    cast,
    guarded,
    literal,
)
from .functions import exp, maximum, minimum, select
from .gradient import differentiate, scaled
from .meaning import cast_array, evaluate
from .walk import apply, children, post_order, rebuild, transform, with_children

__all__ = [
    "SCALAR_FUNCTIONS",
    "Argument",
    "Bitcast",
    "Call",
    "Cast",
    "Checked",
    "Expr",
    "Guarded",
    "Index",
    "Literal",
    "Number",
    "ScalarFunction",
    "apply",
    "call",
    "cast",
    "cast_array",
    "children",
    "differentiate",
    "evaluate",
    "exp",
    "guarded",
    "literal",
    "maximum",
    "minimum",
    "post_order",
    "rebuild",
    "scaled",
    "select",
    "transform",
    "with_children",
]
