"""Attention's gradient on tensor cores, graph -> PTX -> emulator, against NumPy in float64, in each
precision; its faults, gates and choice.

Lengths are free dims where they can be, so that a kernel serves several shapes. A run takes the
first rows of each list in ROWS, and of a shape some precisions; ``--all-kernels`` takes all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from netloom.compiler.dim import Extent
from netloom.compiler.graph import Graph
from netloom.compiler.targets.cuda import attention_warps
from netloom.compiler.targets.cuda.attention_warps import WarpGradientTile, warp_gradient_tile
from netloom.compiler.targets.cuda.compile import compile_kernel
from netloom.compiler.targets.cuda.driver import PIPELINE, TRAINING_PIPELINE, CudaOptions, plan
from netloom.compiler.targets.cuda.forms import DeviceKernel, FusedGradient
from netloom.compiler.targets.cuda.source import KernelSource
from netloom.compiler.tensor_type import BOOL, FLOAT32, DType
from tests.compiler.targets.cuda import emulated
from tests.compiler.targets.cuda.rows import parametrize_rows, parametrize_shapes
from tests.compiler.targets.cuda.test_attention_gradient import (
    NAME,
    L,
    S,
    Shape,
    differentiated,
    exact,
    kernel_graph,
    needs_compiler,
    planned,
    values_of,
)
from tests.compiler.targets.cuda.test_forms import barriers, without_barrier
from tests.compiler.targets.cuda.test_warp_attention import INSTRUCTIONS
from tests.ptx_emulator.machine import emulate
from tests.ptx_emulator.memory import BankTraffic, MemoryFault

Array = npt.NDArray[Any]
# relative errors of whole gradients: what 10 and 7 bits of operands and weights allow, and float32's
BOUNDS = {"tf32": 1.5e-3, "bf16": 1e-2, "3xtf32": 3e-6}
# name: shapes of queries, keys, values and a mask, its dtype, attributes, by what, lengths, the
# precisions of a run
SHAPES: Mapping[
    str, tuple[tuple[Shape, ...], DType, dict[str, Any], str, Sequence[Any], Sequence[str]]
] = {
    "queries": (((2, L, 20), (2, S, 20), (2, S, 24)), FLOAT32, {"scale": 0.3}, "q",
                ((1, 1), (65, 64), (3, 63), (64, 129)), ("3xtf32",)),
    "keys": (((2, L, 20), (2, S, 20), (2, S, 24)), FLOAT32, {"scale": 0.3}, "kv",
             ((1, 1), (65, 64), (3, 63), (64, 129)), ()),
    "causal queries": (((2, L, 20), (2, S, 20), (2, S, 24)), FLOAT32,
                       {"scale": 0.3, "is_causal": True}, "q", ((65, 65), (130, 70), (64, 129)),
                       ()),
    "causal keys": (((2, L, 20), (2, S, 20), (2, S, 24)), FLOAT32,
                    {"scale": 0.3, "is_causal": True}, "kv", ((65, 65), (130, 70), (40, 129)),
                    ("bf16",)),
    "one by one": (((7, 33), (65, 33), (65, 5)), FLOAT32, {"scale": 0.2}, "kv", ((1, 1),), ()),
    "shared keys": (((2, 2, L, 8), (2, 1, S, 8), (2, S, 12), (2, 1, L, S)), BOOL,
                    {"fill": -1.5, "scale": 0.3}, "q", ((66, 65), (3, 130)), ()),
    "a mask": (((2, L, 8), (1, S, 8), (S, 12), (2, L, S)), BOOL,
               {"fill": -1.5, "is_causal": True, "scale": 0.3}, "kv", ((3, 63), (65, 70)), ()),
    "wide": (((1, L, 100), (3, S, 100), (3, S, 128)), FLOAT32, {"scale": 0.1}, "kv", ((70, 129),),
             ()),
    "wide queries": (((1, L, 100), (3, S, 100), (3, S, 128)), FLOAT32, {"scale": 0.1}, "q",
                     ((70, 129),), ()),
}  # fmt: skip
# queries and keys, heads, depth, by what, is_causal; the tile that they get
LAYERS: Sequence[tuple[tuple[int, int, int, str, bool], tuple[int, int]]] = (
    ((2048, 128, 128, "kv", False), (64, 32)),
    ((1024, 192, 64, "kv", True), (128, 64)),
    ((1024, 192, 64, "q", True), (128, 64)),
    ((2048, 128, 128, "q", False), (64, 32)),
    ((512, 12, 64, "kv", False), (64, 64)),
)
# by the argument that they are for: how many a run takes, and all
ROWS: Mapping[str, tuple[int, Sequence[Any]]] = {
    "many": (0, [(wrt, p) for wrt in ("kv", "q") for p in ("3xtf32", "bf16", "tf32")]),
    "synchronized": (1, (("kv", "bf16"), ("q", "tf32"))),
    "border": (0, (("gradients_causal", "kv", 1), ("fragments_bounded", "q", -1),
                   ("fragments_causal", "q", 1))),
    "banks": (0, [(wrt, p) for wrt in ("kv", "q") for p in ("tf32", "bf16")]),
    "layer": (1, [(layer, p) for p in ("3xtf32", "bf16", "tf32") for layer in LAYERS]),
    "has_zeros": (0, (True,)),
    "whole": (0, ("3xtf32", "bf16")),
}  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_rows(metafunc, ROWS)
    parametrize_shapes(metafunc, SHAPES, BOUNDS)


@cache
def source_of(graph: Graph, precision: str) -> tuple[KernelSource, DeviceKernel]:
    _, placement, _ = plan({"run": graph}, PIPELINE, CudaOptions(precision))
    (name,) = placement.forms
    return placement.sources[name], placement.forms[name]


def tile_of(graph: Graph, precision: str) -> WarpGradientTile:
    form = source_of(graph, precision)[1].form
    assert isinstance(form, FusedGradient) and isinstance(form.tile, WarpGradientTile)
    return form.tile


def feeds_and_wanted(
    graph: Graph, dims: Mapping[str, int], given: dict[str, Array] | None = None
) -> tuple[dict[str, Array], Array]:
    """Operands with each query's numbers, and the gradient in float64."""
    (node,) = graph.nodes
    attrs = dict(vars(node.attrs))
    wrt, feeds = attrs.pop("wrt"), given or values_of(graph, dims)
    wanted = exact(feeds, **attrs)
    feeds |= {name: wanted[name].astype(np.float32) for name in ("bases", "inverses", "deltas")}
    return feeds, wanted[wrt]


