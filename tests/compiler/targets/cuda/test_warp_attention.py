"""The fused attention kernel on tensor cores, graph -> PTX -> emulator, against the oracle in
float64, in each precision; its faults, gates and choice.

Lengths are free dims where they can be, so that a kernel serves several shapes. A run takes the
first rows of each list in ROWS, and of a shape some precisions; ``--all-kernels`` takes all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler import dim
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.targets.cuda import attention_warps
from netloom.compiler.targets.cuda.attention_warps import WarpTile, warp_tile
from netloom.compiler.targets.cuda.compile import compile_kernel
from netloom.compiler.targets.cuda.driver import CudaOptions
from netloom.compiler.targets.cuda.forms import Engine, FusedAttention
from netloom.compiler.targets.cuda.source import KernelSource
from netloom.compiler.targets.cuda.split_attention import parts_of
from netloom.compiler.tensor_type import BOOL, FLOAT32, TensorType
from tests.compiler.targets.cuda import emulated
from tests.compiler.targets.cuda.rows import parametrize_rows, parametrize_shapes
from tests.compiler.targets.cuda.test_attention import (
    NAME,
    L,
    S,
    Shape,
    attention,
    decided,
    exact,
    masked,
    needs_compiler,
    planned,
    values_of,
    with_zeros,
)
from tests.compiler.targets.cuda.test_forms import barriers, without_barrier
from tests.ptx_emulator.machine import emulate
from tests.ptx_emulator.memory import BankTraffic, MemoryFault

Array = npt.NDArray[Any]
# relative errors of whole outputs: what 10 and 7 bits of operands and weights allow, and float32's
BOUNDS = {"tf32": 1e-3, "bf16": 8e-3, "3xtf32": 1e-6}
INSTRUCTIONS = {
    "tf32": "m16n8k8.row.col.f32.tf32",
    "3xtf32": "m16n8k8.row.col.f32.tf32",
    "bf16": "m16n8k16.row.col.f32.bf16",
}
# name: shapes of queries, keys, values and a mask, attributes, lengths, the precisions of a run
SHAPES: Mapping[str, tuple[tuple[Shape, ...], dict[str, Any], Sequence[Any], Sequence[str]]] = {
    "free lengths": (((2, L, 20), (2, S, 20), (2, S, 24)), {"scale": 0.3},
                     ((1, 1), (65, 64), (3, 63), (64, 129)), ("bf16",)),
    "causal": (((2, L, 20), (2, S, 20), (2, S, 24)), {"scale": 0.3, "is_causal": True},
               ((65, 65), (130, 70), (64, 129)), ("3xtf32",)),
    "one by one": (((7, 33), (65, 33), (65, 5)), {}, ((1, 1),), ("bf16",)),
    "wide values": (((40, 12), (70, 12), (70, 100)), {}, ((1, 1),), ("tf32",)),
    "deep heads": (((9, 130), (33, 130), (33, 16)), {"scale": 0.1}, ((1, 1),), ("bf16",)),
    "shared keys": (((2, 2, L, 8), (2, 1, S, 8), (2, S, 12), (2, 2, L, S)), {}, ((66, 65),),
                    ("3xtf32",)),
    "one element": (((1, 1), (2, 1), (2, 1)), {}, ((1, 1),), ("tf32",)),
}  # fmt: skip


LAYERS: Sequence[tuple[Shape, dict[str, Any], tuple[int, int]]] = (
    ((8, 32, 2048, 128), {"scale": 0.1}, (128, 64)),
    ((16, 12, 1024, 64), {"is_causal": True, "scale": 0.125}, (128, 64)),
    ((1, 12, 128, 64), {}, (64, 64)),
)
# by the argument that they are for: how many a run takes, and all
ROWS: Mapping[str, tuple[int, Sequence[Any]]] = {
    "wide": (1, ("tf32", "bf16", "3xtf32")),
    "has_zeros": (1, (True, False)),
    "synchronized": (1, ("bf16", "tf32")),
    "border": (1, (("causal", 1), ("bounded", -1), ("causal", -1), ("bounded", 1))),
    "layer": (1, [(layer, p) for layer in LAYERS for p in ("3xtf32", "bf16", "tf32")]),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_rows(metafunc, ROWS)
    parametrize_shapes(metafunc, SHAPES, BOUNDS)


def form_of(graph: Graph, precision: str) -> FusedAttention:
    placement, name = planned(graph, precision)
    form = placement.forms[name].form
    assert isinstance(form, FusedAttention) and isinstance(form.tile, WarpTile)
    return form


def run(
    graph: Graph, inputs: Mapping[str, Array], dims: Mapping[str, int], precision: str
) -> Array:
    options = CudaOptions(precision, override=NAME)
    (found,) = emulated.run(graph, inputs, dims, options)
    assert [decision.strategy for decision in options.decisions] == [NAME]
    return found


def distance(found: Array, wanted: Array) -> float:
    """Relative, of the whole output; NaN must be where the oracle has it."""
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    known = ~np.isnan(wanted)
    return float(np.linalg.norm((found - wanted)[known]) / np.linalg.norm(wanted[known]))


@needs_compiler
def test_awkward_shapes(shape: str, precision: str) -> None:
    shapes, attrs, lengths, _ = SHAPES[shape]
    graph = attention(*shapes, **attrs)
    form_of(graph, precision)
    for queries, keys in lengths:
        dims = {"L": queries, "S": keys}
        inputs = values_of(graph, dims)
        found = run(graph, inputs, dims, precision)
        assert distance(found, exact(graph, inputs)) <= BOUNDS[precision]


@needs_compiler
def test_bool_masks() -> None:
    graph = attention((2, L, 8), (2, S, 8), (2, S, 12), (2, 1, S), mask=BOOL)
    dims = {"L": 66, "S": 130}
    inputs = values_of(graph, dims)
    assert distance(run(graph, inputs, dims, "3xtf32"), exact(graph, inputs)) <= 1e-6


@needs_compiler
def test_a_warp_for_every_16_queries(monkeypatch: pytest.MonkeyPatch, wide: str) -> None:
    """The best source, and the general one, whose tiles have half as many keys."""
    monkeypatch.setattr(attention_warps, "MANY_BLOCKS", 1)
    graph = attention((150, 24), (190, 24), (190, 32), is_causal=True, scale=0.4)
    tile = form_of(graph, wide).tile
    assert (tile.rows, tile.keys) == (128, 64)
    sources, wanted = source_of(graph, wide).of("sm_80"), exact(graph, values_of(graph, {}))
    assert len(sources) == 2 and sources[0].text != sources[1].text
    for source in sources:
        y, _ = launched(compiled(source), graph, wide)
        assert distance(y, wanted) <= BOUNDS[wide]


@needs_compiler
def test_keys_in_parts() -> None:
    """A part of the keys each, some without any, rows without keys among them."""
    graph = attention((17, 8), (S, 8), (S, 12), (17, S))
    assert form_of(graph, "3xtf32").part is not None
    for keys in (2, 300):
        inputs = values_of(graph, {"S": keys})
        inputs["m"][3], inputs["m"][4, : keys // 2] = -np.inf, -np.inf
        found = run(graph, inputs, {"S": keys}, "3xtf32")
        assert np.isnan(found[3]).all() and distance(found, exact(graph, inputs)) <= 1e-6


@needs_compiler
def test_special_values(has_zeros: bool) -> None:
    """Rows without keys, rows whose first keys are hidden, a NaN, and the lowest number as a mask:
    what the oracle says."""
    graph = (with_zeros if has_zeros else attention)((L, 4), (S, 4), (S, 5), (L, S))
    dims = {"L": 7, "S": 130}
    inputs = values_of(graph, dims)
    mask = np.zeros((7, 130), np.float32)
    mask[0, :64] = mask[1, :100] = mask[2, 64:] = mask[3] = -np.inf
    mask[4, 70], mask[5, :128], mask[6, :] = np.nan, np.finfo(np.float32).min, -3e38
    inputs["m"] = mask
    found, wanted = run(graph, inputs, dims, "3xtf32"), masked(inputs, has_zeros)
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    assert np.isnan(found[4]).all() and np.isnan(found[3]).all() != has_zeros
    known = ~np.isnan(wanted).any(axis=1)
    assert np.allclose(found[known], wanted[known], rtol=1e-5, atol=1e-6)


@needs_compiler
def test_what_is_fused_with_it() -> None:
    """Heads are read where they lie, turned ones too; a residual is added where outputs are
    stored."""
    b = Builder("fused")
    q, v = (b.input(TensorType(FLOAT32, (2, 35, 16)), name) for name in "qv")
    turned = b("transpose", b.input(TensorType(FLOAT32, (2, 16, 35)), "k"), permutation=(0, 2, 1))
    y = b("attention", q, turned, v, scale=0.25)
    graph = b.build([b("relu", b("add", y, b.input(y.type, "r")))], ["y"])
    inputs = values_of(graph, {})
    plain = attention((2, 35, 16), (2, 35, 16), (2, 35, 16), scale=0.25)
    own = {"q": inputs["q"], "k": inputs["k"].transpose(0, 2, 1), "v": inputs["v"]}
    wanted = np.maximum(exact(plain, own) + inputs["r"], 0)
    assert distance(run(graph, inputs, {}, "bf16"), wanted) <= BOUNDS["bf16"]


# -- its faults are seen ---------------------------------------------------------------------------


SMALL = attention((66, 20), (130, 20), (130, 8), is_causal=True, scale=0.2)


def source_of(graph: Graph, precision: str) -> KernelSource:
    placement, name = planned(graph, precision)
    return placement.sources[name]


def compiled(source: KernelSource) -> str:
    return compile_kernel(replace(source, special=()), ()).ptx


def launched(ptx: str, graph: Graph, precision: str) -> tuple[Array, BankTraffic]:
    """The output that PTX makes of a static graph's inputs."""
    (placement, name), inputs = planned(graph, precision), values_of(graph, {})
    y = np.full(graph.outputs[0].type.static_shape, np.nan, np.float32)
    arrays = [*inputs.values(), y, np.zeros(1, np.int32)]
    blocks = dim.evaluate(placement.forms[name].items, {})
    threads = placement.sources[name].threads
    return y, emulate(ptx, blocks, threads, arrays, inputs=len(inputs), flag=len(inputs) + 1)


