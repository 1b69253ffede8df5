"""Attention's gradient in two kernels, graph -> PTX -> emulator, against NumPy in float64; their
faults, gates and choice.

Lengths are free dims, so that a kernel serves several shapes. A run takes the first rows of each
list in ROWS; ``--all-kernels`` takes all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special

import netloom as nl
from netloom.compiler.dim import Extent, symbol
from netloom.compiler.graph import Builder, Graph
from netloom.compiler.interpret import interpret
from netloom.compiler.ops.attention_gradient import GradientAttrs
from netloom.compiler.passes.differentiate import gradient_graph
from netloom.compiler.targets.cuda.compile import compile_kernel, is_available
from netloom.compiler.targets.cuda.driver import (
    PIPELINE,
    TRAINING_PIPELINE,
    CudaOptions,
    DevicePlacement,
    plan,
)
from netloom.compiler.targets.cuda.forms import FusedGradient
from netloom.compiler.targets.cuda.gradient_strategies import FUSED
from netloom.compiler.targets.cuda.source import KernelSource
from netloom.compiler.targets.cuda.split_attention import NUMBERS, NumbersAttrs
from netloom.compiler.tensor_type import BOOL, FLOAT16, FLOAT32, DType, TensorType
from tests.compiler.targets.cuda import emulated
from tests.compiler.targets.cuda.rows import parametrize_rows
from tests.compiler.targets.cuda.test_attention import decoder
from tests.compiler.targets.cuda.test_forms import barriers, without_barrier
from tests.ptx_emulator.machine import emulate
from tests.ptx_emulator.memory import BankTraffic, MemoryFault

needs_compiler = pytest.mark.skipif(
    not is_available(), reason="numba-cuda is not installed (netloom[cuda])"
)
Array = npt.NDArray[Any]
Shape = tuple[Extent, ...]
NAME = "attention_gradient_fused"
L, S = symbol("L", 1, 4096), symbol("S", 1, 4096)
LENGTHS = ((1, 1), (65, 64), (3, 63), (64, 129), (130, 70))
# by the argument that they are for: how many a run takes, and all
ROWS: Mapping[str, tuple[int, Sequence[Any]]] = {
    # q's, k's, v's and a mask's shape, its dtype, attributes, by what, lengths
    "case": (2, (
        (((2, L, 20), (2, S, 20), (2, S, 24)), FLOAT32, {"is_causal": True, "scale": 0.3}, "q",
         LENGTHS),
        (((2, L, 8), (1, S, 8), (S, 12), (2, L, S)), BOOL, {"fill": -1.5, "is_causal": True}, "kv",
         ((3, 63), (65, 70))),
        (((2, 2, L, 8), (2, 1, S, 8), (2, S, 12), (2, 1, L, S)), BOOL, {"fill": -1.5}, "q",
         ((66, 65), (3, 130))),
        (((2, L, 20), (2, S, 20), (2, S, 24)), FLOAT32, {"scale": 0.3}, "kv", LENGTHS),
        (((L, 33), (S, 33), (S, 66), (S,)), FLOAT32, {}, "q", ((7, 65), (65, 3))),
        (((L, 33), (S, 33), (S, 66), (L, 1)), FLOAT32, {"is_causal": True}, "kv",
         ((7, 65), (65, 3))),
        (((1, L, 100), (3, S, 100), (3, S, 128)), FLOAT32, {"scale": 0.1}, "kv", ((70, 129),)),
        (((1, L, 100), (3, S, 100), (3, S, 128)), FLOAT32, {"scale": 0.1}, "q", ((70, 129),)),
    )),
    "numbers": (1, ((3, 2), (symbol("L", 1, 1 << 16), 1))),  # queries, parts of the keys
    "broken": (3, (0, 3, 7, 1, 2, 4, 5, 6)),  # barriers
    "banks": (0, ((64, "kv"), (64, "q"), (128, "kv"), (128, "q"))),
    # depth, width, by what, is_causal, most registers
    "layer": (1, (
        (128, 128, "kv", True, 255), (64, 64, "q", True, 128), (64, 64, "kv", False, 255),
        (128, 128, "q", False, 255), (80, 80, "kv", True, 255), (16, 32, "kv", False, 255),
    )),
    "step": (0, (True, False)),  # is_causal
}  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize_rows(metafunc, ROWS)


def kernel_graph(shapes: Sequence[Shape], wrt: str, mask: DType = FLOAT32, **attrs: Any) -> Graph:
    """One of the two kernels over its operands and each query's numbers."""
    q, k, v = shapes[:3]
    batch = max((s[:-2] for s in shapes[:3]), key=lambda s: (len(s), s))
    row = (*batch, q[-2])
    dy = (*row, v[-1])
    b = Builder("gradient")
    names = ("q", "k", "v", "dy", "bases", "inverses", "deltas")
    inputs = [
        b.input(TensorType(FLOAT32, shape), name)
        for shape, name in zip((q, k, v, dy, row, row, row), names, strict=True)
    ]
    inputs += [b.input(TensorType(mask, shape), "m") for shape in shapes[3:]]
    made = b.add(FUSED, inputs, GradientAttrs(wrt=wrt, **attrs), "node")
    return b.build(made.outputs, ["y"])


