"""The fused attention kernel on awkward shapes, graph -> PTX -> emulator, against the oracle in
float64; its faults, gates and choice.

Lengths are free dims where they can be, so that a kernel serves several shapes. A run takes the
first rows of each list in ROWS; ``--all-kernels`` takes all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import netloom as nl
from netloom.compiler import dim
from netloom.compiler.dim import Extent, symbol
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.strategies.attention import ATTENTION_FUSED
from netloom.compiler.targets.cuda import attention_tiles
from netloom.compiler.targets.cuda.compile import compile_kernel, is_available
from netloom.compiler.targets.cuda.driver import (
    PIPELINE,
    CudaOptions,
    DevicePlacement,
    plan,
)
from netloom.compiler.targets.cuda.forms import FusedAttention
from netloom.compiler.targets.cuda.source import KernelSource
from netloom.compiler.targets.cuda.split_attention import parts_of
from netloom.compiler.tensor_type import BOOL, FLOAT16, FLOAT32, DType, TensorType
from tests.compiler.targets.cuda import emulated
from tests.compiler.targets.cuda.networks import transformer_block
from tests.compiler.targets.cuda.rows import parametrize_rows
from tests.compiler.targets.cuda.test_forms import barriers, without_barrier
from tests.oracle import expected
from tests.ptx_emulator.machine import emulate
from tests.ptx_emulator.memory import BankTraffic, MemoryFault

needs_compiler = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
Array = npt.NDArray[Any]
NAME = "attention_fused"
L, S = symbol("L", 1, 1 << 16), symbol("S", 1, 4096)  # so many queries that keys stay whole
Shape = tuple[Extent, ...]
# by the argument that they are for: how many a run takes, and all
ROWS: Mapping[str, tuple[int, Sequence[Any]]] = {
    "mask": (2, ((FLOAT32, (2, 2, L, S)), (BOOL, (2, 1, 1, S)), (BOOL, (L, S)),
                 (FLOAT32, (2, L, 1)), (FLOAT32, (S,)))),
    "odd_head": (2, ((3, 66), (18, 130), (1, 1), (33, 5), (129, 64))),  # depth, width
    # queries, keys, depth, width
    "few": (1, ((2, 130, 128, 80), (1, 190, 16, 64), (16, 129, 64, 128), (5, 64, 12, 256),
                (9, 2, 4, 4))),
    "large": (1, ((200, 200, 24, True), (130, 65, 64, False))),  # queries, keys, depth, is_causal
    # queries, is_causal, a mask's shape, lengths of keys
    "cut": (2, ((1, False, (), (2, 65, 1100)), (17, True, (), (300,)),
                (3, False, ((3, S),), (64, 129)))),
    "has_zeros": (1, (True, False)),
    "border": (2, (("causal", 1), ("bounded", -1), ("causal", -1), ("bounded", 1))),
    "network": (1, ("decoder", "transformer block")),
    "banks": (1, ((2, 64, 64), (2, 16, 128), (2, 64, 128))),  # heads, queries and keys, depth
    # shape, attributes, rows of a tile, most registers
    "layer": (2, (
        ((16, 12, 1024, 64), {"is_causal": True, "scale": 0.125}, 128, 255),
        ((1, 12, 128, 64), {}, 64, 128),
        ((8, 32, 2048, 128), {}, 64, 255),
        ((4, 32, 8, 256), {}, 16, 128),
        ((2, 32, 300, 160), {}, 32, 255),
    )),
}  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_rows(metafunc, ROWS)


def attention(*shapes: Shape, mask: DType = FLOAT32, **attrs: Any) -> Graph:
    """Of queries, keys, values and, if there is a fourth shape, a mask."""
    b = Builder("attention")
    kinds = (FLOAT32, FLOAT32, FLOAT32, mask)
    inputs = [
        b.input(TensorType(kind, shape), name)
        for kind, shape, name in zip(kinds, shapes, "qkvm", strict=False)
    ]
    return b.build([b("attention", *inputs, label="node", **attrs)], ["y"])


def with_zeros(*shapes: Shape) -> Graph:
    """The same as products, rows whose mask is -inf being zeros, as the ONNX standard has it."""
    b = Builder("attention")
    q, k, v, m = (
        b.input(TensorType(FLOAT32, shape), name)
        for shape, name in zip(shapes, "qkvm", strict=True)
    )
    axis = len(shapes[0]) - 1
    weights = b("softmax", b("add", b("matmul", q, k, transpose_b=True), m), axis=axis)
    is_empty = b("equal", b("reduce_max", m, axes=(axis,), keep=True), b.number(-np.inf, FLOAT32))
    kept = b("select", is_empty, b.number(0.0, FLOAT32), weights)
    return b.build([b("matmul", kept, v)], ["y"])


def values_of(graph: Graph, dims: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
    """Normal numbers; of a mask of bools every third is false, but the first key's."""
    rng = np.random.default_rng(seed)
    found = {}
    for value in graph.inputs:
        shape = value.type.evaluate(dims)
        found[value.label] = rng.standard_normal(shape).astype(np.float32)
        if value.dtype is BOOL:
            found[value.label] = rng.random(shape) < 0.67
            found[value.label][..., 0] = True
    return found


