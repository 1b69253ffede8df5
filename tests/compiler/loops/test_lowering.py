"""LLVM code against the loop interpreter on the same kernels, bit for bit: lowering is checked
apart from building.

Both run on random numbers in every element, padding lanes too. Mathematical functions are expanded
on both sides, and where a CPU level has no fma the interpreter rounds the product as well; all else
is the same tree in the same order.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

from netloom.compiler import dim, scalar
from netloom.compiler.graph import Builder
from netloom.compiler.loops.build import Machine, build_kernel
from netloom.compiler.loops.interpret import Run, run_kernel
from netloom.compiler.loops.ir import (
    LANES,
    Allocate,
    Block,
    For,
    If,
    Kernel,
    Let,
    Prefetch,
    Statement,
    Store,
    When,
)
from netloom.compiler.loops.parse import parse_kernel
from netloom.compiler.op import Array
from netloom.compiler.scalar import Call, Expr
from netloom.compiler.targets.cpu.llvm import INDEX_ERROR, compile_kernels, kernels_as_llvm
from netloom.compiler.targets.cpu.machine import CPUS, Cpu, host_cpu, host_cpus
from netloom.compiler.targets.cpu.vector_math import expand_all
from netloom.compiler.tensor_type import FLOAT32, INT64, DType, TensorType

from .case_kernels import drawn, kernels_of
from .cases import CASES, Case

CANARY = 64  # bytes before and behind an output that must stay as they are
ALIKE = {  # cases whose kernels take no way through the code that those of others do not
    "matmul_symbolic_full", "conv_residual", "conv_gradients_symbolic", "two_layers", "winograd_f2",
    "winograd_f4", "winograd_trained", "winograd_bands_symbolic",
    "pad_blocks", "relu_blocks", "concat_blocks", "conv_padded_channels", "conv_grouped_padded",
    "matmul_of_a_reshape",
    "conv_gradients_grouped", "conv_transposed_grouped", "average_pool_blocks", "max_pool_symbolic",
    "matmul_gradients", "conv_3d",
    "winograd_gradients", "winograd_filter_turned", "im2col_gradients", "conv_gradients",
}  # fmt: skip
BELOW = host_cpus()[:-1]  # that of this machine
LEVELS = [cpu for cpu in BELOW if cpu.llvm_name != host_cpu().llvm_name]  # not by a feature alone
NARROW = (
    "matmul_odd", "matmul_transposed_b", "matmul_float16", "softmax", "average_pool",
    "conv_grouped", "conv_dilated", "sort_rows",
    "max_pool", "matmul_bytes", "conv_bytes",
)  # fmt: skip


_numbers = count()


@cache
def compiler() -> Any:
    """The one LLJIT instance of these tests."""
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True)
    return llvm.create_lljit_compiler(machine, use_jit_link=True)


@dataclass(frozen=True, eq=False)
class Code:
    """Kernels compiled into this process."""

    library: Any  # keeps the code
    names: Mapping[Kernel, str]

    def run(
        self,
        kernel: Kernel,
        arrays: Sequence[Array],
        symbols: Mapping[str, int],
        cut: int = 1,
        shift: int = 0,
    ) -> tuple[Array, bool]:
        """The output, and whether a computed index was wrong; the work items behind the cut run
        first. ``shift``: bytes from the start of a cache line to the output.
        """
        shape = tuple(dim.evaluate(e, symbols) for e in kernel.buffers[-1].shape)
        items = dim.evaluate(kernel.items, symbols)
        size = int(np.prod(shape)) * kernel.buffers[-1].dtype.bytes
        memory = np.full(size + 4 * CANARY, 0xAB, np.uint8)
        first = -memory.ctypes.data % CANARY + shift
        room = memory[first : first + size + 2 * CANARY]
        error = np.zeros(1, np.int32)
        pointers = [a.ctypes.data for a in arrays] + [room.ctypes.data + CANARY]
        words = np.asarray(
            [*pointers, *(symbols[s.name] for s in kernel.symbols), error.ctypes.data], np.int64
        )
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
            self.library[self.names[kernel]]
        )
        for begin, end in ((min(cut, items), items), (0, min(cut, items))):
            function(words.ctypes.data, begin, end)
        assert np.all(room[:CANARY] == 0xAB) and np.all(room[size + CANARY :] == 0xAB), (
            "written outside the output"
        )
        output = room[CANARY : size + CANARY].view(kernel.buffers[-1].dtype.numpy).reshape(shape)
        return output, error[0] == INDEX_ERROR


def compiled(kernels: Sequence[Kernel], cpu: Cpu, is_linked: bool = True) -> Code:
    """Kernels as machine code; ``is_linked``: with what this process holds."""
    names = {kernel: f"kernel_{place}" for place, kernel in enumerate(kernels)}
    builder = llvm.JITLibraryBuilder()
    if is_linked:
        builder.add_current_process()
    builder.add_object_img(compile_kernels({names[kernel]: kernel for kernel in kernels}, cpu))
    for symbol in names.values():
        builder.export_symbol(symbol)
    return Code(builder.link(compiler(), f"library{next(_numbers)}"), names)


def with_values(root: Statement, change: Callable[[Expr], Expr]) -> Statement:
    """A statement with every expression in it changed."""
    match root:
        case Store():
            index = (change(p) if isinstance(p, Expr) else p for p in root.index)
            return replace(root, index=tuple(index), value=change(root.value))
        case When(holds, body):
            return When(change(holds), with_values(body, change))
        case Prefetch():
            return root
        case Block(statements):
            return Block(tuple(with_values(statement, change) for statement in statements))
        case For() | If() | Let() | Allocate():
            return replace(root, body=with_values(root.body, change))


def unfused(root: Expr) -> Expr:
    """The same with x * y + z rounded twice."""
    done: dict[int, Expr] = {}
    for node in scalar.post_order([root]):
        new = [done[id(child)] for child in scalar.children(node)]
        is_fma = isinstance(node, Call) and node.function == "fma"
        done[id(node)] = new[0] * new[1] + new[2] if is_fma else scalar.with_children(node, new)
    return done[id(root)]


def interpreted(
    kernel: Kernel, cpu: Cpu, arrays: Sequence[Array], symbols: Mapping[str, int]
) -> Run:
    """The kernel in the loop interpreter, over the primitives that the CPU level has."""
    body = with_values(kernel.body, expand_all)
    if not cpu.has_fma:
        body = with_values(body, unfused)
    return run_kernel(replace(kernel, body=body), arrays, symbols)


def agree(kernels: Sequence[Kernel], cpu: Cpu, symbols: Mapping[str, int]) -> None:
    """Every kernel gives the same bits as code and in the interpreter."""
    code = compiled(kernels, cpu)
    for seed, kernel in enumerate(kernels):
        arrays = drawn(kernel, symbols, np.random.default_rng(seed))
        expected = interpreted(kernel, cpu, arrays, symbols)
        found, is_index_wrong = code.run(kernel, arrays, symbols)
        assert found.tobytes() == expected.output.tobytes()
        assert is_index_wrong == expected.is_index_wrong


def test_a_lane_that_does_not_run_reads_zero_where_another_reads_its_element() -> None:
    """Lanes 7 and 8 are at one element; only lane 7 runs."""
    kernel = parse_kernel(
        "kernel k(x: float32[40], y: float32[16])\nparallel w < 1:\n  vector l < 16:\n"
        "    y[l] = (x[(l)%8 + 7*((l)//8)] if (l)%8 + -2 >= 0 else 0.0:float32)\n"
    )
    for cpu in (host_cpu(), CPUS["x86-64"]):
        agree([kernel], cpu, {})


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name not in ALIKE], ids=lambda c: c.name
)
def test_code_is_the_interpreter(case: Case) -> None:
    agree(kernels_of(case), host_cpu(), case.symbols)


@pytest.mark.parametrize(
    ("case", "cpu"),
    [
        pytest.param(case, cpu, id=f"{case.name}-{cpu.name}")
        for case in CASES
        for cpu in (BELOW if case.name.endswith("bytes") else LEVELS)
        if case.name in NARROW
    ],
)
def test_code_of_lower_levels_is_the_interpreter(case: Case, cpu: Cpu) -> None:
    agree(kernels_of(case, machine=cpu.machine), cpu, case.symbols)


def test_the_names_are_those_of_cases() -> None:
    assert {*ALIKE, *NARROW} <= {case.name for case in CASES}


# -- by hand ---------------------------------------------------------------------------------------

HEAD = "kernel k(x: float32[40], i: int64[16], y: float32[40])\nparallel w < 1:\n"
BY_HAND = {
    "masks and gathers": """  vector l < 16:
    y[l + 24] = (x[2*l + 9] if l + -3 >= 0 and -1*l + 12 >= 0 else (x[l] if -1*l + 5 >= 0 else -1.5:float32))
  for p < 24:
    y[p] = x[(7*p + 3)%24]