def exact(
    inputs: Mapping[str, Array], scale: float = 1.0, is_causal: bool = False, fill: float = -np.inf,
    has_zeros: bool = False,
) -> dict[str, Array]:  # fmt: skip
    """All gradients, and each query's numbers, in float64 by the Jacobian of SciPy's softmax."""
    q, k, v, dy = (inputs[name].astype(np.float64) for name in ("q", "k", "v", "dy"))
    heads = dy.shape[:-2]
    q, k, v = (np.broadcast_to(x, (*heads, *x.shape[-2:])) for x in (q, k, v))
    scores = scale * np.einsum("...ld,...sd->...ls", q, k)
    seen = np.ones(scores.shape, np.bool_)
    if (mask := inputs.get("m")) is not None and mask.dtype == np.bool_:
        seen = np.broadcast_to(mask, scores.shape)
        scores = np.where(seen, scores, fill)
    elif mask is not None:
        scores = scores + mask
    if is_causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=np.bool_), scores, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = special.softmax(scores, axis=-1)
        weights = np.nan_to_num(weights) if has_zeros else weights
    products = np.einsum("...le,...se->...ls", dy, v)
    deltas = (weights * products).sum(axis=-1)
    slopes = np.where(seen, weights * (products - deltas[..., None]), 0) * scale
    largest = scores.max(axis=-1)
    bases = np.where(np.isinf(largest), 0, largest)
    with np.errstate(divide="ignore"):
        totals = np.exp(scores - bases[..., None]).sum(axis=-1)
        inverses = np.where((totals == 0) & has_zeros, 0, 1 / totals)
    return {
        "bases": bases, "inverses": inverses, "deltas": deltas,
        "q": np.einsum("...ls,...sd->...ld", slopes, k),
        "kv": np.concatenate([np.einsum("...ls,...ld->...sd", slopes, q),
                              np.einsum("...ls,...le->...se", weights, dy)], axis=-1),
    }  # fmt: skip


def values_of(graph: Graph, dims: Mapping[str, int]) -> dict[str, Array]:
    """Normal numbers; of a mask of bools every third is false, but the first key's."""
    rng = np.random.default_rng(0)
    found: dict[str, Array] = {}
    for value in graph.inputs:
        shape = value.type.evaluate(dims)
        found[value.label] = rng.standard_normal(shape).astype(np.float32)
        if value.dtype is BOOL:
            found[value.label] = rng.random(shape) < 0.67
            found[value.label][..., 0] = True
    return found


def errors(graph: Graph, dims: Mapping[str, int], inputs: dict[str, Array] | None = None) -> float:
    """Relative, of a kernel's whole output; NaN must be where the oracle has it."""
    (node,) = graph.nodes
    attrs = dict(vars(node.attrs))
    wrt = attrs.pop("wrt")
    given = inputs or values_of(graph, dims)
    wanted = exact(given, **attrs)
    for name in ("bases", "inverses", "deltas"):
        given[name] = wanted[name].astype(np.float32)
    (found,) = emulated.run(graph, given, dims)
    assert np.array_equal(np.isnan(found), np.isnan(wanted[wrt]))
    known = ~np.isnan(found)
    size = max(np.linalg.norm(wanted[wrt][known]), 1.0)  # one key has no slope
    return float(np.linalg.norm((found - wanted[wrt])[known]) / size)


@needs_compiler
def test_kernels(case: tuple[Any, ...]) -> None:
    """Odd lengths and heads, causal or not, with masks, and heads that share keys."""
    shapes, mask, attrs, wrt, lengths = case
    graph = kernel_graph(shapes, wrt, mask, **attrs)
    for queries, keys in lengths:
        assert errors(graph, {"L": queries, "S": keys}) <= 2e-6


@needs_compiler
def test_special_values() -> None:
    """Queries without keys that give zeros, a first tile that is hidden, and the lowest number as a
    mask, below which all weights of a query are equal."""
    shapes = ((L, 20), (S, 20), (S, 24), (L, S))
    graph = kernel_graph(shapes, "kv", has_zeros=True)
    dims = {"L": 5, "S": 130}
    inputs = values_of(graph, dims)
    inputs["m"][0], inputs["m"][1, :70], inputs["m"][2] = -np.inf, -np.inf, -3e38
    assert errors(graph, dims, inputs) <= 2e-6


