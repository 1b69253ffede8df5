"""Shares of a launch, in the host layer: each item is done once, and a thread that has nothing left
takes from the others.
"""

from __future__ import annotations

import numpy as np
import pytest
from llvmlite import ir

from netloom.compiler.dim import Dim, Symbol
from netloom.compiler.program import Entry, Launch, Port, Program, Space
from netloom.compiler.targets.cpu.host_shares import PIECES
from netloom.compiler.targets.cpu.jit import load_in_process
from netloom.compiler.targets.cpu.variant import Variant
from netloom.compiler.tensor_type import INT32, TensorType
from netloom.runtime.session import Session
from tests.compiler.targets.cpu.small_programs import I32, I64, Body, kernel_object, program, ref

ROUNDS = 1 << 31  # that an item waits for others before it gives up
SYMBOL = Symbol("M", 0, 10_000)
ITEMS = Dim.of(SYMBOL)


def _add(body: Body, pointer: ir.Value, index: ir.Value | int) -> None:
    body.builder.atomic_rmw("add", body._at(pointer, index, I32), I32(1), "seq_cst")


def _count(body: Body) -> None:
    """done[item] += 1 and calls[0] += 1."""
    done, calls = body.pointer(0), body.pointer(1)
    _add(body, calls, 0)
    with body.loop(body.begin, body.end) as item:
        _add(body, done, item)


def _wait(body: Body) -> None:
    """Item 0 waits until others[0] == extent, and says in y[0] what it saw last; every other one
    adds 1 to it.
    """
    others, y, wanted = body.pointer(0), body.pointer(1), body.extent(2)
    builder = body.builder

    def seen() -> ir.Value:
        address = body._at(others, 0, I32)
        return builder.load_atomic(address, "seq_cst", 4, typ=I32)

    with body.loop(body.begin, body.end) as item:
        is_first = builder.icmp_signed("==", item, I64(0))
        with builder.if_else(is_first) as (first, other):
            with first:
                before, head = builder.block, builder.append_basic_block()
                after = builder.append_basic_block()
                builder.branch(head)
                builder.position_at_end(head)
                turn = builder.phi(I64)
                turn.add_incoming(I64(0), before)
                following = builder.add(turn, I64(1))
                turn.add_incoming(following, head)
                is_missing = builder.icmp_signed("<", builder.sext(seen(), I64), wanted)
                goes_on = builder.icmp_signed("<", turn, I64(ROUNDS))
                builder.cbranch(builder.and_(is_missing, goes_on), head, after)
                builder.position_at_end(after)
                body.store(y, 0, seen())
            with other:
                _add(body, others, 0)


KERNELS = [kernel_object(count=_count, wait=_wait)]


def _session(given: Program, threads: int) -> Session:
    return Session.in_process(load_in_process([Variant(given, KERNELS)]), threads)


def _counting(launches: int) -> Program:
    """done[i] += launches for int32[M], by so many launches; calls[0] counts those of the kernel."""
    launch = Launch("count", (ref(Space.INPUT, 0), ref(Space.INPUT, 1)), (), ITEMS)
    done, calls = TensorType(INT32, (ITEMS,)), TensorType(INT32, (1,))
    ports = Port("done", done), Port("calls", calls)
    return program([Entry("run", ports, (), (launch,) * launches, ())], symbols=[SYMBOL])


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_each_item_is_done_once(threads: int) -> None:
    session = _session(_counting(5), threads)
    for items in (0, 1, 2, 3, 7, 31, 64, 65, 1000, 9999):
        done, calls = np.zeros(items, np.int32), np.zeros(1, np.int32)
        for turn in range(1, 21):
            session(done, calls)
            np.testing.assert_array_equal(done, 5 * turn)


def test_one_thread_calls_a_kernel_once() -> None:
    done, calls = np.zeros(1000, np.int32), np.zeros(1, np.int32)
    _session(_counting(5), 1)(done, calls)
    assert calls[0] == 5


@pytest.mark.parametrize("threads", [2, 5])
def test_a_share_takes_few_calls(threads: int) -> None:
    """16, 8, 4, 2, 1 and 1 of 32 pieces, whoever takes them; one call where there is one item each."""
    assert PIECES == 32
    for items, calls_of_share in ((threads, 1), (1000 * threads, 6)):
        done, calls = np.zeros(items, np.int32), np.zeros(1, np.int32)
        _session(_counting(1), threads)(done, calls)
        assert calls[0] == threads * calls_of_share


@pytest.mark.parametrize("threads", [2, 3])
def test_what_a_slow_thread_has_left_is_done_by_others(threads: int) -> None:
    """Item 0 ends only after half of its own share, and those of all others, are done."""
    items = 64 * threads
    others = items - 32  # thread 0 takes at most half of its 64 items at first
    launch = Launch("wait", (ref(Space.INPUT), ref(Space.OUTPUT)), (others,), items)
    one = TensorType(INT32, (1,))
    entry = Entry("run", (Port("others", one),), (Port("y", one),), (launch,), ())
    session = _session(program([entry]), threads)
    for _ in range(20):
        assert session(np.zeros(1, np.int32))[0] >= others