""",
    "quotients of negative numbers": """  for p < 40:
    y[p] = float32(index((-3*p + 17)//4 + 100*((p + -20)%7)))
""",
    "lanes in steps": """  local t: float32[64]
  unrolled u < 4:
    vector l < 16:
      t[4*l + u] = x[l + 8*u]
  for p < 40:
    y[p] = mul(t[p + 24], x[p])
""",
    "folds": """  local t: float32[2, 16]
  unrolled u < 2:
    vector l < 16:
      t[u, l] = x[l + 24*u]
  for p < 40:
    y[p] = add(fold_add(t[(p)%2]), mul(x[p], fold_max(t[min(p, 1)])))
""",
    "conditions by lane and by item": """  vector l < 16:
    y[l] = 0.0:float32
    if l + -4 >= 0:
      y[l] = x[l]
      if -1*l + 9 >= 0 and w >= 0:
        y[l + 16] = add(x[l + 16], x[3])
    if w + -1 >= 0:
      y[l] = x[39]
  for p < 4:
    y[p + 16] = x[p]
  for p < 6:
    y[p + 26] = x[p]
  for p < 8:
    y[p + 32] = 2.0:float32
""",
    "one number or a vector": """  for p < 2:
    vector l < 16:
      y[l + 16*p] = (x[3] if p + -1 >= 0 else x[l])
  for p < 8:
    y[p + 32] = x[p]
""",
    "computed indices": """  vector l < 16:
    y[l] = x[checked(i[l], 40)]
    y[l + 16] = (x[checked(add(i[l], 36:int64), 40)] if -1*l + 7 >= 0 else x[l])
  for p < 8:
    y[p + 32] = x[checked(i[2*p], 3)]
""",
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("cpu", [*LEVELS, host_cpu()], ids=lambda cpu: cpu.name)
def test_kernels_by_hand(name: str, cpu: Cpu) -> None:
    """What the builder seldom or never makes, and the IR allows."""
    agree([parse_kernel(HEAD + BY_HAND[name])], cpu, {})


PARTS = """kernel k(x: T[SHAPE], y: T[SHAPE])
parallel w < 3:
  for p < 3:
    vector l < 16:
      if -1*l + -16*p + 39 >= 0:
        y[HERE] = add((x[BEFORE] if l + 16*p + -3 >= 0 else ZERO), (x[ABOVE] if w + -1 >= 0 else ZERO))
"""
ALONG = {"SHAPE": "3, 40", "HERE": "w, l + 16*p", "BEFORE": "w, l + 16*p + -3",
         "ABOVE": "w + -1, l + 16*p"}  # fmt: skip
ACROSS = {key: ", ".join(reversed(place.split(", "))) for key, place in ALONG.items()}


@pytest.mark.parametrize("cpu", [*LEVELS, host_cpu()], ids=lambda cpu: cpu.name)
@pytest.mark.parametrize("places", [ALONG, ACROSS], ids=["neighbours", "apart"])
def test_lanes_that_do_not_run_need_no_branches(cpu: Cpu, places: Mapping[str, str]) -> None:
    """Loads and stores of a part of the lanes, and loads under a condition, for each size of
    elements: the loops' own branches are the only ones, besides one for all lanes of a store that
    goes lane by lane, and nothing of which LLVM would make some."""
    kernels = []
    for dtype in (DType.INT8, DType.INT16, DType.FLOAT32, DType.FLOAT64):
        text = PARTS.replace("ZERO", f"{'0.0' if dtype.is_float else '0'}:{dtype.value}")
        for name, place in {**places, "T[": f"{dtype.value}["}.items():
            text = text.replace(name, place)
        kernels.append(parse_kernel(text))
    agree(kernels, cpu, {})
    for kernel in kernels:
        text = kernels_as_llvm({"k": kernel}, cpu)
        has_masks = kernel.buffers[0].dtype.bytes in cpu.masked_bytes
        choices = 1 if places is ACROSS or not has_masks else 0
        # three of each loop, and of a choice
        assert len(re.findall(r"^ *br ", text, re.MULTILINE)) == 6 + 3 * choices
        assert ("llvm.masked" in text) == has_masks


FOLDED = (
    DType.INT8,
    DType.INT16,
    DType.INT32,
    DType.INT64,
    DType.UINT32,
    DType.FLOAT32,
    DType.FLOAT64,
)


@pytest.mark.parametrize("cpu", [*LEVELS, host_cpu()], ids=lambda cpu: cpu.name)
def test_folds_of_every_dtype(cpu: Cpu) -> None:
    """Sixteen lanes to one, which takes another way through the vector unit for each size."""
    kernels = []
    for dtype in FOLDED:
        for combine in ("add", "max"):
            kernels.append(
                parse_kernel(f"""kernel k(x: {dtype.value}[3, 16], y: {dtype.value}[3])
parallel w < 3:
  local t: {dtype.value}[2, 16]
  unrolled u < 2:
    vector l < 16:
      t[u, l] = add(x[w, l], x[u, -1*l + 15])
  y[w] = {combine}(fold_{combine}(t[0]), fold_{combine}(t[1]))
""")
            )
    agree(kernels, cpu, {})


def test_a_changed_kernel_is_seen() -> None:
    """Another order of a sum gives other bits."""
    text = (
        HEAD + "  local t: float32[1]\n  t[0] = 0.0:float32\n  for p < 40:\n    t[0] = add(t[0], "
        "x[p])\n  for p < 40:\n    y[p] = t[0]\n"
    )
    kernel, other = parse_kernel(text), parse_kernel(text.replace("x[p]", "x[-1*p + 39]"))
    arrays = drawn(kernel, {}, np.random.default_rng(0))
    found, _ = compiled([kernel], host_cpu()).run(kernel, arrays, {})
    assert found.tobytes() == run_kernel(kernel, arrays).output.tobytes()
    assert found.tobytes() != run_kernel(other, arrays).output.tobytes()


def halves() -> Array:
    """Every float16, and float32 numbers at, beside and between them."""
    exact = (
        np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16).astype(np.float32)
    )
    finite = exact[np.isfinite(exact)]
    with np.errstate(over="ignore"):
        between = (
            finite + np.nextafter(finite.astype(np.float16), np.float16(np.inf)).astype(np.float32)
        ) / 2
        beside = [np.nextafter(between, np.float32(side)) for side in (-np.inf, np.inf)]
    far = np.asarray([65519.996, 65520, 65536, 1e30, 3e38, 1e-8, 2.0**-25, 1e-40], np.float32)
    found = np.concatenate([exact, between, *beside, far, -far])
    return np.asarray(np.resize(found, -(-len(found) // LANES) * LANES))


@pytest.mark.parametrize("cpu", [*LEVELS, host_cpu()], ids=lambda cpu: cpu.name)
@pytest.mark.parametrize("wide", ["float32", "float64"])
def test_conversions_of_float16(cpu: Cpu, wide: str) -> None:
    """Every number, there and back, without a library: this machine's process is not linked."""
    with np.errstate(all="ignore"):
        x = halves().astype(wide)
        narrow = x.astype(np.float16)
        expected = {"float16": narrow, wide: narrow.astype(wide), "bool": narrow != 0}
    text = """kernel k(x: WIDE[COUNT], y: TO[COUNT])
parallel w < ITEMS:
  vector l < 16:
    y[16*w + l] = VALUE
"""
    text = (
        text.replace("WIDE", wide)
        .replace("COUNT", str(len(x)))
        .replace("ITEMS", str(len(x) // LANES))
    )
    for to, right in expected.items():
        half = "float16(x[16*w + l])"
        kernel = parse_kernel(
            text.replace("TO", to).replace("VALUE", half if to == "float16" else f"{to}({half})")
        )
        found, _ = compiled([kernel], cpu, is_linked=False).run(kernel, [x], {})
        assert np.array_equal(found, right, equal_nan=to != "bool")
        assert to == "bool" or np.array_equal(np.signbit(found), np.signbit(right))


@pytest.mark.parametrize("width", [1, 16, 19])
def test_gathers_from_no_rows_read_nothing(width: int) -> None:
    """Every number is out of range, and memory that may not be read lies where rows would."""
    b = Builder("gather")
    rows = dim.symbol("N", 0)
    x, i = b.input(TensorType(FLOAT32, (rows, width)), "x"), b.input(TensorType(INT64, (5,)), "i")
    kernel = build_kernel("kernel", b.build([b("gather", x, i, axis=0)]), Machine())
    closed = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE, prot=0), np.float32)
    arrays = [closed[:0].reshape(0, width), np.arange(5)]
    found, is_wrong = compiled([kernel], host_cpu()).run(kernel, arrays, {"N": 0})
    assert is_wrong and not found.any()