@needs_compiler
def test_numbers_of_queries(numbers: tuple[Extent, int]) -> None:
    """From the forward kernel's parts."""
    queries, number = numbers
    b = Builder("numbers")
    shapes = ((queries, 8), (260, 8), (260, 8), (queries, 260))
    inputs = [
        b.input(TensorType(FLOAT32, shape), name)
        for shape, name in zip(shapes, "qkvm", strict=True)
    ]
    made = [
        b.add(NUMBERS, inputs, NumbersAttrs(0.4, has_zeros=True, which=which)).output
        for which in ("base", "inverse")
    ]
    graph, dims = b.build(made, ["bases", "inverses"]), {"L": 3}
    given = values_of(graph, dims)
    given["m"][0], given["m"][1, :200] = -np.inf, -np.inf
    _, placement, _ = plan({"run": graph}, PIPELINE)
    assert [k.buffers[-1].shape[0] for n, k in placement.forms.items() if "parts" in n] == [number]
    wanted = exact(given | {"dy": np.zeros((3, 8))}, 0.4, has_zeros=True)
    for name, one in zip(graph.output_names, emulated.run(graph, given, dims), strict=True):
        assert np.allclose(one, wanted[name], rtol=1e-6, atol=1e-7), name


# -- its faults are seen ---------------------------------------------------------------------------


SMALL = kernel_graph(((66, 4), (3, 4), (3, 4)), "kv", is_causal=True, scale=0.2)


@cache
def source_of(graph: Graph) -> tuple[KernelSource, Any]:
    _, placement, _ = plan({"run": graph}, PIPELINE)
    (name,) = placement.forms
    return placement.sources[name], placement.forms[name]


def launched(ptx: str, graph: Graph) -> tuple[Array, BankTraffic]:
    """The output that PTX makes of a static graph's inputs."""
    source, kernel = source_of(graph)
    y = np.full(graph.outputs[0].type.static_shape, np.nan, np.float32)
    arrays = [*values_of(graph, {}).values(), y, np.zeros(1, np.int32)]
    number = len(graph.inputs)
    return y, emulate(ptx, kernel.items, source.threads, arrays, inputs=number, flag=number + 1)


@needs_compiler
def test_each_barrier_is_needed(broken: int) -> None:
    """Two of scores, two of gradients, and two for each of both that are stored."""
    ptx = compile_kernel(source_of(SMALL)[0], ()).ptx
    assert barriers(ptx) == 8
    with pytest.raises(MemoryFault, match="race|never written|barrier|waited"):
        launched(without_barrier(ptx, broken), SMALL)


@needs_compiler
def test_each_wait_is_needed() -> None:
    ptx = compile_kernel(source_of(SMALL)[0], ()).ptx
    assert ptx.count("cp.async.wait_group 1;") == 4
    with pytest.raises(MemoryFault, match="waited|never written"):
        launched(ptx.replace("cp.async.wait_group 1;", "cp.async.wait_group 2;"), SMALL)


# -- gates -----------------------------------------------------------------------------------------


@needs_compiler
def test_banks_do_not_conflict(banks: tuple[int, str]) -> None:
    depth, wrt = banks
    graph = kernel_graph(((64, depth),) * 3, wrt)
    _, traffic = launched(compile_kernel(source_of(graph)[0], ()).ptx, graph)
    assert traffic.cycles == traffic.least


@needs_compiler
def test_layers_of_networks_pass_the_gates(layer: tuple[int, int, str, bool, int]) -> None:
    """For sm_80 and sm_90a, without spills, float64 or atomics: a sum's order is a block's own."""
    depth, width, wrt, is_causal, registers = layer
    shapes = ((16, 1024, depth), (16, 1024, depth), (16, 1024, width))
    source, _ = source_of(kernel_graph(shapes, wrt, is_causal=is_causal, scale=0.125))
    compiled = compile_kernel(source)
    assert "cp.async.cg" in compiled.ptx
    assert not re.search(r"\b(atom|red)\.|\.f64\b", compiled.ptx)
    for binary in compiled.binaries:
        assert binary.registers <= registers and binary.shared <= 48 << 10


# -- whole gradients, and choice -------------------------------------------------------------------


def differentiated(*shapes: Shape, dtype: DType = FLOAT32, **attrs: Any) -> Graph:
    """The output and the gradients of <attention, dy> by q, k and v."""
    b = Builder("attention")
    inputs = [
        b.input(TensorType(dtype, shape), name) for shape, name in zip(shapes, "qkvm", strict=False)
    ]
    y = b("attention", *inputs, label="node", **attrs)
    loss = b("mul", y, b.input(y.type, "dy"))
    graph = b.build([b("reduce_sum", loss, axes=tuple(range(y.type.rank)), keep=False), y],
                    ["loss", "y"])  # fmt: skip
    return gradient_graph(graph, "loss", "qkv")