@needs_compiler
def test_each_barrier_is_needed(synchronized: str) -> None:
    """Those behind the first keys, behind values and later keys, and behind outputs; two warps
    share queries, which takes one more for their sums and one for their outputs."""
    ptx = compiled(source_of(SMALL, synchronized).of("sm_80")[0])
    assert barriers(ptx) == 6
    for number in range(6):
        with pytest.raises(MemoryFault, match="race|never written|barrier"):
            launched(without_barrier(ptx, number), SMALL, synchronized)


@needs_compiler
def test_a_border_one_key_off_is_seen(border: tuple[str, int]) -> None:
    name, by = border
    graph = SMALL if name == "causal" else attention((66, 20), (70, 20), (70, 8), scale=0.2)
    best = source_of(graph, "3xtf32").of("sm_80")[0]
    pattern = rf"(fragments_{name}_4\(tile, )(minus\(\w+, \w+\))\)"
    broken, count = re.subn(pattern, rf"\1plus(\2, {by}))", best.text)
    assert count == 1
    wanted = exact(graph, values_of(graph, {}))
    for text, is_right in ((best.text, True), (broken, False)):
        y, _ = launched(compiled(replace(best, text=text)), graph, "3xtf32")
        error = float(np.linalg.norm(y - wanted) / np.linalg.norm(wanted))
        assert error <= 1e-6 if is_right else not error <= 1e-3


