"""A kernel's function in the making: the builder, intrinsics, and values that a block holds
already.

Copies of an unrolled body have much in common; what they share is made once a block, so that they
cost little before LLVM sees them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from llvmlite import ir

from ..machine import Cpu
from .representation import (
    I16,
    I32,
    I64,
    PTR,
    Lanes,
    Mask,
    Operand,
    Undefined,
    is_vector,
    known_lanes,
    suffix,
    vector_of,
    zero_of_type,
)  # fmt: skip
from .rounding import emit_rounding

BETWEEN_JUMPS = 320  # instructions of the builder at most, where a jump ends several turns
_FIRST_LANE = zero_of_type(vector_of(I32))  # in all lanes


class MadeInBlock:
    """Values by what they are, as long as code is added to the block in which they were made."""

    def __init__(self) -> None:
        self.block: ir.Block | None = None
        self.values: dict[Hashable, Operand] = {}

    def once(self, block: ir.Block, key: Hashable, make: Callable[[], Operand]) -> Operand:
        """The value of a key, made if the block does not hold it."""
        if block is not self.block:
            self.block, self.values = block, {}
        found = self.values.get(key)
        if found is None:
            found = make()
            if block is self.block:
                self.values[key] = found
        return found

    def clear(self) -> None:
        self.values = {}


class MadeBefore:
    """Values that depend on no memory by what they are: also those made before the loops and
    branches that are open now.
    """

    def __init__(self) -> None:
        self.values: dict[Hashable, Operand] = {}
        self.added: list[Hashable] = []  # since the innermost loop or branch was opened

    @contextmanager
    def inside(self) -> Iterator[None]:
        """A loop or a branch: what is made in it, code behind it does not have."""
        outer, self.added = self.added, []
        yield
        for key in self.added:
            del self.values[key]
        self.added = outer

    def once(self, key: Hashable, make: Callable[[], Operand]) -> Operand:
        """The value of a key; ``make`` opens no branch."""
        found = self.values.get(key)
        if found is None:
            found = self.values[key] = make()
            self.added.append(key)
        return found


class Function:
    """``void name(i64 *words, i64 begin, i64 end)``, to whose end ``b`` adds instructions."""

    def __init__(self, module: ir.Module, name: str, cpu: Cpu) -> None:
        self.module, self.cpu = module, cpu
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR, I64, I64]), name)
        self.function.storage_class = "default"
        self.function.attributes.add("nounwind")
        self.function.append_basic_block("entry")
        self.b = ir.IRBuilder(self.function.entry_basic_block)
        self.numbers = MadeBefore()

    def word(self, position: int) -> Operand:
        """One of the words that the function gets."""
        return self.b.load(
            self.b.gep(self.function.args[0], [I64(position)], source_etype=I64), typ=I64
        )

    # -- control flow ------------------------------------------------------------------------------

    @contextmanager
    def counted(self, begin: Operand, end: Operand, turns: Sequence[int] = ()) -> Iterator[Operand]:
        """for (i = begin; i < end; i++). ``turns``: divisors of the count; a jump ends as many turns
        as the first that keeps what is between two jumps short.
        """
        before = self.b.block
        head = self.function.append_basic_block("head")
        body = self.function.append_basic_block("body")
        after = self.function.append_basic_block("after")
        self.b.cbranch(self.b.icmp_signed("<", begin, end), head, after)
        self.b.position_at_end(head)
        counter = self.b.phi(I64)
        counter.add_incoming(begin, before)
        self.b.branch(body)
        self.b.position_at_end(body)
        with self.numbers.inside():
            yield counter
        last = self.b.block
        following = self.b.add(counter, I64(1), flags=["nsw"])
        counter.add_incoming(following, last)
        jump = self.b.cbranch(self.b.icmp_signed("<", following, end), head, after)
        most = BETWEEN_JUMPS // len(body.instructions) if last is body else 1
        count = next((count for count in turns if count <= most), 1)
        if count > 1:
            jump.set_metadata("llvm.loop", self._unrolled(count))
        self.b.position_at_end(after)

    def _unrolled(self, count: int) -> Any:
        """What has LLVM copy a loop's body: a node that begins with itself, as those of loops do."""
        order = self.module.add_metadata(["llvm.loop.unroll.count", I32(count)])
        node = self.module.add_metadata([order])
        node.operands = (node, order)
        return node

    @contextmanager
    def if_then(self, flag: Operand, likely: bool | None = None) -> Iterator[None]:
        """if (flag)"""
        with self.b.if_then(flag, likely), self.numbers.inside():
            yield

    @contextmanager
    def if_either(self, flag: Operand) -> Iterator[tuple[AbstractContextManager[None], ...]]:
        """if (flag), which mostly holds, and else"""
        with self.b.if_else(flag, likely=True) as branches:
            yield tuple(self._branch(branch) for branch in branches)

    @contextmanager
    def _branch(self, branch: AbstractContextManager[None]) -> Iterator[None]:
        with branch, self.numbers.inside():
            yield

    def either(
        self, flag: Operand, usual: Callable[[], Operand], other: Callable[[], Operand]
    ) -> Operand:
        """One of two values, made under the flag or, which is seldom, where it does not hold."""
        made: list[tuple[Operand, ir.Block]] = []
        with self.b.if_else(flag, likely=True) as branches:
            for branch, make in zip(branches, (usual, other), strict=True):
                with branch, self.numbers.inside():
                    made.append((make(), self.b.block))
        phi = self.b.phi(made[0][0].type)
        for value, block in made:
            phi.add_incoming(value, block)
        return phi

    # -- instructions ------------------------------------------------------------------------------

    def both(self, left: Operand | None, right: Operand | None) -> Operand | None:
        """left and right, where None holds always."""
        if left is None or right is None:
            return right if left is None else left
        bits = [known for v in (left, right) if (known := known_lanes(v)) is not None]
        if len(bits) == 2:
            return Mask(list(map(operator.and_, *bits)))
        return self.numbers.once(("and", left, right), lambda: self.b.and_(left, right))

    def vector(self, value: Operand) -> Operand:
        """A scalar in all lanes."""
        if is_vector(value):
            return value
        if isinstance(value, ir.Constant):
            return Lanes(value)
        return self.numbers.once(value, lambda: self._in_all_lanes(value))

    def _in_all_lanes(self, value: Operand) -> Operand:
        undefined = Undefined(vector_of(value.type))
        one = self.b.insert_element(undefined, value, I32(0))
        return self.b.shuffle_vector(one, undefined, _FIRST_LANE)

    def intrinsic(self, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
        """A function from elsewhere, declared once."""
        found = self.module.globals.get(name)
        return (
            found
            if found is not None
            else ir.Function(self.module, ir.FunctionType(result, arguments), name)
        )

    def unary(self, name: str, x: Operand) -> Operand:
        """A unary LLVM intrinsic that is one instruction."""
        return self.b.call(self.intrinsic(f"{name}.{suffix(x.type)}", x.type, [x.type]), [x])

    def rounded(self, direction: str, x: Operand) -> Operand:
        """floor, ceil, trunc or roundeven."""
        return (
            self.unary(f"llvm.{direction}", x)
            if self.cpu.has_rounding
            else emit_rounding(self.b, direction, x)
        )

    def scaled(self, x: Operand, n: Operand) -> Operand:
        """x * 2^n, rounded once, by the CPU's instruction: of vectors of float32."""
        kinds = [x.type, x.type, x.type, I16, I32]
        function = self.intrinsic("llvm.x86.avx512.mask.scalef.ps.512", x.type, kinds)
        return self.b.call(function, [x, n, zero_of_type(x.type), I16(-1), I32(4)])

    def fma(self, x: Operand, y: Operand, z: Operand) -> Operand:
        """One rounding where the CPU has fma; else a product and a sum (llvm.fma would call a
        library).
        """
        if not self.cpu.has_fma:
            return self.b.fadd(self.b.fmul(x, y), z)
        return self.b.call(
            self.intrinsic(f"llvm.fma.{suffix(x.type)}", x.type, [x.type] * 3), [x, y, z]
        )


__all__ = ["Function", "MadeInBlock"]