def distance(found: Array, wanted: Array) -> float:
    """Relative; NaN must be where the oracle has it. One key has no slope."""
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    known = ~np.isnan(wanted)
    gap = np.linalg.norm((found - wanted)[known])
    return float(gap / max(np.linalg.norm(wanted[known]), 1.0))


def compiled(source: KernelSource) -> str:
    return compile_kernel(replace(source, special=()), ()).ptx


def launched(ptx: str, graph: Graph, precision: str) -> tuple[Array, Array, BankTraffic]:
    """What PTX makes of a static graph's inputs, and what it should."""
    source, kernel = source_of(graph, precision)
    feeds, wanted = feeds_and_wanted(graph, {})
    y = np.full(wanted.shape, np.nan, np.float32)
    arrays = [*(feeds[value.label] for value in graph.inputs), y, np.zeros(1, np.int32)]
    number = len(graph.inputs)
    traffic = emulate(ptx, kernel.items, source.threads, arrays, inputs=number, flag=number + 1)
    return y, wanted, traffic


@needs_compiler
def test_awkward_shapes(shape: str, precision: str) -> None:
    """Odd lengths and heads, causal or not, with masks, and heads that share keys."""
    shapes, mask, attrs, wrt, lengths, _ = SHAPES[shape]
    graph = kernel_graph(shapes, wrt, mask, **attrs)
    tile_of(graph, precision)
    for queries, keys in lengths:
        if S in shapes[1] and keys == 1 and precision != "3xtf32":
            continue  # of one key's slope, which is zero, there is nothing but rounding
        dims = {"L": queries, "S": keys}
        feeds, wanted = feeds_and_wanted(graph, dims)
        (found,) = emulated.run(graph, feeds, dims, CudaOptions(precision))
        assert distance(found, wanted) <= BOUNDS[precision]


