"""Vector math: error bounds and special values of every formula, with and without fma, as trees and
as compiled code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import llvmlite.binding as llvm
import numpy as np
import pytest

from netloom.compiler import scalar
from netloom.compiler.dim import Dim
from netloom.compiler.loops.ir import LANE, LANES, Buffer, Kernel, Kind, Load, Store, loop, variable
from netloom.compiler.scalar import Argument, Call, Expr, Literal, call
from netloom.compiler.targets.cpu.llvm import compile_kernels, kernels_as_assembly
from netloom.compiler.targets.cpu.machine import CPUS, Cpu, host_cpu, host_cpus
from netloom.compiler.targets.cpu.vector_math import (
    OPERATION_COUNTS,
    SINE_LIMITS,
    ULP_BOUNDS,
    expand,
    expand_all,
)
from netloom.compiler.tensor_type import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, DType
from tests.compiler.targets.cpu.vector_math_oracle import (
    ORACLE,
    Array,
    Wide,
    erf,
    exact_values,
    inf,
    nan,
    samples_of,
    ulp_error,
)

CASES = [pytest.param(name, dtype, id=f"{name}-{dtype.value}") for name, dtype in ULP_BOUNDS]


def _arguments(function: str) -> list[int]:
    return list(range(scalar.SCALAR_FUNCTIONS[function].arity))


def _call(function: str, dtype: DType) -> Call:
    node = call(function, *(Argument(position, dtype) for position in _arguments(function)))
    assert isinstance(node, Call)
    return node


def _tree(function: str, dtype: DType, fused: bool) -> Expr:
    tree = expand(_call(function, dtype))
    assert tree is not None
    return tree if fused else _rewritten(tree, _without_fma)


def _rewritten(root: Expr, replace: Callable[[Expr], Expr]) -> Expr:
    done: dict[int, Expr] = {}
    for node in scalar.post_order([root]):
        done[id(node)] = replace(
            scalar.with_children(node, [done[id(child)] for child in scalar.children(node)])
        )
    return done[id(root)]


def _without_fma(node: Expr) -> Expr:
    match node:
        case Call("fma", (x, y, z), _):
            return x * y + z
        case _:
            return node


def test_the_oracle_knows_erf() -> None:
    x = np.linspace(-7, 7, 999)
    assert ulp_error(np.asarray([math.erf(v) for v in x]), erf(x.astype(Wide))) < 1.0


# -- bounds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False], ids=["fma", "mul+add"])
@pytest.mark.parametrize(("function", "dtype"), CASES)
def test_formula_keeps_its_bound(function: str, dtype: DType, fused: bool) -> None:
    samples = samples_of(function, dtype)
    result = scalar.evaluate(_tree(function, dtype, fused), samples)
    assert result.dtype == dtype.numpy
    assert ulp_error(result, exact_values(function, samples)) <= ULP_BOUNDS[function, dtype]


# How many last places of the most sensitive coefficient break the bound; float32 pow is computed in
# float64.
STEPS = {
    ("exp", FLOAT32): 1,
    ("exp", FLOAT64): 1,
    ("sin", FLOAT32): 1 << 20,
    ("cos", FLOAT32): 1 << 20,
    ("pow", FLOAT32): 1 << 28,
}


@pytest.mark.parametrize(("function", "dtype"), CASES)
def test_a_changed_coefficient_breaks_the_bound(function: str, dtype: DType) -> None:
    samples = [x[::3] for x in samples_of(function, dtype)]
    tree = _tree(function, dtype, fused=True)
    exact = exact_values(function, samples)
    steps = STEPS.get((function, dtype), 8)
    for coefficient in scalar.post_order([tree]):
        if not (isinstance(coefficient, Literal) and _is_fraction(coefficient)):
            continue
        changed = _rewritten(
            tree, lambda node, c=coefficient: _moved(c, steps) if node is c else node
        )  # type: ignore[misc]
        if ulp_error(scalar.evaluate(changed, samples), exact) > ULP_BOUNDS[function, dtype]:
            return
    pytest.fail("no coefficient matters: the samples or the bound are too weak")


def _is_fraction(node: Literal) -> bool:
    return (
        node.dtype.is_float
        and math.isfinite(node.value)
        and 2 * node.value != round(2 * node.value)
    )


def _moved(node: Literal, steps: int) -> Literal:
    return Literal(
        float(node.value + steps * np.spacing(node.dtype.numpy.type(node.value))), node.dtype
    )


# -- special values --------------------------------------------------------------------------------

SPECIAL: list[tuple[str, tuple[float, ...], float]] = [
    ("exp", (0.0,), 1.0), ("exp", (-0.0,), 1.0), ("exp", (inf,), inf), ("exp", (-inf,), 0.0),
    ("exp", (1e30,), inf),
    ("exp", (-1e30,), 0.0), ("exp", (nan,), nan), ("log", (0.0,), -inf), ("log", (-0.0,), -inf),
    ("log", (-1.0,), nan),
    ("log", (-inf,), nan), ("log", (inf,), inf), ("log", (1.0,), 0.0), ("log", (nan,), nan),
    ("log", (-1e-40,), nan),
    ("tanh", (0.0,), 0.0), ("tanh", (-0.0,), -0.0), ("tanh", (inf,), 1.0), ("tanh", (-inf,), -1.0),
    ("tanh", (nan,), nan),
    ("erf", (0.0,), 0.0), ("erf", (-0.0,), -0.0), ("erf", (inf,), 1.0), ("erf", (-inf,), -1.0),
    ("erf", (nan,), nan),
    ("sin", (0.0,), 0.0), ("sin", (-0.0,), -0.0), ("sin", (inf,), nan), ("sin", (-inf,), nan),
    ("sin", (nan,), nan),
    ("cos", (0.0,), 1.0), ("cos", (-0.0,), 1.0), ("cos", (inf,), nan), ("cos", (-inf,), nan),
    ("cos", (nan,), nan),
]  # fmt: skip
POW_VALUES = (
    0.0,
    -0.0,
    0.5,
    -0.5,
    1.0,
    -1.0,
    2.0,
    -2.0,
    3.0,
    -3.0,
    1.5,
    -1.5,
    4.0,
    1e30,
    -1e30,
    1e-40,
    inf,
    -inf,
    nan,
)


@pytest.mark.parametrize("fused", [True, False], ids=["fma", "mul+add"])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=lambda dtype: dtype.value)
def test_special_values(dtype: DType, fused: bool) -> None:
    for function, arguments, expected in SPECIAL:
        inputs = [np.asarray([a], dtype.numpy) for a in arguments]
        result = scalar.evaluate(_tree(function, dtype, fused), inputs)
        assert _is_same(result, np.asarray([expected], dtype.numpy)), (
            f"{function}{arguments} = {result[0]}"
        )


@pytest.mark.parametrize("fused", [True, False], ids=["fma", "mul+add"])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=lambda dtype: dtype.value)
def test_special_values_of_pow(dtype: DType, fused: bool) -> None:
    """NumPy's pow on scalars is C's; every pair of special values, with signs of zero."""
    x, y = (
        np.asarray(v, dtype.numpy)
        for v in zip(*itertools.product(POW_VALUES, POW_VALUES), strict=True)
    )
    with np.errstate(all="ignore"):
        expected = np.asarray(
            [np.float64(a) ** np.float64(b) for a, b in zip(x, y, strict=True)]
        ).astype(dtype.numpy)
    result = scalar.evaluate(_tree("pow", dtype, fused), [x, y])
    exact = ~np.isfinite(expected) | (np.abs(expected) <= 1) & (expected == np.rint(expected))
    assert _is_same(result[exact], expected[exact])
    assert ulp_error(result, exact_values("pow", [x, y])) <= ULP_BOUNDS["pow", dtype]
    assert (
        np.isnan(expected).any()
        and np.isinf(expected).any()
        and np.signbit(expected[expected == 0]).any()
    )


def _is_same(x: Array, y: Array) -> bool:
    """Equal, with the same signs (also of zero); NaN equals NaN of either sign."""
    return bool(np.all(((x == y) & (np.signbit(x) == np.signbit(y))) | (np.isnan(x) & np.isnan(y))))


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=lambda dtype: dtype.value)
def test_limits_of_exp(dtype: DType) -> None:
    """The largest finite result, the first infinite one, the smallest denormal and the first
    zero.
    """
    info = np.finfo(dtype.numpy)
    top = np.asarray(np.log(Wide(info.max))).astype(dtype.numpy)
    top = (
        top
        if np.exp(top.astype(Wide)) <= Wide(info.max)
        else np.nextafter(top, dtype.numpy.type(0))
    )
    bottom = np.asarray(np.log(Wide(info.smallest_subnormal) / 2)).astype(dtype.numpy)
    x = np.stack(
        [
            top,
            np.nextafter(top, dtype.numpy.type(inf)),
            bottom * dtype.numpy.type(0.999),
            bottom * dtype.numpy.type(1.001),
        ]
    )
    result = scalar.evaluate(_tree("exp", dtype, fused=True), [x])
    assert (
        np.isfinite(result[0])
        and result[1] == inf
        and result[2] == info.smallest_subnormal
        and result[3] == 0
    )


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("function", ["tanh", "erf", "sin"])
def test_odd_functions_are_odd(function: str, dtype: DType) -> None:
    x = samples_of(function, dtype)[0]
    tree = _tree(function, dtype, fused=True)
    assert _is_same(scalar.evaluate(tree, [-x]), -scalar.evaluate(tree, [x]))


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("function", ["sin", "cos"])
def test_beyond_the_limit_results_stay_in_range(function: str, dtype: DType) -> None:
    x = np.geomspace(SINE_LIMITS[dtype], float(np.finfo(dtype.numpy).max) / 2, 9999).astype(
        dtype.numpy
    )
    assert np.all(np.abs(scalar.evaluate(_tree(function, dtype, fused=True), [x])) <= 1)


# -- rewriting -------------------------------------------------------------------------------------


def _functions(root: Expr) -> set[str]:
    return {node.function for node in scalar.post_order([root]) if isinstance(node, Call)}


def test_primitives_are_not_expanded() -> None:
    x = Argument(0, FLOAT32)
    root = scalar.maximum(x * 2.0, call("sqrt", x))
    assert isinstance(root, Call) and expand(root) is None
    assert expand_all(root) is root


def test_nested_calls_are_expanded_and_shared_ones_once() -> None:
    inner = call("tanh", Argument(0, FLOAT32))
    expanded = expand_all(call("exp", inner) + call("log", inner))
    assert not _functions(expanded) & set(ORACLE)
    counts = {name: OPERATION_COUNTS[name, FLOAT32] for name in ("exp", "log", "tanh")}
    assert (
        sum(isinstance(node, Call) for node in scalar.post_order([expanded]))
        == sum(counts.values()) + 1
    )
    x = np.linspace(0.1, 3, 99, dtype=np.float32)
    wide = np.tanh(x.astype(np.float64))
    np.testing.assert_allclose(
        scalar.evaluate(expanded, [x]), np.exp(wide) + np.log(wide), rtol=2e-6, atol=1e-7
    )


def test_chains_need_no_recursion() -> None:
    root: Expr = Argument(0, FLOAT32)
    for _ in range(200):
        root = call("tanh", root)
    assert not _functions(expand_all(root)) & set(ORACLE)


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=lambda dtype: dtype.value)
@pytest.mark.parametrize("function", ["exp", "log", "tanh", "erf"])
def test_small_dtypes_compute_in_float32(function: str, dtype: DType) -> None:
    x = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(dtype.numpy)
    result = scalar.evaluate(_tree(function, dtype, fused=True), [x])
    assert result.dtype == dtype.numpy
    with np.errstate(all="ignore"):
        exact = exact_values(function, [x.astype(np.float64)]).astype(np.float64)
        low, high = (
            ((exact * (1 + sign * 2.0**-22)).astype(np.float32)).astype(dtype.numpy)
            for sign in (-1, 1)
        )
    assert np.all((result == low) | (result == high) | (np.isnan(result) & np.isnan(exact)))


def test_operation_counts_are_those_of_the_trees() -> None:
    assert OPERATION_COUNTS.keys() == ULP_BOUNDS.keys()
    assert OPERATION_COUNTS["exp", FLOAT32] == 20  # softmax and most activations wait for this one
    assert (
        OPERATION_COUNTS["exp", FLOAT32]
        < OPERATION_COUNTS["tanh", FLOAT32]
        < OPERATION_COUNTS["pow", FLOAT32]
    )


# -- compiled code ---------------------------------------------------------------------------------

KERNEL = "formula"


def _compiled(function: str, dtype: DType, cpu: Cpu, samples: Sequence[Array]) -> Array:
    """The formula over samples in compiled vector code; the number of samples is cut to whole
    vectors.
    """
    blocks = samples[0].size // LANES
    inputs = [np.ascontiguousarray(x[: blocks * LANES]) for x in samples]
    result = np.zeros(blocks * LANES, dtype.numpy)
    item = variable("item", blocks)
    buffers = [Buffer(f"x{i}", dtype, (blocks, LANES)) for i in range(len(inputs) + 1)]
    index = (Dim.of(item), Dim.of(LANE))
    value = call(function, *(Load(buffer, index) for buffer in buffers[:-1]))
    body = loop(LANE, LANES, Store(buffers[-1], index, value), Kind.VECTOR)
    code = compile_kernels({KERNEL: Kernel(KERNEL, tuple(buffers), (), blocks, item, body)}, cpu)
    words = np.asarray([x.ctypes.data for x in (*inputs, result)] + [0], np.uint64)
    _run(code, words, blocks)
    return result


def _run(code: bytes, words: Array, items: int) -> None:
    import ctypes

    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True)
    compiler = llvm.create_lljit_compiler(machine, use_jit_link=True)
    library = (
        llvm.JITLibraryBuilder().add_object_img(code).export_symbol(KERNEL).link(compiler, KERNEL)
    )
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(library[KERNEL])
    run(words.ctypes.data, 0, items)


@pytest.mark.parametrize(("function", "dtype"), CASES)
def test_compiled_code_keeps_the_bound(function: str, dtype: DType) -> None:
    """No process symbols are linked, so a call of a mathematical library could not even be
    loaded.
    """
    samples = [x[: x.size // LANES * LANES] for x in samples_of(function, dtype)]
    assert (
        ulp_error(_compiled(function, dtype, host_cpu(), samples), exact_values(function, samples))
        <= ULP_BOUNDS[function, dtype]
    )


@pytest.mark.parametrize(("function", "dtype"), CASES)
def test_compiled_code_without_fma_is_the_tree_to_the_bit(function: str, dtype: DType) -> None:
    samples = [x[: x.size // LANES * LANES] for x in samples_of(function, dtype)]
    expected = scalar.evaluate(_tree(function, dtype, fused=False), samples)
    for level in ("x86-64", "x86-64-v2"):
        assert _is_same(_compiled(function, dtype, CPUS[level], samples), expected)


def test_an_instruction_scales_by_powers_of_two() -> None:
    """exp gives the same bits by it as by two products."""
    samples = [x[: x.size // LANES * LANES] for x in samples_of("exp", FLOAT32)]
    levels = [cpu for cpu in host_cpus() if cpu.has_fma]
    found = [_compiled("exp", FLOAT32, cpu, samples) for cpu in levels]
    assert all(_is_same(other, found[0]) for other in found[1:])
    x, y = (Buffer(name, FLOAT32, (LANES,)) for name in ("x", "y"))
    value = call("exp", Load(x, (Dim.of(LANE),)))
    body = loop(LANE, LANES, Store(y, (Dim.of(LANE),), value), Kind.VECTOR)
    kernel = Kernel(KERNEL, (x, y), (), 1, variable("item", 1), body)
    for cpu in CPUS.values():
        if cpu.architecture.is_native:
            text = kernels_as_assembly({KERNEL: kernel}, cpu)
            assert ("vscalefps" in text) == cpu.has_scaling == cpu.llvm_name.startswith("x86-64-v4")