def exact(graph: Graph, inputs: Mapping[str, Array]) -> Array:
    (node,) = graph.nodes
    return np.asarray(expected("attention", list(inputs.values()), vars(node.attrs))[0])


def masked(inputs: Mapping[str, Array], has_zeros: bool) -> Array:
    """What the oracle says of queries, keys, values and a mask."""
    attrs = {"scale": 1.0, "is_causal": False, "fill": -np.inf, "has_zeros": has_zeros}
    return np.asarray(expected("attention", list(inputs.values()), attrs)[0])


def planned(graph: Graph, precision: str = "f32") -> tuple[DevicePlacement, str]:
    """The kernels, and the fused one's name."""
    options = CudaOptions(precision, override=NAME)
    _, placement, _ = plan({"run": graph}, PIPELINE, options)
    assert [decision.strategy for decision in options.decisions] == [NAME]
    (found,) = [n for n, k in placement.forms.items() if isinstance(k.form, FusedAttention)]
    return placement, found


def source_of(graph: Graph) -> KernelSource:
    placement, name = planned(graph)
    return placement.sources[name]


def form_of(graph: Graph) -> FusedAttention:
    placement, name = planned(graph)
    form = placement.forms[name].form
    assert isinstance(form, FusedAttention)
    return form


def run(graph: Graph, inputs: Mapping[str, Array], dims: Mapping[str, int]) -> Array:
    options = CudaOptions(override=NAME)
    (found,) = emulated.run(graph, inputs, dims, options)
    assert [decision.strategy for decision in options.decisions] == [NAME]
    return found


def error(graph: Graph, dims: Mapping[str, int]) -> float:
    """Relative, of the whole output; NaN must be where the oracle has it."""
    inputs = values_of(graph, dims)
    found, wanted = run(graph, inputs, dims), exact(graph, inputs)
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    known = ~np.isnan(wanted)
    return float(np.linalg.norm((found - wanted)[known]) / np.linalg.norm(wanted[known]))


def check(graph: Graph, *lengths: tuple[int, int]) -> None:
    for queries, keys in lengths or ((1, 1),):
        assert error(graph, {"L": queries, "S": keys}) <= 1e-6


LENGTHS = ((1, 1), (65, 64), (3, 63), (64, 129), (130, 70))


@needs_compiler
@pytest.mark.parametrize("is_causal", [False, True], ids=["plain", "causal"])
def test_free_lengths(is_causal: bool) -> None:
    shapes = ((2, L, 20), (2, S, 20), (2, S, 24))
    check(attention(*shapes, scale=0.3, is_causal=is_causal), *LENGTHS)


@needs_compiler
def test_masks(mask: tuple[DType, Shape]) -> None:
    """Heads of keys that several heads of queries share, too."""
    dtype, shape = mask
    shapes = ((2, 2, L, 8), (2, 1, S, 8), (2, S, 12), shape)
    check(attention(*shapes, mask=dtype, is_causal=shape == (L, S)), (66, 65))


@needs_compiler
def test_odd_heads(odd_head: tuple[int, int]) -> None:
    """Elements that are copied one by one; widths of several fragments."""
    depth, width = odd_head
    check(attention((L, depth), (S, depth), (S, width), scale=depth**-0.5), (7, 65))