@needs_compiler
def test_special_values(has_zeros: bool) -> None:
    """Queries without keys that give zeros, a first tile that is hidden, and the lowest number as a
    mask, below which all weights of a query are equal."""
    graph = kernel_graph(((L, 20), (S, 20), (S, 24), (L, S)), "kv", has_zeros=has_zeros)
    dims = {"L": 5, "S": 130}
    given = values_of(graph, dims)
    given["m"][0], given["m"][1, :70], given["m"][2] = -np.inf, -np.inf, -3e38
    feeds, wanted = feeds_and_wanted(graph, dims, given)
    (found,) = emulated.run(graph, feeds, dims, CudaOptions("3xtf32"))
    assert distance(found, wanted) <= BOUNDS["3xtf32"]


@needs_compiler
def test_a_warp_for_every_16_rows(monkeypatch: pytest.MonkeyPatch, many: tuple[str, str]) -> None:
    """Each source: operands on their way while others are multiplied or not, and tiles of half as
    many columns."""
    monkeypatch.setattr(attention_warps, "MANY_BLOCKS", 1)
    wrt, precision = many
    shapes = ((150, 24), (190, 24), (190, 32))
    graph = kernel_graph(shapes, wrt, is_causal=True, scale=0.4)
    tile = tile_of(graph, precision)
    assert (tile.rows, tile.keys) == (128, 64)
    sources = source_of(graph, precision)[0].of("sm_80")
    assert len(sources) == 4 == len({source.text for source in sources})
    for source in sources:
        y, wanted, _ = launched(compiled(source), graph, precision)
        assert distance(y, wanted) <= BOUNDS[precision]


# -- its faults are seen ---------------------------------------------------------------------------


def small(wrt: str, **attrs: Any) -> Graph:
    return kernel_graph(((66, 20), (70, 20), (70, 8)), wrt, scale=0.2, **attrs)


CAUSAL = {wrt: small(wrt, is_causal=True) for wrt in ("q", "kv")}
PLAIN = {wrt: small(wrt) for wrt in ("q", "kv")}


@needs_compiler
def test_each_barrier_is_needed(synchronized: tuple[str, str]) -> None:
    """One behind each operand, the first tile's, and one for each of two warps that share rows and a
    gradient; and one between gradients that are stored."""
    wrt, precision = synchronized
    ptx = compiled(source_of(CAUSAL[wrt], precision)[0].of("sm_80")[0])
    assert barriers(ptx) == (8 if wrt == "kv" else 5)
    for number in range(barriers(ptx)):
        with pytest.raises(MemoryFault, match="race|never written|barrier"):
            launched(without_barrier(ptx, number), CAUSAL[wrt], precision)


@needs_compiler
def test_a_border_one_off_is_seen(border: tuple[str, str, int]) -> None:
    name, wrt, by = border
    graph = (PLAIN if "bounded" in name else CAUSAL)[wrt]
    best = source_of(graph, "3xtf32")[0].of("sm_80")[0]
    broken, count = re.subn(
        rf"({name}_4\(weights, )(minus\(\w+, \w+\))\)", rf"\1plus(\2, {by}))", best.text
    )
    assert count == 1
    for text, is_right in ((best.text, True), (broken, False)):
        y, wanted, _ = launched(compiled(replace(best, text=text)), graph, "3xtf32")
        assert (distance(y, wanted) <= BOUNDS["3xtf32"]) == is_right


# -- gates -----------------------------------------------------------------------------------------


@needs_compiler
def test_banks_do_not_conflict(banks: tuple[str, str]) -> None:
    wrt, precision = banks
    graph = kernel_graph(((64, 64),) * 3, wrt)
    *_, traffic = launched(
        compiled(source_of(graph, precision)[0].of("sm_80")[0]), graph, precision
    )
    assert traffic.cycles == traffic.least


