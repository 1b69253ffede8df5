"""A planned kernel -> Numba source: one Python function over pointers and int32, made of calls of intrinsics.

Every name in the text is made here (a model's own names never reach it), so equal kernels have equal texts. Loads under a
guard happen only where the guard holds; a run-time index out of range sets the error flag, the kernel's last argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce

import numpy as np

from netloom.errors import UnsupportedOpError

from ... import dim, scalar
from ...dim import Extent, Minimum, Quotient, Remainder, Symbol
from ...loops.ir import Load
from ...scalar import Argument, Bitcast, Call, Cast, Checked, Expr, Guarded, Index, Literal
from ...tensor_type import BFLOAT16, BOOL, FLOAT16, FLOAT32, INT32, INT64, DType
from ..cpu.vector_math import expand_all
from .elements import SUM
from .forms import THREADS, Axis, DeviceKernel, Operand, Pointwise, Product, Rows, Transform, count
from .schedule import CHAIN

PAD = 4  # floats behind each k-slice of a tile in shared memory, against bank conflicts
FRAGMENT = 4  # neighbouring elements that a thread holds in a row of its tile


@dataclass(frozen=True)
class KernelSource:
    """A kernel as text. ``arguments``: the buffers' dtypes, then int32 per symbol, then the error flag.

    ``intrinsics`` are the names that the text uses; ``numbers`` its literals: (name, dtype, bits).
    """

    text: str
    arguments: tuple[DType, ...]
    symbols: int
    intrinsics: tuple[str, ...]
    numbers: tuple[tuple[str, DType, bytes], ...]
    threads: int

    @property
    def key(self) -> str:
        """All that decides the code, as text."""
        numbers = "\n".join(f"{name} = {dtype.value}({bits.hex()})" for name, dtype, bits in self.numbers)
        arguments = ", ".join(dtype.value for dtype in self.arguments)
        return f"# {arguments}; {self.symbols} symbols; {self.threads} threads\n{numbers}\n{self.text}"


def print_source(kernel: DeviceKernel) -> KernelSource:
    """The source of a kernel."""
    return _Printer(kernel).source()


class _Printer:
    def __init__(self, kernel: DeviceKernel) -> None:
        self.kernel = kernel
        self.lines: list[str] = []
        self.depth = 1
        self.used: set[str] = set()
        self.numbers: dict[tuple[DType, bytes], str] = {}
        self.fresh = 0
        self.names = {symbol.name: f"n{place}" for place, symbol in enumerate(kernel.symbols)}
        self.buffers = {buffer: buffer.name for buffer in kernel.buffers}

    def source(self) -> KernelSource:
        match self.kernel.form:
            case Pointwise() as form:
                self._pointwise(form)
            case Rows() as form:
                self._rows(form)
            case Product() as form:
                self._product(form)
            case Transform() as form:
                self._transform(form)
        arguments = [*self.buffers.values(), *self.names_of_symbols(), "error"]
        text = f"def kernel({', '.join(arguments)}):\n" + "\n".join(self.lines) + "\n"
        numbers = tuple((name, dtype, bits) for (dtype, bits), name in self.numbers.items())
        dtypes = tuple(buffer.dtype for buffer in self.kernel.buffers)
        return KernelSource(text, dtypes, len(self.kernel.symbols), tuple(sorted(self.used)), numbers, THREADS)

    def names_of_symbols(self) -> list[str]:
        return [f"n{place}" for place in range(len(self.kernel.symbols))]

    # -- text ------------------------------------------------------------------------------------------------

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

    @contextmanager
    def nested(self, head: str) -> Iterator[None]:
        self.line(head)
        self.depth += 1
        yield
        self.depth -= 1

    @contextmanager
    def loop(self, extent: Extent | str) -> Iterator[str]:
        """A counted loop; its variable."""
        name = f"i_{self.fresh}"
        self.fresh += 1
        with self.nested(f"for {name} in range(int32({extent if isinstance(extent, str) else self.extent(extent)})):"):
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
        return reduce(lambda left, right: self.call("both", left, right), conditions)

    def number(self, value: float | int | bool, dtype: DType) -> str:
        bits = np.asarray(value, dtype.numpy).tobytes()
        return self.numbers.setdefault((dtype, bits), f"c{len(self.numbers)}")

    # -- indices: int32 --------------------------------------------------------------------------------------

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
                total = self.call("minus", total or "0", term)
            else:
                total = self.call("plus", total, term) if total else term
        if constant and total:
            return self.call("plus" if constant > 0 else "minus", total, str(abs(constant)))
        return total or str(constant)

    def _product_of(self, atoms: Sequence[dim.Atom], factor: int) -> str:
        text = self._atom(atoms[0])
        for atom in atoms[1:]:
            text = self.call("times", text, self._atom(atom))
        return text if factor == 1 else self.call("times", text, str(factor))

    def _atom(self, atom: dim.Atom) -> str:
        match atom:
            case Symbol(name):
                return self.names[name]
            case Quotient(numerator, divisor):
                sign = "" if dim.is_nonnegative(numerator) else "floor_"
                return self.call(f"{sign}quotient", self.extent(numerator), str(divisor))
            case Remainder(numerator, divisor):
                sign = "" if dim.is_nonnegative(numerator) else "floor_"
                return self.call(f"{sign}remainder", self.extent(numerator), str(divisor))
            case Minimum(left, right):
                return self.call("lesser", self.extent(left), self.extent(right))

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
            self.names[axis.symbol.name] = self.let(self.call("remainder", rest, size), "p")
            rest = self.let(self.call("quotient", rest, size), "q")

    # -- expressions -----------------------------------------------------------------------------------------

    def expression(self, root: Expr, sum_: str = "") -> str:
        """The value of an expression; math functions become primitives first."""
        return _Values(self, sum_, {}).of(expand_all(root))

    def offset(self, load: Load, values: Mapping[int, str]) -> str:
        if not load.index_expressions:
            return self.extent(load.buffer.offset(tuple(part for part in load.index if not isinstance(part, Expr))))
        total = ""
        for size, part in zip(load.buffer.shape, load.index, strict=True):
            at = self.call("cast_int64_int32", values[id(part)]) if isinstance(part, Expr) else self.extent(part)
            total = self.call("plus", self.call("times", total, self.extent(size)), at) if total else at
        return total or "0"

    # -- forms -----------------------------------------------------------------------------------------------

    def _pointwise(self, form: Pointwise) -> None:
        flat = self.let(self.call("plus", self.call("times", self.call("block"), str(THREADS)), self.call("thread")), "i")
        with self.where([self.call("below", flat, self.extent(count(form.axes)))]):
            self.decode(flat, form.axes)
            self.do(f"store_{_name(self.kernel.buffers[-1].dtype)}", "y", flat, self.expression(form.value))

    def _rows(self, form: Rows) -> None:
        dtype = form.term.dtype
        thread = self.let(self.call("thread"), "t")
        fast, slow = ("remainder", "quotient") if form.rows_are_adjacent else ("quotient", "remainder")
        width = str(form.rows if form.rows_are_adjacent else form.lanes)
        local = self.let(self.call(fast, thread, width), "r")
        lane = self.let(self.call(slow, thread, width), "l")
        row = self.let(self.call("plus", self.call("times", self.call("block"), str(form.rows)), local), "i")
        inside = self.call("below", row, self.extent(count(form.axes)))
        self.line(f"total = {self.number(form.neutral, dtype)}")
        with self.where([inside]):
            self.decode(row, form.axes)
            self._sum(form, lane)
        conditions = [inside]
        if form.lanes > 1:
            self._tree(form, thread, lane)
            conditions.append(self.call("below", lane, "1"))
        with self.where(conditions):
            self.decode(row, form.axes)
            value = self.expression(form.value, "total")
            self.do(f"store_{_name(self.kernel.buffers[-1].dtype)}", "y", row, value)

    def _sum(self, form: Rows, lane: str) -> None:
        """Adds this lane's terms to ``total``: every lanes-th one, in chains of at most CHAIN."""
        terms = count(form.terms)
        if isinstance(terms, int) and terms <= CHAIN and form.lanes == 1:
            self._nested_sum(form, list(form.terms))
            return
        mine = self.let(self.call("quotient", self.call("minus", self.extent(terms + form.lanes - 1), lane), str(form.lanes)), "n")
        if isinstance(terms, int) and terms <= CHAIN * form.lanes:
            with self.loop(mine) as step:
                self._add_term(form, "total", self._flat(form, lane, step))
            return
        chains = self.let(self.call("quotient", self.call("plus", mine, str(CHAIN - 1)), str(CHAIN)), "n")
        with self.loop(chains) as chain:
            start = self.let(self.call("times", chain, str(CHAIN)), "i")
            self.line(f"part = {self.number(form.neutral, form.term.dtype)}")
            with self.loop(self.call("lesser", str(CHAIN), self.call("minus", mine, start))) as step:
                self._add_term(form, "part", self._flat(form, lane, self.call("plus", start, step)))
            self.line(f"total = {self.call(f'{form.combine}_{_name(form.term.dtype)}', 'total', 'part')}")

    def _flat(self, form: Rows, lane: str, step: str) -> str:
        return step if form.lanes == 1 else self.call("plus", self.call("times", step, str(form.lanes)), lane)

    def _nested_sum(self, form: Rows, axes: list[Axis]) -> None:
        """One loop an axis."""
        depth = self.depth
        for axis in axes:
            name = f"i_{self.fresh}"
            self.fresh += 1
            self.names[axis.symbol.name] = name
            self.line(f"for {name} in range(int32({self.extent(axis.extent)})):")
            self.depth += 1
        self._combine_term(form, "total")
        self.depth = depth

    def _add_term(self, form: Rows, target: str, flat: str) -> None:
        self.decode(self.let(flat, "k"), form.terms)
        self._combine_term(form, target)

    def _combine_term(self, form: Rows, target: str) -> None:
        name = _name(form.term.dtype)
        match form.term:
            case Call("mul", (left, right), dtype) if form.combine == "add" and dtype.is_float:
                values = _Values(self, "", {})
                factors = [values.of(expand_all(side)) for side in (left, right)]
                self.line(f"{target} = {self.call(f'fma_{name}', *factors, target)}")
            case term:
                self.line(f"{target} = {self.call(f'{form.combine}_{name}', target, self.expression(term))}")

    def _tree(self, form: Rows, thread: str, lane: str) -> None:
        """The lanes' sums combined in a fixed tree: lane i with lane i + width, width halving."""
        name = _name(form.term.dtype)
        scratch = self.let(self.call(f"shared_{name}_{THREADS}"), "s")
        stride = form.rows if form.rows_are_adjacent else 1
        self.do(f"store_{name}", scratch, thread, "total")
        self.do("barrier")
        width = form.lanes // 2
        while width:
            with self.where([self.call("below", lane, str(width))]):
                other = self.call("plus", thread, str(width * stride))
                pair = (self.call(f"load_{name}", scratch, at) for at in (thread, other))
                self.line(f"total = {self.call(f'{form.combine}_{name}', *pair)}")
                if width > 1:
                    self.do(f"store_{name}", scratch, thread, "total")
            if width > 1:
                self.do("barrier")
            width //= 2

    # -- transforms ------------------------------------------------------------------------------------------

    def _transform(self, form: Transform) -> None:
        """A thread's tile in registers."""
        flat = self.let(self.call("plus", self.call("times", self.call("block"), str(THREADS)), self.call("thread")), "i")
        target = self.kernel.buffers[-1]
        with self.where([self.call("below", flat, self.extent(count(form.axes)))]):
            self.decode(flat, form.axes)
            values = _Values(self, "", {})
            tile = [values.of(expand_all(read)) for row in form.reads for read in row]
            tiles = self.let(self.call(f"transform_{form.name}_{_name(target.dtype)}", *tile), "w")
            for place, put in enumerate(put for row in form.puts for put in row):
                with self.where([self.call("inside", self.extent(condition)) for condition in put.conditions]):
                    offset = self.extent(target.offset(put.position))
                    self.do(f"store_{_name(target.dtype)}", "y", offset, self.expression(put.value, f"{tiles}[{place}]"))

    # -- products --------------------------------------------------------------------------------------------

    def _product(self, form: Product) -> None:
        """Register tiles over two k-slices in shared memory; the next slices are on their way while one is used."""
        tile = form.tile
        assert tile.threads == THREADS
        left_stride, right_stride = tile.rows + PAD, tile.columns + PAD
        staged = tile.rows // (tile.thread_rows // FRAGMENT) * tile.columns
        room = max(staged, tile.depth * (left_stride + right_stride))
        thread = self.let(self.call("thread"), "t")
        row_start, column_start = self._tile_starts(form)
        across = tile.columns // tile.thread_columns
        x = self.let(self.call("times", self.call("remainder", thread, str(across)), str(FRAGMENT)), "x")
        y = self.let(self.call("times", self.call("quotient", thread, str(across)), str(FRAGMENT)), "y")
        left = self.let(self.call(f"shared_float32_{room}"), "s")
        right = self.let(self.call("at", left, str(tile.depth * left_stride)), "s")
        sides = ((form.left, tile.rows, left_stride, left, row_start), (form.right, tile.columns, right_stride, right, column_start))
        held = tile.thread_rows * tile.thread_columns
        terms = count(form.terms)
        is_long = not isinstance(terms, int) or terms > CHAIN
        self.line(f"tile = {self.call(f'tile_zero_{held}')}")
        if is_long:
            self.line(f"total = {self.call(f'tile_zero_{held}')}")
        with self.loop(dim.ceil_div(terms, tile.depth) + 1) as step:
            start = self.let(self.call("times", step, str(tile.depth)), "k")
            fetched = [self._fetch(form, side, size, thread, start, at) for side, size, _, _, at in sides]
            with self.where([self.call("below", "0", step)]):
                fragments = self.call("at", left, y), self.call("at", right, x)
                shape = f"{tile.depth}_{left_stride}_{right_stride}_{tile.thread_rows}_{tile.thread_columns}"
                self.line(f"tile = {self.call(f'tile_fma_{shape}', 'tile', *fragments)}")
            if is_long:
                with self.where([self.call("below", self.call("remainder", step, str(CHAIN // tile.depth)), "1")]):
                    self.line(f"total = {self.call(f'tile_add_{held}', 'total', 'tile')}")
                    self.line(f"tile = {self.call(f'tile_zero_{held}')}")
            self.do("barrier")
            for (side, size, stride, target, _), values in zip(sides, fetched, strict=True):
                for part, value in enumerate(values):
                    k, place = self._slice_position(form, side, size, thread, part)
                    self.do("store_float32", target, self.call("plus", self.call("times", k, str(stride)), place), value)
            self.do("barrier")
        if is_long:
            self.line(f"tile = {self.call(f'tile_add_{held}', 'total', 'tile')}")
        self._finish_product(form, thread, x, y, left, row_start, column_start)

    def _tile_starts(self, form: Product) -> tuple[str, str]:
        """The block's first row and column; the batch axes are bound."""
        across = self.extent(dim.ceil_div(count(form.right.axes), form.tile.columns))
        down = self.extent(dim.ceil_div(count(form.left.axes), form.tile.rows))
        rest = self.let(self.call("block"), "b")
        column = self.let(self.call("times", self.call("remainder", rest, across), str(form.tile.columns)), "n")
        rest = self.let(self.call("quotient", rest, across), "b")
        row = self.let(self.call("times", self.call("remainder", rest, down), str(form.tile.rows)), "m")
        self.decode(self.let(self.call("quotient", rest, down), "b"), form.batch)
        return row, column

    def _slice_position(self, form: Product, side: Operand, size: int, thread: str, part: int) -> tuple[str, str]:
        """(k, place) in a slice of the element that a thread fetches in its part-th turn."""
        depth = form.tile.depth
        flat = self.call("plus", thread, str(part * THREADS)) if part else thread
        if side.terms_are_adjacent:
            return self.call("remainder", flat, str(depth)), self.call("quotient", flat, str(depth))
        return self.call("quotient", flat, str(size)), self.call("remainder", flat, str(size))

    def _fetch(self, form: Product, side: Operand, size: int, thread: str, start: str, first: str) -> list[str]:
        """This thread's elements of a slice, zero outside the operand."""
        values = []
        for part in range(size * form.tile.depth // THREADS):
            k, place = self._slice_position(form, side, size, thread, part)
            term = self.let(self.call("plus", start, k), "k")
            at = self.let(self.call("plus", first, place), "m")
            value = self.let(self.number(0.0, FLOAT32), "v")
            conditions = [self.call("below", term, self.extent(count(form.terms)))]
            extent = count(side.axes)
            if not isinstance(extent, int) or extent % size:
                conditions.append(self.call("below", at, self.extent(extent)))
            with self.where(conditions):
                self.decode(at, side.axes)
                self.decode(term, form.terms)
                self.line(f"{value} = {self.expression(side.value)}")
            values.append(value)
        return values

    def _finish_product(self, form: Product, thread: str, x: str, y: str, stage: str, row_start: str, column_start: str) -> None:
        """The tile through shared memory, a fragment's rows at a time, so that neighbours store neighbours."""
        tile = form.tile
        rows = tile.rows * FRAGMENT // tile.thread_rows
        column_step = tile.columns * FRAGMENT // tile.thread_columns
        target = self.call("at", stage, self.call("plus", self.call("times", y, str(tile.columns)), x))
        for part in range(tile.thread_rows // FRAGMENT):
            shape = f"{tile.thread_rows}_{tile.thread_columns}_{part * FRAGMENT}_{FRAGMENT}_{tile.columns}_{column_step}"
            if part:
                self.do("barrier")
            self.do(f"tile_stage_{shape}", "tile", target)
            self.do("barrier")
            with self.loop(rows * tile.columns // THREADS) as step:
                flat = self.let(self.call("plus", self.call("times", step, str(THREADS)), thread), "i")
                local = self.call("plus", self.call("quotient", flat, str(tile.columns)), str(part * rows))
                row = self.let(self.call("plus", row_start, local), "m")
                column = self.let(self.call("plus", column_start, self.call("remainder", flat, str(tile.columns))), "n")
                inside = [self.call("below", at, self.extent(count(side.axes)))
                          for at, side in ((row, form.left), (column, form.right))]  # fmt: skip
                with self.where(inside):
                    self.decode(row, form.left.axes)
                    self.decode(column, form.right.axes)
                    sum_ = self.let(self.call("load_float32", stage, flat))
                    offset = self.extent(self.kernel.buffers[-1].offset(form.position))
                    value = self.expression(form.value, sum_)
                    self.do(f"store_{_name(self.kernel.buffers[-1].dtype)}", "y", offset, value)


class _Values:
    """Expressions already in the text, by identity; those made under a guard are known only there."""

    def __init__(self, printer: _Printer, sum_: str, outer: Mapping[int, str]) -> None:
        self.p, self.sum, self.values = printer, sum_, dict(outer)
        self.kept: list[Expr] = []  # identities must not be given anew

    def of(self, root: Expr) -> str:
        self.kept.append(root)
        for node in _eager_order(root, self.values):
            self.values[id(node)] = self._value(node)
        return self.values[id(root)]

    def _value(self, node: Expr) -> str:
        p = self.p
        match node:
            case Literal(value, dtype):
                return p.number(value, dtype)
            case Argument(position, _):
                assert position == SUM and self.sum
                return self.sum
            case Load(buffer, _):
                return p.let(p.call(f"load_{_name(buffer.dtype)}", p.buffers[buffer], p.offset(node, self.values)))
            case Index(extent):
                return p.let(p.call("cast_int32_int64", p.extent(extent)))
            case Guarded():
                return self._guarded(node)
            case Checked(index, extent):
                return self._checked(self.values[id(index)], extent)
            case Cast(argument, dtype):
                return p.let(p.call(f"cast_{_name(argument.dtype)}_{_name(dtype)}", self.values[id(argument)]))
            case Bitcast(argument, dtype):
                return p.let(p.call(f"bitcast_{_name(argument.dtype)}_{_name(dtype)}", self.values[id(argument)]))
            case Call(function, arguments, dtype):
                return p.let(self._call(function, arguments, dtype))
        raise UnsupportedOpError(f"the cuda target has no code for {type(node).__name__}.", hint="Compile for the cpu target.")

    def _call(self, function: str, arguments: Sequence[Expr], dtype: DType) -> str:
        """Small floats compute in float32 and round once."""
        p, values = self.p, [self.values[id(a)] for a in arguments]
        source = arguments[-1].dtype
        if source not in (FLOAT16, BFLOAT16) or function == "select":
            return p.call(f"{function}_{_name(source)}", *values)
        wide = [p.call(f"cast_{_name(source)}_float32", value) for value in values]
        result = p.call(f"{function}_float32", *wide)
        return result if dtype is BOOL else p.call(f"cast_float32_{_name(dtype)}", result)

    def _guarded(self, node: Guarded) -> str:
        p = self.p
        match node:
            case Guarded(conditions, Load(buffer) as load, Literal(value=0)) if _may_be_read_at_zero(load):
                inside = p.all(p.call("inside", p.extent(condition)) for condition in conditions)
                return p.let(p.call(f"load_if_{_name(buffer.dtype)}", p.buffers[buffer], p.offset(load, {}), inside))
        result = p.let(self.of(node.otherwise), "g")
        with p.where([p.call("inside", p.extent(condition)) for condition in node.conditions]):
            p.line(f"{result} = {_Values(p, self.sum, self.values).of(node.value)}")
        return result

    def _checked(self, index: str, extent: Extent) -> str:
        p = self.p
        at = p.let(p.call("wrapped", index, p.extent(extent)))
        good = p.let(p.call("within", at, p.extent(extent)))
        with p.nested(f"if not {good}:"):
            p.do("store_int32", "error", "0", p.number(1, INT32))
        return p.let(p.call("select_int64", good, at, p.number(0, INT64)))


def _eager_order(root: Expr, known: Mapping[int, str]) -> list[Expr]:
    """Post-order of what is not known yet; guarded values are left for their guard."""
    seen: set[int] = set(known)
    order: list[Expr] = []
    stack: list[tuple[Expr, bool]] = [(root, False)]
    while stack:
        node, is_ready = stack.pop()
        if is_ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            if not isinstance(node, Guarded):
                stack += [(child, False) for child in reversed(scalar.children(node))]
    return order


def _may_be_read_at_zero(load: Load) -> bool:
    """Whether a guarded load may read the buffer's first element where its guard does not hold: then it needs no branch."""
    return not load.index_expressions and all(dim.is_nonnegative(extent - 1) for extent in load.buffer.shape)


def _name(dtype: DType) -> str:
    return dtype.value


__all__ = ["KernelSource", "print_source"]
