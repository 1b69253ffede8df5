"""The text of a kernel in the making: lines, names, indices in int32, and scalar expressions as
calls of intrinsics.

Every name in the text is made here: a model's own names never reach it. Loads under a guard happen
only where the guard holds, or read the buffer's first element in vain; a run-time index out of
range sets the error flag, the last argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce

import numpy as np

from netloom.errors import UnsupportedOpError

from ... import dim, scalar
from ...dim import Extent, Minimum, Quotient, Remainder, Symbol
from ...loops.elements import Axis
from ...loops.ir import Load
from ...scalar import Argument, Bitcast, Call, Cast, Checked, Expr, Guarded, Index, Literal
from ...tensor_type import BFLOAT16, BOOL, FLOAT16, INT32, INT64, DType
from ..cpu.vector_math import expand_all
from .elements import SUM
from .forms import DeviceKernel


class Printer:
    """Lines of a kernel's function, and the names that they use."""

    def __init__(self, kernel: DeviceKernel) -> None:
        self.kernel = kernel
        self.lines: list[str] = []
        self.depth = 1
        self.used: set[str] = set()
        self.numbers: dict[tuple[DType, bytes], str] = {}
        self.fresh = 0
        # per level of nesting, the names of indices that are in the text already
        self.known: list[dict[str, str]] = [{}]
        self.names = {symbol.name: f"n{place}" for place, symbol in enumerate(kernel.symbols)}
        self.buffers = {buffer: buffer.name for buffer in kernel.buffers}
        # the names of a row's numbers, by the arguments that stand for them
        self.sums: dict[int, str] = {}

    @property
    def arguments(self) -> list[str]:
        """The function's parameters."""
        return [
            *self.buffers.values(),
            *(f"n{place}" for place in range(len(self.kernel.symbols))),
            "error",
        ]

    def store(self, offset: str, value: str) -> None:
        """Stores an element of the output."""
        target = self.kernel.buffers[-1]
        self.do(f"store_{target.dtype.value}", self.buffers[target], offset, value)

    # -- text --------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def call(self, function: str, *arguments: str) -> str:
        self.used.add(function)
        return f"{function}({', '.join(arguments)})"

    def do(self, function: str, *arguments: str) -> None:
        self.line(self.call(function, *arguments))

    def let(self, text: str, prefix: str = "t") -> str:
        """A new name for a value."""
        name = f"{prefix}_{self.fresh}"
        self.fresh += 1
        self.line(f"{name} = {text}")
        return name

    def index(self, function: str, *arguments: str) -> str:
        """The name of a pure call's value, made once in each scope: arguments must be names that
        never change.
        """
        text = self.call(function, *arguments)
        for level in reversed(self.known):
            if text in level:
                return level[text]
        return self.known[-1].setdefault(text, self.let(text, "e"))

    @contextmanager
    def nested(self, head: str) -> Iterator[None]:
        self.line(head)
        self.depth += 1
        self.known.append({})
        yield
        self.known.pop()
        self.depth -= 1

    @contextmanager
    def loop(self, extent: Extent | str) -> Iterator[str]:
        """A counted loop; its variable."""
        name = f"i_{self.fresh}"
        self.fresh += 1
        with self.nested(
            f"for {name} in range(int32({extent if isinstance(extent, str) else self.extent(extent)})):"
        ):
            yield name

    @contextmanager
    def where(self, conditions: Sequence[str]) -> Iterator[None]:
        """What happens where all conditions hold."""
        if not conditions:
            yield
            return
        with self.nested(f"if {self.all(conditions)}:"):
            yield

    def all(self, conditions: Iterable[str]) -> str:
        """Whether all of the conditions hold (one at least)."""
        return reduce(lambda left, right: self.index("both", left, right), conditions)

    def number(self, value: float | int | bool, dtype: DType) -> str:
        bits = np.asarray(value, dtype.numpy).tobytes()
        return self.numbers.setdefault((dtype, bits), f"c{len(self.numbers)}")

    # -- indices: int32 ----------------------------------------------------------------------------

    def extent(self, extent: Extent) -> str:
        """An extent as an int32."""
        if isinstance(extent, int):
            return str(extent)
        total, constant = "", 0
        for atoms, factor in extent.terms:
            if not atoms:
                constant += factor
                continue
            term = self._product_of(atoms, abs(factor))
            if factor < 0:
                total = self.index("minus", total or "0", term)
            else:
                total = self.index("plus", total, term) if total else term
        if constant and total:
            return self.index("plus" if constant > 0 else "minus", total, str(abs(constant)))
        return total or str(constant)

    def _product_of(self, atoms: Sequence[dim.Atom], factor: int) -> str:
        text = self._atom(atoms[0])
        for atom in atoms[1:]:
            text = self.index("times", text, self._atom(atom))
        return text if factor == 1 else self.index("times", text, str(factor))

    def _atom(self, atom: dim.Atom) -> str:
        match atom:
            case Symbol(name):
                return self.names[name]
            case Quotient(numerator, divisor):
                sign = "" if dim.is_nonnegative(numerator) else "floor_"
                return self.index(f"{sign}quotient", self.extent(numerator), str(divisor))
            case Remainder(numerator, divisor):
                sign = "" if dim.is_nonnegative(numerator) else "floor_"
                return self.index(f"{sign}remainder", self.extent(numerator), str(divisor))
            case Minimum(left, right):
                return self.index("lesser", self.extent(left), self.extent(right))

    def decode(self, flat: str, axes: Sequence[Axis]) -> None:
        """Binds the axes' symbols to the digits of a flat index, the last axis running fastest."""
        rest = flat
        real = [axis for axis in axes if axis.extent != 1]
        for axis in axes:
            if axis.extent == 1:
                self.names[axis.symbol.name] = "0"
        for place in range(len(real) - 1, -1, -1):
            axis = real[place]
            if place == 0:
                self.names[axis.symbol.name] = rest
                return
            size = self.extent(axis.extent)
            self.names[axis.symbol.name] = self.index("remainder", rest, size)
            rest = self.index("quotient", rest, size)

    # -- expressions -------------------------------------------------------------------------------

    def combine(self, target: str, function: str, term: Expr) -> None:
        """One more term for what ``target`` holds; a product of floats by one rounding."""
        name = term.dtype.value
        match term:
            case Call("mul", (left, right), dtype) if function == "add" and dtype.is_float:
                values = Values(self, "", {})
                factors = [values.of(expand_all(side)) for side in (left, right)]
                self.line(f"{target} = {self.call(f'fma_{name}', *factors, target)}")
            case _:
                value = self.expression(term)
                self.line(f"{target} = {self.call(f'{function}_{name}', target, value)}")

    def expression(self, root: Expr, sum_: str = "") -> str:
        """The value of an expression; math functions become primitives first."""
        return Values(self, sum_, {}).of(expand_all(root))

    def offset(self, load: Load, values: Mapping[int, str]) -> str:
        if not load.index_expressions:
            return self.extent(
                load.buffer.offset(tuple(part for part in load.index if not isinstance(part, Expr)))
            )
        total = ""
        for size, part in zip(load.buffer.shape, load.index, strict=True):
            at = (
                self.call("cast_int64_int32", values[id(part)])
                if isinstance(part, Expr)
                else self.extent(part)
            )
            total = (
                self.index("plus", self.index("times", total, self.extent(size)), at)
                if total
                else at
            )
        return total or "0"