@needs_compiler
def test_few_queries(few: tuple[int, int, int, int]) -> None:
    queries, keys, depth, width = few
    graph = attention((queries, depth), (keys, depth), (keys, width), scale=0.2)
    form = form_of(graph)
    assert form.tile.rows == 16 and form.part is None
    assert error(graph, {}) <= 1e-6


@needs_compiler
def test_keys_in_parts(cut: tuple[int, bool, tuple[Shape, ...], Sequence[int]]) -> None:
    """Few blocks: a part of the keys each, some of them without any, and a kernel that merges."""
    queries, is_causal, mask, lengths = cut
    graph = attention((queries, 8), (S, 8), (S, 12), *mask, is_causal=is_causal)
    placement, name = planned(graph)
    form = placement.forms[name].form
    assert isinstance(form, FusedAttention) and form.part and form.part.extent == 16
    assert len(placement.forms) == 2
    for keys in lengths:
        assert error(graph, {"S": keys}) <= 1e-6


@needs_compiler
def test_parts_of_rows_without_keys(has_zeros: bool) -> None:
    shapes = ((3, 4), (260, 4), (260, 5), (3, 260))
    graph = with_zeros(*shapes) if has_zeros else attention(*shapes)
    assert form_of(graph).part is not None
    inputs = values_of(graph, {})
    inputs["m"][0], inputs["m"][1, :128], inputs["m"][2, 140:] = -np.inf, -np.inf, -np.inf
    wanted = masked(inputs, has_zeros)
    found = run(graph, inputs, {})
    assert np.isnan(found[0]).all() != has_zeros and not (has_zeros and found[0].any())
    assert np.linalg.norm((found - wanted)[1:]) <= 1e-6 * np.linalg.norm(wanted[1:])


def test_how_many_parts() -> None:
    """As many as a device has room for; none of a part or two tiles of keys, or without need; no
    part of more than 512 tiles."""

    def parts(heads: int, queries: Extent, keys: Extent) -> int:
        node = attention((heads, queries, 64), (heads, keys, 64), (heads, keys, 64)).nodes[0]
        return parts_of(node)

    assert [parts(12, 1, keys) for keys in (64, 192, 256, 1024, 65536)] == [1, 1, 2, 8, 16]
    assert [parts(heads, 128, 4096) for heads in (12, 64, 133, 1000)] == [11, 2, 1, 1]
    assert parts(1000, 1024, 40000) == 2 and parts(1, L, S) == 1 and parts(1, 1, S) == 16