def planned(graph: Graph, **options: Any) -> tuple[DevicePlacement, CudaOptions, Graph]:
    chosen = CudaOptions(**options)
    _, placement, fused = plan({"run": graph}, TRAINING_PIPELINE, chosen)
    return placement, chosen, fused["run"]


@needs_compiler
def test_whole_gradients(step: bool) -> None:
    """From the forward kernel's numbers to all gradients."""
    graph = differentiated((2, 70, 20), (1, 130, 20), (2, 130, 24), is_causal=step, scale=0.3)
    program, placement, _ = plan({"run": graph}, TRAINING_PIPELINE, CudaOptions(override=NAME))
    inputs = values_of(graph, {})
    run = emulated._Run(program, placement, program.entries[0], {}, "sm_80")
    found = dict(zip(graph.output_names, run.outputs(inputs), strict=True))
    wanted = exact(inputs, 0.3, step)
    k, v = np.split(wanted["kv"], [20], axis=-1)
    for name, one in (("q", wanted["q"]), ("k", k.sum(axis=0, keepdims=True)), ("v", v)):
        one = one.astype(np.float32)
        distance = np.linalg.norm(found[f"gradient of {name}"] - one)
        assert distance <= 2e-6 * np.linalg.norm(one), name


def test_two_kernels_make_three_gradients() -> None:
    """They share the forward kernel's parts and one kernel for keys and values; what the graph
    means stays."""
    graph = differentiated((2, 70, 20), (1, 130, 20), (2, 130, 24), (70, 130), scale=0.3)
    placement, options, fused = planned(graph, override=NAME)
    kinds = [d.strategy for d in options.decisions if d.op == "attention_gradient"]
    assert kinds == [NAME] * 3
    forms = [k.form for k in placement.forms.values() if isinstance(k.form, FusedGradient)]
    assert sorted(form.is_across for form in forms) == [False, True]
    assert sum("attention_parts" in name for name in placement.forms) == 1
    inputs = values_of(graph, {})
    for one, other in zip(interpret(fused, inputs), interpret(graph, inputs), strict=True):
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other)


def test_products_share_their_weights() -> None:
    """Where gradients are products, weights are made once, and no gradient flows through the
    largest score."""
    graph = differentiated((2, 9, 4), (2, 9, 4), (2, 9, 4), is_causal=True)
    _, options, fused = planned(graph)
    kinds = {d.strategy for d in options.decisions if d.op == "attention_gradient"}
    assert kinds == {"attention_gradient_direct"}
    ops = [n.op.name for node in fused.nodes if node.op.name == "kernel"
           for n in node.attrs.body.nodes]  # fmt: skip
    assert ops.count("reduce_max") == ops.count("exp") == 1 and "equal" not in ops


def test_a_long_training_step_has_attention_in_kernels() -> None:
    graph = decoder.graph(x=nl.tensor(2, 1024, 128))
    step = nl.training_graph(graph, nl.losses.mean_squared_error, nl.optimizers.SGD(0.1))
    options = CudaOptions()
    _, placement, _ = plan({"run": graph, "train_step": step}, TRAINING_PIPELINE, options)
    forms = [k.form for k in placement.forms.values() if isinstance(k.form, FusedGradient)]
    assert len(forms) == 2  # both blocks of the network have equal ones
    chosen = [d for d in options.decisions if d.op == "attention_gradient"]
    assert len(chosen) == 6 and all(d.strategy == NAME for d in chosen)
    assert all(d.seconds[NAME] < d.seconds["attention_gradient_direct"] for d in chosen)


@pytest.mark.parametrize(("shapes", "options", "reason"), [
    (((64, 129), (64, 129), (64, 8)), {}, "129 deep and 8 wide; the most is 128"),
    (((64, 8), (64, 8), (64, 8)), {"dtype": FLOAT16}, "computes in float16"),
    (((64, 8), (40000, 8), (40000, 8)), {}, "more than 32768 queries or keys"),
], ids=lambda x: str(x))  # fmt: skip
def test_what_they_are_not_for_says_why(
    shapes: Sequence[Shape], options: Mapping[str, Any], reason: str
) -> None:
    _, chosen, _ = planned(differentiated(*shapes, **options))
    for decision in (d for d in chosen.decisions if d.op == "attention_gradient"):
        assert decision.strategy == "attention_gradient_direct"
        assert reason in decision.rejected[NAME]