class Values:
    """Expressions already in the text, by identity; those made under a guard are known only
    there.
    """

    def __init__(self, printer: Printer, sum_: str, outer: Mapping[int, str]) -> None:
        self.p, self.sum, self.values = printer, sum_, dict(outer)
        self.kept: list[Expr] = []  # identities must not be given anew

    def of(self, root: Expr) -> str:
        self.kept.append(root)
        for node in scalar.post_order([root], closed=(Guarded,), known=self.values):
            self.values[id(node)] = self._value(node)
        return self.values[id(root)]

    def _value(self, node: Expr) -> str:
        p = self.p
        match node:
            case Literal(value, dtype):
                return p.number(value, dtype)
            case Argument(position, _) if position in p.sums:
                return p.sums[position]
            case Argument(position, _):
                assert position == SUM and self.sum
                return self.sum
            case Load(buffer, _):
                return p.let(
                    p.call(
                        f"load_{buffer.dtype.value}", p.buffers[buffer], p.offset(node, self.values)
                    )
                )
            case Index(extent):
                return p.let(p.call("cast_int32_int64", p.extent(extent)))
            case Guarded():
                return self._guarded(node)
            case Checked(index, extent):
                return self._checked(self.values[id(index)], extent)
            case Cast(argument, dtype):
                return p.let(
                    p.call(f"cast_{argument.dtype.value}_{dtype.value}", self.values[id(argument)])
                )
            case Bitcast(argument, dtype):
                return p.let(
                    p.call(
                        f"bitcast_{argument.dtype.value}_{dtype.value}", self.values[id(argument)]
                    )
                )
            case Call(function, arguments, dtype):
                return p.let(self._call(function, arguments, dtype))
        raise UnsupportedOpError(
            f"the cuda target has no code for {type(node).__name__}.",
            hint="Compile for the cpu target.",
        )

    def _call(self, function: str, arguments: Sequence[Expr], dtype: DType) -> str:
        """Small floats compute in float32 and round once."""
        p, values = self.p, [self.values[id(a)] for a in arguments]
        source = arguments[-1].dtype
        if source not in (FLOAT16, BFLOAT16) or function == "select":
            return p.call(f"{function}_{source.value}", *values)
        wide = [p.call(f"cast_{source.value}_float32", value) for value in values]
        result = p.call(f"{function}_float32", *wide)
        return result if dtype is BOOL else p.call(f"cast_float32_{dtype.value}", result)

    def _guarded(self, node: Guarded) -> str:
        p = self.p
        match node:
            case Guarded(conditions, Load(buffer) as load, Literal(value=0)) if (
                _may_be_read_at_zero(load)
            ):
                inside = p.all(p.index("inside", p.extent(condition)) for condition in conditions)
                return p.let(
                    p.call(
                        f"load_if_{buffer.dtype.value}",
                        p.buffers[buffer],
                        p.offset(load, {}),
                        inside,
                    )
                )
        result = p.let(self.of(node.otherwise), "g")
        with p.where([p.index("inside", p.extent(condition)) for condition in node.conditions]):
            p.line(f"{result} = {Values(p, self.sum, self.values).of(node.value)}")
        return result

    def _checked(self, index: str, extent: Extent) -> str:
        p = self.p
        at = p.let(p.call("wrapped", index, p.extent(extent)))
        good = p.let(p.call("within", at, p.extent(extent)))
        with p.nested(f"if not {good}:"):
            p.do("store_int32", "error", "0", p.number(1, INT32))
        return p.let(p.call("select_int64", good, at, p.number(0, INT64)))


def _may_be_read_at_zero(load: Load) -> bool:
    """Whether a guarded load may read the buffer's first element where its guard does not hold:
    then it needs no branch.
    """
    return not load.index_expressions and all(
        dim.is_nonnegative(extent - 1) for extent in load.buffer.shape
    )


__all__ = ["Printer", "Values"]