# -- gates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", ["tf32", "bf16"])
@needs_compiler
def test_banks_do_not_conflict(rounding: str) -> None:
    graph = attention((64, 64), (64, 64), (64, 64))
    ptx = compiled(source_of(graph, rounding).of("sm_80")[0])
    _, traffic = launched(ptx, graph, rounding)
    assert traffic.cycles == traffic.least


@needs_compiler
def test_layers_of_networks_pass_the_gates(
    layer: tuple[tuple[Shape, dict[str, Any], tuple[int, int]], str],
) -> None:
    """For sm_80 and sm_90a, without spills, by the best source."""
    (shape, attrs, tile), precision = layer
    graph = attention(shape, shape, shape, **attrs)
    form = form_of(graph, precision)
    assert (form.tile.rows, form.tile.keys) == tile
    code = compile_kernel(replace(source_of(graph, precision).of("sm_80")[0], special=()))
    assert INSTRUCTIONS[precision] in code.ptx and ".f64" not in code.ptx
    assert all(binary.registers <= 255 for binary in code.binaries)


# -- choice ----------------------------------------------------------------------------------------


def test_the_tile_fits_shared_memory() -> None:
    """The deepest heads that fit, and tiles for many queries and few."""
    assert warp_tile(1024, 192, 64, 64, 1) == WarpTile(128, 64, 64, 64, 1)
    assert warp_tile(1024, 192, 64, 64, 1, is_masked=True) == WarpTile(64, 64, 64, 64, 1)
    assert warp_tile(L, 192, 60, 50, 2) == WarpTile(64, 64, 64, 64, 2)
    assert warp_tile(8, 192, 100, 128, 1) == WarpTile(32, 64, 104, 128, 1)
    assert warp_tile(1, 1, 340, 128, 1) is None and warp_tile(1, 1, 64, 129, 1) is None
    for depth in (8, 64, 128, 256, 336):
        tile = warp_tile(1024, 192, depth, 128, 1)
        assert tile is not None and 4 * tile.room <= 163 << 10 and tile.own_keys >= 16


@pytest.mark.parametrize(("precision", "parts"), [("f32", 2), ("bf16", 3)])
def test_a_chain_of_tiles_has_512_at_most(precision: str, parts: int) -> None:
    """Also by the source whose tiles have half as many keys."""
    (node,) = attention((192, 1024, 64), (192, 40000, 64), (192, 40000, 64)).nodes
    assert parts_of(node, Engine(precision)) == parts


@pytest.mark.parametrize("precision", BOUNDS)
def test_selection(precision: str) -> None:
    """Sequences are one kernel in every precision; what does not fit says why."""
    assert decided(*[(8, 512, 64)] * 3, precision=precision).strategy == NAME
    wide = decided((8, 64, 64), (8, 64, 64), (8, 64, 129), precision=precision)
    assert wide.strategy == "attention_direct"
    assert f"129 wide; in {precision} they do not fit" in wide.rejected[NAME]
