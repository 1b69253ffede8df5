"""How lanes that do not run are kept from memory, and what that costs where a CPU has no masks."""

from __future__ import annotations

import re

import pytest

from netloom.compiler.loops import items
from netloom.compiler.loops.build import Machine, build_kernel
from netloom.compiler.loops.ir import LANES
from netloom.compiler.loops.parse import parse_kernel
from netloom.compiler.loops.text import print_kernel
from netloom.compiler.loops.verify import verify_kernel
from netloom.compiler.targets.cpu.llvm import kernels_as_assembly, kernels_as_llvm
from netloom.compiler.targets.cpu.lowering.shuffles import runs
from netloom.compiler.targets.cpu.machine import CPUS, host_cpus

from .case_graphs import one
from .test_lowering import agree

V3, V4 = CPUS["x86-64-v3"], CPUS["x86-64-v4"]
NO_MASKS = Machine(vectors=8, has_masks=False)

KERNEL = """kernel k(x: float32[40], y: float32[40])
parallel w < 2:
  vector l < 16:
    if -1*l + 9*w + 6 >= 0:
      y[l + 16*w] = (x[l + 8*w] if -1*l + 5*w + 3 >= 0 else 0.0:float32)
"""


def test_llvm_does_not_know_where_they_go_instead() -> None:
    """Where one of two addresses is known to be on the stack, LLVM searches each pair of loads and
    stores for what they share: most of the time for border tiles.
    """
    for level in ("x86-64", "aarch64"):
        text = kernels_as_llvm({"k": parse_kernel(KERNEL)}, CPUS[level])
        places = re.findall(r'(%"[^"]*") = alloca <16 x i64>', text)
        choices = [line for line in text.splitlines() if re.search(" = select .* ptr ", line)]
        assert len(places) == 2 and len(choices) == 32
        assert not any(f"ptr {place}" in line for place in places for line in choices)


def test_lanes_are_compared_as_wide_as_floats_are() -> None:
    text = kernels_as_llvm({"k": parse_kernel(KERNEL)}, V3)
    assert len(re.findall(r"icmp sle <16 x i32>", text)) == 2
    assert not re.findall(r"icmp \w+ <16 x i64>", text)


@pytest.mark.parametrize("far", [0, 1 << 20, 1 << 40])
def test_places_of_lanes_need_not_fit_32_bits(far: int) -> None:
    """Of a condition that ends anywhere before, in or behind the lanes."""
    text = "kernel k(x: float32[40], y: float32[80])\nparallel w < 5:\n  vector l < 16:\n"
    text += f"    y[l + 16*w] = (x[l] if -1*l + {far + 7}*w + {-far - 4} >= 0 else 0.0:float32)\n"
    for cpu in host_cpus():
        agree([parse_kernel(text)], cpu, {})


# -- where no lane of a vector lies ----------------------------------------------------------------

ABOVE = """kernel k(x: float32[160], y: float32[128])
parallel w < 8:
  vector l < 16:
    y[l + 16*w] = (x[l + 16*w + {first}] if l + 16*w + {first} >= 0 and -1*l + 3 >= 0 else 0.0:float32)
"""


@pytest.mark.parametrize(("first", "is_chosen"), [(-60, True), (-4, True), (-3, False), (0, False)])
def test_no_vector_is_looked_for_where_no_lane_of_it_may_be_read(
    first: int, is_chosen: bool
) -> None:
    """It may lie outside all memory, and a CPU takes its time to find that no lane matters. One of
    the four lanes always runs where three elements are missing, and none where there are four."""
    kernel = parse_kernel(ABOVE.format(first=first))
    for cpu in (V3, V4):
        text = kernels_as_llvm({"k": kernel}, cpu)
        assert bool(re.findall(" = select .* ptr ", text)) == is_chosen
    for cpu in host_cpus():
        agree([kernel], cpu, {})


# -- stores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lanes", "parts"),
    [
        (range(16), [(0, 16)]),
        (range(12), [(0, 8), (8, 4)]),
        (range(7), [(0, 4), (4, 2), (6, 1)]),
        (range(1), [(0, 1)]),
        (range(3, 16), [(3, 1), (4, 4), (8, 8)]),
        ((1, 2, 9), [(1, 1), (2, 1), (9, 1)]),
        ((), []),
    ],
)
def test_runs_of_lanes(lanes: range, parts: list[tuple[int, int]]) -> None:
    assert runs([lane in lanes for lane in range(LANES)]) == parts


@pytest.mark.parametrize("lanes", [*range(1, 17)])
def test_known_lanes_are_stored_in_whole_parts(lanes: int) -> None:
    """A store with a mask takes a CPU without masks of bits longer than several without."""
    head = "kernel k(x: float32[16], y: float32[16])\nparallel w < 1:\n  vector l < 16:\n"
    rest = "".join(f"  y[{place}] = x[0]\n" for place in range(lanes, 16))
    kernel = parse_kernel(f"{head}    if -1*l + {lanes - 1} >= 0:\n      y[l] = x[l]\n{rest}")
    text = {cpu.name: kernels_as_llvm({"k": kernel}, cpu) for cpu in (V3, V4)}
    assert "masked.store" not in text["x86-64-v3"]
    assert ("masked.store" in text["x86-64-v4"]) == (lanes < 16)
    for cpu in host_cpus():
        agree([kernel], cpu, {})


# -- the last vector of a row ----------------------------------------------------------------------


def _grouped(positions: int, machine: Machine) -> tuple[str, str]:
    """Loops and code of a convolution whose lanes lie along so many positions of an image; the
    results are the interpreter's."""
    convolution = one(
        "conv", (1, 34, 1, positions), (34, 17, 1, 1), stride=(1, 1), dilation=(1, 1), lo=(0, 0),
        hi=(0, 0), groups=2,
    )  # fmt: skip
    kernel = build_kernel("kernel", convolution(), machine)
    assert not verify_kernel(kernel)
    for cpu in host_cpus():
        agree([kernel], cpu, {})
    return print_kernel(kernel), kernels_as_assembly({"kernel": kernel}, V3)


MASKED_STORE = r"vmaskmovps\t%ymm\d+, %ymm\d+, \S*\("


@pytest.mark.parametrize("work", [items.ITEM_WORK, 64])
def test_whole_vectors_have_code_of_their_own_where_there_are_no_masks(
    work: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No condition by lane is left in it, and the lanes of the last vector are known: whether the
    vectors of a row are in a loop or in work items of their own."""
    monkeypatch.setattr(items, "ITEM_WORK", work)
    loops, code = _grouped(49, NO_MASKS)
    assert set(re.findall(r"if ([^:]*\bl\b[^:]*) >= 0", loops)) == {"-1*l"}
    assert not re.findall(MASKED_STORE, code)
    loops, code = _grouped(49, Machine(vectors=8))
    assert re.findall(r"if -1\*l \+ -16\*\w+ \+ 48 >= 0", loops)
    assert re.findall(MASKED_STORE, code)


@pytest.mark.parametrize("positions", [48, 15])
def test_rows_without_a_rest_or_of_one_vector_have_one_loop(positions: int) -> None:
    assert _grouped(positions, NO_MASKS)[0] == _grouped(positions, Machine(vectors=8))[0]
