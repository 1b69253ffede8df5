"""Outlines of kernels: whatever decides the loops decides the key, and nothing stale comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from netloom.compiler import kernel_table
from netloom.compiler.cache import Cache
from netloom.compiler.constant import Constant
from netloom.compiler.dim import Dim, Symbol
from netloom.compiler.driver import Options, compile_graph, plan_graph
from netloom.compiler.formula import elementwise
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.kernel_table import KernelTable, Outline
from netloom.compiler.layout import channel_blocked
from netloom.compiler.loops.build import Machine, build_kernel
from netloom.compiler.loops.text import print_kernel
from netloom.compiler.op import OPS
from netloom.compiler.tensor_type import FLOAT32, FLOAT64, DType, TensorType
from netloom.compiler.text import print_graph
from netloom.errors import VerificationError

MACHINE = Machine()
N = Symbol("N", 1, 64)


def body(size: int | Dim = 20, dtype: DType = FLOAT32, axis: int = 1, scale: float = 2.0,
         label: str = "") -> Graph:  # fmt: skip
    """sum(x * scale) along an axis."""
    b = Builder("body")
    x = b.input(TensorType(dtype, (size, 40)), "x0")
    b.label = label
    scaled = b("mul", x, b.constant(Constant(scale, dtype)))
    return b.build([b("reduce_sum", scaled, axes=(axis,))])


def blocked(is_blocked: bool) -> Graph:
    """A copy into channel blocks, or none."""
    b = Builder("body")
    x = b.input(TensorType(FLOAT32, (2, 32, 3, 3)), "x0")
    layout = channel_blocked(4) if is_blocked else None
    record = OPS["reorder"]
    output = replace(x, layout=layout)
    return b.build([b.add(record, [x], record.attrs(layout), "", [output]).output])


def outline(graph: Graph, store: Cache, machine: Machine = MACHINE) -> Outline:
    """As planning asks for it, and kept."""
    table = KernelTable(machine, store)
    found = table.outline(graph, print_graph(graph, labels=False))
    table.save()
    return found


@pytest.fixture
def store(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Graph]]:
    """The graphs whose loops are built."""
    found: list[Graph] = []

    def watched(name: str, graph: Graph, machine: Machine) -> object:
        found.append(graph)
        return build_kernel(name, graph, machine)

    monkeypatch.setattr(kernel_table, "build_kernel", watched)
    yield found


@pytest.mark.parametrize("size", [20, Dim.of(N) * 3 + 1])
def test_an_outline_comes_back_as_it_was(
    size: int | Dim, store: Cache, builds: list[Graph]
) -> None:
    made = outline(body(size), store)
    kernel = build_kernel("kernel", body(size), MACHINE)
    assert (made.symbols, made.items) == (kernel.symbols, kernel.items)
    assert outline(body(size), store) == made and len(builds) == 1
    assert outline(body(size, label="another name"), store) == made and len(builds) == 1


@pytest.mark.parametrize("other", [
    body(21), body(dtype=FLOAT64), body(axis=0), body(scale=2.5), body(scale=-2.0),
    body(Dim.of(N)), body(Dim.of(replace(N, lo=2))), body(Dim.of(replace(N, hi=None))),
    blocked(True), blocked(False),
])  # fmt: skip
def test_another_graph_is_a_miss(other: Graph, store: Cache, builds: list[Graph]) -> None:
    outline(body(), store)
    outline(body(Dim.of(replace(N, hi=65))), store)
    outline(other, store)
    assert len(builds) == 3
    outline(other, store)
    assert len(builds) == 3


@pytest.mark.parametrize("name", ["compiler_version", "_numbers_version"])
def test_another_compiler_is_a_miss(
    name: str, store: Cache, builds: list[Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    outline(body(), store)
    monkeypatch.setattr(kernel_table, name, lambda: "another")
    outline(body(), store)
    assert len(builds) == 2


@pytest.mark.parametrize("name", ["platform.python_version", "np.__version__", "os.confstr"])
def test_what_computes_numbers_is_part_of_the_key(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kernel_table._numbers_version.__wrapped__()
    value = "0" if name.endswith("__") else lambda *_: "0"
    monkeypatch.setattr(f"netloom.compiler.kernel_table.{name}", value)
    assert kernel_table._numbers_version.__wrapped__() != before


def test_another_machine_is_a_miss(store: Cache, builds: list[Graph]) -> None:
    outline(body(), store)
    outline(body(), store, Machine(vectors=4))
    assert len(builds) == 2


def test_ops_from_outside_are_never_looked_up(store: Cache, builds: list[Graph]) -> None:
    """Their sources are in no key: an op may mean something else in the next process."""
    found = []
    for factor in (2.0, 3.0):
        op = elementwise("outside", 1, _times(factor), "x times something")
        del OPS["outside"]
        b = Builder("body")
        found.append(outline(b.build([b(op, b.input(TensorType(FLOAT32, (20,)), "x0"))]), store))
    assert len(builds) == 2 and found[0].digest != found[1].digest
    assert store.entries() == []


def _times(factor: float) -> Callable[..., object]:
    return lambda _attrs, x: x * factor


@pytest.mark.parametrize("data", [b"", b"{}", b"[[], 3]", b'[[["N", 1, 2, 3]], "N", ""]',
                                  b'[[], "N + 1", ""]', b"\xff"])  # fmt: skip
def test_entries_of_another_form_are_absent(data: bytes) -> None:
    assert kernel_table._read(data) is None


def test_loops_that_are_not_those_of_the_outline_are_an_error(store: Cache) -> None:
    graph = body()
    table = KernelTable(MACHINE, store)
    table.add("f_0", graph, replace(outline(graph, store), digest="0" * 64))
    with pytest.raises(VerificationError, match="^f_0: its loops are not those"):
        table["f_0"]


def test_a_program_from_the_cache_builds_no_loops(
    tmp_path: Path, builds: list[Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even for several levels; its texts are those of a program that was built."""
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path))
    graph, options = body(), Options(cpu="x86-64,x86-64-v3")
    first = compile_graph(graph, options)
    count = len(builds)
    assert count >= 2
    again = compile_graph(graph, options)
    assert len(builds) == count
    assert [v.objects for v in again.variants] == [v.objects for v in first.variants]
    assert again.program.entries == first.program.entries
    texts = [[print_kernel(k) for k in c.program.kernels.values()] for c in (first, again)]
    assert texts[0] == texts[1] and len(builds) == 2 * count - 1  # of the highest level


def test_plans_keep_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outline goes into the cache behind the code of its kernel, which was verified."""
    monkeypatch.setenv("NETLOOM_CACHE", str(tmp_path))
    plan_graph(body())
    assert Cache(tmp_path).entries() == []
