"""How the threads of a pool share the items of a launch, written in the host layer.

Thread t of n begins with share t, the items [items * t / n, items * (t + 1) / n): they are
neighbours in memory, and mostly those of the launch before, so its caches hold what they read. But
threads are not equally fast: cores differ, and others use them too. So a share is cut into pieces;
its owner takes half of those that are left, from the front, again and again, and then half of what
another has left, from the back (work stealing: Blumofe and Leiserson 1999). Each item is computed
once, by itself, so results do not depend on who does it.

What is left of a share is one word, so that one atomic instruction changes it:

    stamp * 2**16 + first * 2**8 + last      the pieces from first to last - 1 are left

The stamp is the launch's number since the pool began. A word with a former stamp stands for a whole
share, whose owner has not begun.
"""

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from .host import I1, I8, I64, PTR, VOID, Function, Struct, Word
from .host_tables import LAUNCH

PIECES = 32
_FIRST, _STAMP = 1 << 8, 1 << 16

# a thread of a pool, and what is left of its share, which no other one's lies within a cache line of
WORKER = Struct(
    {"pool": PTR, "index": I64, "thread": I64, "left": I64, "lines": ir.ArrayType(I8, 96)}
)


class Shares:
    """Writes the functions that share out a launch into a module."""

    def __init__(self, module: ir.Module) -> None:
        self.module = module
        self.range = self._range()
        self.take = self._take()
        self.run = self._run()

    def _function(self, name: str, result: ir.Type, arguments: Mapping[str, ir.Type]) -> Function:
        return Function(self.module, f"shares_{name}", result, arguments)

    def _range(self) -> Function:
        """Does part number ``begin`` to ``end`` of ``parts`` equal ones of a launch's items."""
        code = self._function(
            "range",
            VOID,
            {"launch": PTR, "words": PTR, "items": I64, "parts": I64, "begin": I64, "end": I64},
        )
        launch, items, parts = code["launch"].record(LAUNCH), code["items"], code["parts"]
        begin, end = (items * code[name] // parts for name in ("begin", "end"))
        with code.if_(begin < end):
            code.call(launch["kernel"], code["words"], begin, end)
        code.return_()
        return code

    def _take(self) -> Function:
        """Takes half of the pieces that are left of a share, at least one: first * 2**8 + last, or
        0 if none is left.
        """
        code = self._function("take", I64, {"left": PTR, "stamp": I64, "is_owner": I1})
        whole = code["stamp"] * _STAMP
        seen, is_taken = code.variable(I64, atomic_load(code["left"])), code.variable(I1)
        taken = code.variable(I64)
        with code.while_(lambda: is_taken[0].equals(0)):
            pieces = code.select(seen[0] < whole, PIECES, seen[0] - whole)
            first, last = pieces // _FIRST, pieces % _FIRST
            with code.if_(first.equals(last)):
                code.return_(0)
            half = (last - first + 1) // 2
            middle = code.select(code["is_owner"], first + half, last - half)
            front, back = first * _FIRST + middle, middle * _FIRST + last
            taken[0] = code.select(code["is_owner"], front, back)
            kept = whole + code.select(code["is_owner"], back, front)
            seen[0], is_taken[0] = _exchanged(code["left"], seen[0], kept)
        code.return_(taken[0])
        return code

    def _run(self) -> Function:
        """What thread ``thread`` of ``threads`` does of a launch: its share, then parts of the
        others'. ``workers``: all of them. Returns when no piece is left that nobody has taken.
        """
        code = self._function(
            "run",
            VOID,
            {
                "workers": PTR, "launch": PTR, "words": PTR, "items": I64,
                "thread": I64, "threads": I64, "stamp": I64,
            },
        )  # fmt: skip
        thread, threads, items = code["thread"], code["threads"], code["items"]
        job = code["launch"], code["words"], items
        with code.if_((threads.equals(1)) | (items <= threads)):  # there is nothing to take
            code.call(self.range, *job, threads, thread, thread + 1)
            code.return_()
        with code.loop(threads) as distance:
            owner = (thread + distance) % threads
            left = code["workers"].record(WORKER, owner).address("left")
            is_going = code.variable(I1, 1)
            with code.while_(lambda: is_going[0]):
                taken = code.call(self.take, left, code["stamp"], distance.equals(0))
                is_going[0] = taken.differs(0)
                first, last = (owner * PIECES + part for part in (taken // _FIRST, taken % _FIRST))
                code.call(self.range, *job, threads * PIECES, first, last)
        code.return_()
        return code


def atomic_load(address: Word) -> Word:
    """A word that other threads change."""
    builder = address.code.builder
    return Word(address.code, builder.load_atomic(address.value, "seq_cst", 8, typ=I64))


def atomic_add(address: Word, amount: int) -> Word:
    """The value after the addition."""
    old = address.code.builder.atomic_rmw("add", address.value, ir.Constant(I64, amount), "seq_cst")
    return Word(address.code, old) + amount


def _exchanged(address: Word, expected: Word, wanted: Word) -> tuple[Word, Word]:
    """(the value before, whether it was the expected one, so that the wanted one is there now)."""
    code = address.code
    pair = code.builder.cmpxchg(address.value, expected.value, wanted.value, "seq_cst")
    before, is_done = (code.builder.extract_value(pair, place) for place in range(2))
    return Word(code, before), Word(code, is_done)