@needs_compiler
def test_large_tiles(large: tuple[int, int, int, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys, depth, is_causal = large
    monkeypatch.setattr(attention_tiles, "MANY_BLOCKS", 1)
    graph = attention((queries, depth), (keys, depth), (keys, 64), is_causal=is_causal)
    assert form_of(graph).tile.rows == 128
    assert error(graph, {}) <= 1e-6


@needs_compiler
def test_the_error_does_not_grow_with_the_keys() -> None:
    """Keys in rising order of their scores raise the largest one in every tile."""
    graph = attention((L, 1), (S, 1), (S, 3))
    keys = 700
    inputs = {
        "q": np.ones((17, 1), np.float32),
        "k": np.linspace(0, 12, keys, dtype=np.float32).reshape(keys, 1),
        "v": np.random.default_rng(2).standard_normal((keys, 3)).astype(np.float32),
    }
    found, wanted = run(graph, inputs, {"L": 17, "S": keys}), exact(graph, inputs)
    assert np.linalg.norm(found - wanted) <= 1e-6 * np.linalg.norm(wanted)


@needs_compiler
def test_special_values(has_zeros: bool) -> None:
    """Rows without keys, rows whose first tile is hidden, infinite and NaN scores, and the lowest
    number as a mask: what the oracle says."""
    graph = attention((L, 4), (S, 4), (S, 5), (L, S))
    if has_zeros:
        graph = with_zeros((L, 4), (S, 4), (S, 5), (L, S))
    dims = {"L": 7, "S": 130}
    inputs = values_of(graph, dims)
    mask = np.zeros((7, 130), np.float32)
    mask[0, :64] = mask[1, :100] = mask[2, 64:] = mask[3] = -np.inf
    mask[4, 70], mask[5, :128], mask[6, :] = np.nan, np.finfo(np.float32).min, -3e38
    inputs["m"] = mask
    wanted = masked(inputs, has_zeros)
    found = run(graph, inputs, dims)
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    assert np.isnan(found[4]).all() and np.isnan(found[3]).all() != has_zeros
    known = ~np.isnan(wanted).any(axis=1)
    assert np.allclose(found[known], wanted[known], rtol=1e-5, atol=1e-6)
    assert not has_zeros or not found[3].any()


@needs_compiler
def test_what_is_fused_with_it() -> None:
    """Heads that lie between others' elements are read where they are; a residual is added where
    outputs are stored."""
    b = Builder("fused")
    x = b.input(TensorType(FLOAT32, (2, 35, 3, 4, 16)), "x")
    parts = [
        b("reshape", b("slice", x, start=(0, 0, place, 0, 0), size=(2, 35, 1, 4, 16),
                       step=(1,) * 5), shape=(2, 35, 4, 16))
        for place in range(3)
    ]  # fmt: skip
    heads = [b("transpose", part, permutation=(0, 2, 1, 3)) for part in parts]
    y = b("attention", *heads, scale=0.25)
    graph = b.build([b("relu", b("add", y, b.input(y.type, "r")))], ["y"])
    placement, name = planned(graph)
    assert len(placement.forms) == 1 and "copy_4(" in placement.sources[name].text
    inputs = values_of(graph, {})
    wanted = interpret(graph, inputs)[0]
    assert np.linalg.norm(run(graph, inputs, {}) - wanted) <= 1e-6 * np.linalg.norm(wanted)


# -- its faults are seen ---------------------------------------------------------------------------


SMALL = attention((66, 20), (130, 20), (130, 8), is_causal=True, scale=0.2)


def launched(ptx: str, graph: Graph = SMALL) -> tuple[Array, BankTraffic]:
    """The output that PTX makes of a static graph's inputs."""
    source, inputs = source_of(graph), values_of(graph, {})
    y = np.full(graph.outputs[0].type.static_shape, np.nan, np.float32)
    arrays = [*inputs.values(), y, np.zeros(1, np.int32)]
    blocks = dim.evaluate(planned(graph)[0].forms[planned(graph)[1]].items, {})
    return y, emulate(ptx, blocks, source.threads, arrays, inputs=len(inputs), flag=len(inputs) + 1)


@needs_compiler
def test_each_barrier_and_wait_is_needed() -> None:
    ptx = compile_kernel(source_of(SMALL), ()).ptx
    assert barriers(ptx) == 4
    for number in range(4):
        with pytest.raises(MemoryFault, match="race|never written|barrier|waited"):
            launched(without_barrier(ptx, number))
    waits = re.findall(r"cp\.async\.wait_group 1;", ptx)
    assert len(waits) == 2
    with pytest.raises(MemoryFault, match="waited|never written"):
        launched(ptx.replace("cp.async.wait_group 1;", "cp.async.wait_group 2;"))


@needs_compiler
def test_a_border_one_key_off_is_seen(border: tuple[str, int]) -> None:
    name, by = border
    graph = SMALL if name == "causal" else attention((66, 20), (70, 20), (70, 8), scale=0.2)
    source, wanted = source_of(graph), exact(graph, values_of(graph, {}))

    def distance(text: str) -> float:
        y, _ = launched(compile_kernel(replace(source, text=text), ()).ptx, graph)
        return float(np.linalg.norm(y - wanted) / np.linalg.norm(wanted))

    pattern = rf"(attention_{name}_4\(tile, )(minus\(\w+, \w+\))\)"
    broken, count = re.subn(pattern, rf"\1plus(\2, {by}))", source.text)
    assert count == 1
    assert distance(source.text) <= 1e-6 and not distance(broken) <= 1e-3


# -- gates -----------------------------------------------------------------------------------------


@needs_compiler
def test_banks_do_not_conflict(banks: tuple[int, int, int]) -> None:
    heads, queries, depth = banks
    graph = attention((heads, queries, depth), (heads, 64, depth), (heads, 64, depth))
    assert form_of(graph).tile.rows == min(queries, 64)
    _, traffic = launched(compile_kernel(source_of(graph), ()).ptx, graph)
    assert traffic.cycles == traffic.least


@needs_compiler
def test_layers_of_networks_pass_the_gates(
    layer: tuple[Shape, Mapping[str, Any], int, int],
) -> None:
    """For sm_80 and sm_90a, without spills."""
    shape, attrs, rows, registers = layer
    graph = attention(shape, shape, shape, **attrs)
    assert form_of(graph).tile.rows == rows
    compiled = compile_kernel(source_of(graph))
    assert "cp.async.cg" in compiled.ptx and "ex2.approx.ftz" in compiled.ptx
    for binary in compiled.binaries:
        assert binary.registers <= registers and binary.shared <= 48 << 10


# -- networks --------------------------------------------------------------------------------------


@nl.network
def decoder(x: nl.Symbolic) -> nl.Symbolic:
    """Two pre-norm blocks of causal attention and a gelu MLP, as GPT-2 has them."""
    n, length, width = x.shape
    for _ in range(2):
        normal = nl.layer_norm(x)
        heads = [
            nl.transpose(
                nl.reshape(nl.dense(normal, width), (n, length, 2, width // 2)), (0, 2, 1, 3)
            )
            for _ in range(3)
        ]
        met = nl.transpose(nl.attention(*heads, causal=True), (0, 2, 1, 3))
        x = x + nl.dense(nl.reshape(met, (n, length, width)), width)
        x = x + nl.dense(nl.gelu(nl.dense(nl.layer_norm(x), 4 * width)), width)
    return nl.layer_norm(x)


NETWORKS: Mapping[str, Callable[[], Graph]] = {
    "transformer block": transformer_block,
    "decoder": lambda: decoder.graph(x=nl.tensor(1, "T", 16)),
}


def test_attention_is_found_in_networks() -> None:
    for made in NETWORKS.values():
        options = CudaOptions()
        plan({"run": made()}, PIPELINE, options)
        assert {decision.strategy for decision in options.decisions} == {NAME}


@needs_compiler
def test_networks(network: str) -> None:
    graph = NETWORKS[network]()
    dims = {"T": 35}
    options = CudaOptions()
    inputs = values_of(graph, dims)
    (found,) = emulated.run(graph, inputs, dims, options)
    assert {decision.strategy for decision in options.decisions} == {NAME}
    wanted = interpret(graph, inputs)[0]
    assert np.linalg.norm(found - wanted) <= 5e-6 * np.linalg.norm(wanted)


# -- choice ----------------------------------------------------------------------------------------


def decided(*shapes: Shape, precision: str = "f32", dtype: DType = FLOAT32) -> Any:
    b = Builder("attention")
    q, k, v = (
        b.input(TensorType(dtype, shape), name) for shape, name in zip(shapes, "qkv", strict=True)
    )
    options = CudaOptions(precision)
    plan({"run": b.build([b("attention", q, k, v, label="node")])}, PIPELINE, options)
    (decision,) = options.decisions
    return decision


def test_selection_says_why() -> None:
    """Sequences are one kernel; one query is not, which would fill a tile alone."""
    long = decided((8, 512, 64), (8, 512, 64), (8, 512, 64))
    assert long.strategy == NAME and long.seconds["attention_direct"] > long.seconds[NAME]
    assert long.rejected["attention_online"] == "the cuda target has no code for its loops"
    one = decided((8, 1, 64), (8, 512, 64), (8, 512, 64))
    assert one.strategy == "attention_direct" and one.seconds[NAME] > one.seconds[one.strategy]


@pytest.mark.parametrize(("shapes", "options", "reason"), [
    (((64, 513), (64, 513), (64, 8)), {}, "513 deep"),
    (((64, 8), (64, 8), (64, 257)), {}, "257 wide; the most is 256"),
    (((64, 8), (64, 8), (64, 8)), {"dtype": FLOAT16}, "computes in float16"),
    (((64, 512), (64, 512), (64, 8)), {"precision": "tf32"}, "512 deep and 8 wide; in tf32"),
], ids=lambda x: str(x))  # fmt: skip
def test_what_it_is_not_for_says_why(
    shapes: Sequence[Shape], options: Mapping[str, Any], reason: str
) -> None:
    decision = decided(*shapes, **options)
    assert decision.strategy == "attention_direct" and reason in decision.rejected[NAME]


def test_only_the_cuda_target_offers_it() -> None:
    assert ATTENTION_FUSED.ops == ("attention",)
    with pytest.raises(nl.errors.UsageError, match="no strategy"):
        nl.compile(SMALL, conv_strategy=NAME)