@needs_compiler
def test_layers_of_networks_pass_the_gates(
    layer: tuple[tuple[tuple[int, int, int, str, bool], tuple[int, int]], str],
) -> None:
    """For sm_80 and sm_90a, by the best source, which fetches one operand while another is
    multiplied: without spills, float64 or atomics."""
    ((length, heads, depth, wrt, is_causal), tile), precision = layer
    graph = kernel_graph(((heads, length, depth),) * 3, wrt, is_causal=is_causal, scale=0.125)
    chosen = tile_of(graph, precision)
    if precision != "bf16":  # whose operands take half of the memory
        assert (chosen.rows, chosen.keys) == tile
    source, apart, *_ = source_of(graph, precision)[0].of("sm_80")
    fetches = [text.count("load4_if_float32(") for text in (source.text, apart.text)]
    assert fetches[0] > fetches[1]
    code = compile_kernel(replace(source, special=()))
    assert INSTRUCTIONS[precision] in code.ptx
    assert not re.search(r"\b(atom|red)\.|\.f64\b", code.ptx)
    assert all(binary.registers <= 255 for binary in code.binaries)


# -- whole gradients, and choice -------------------------------------------------------------------


@needs_compiler
def test_whole_gradients(whole: str) -> None:
    """From the forward kernel's numbers, made by the same instructions, to all gradients."""
    graph = differentiated((2, 70, 20), (1, 130, 20), (2, 130, 24), is_causal=True, scale=0.3)
    options = CudaOptions(whole, override=NAME)
    program, placement, _ = plan({"run": graph}, TRAINING_PIPELINE, options)
    tiles = [k.form.tile for k in placement.forms.values() if isinstance(k.form, FusedGradient)]
    assert len(tiles) == 2 and all(isinstance(tile, WarpGradientTile) for tile in tiles)
    inputs = values_of(graph, {})
    run = emulated._Run(program, placement, program.entries[0], {}, "sm_80")
    found = dict(zip(graph.output_names, run.outputs(inputs), strict=True))
    wanted = exact(inputs, 0.3, is_causal=True)
    k, v = np.split(wanted["kv"], [20], axis=-1)
    for name, one in (("q", wanted["q"]), ("k", k.sum(axis=0, keepdims=True)), ("v", v)):
        assert distance(found[f"gradient of {name}"], one) <= BOUNDS[whole], name


@pytest.mark.parametrize("per_word", [1, 2])
def test_the_tile_fits_a_block(per_word: int) -> None:
    """Shared memory, registers for the sums, and so many columns that a chain of tiles is short."""
    for depth in (1, 8, 33, 64, 80, 128):
        for width in (1, 64, 128):
            for rows in (1, 40, 1024, L):
                for number in (1, 2):
                    tile = warp_gradient_tile(rows, 192, depth, width, per_word, number)
                    assert 4 * tile.room <= 163 << 10 and tile.sums <= 160
                    while (lighter := tile.lighter()) is not None:
                        tile = lighter
                    assert tile.keys >= 32 and tile.own_keys >= 16


@pytest.mark.parametrize("precision", BOUNDS)
def test_selection(precision: str) -> None:
    """Long sequences have the kernels in every precision; a sum that is too long says why."""
    shape: tuple[Extent, ...] = (8, 2048, 64)
    _, options, _ = planned(differentiated(shape, shape, shape), precision=precision)
    chosen = [d for d in options.decisions if d.op == "attention_gradient"]
    assert [d.strategy for d in chosen] == [NAME] * 3
    long = (20000, 8)
    _, options, _ = planned(differentiated((9, 8), long, long), precision=precision)
    refused = [d for d in options.decisions if d.op == "attention_gradient"]
    assert len(refused) == 3
    for decision in refused:
        assert decision.strategy != NAME
        assert "more than 16384 queries or keys" in decision.rejected[NAME]
