"""Attention by blocks of keys against the oracle and against its direct form: awkward extents,
masks, causal, free dims, levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import netloom as nl
from netloom.compiler.dim import bounds, symbol
from netloom.compiler.driver import Compiled, Options, compile_graph, plan_graph
from netloom.compiler.graph import Builder, Graph, Value
from netloom.compiler.loops.attention import KEYS, MOST_TILES
from netloom.compiler.loops.ir import Kind, Store, walk
from netloom.compiler.loops.plan import CHAIN
from netloom.compiler.loops.verify import verify_kernel
from netloom.compiler.strategies import BY_NAME
from netloom.compiler.tensor_type import BOOL, FLOAT32, FLOAT64, DType, TensorType
from netloom.runtime.session import Session

from ...oracle import expected

Array = npt.NDArray[Any]
PROGRAM = 6  # attentions that are compiled as one program
HEADS: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (2, 3), (1, 4))
QUERIES = (1, 2, 5, 6, 7, 16, 23, 48, 61)
LENGTHS = (1, 3, 15, 16, 17, 63, 64, 65, 100, 128, 150)
DEPTHS = (1, 4, 7, 16, 20, 33)
WIDTHS = (1, 5, 16, 24, 65, 80)
MASKS = ("none", "added", "bools", "hiding rows")


class Drawn:
    """Attentions of random shapes as one graph, with their values and what they must give."""

    def __init__(self, seed: int, dtype: DType, count: int = PROGRAM) -> None:
        self.rng, self.dtype = np.random.default_rng(seed), dtype
        self.b, self.values = Builder("drawn"), []
        self.expected: list[Array] = []
        self.has_empty_rows: list[bool] = []
        self.graph = self.b.build([self._one(number) for number in range(count)])

    def _one(self, number: int) -> Value:
        heads = self.rng.choice(np.array(HEADS, dtype=object))
        queries, keys, depth, width = (
            int(self.rng.choice(row)) for row in (QUERIES, LENGTHS, DEPTHS, WIDTHS)
        )
        # keys and values of several heads
        shared = tuple(extent if self.rng.random() < 0.7 else 1 for extent in heads)
        arrays = [
            self._normal(*heads, queries, depth),
            self._normal(*shared, keys, depth),
            self._normal(*shared, keys, width),
        ]
        mask = MASKS[number % len(MASKS)]
        if mask == "added":
            arrays.append(
                self._normal(*heads[-1:], queries, keys) if number < 4 else self._normal(1, keys)
            )
        elif mask != "none":
            arrays.append(self.rng.random((queries, keys)) < 0.6)
            arrays[-1][:, 0] |= mask == "bools"
            arrays[-1][0] &= mask == "bools"  # else the first query sees nothing
        attrs = {
            "scale": float(self.rng.choice([1.0, 0.25])),
            "is_causal": bool(self.rng.random() < 0.4),
            "fill": -np.inf,
        }
        self.expected.append(expected("attention", arrays, attrs)[0])
        self.has_empty_rows.append(mask == "hiding rows")
        self.values += arrays
        inputs = [self.b.input(TensorType(BOOL if a.dtype == np.bool_ else self.dtype, a.shape),
                               f"x{number}_{place}")
                  for place, a in enumerate(arrays)]  # fmt: skip
        return self.b("attention", *inputs, label=f"node{number}", **attrs)

    def _normal(self, *shape: int) -> Array:
        return self.rng.standard_normal(shape).astype(self.dtype.numpy)

    def check(self, found: Any, bound: float) -> None:
        """Every result as near the oracle's as the budget says; NaN where a query sees no key,
        and only there.
        """
        for y, exact, has_empty in zip(found, self.expected, self.has_empty_rows, strict=True):
            assert (
                np.array_equal(np.isnan(y), np.isnan(exact)) and np.isnan(exact).any() == has_empty
            )
            error = np.linalg.norm(np.nan_to_num(y - exact)) / max(
                np.linalg.norm(np.nan_to_num(exact)), 1e-30
            )
            assert error <= bound, (y.shape, error)


def compiled(graph: Graph, name: str, **options: Any) -> Compiled:
    made = compile_graph(graph, Options(override=name, **options))
    assert {decision.strategy for decision in made.decisions} == {name}
    return made


def run(made: Compiled, values: list[Array], threads: int | None = None) -> Any:
    found = Session.in_process(made.image, threads=threads)(*values)
    return found if isinstance(found, tuple | list) else [found]


@pytest.mark.parametrize("seed", range(2))
def test_random_shapes_and_masks(seed: int) -> None:
    drawn = Drawn(seed, FLOAT32)
    budget, accuracy = BY_NAME["attention_online"].level(drawn.graph.nodes[0])
    assert accuracy == "strict"
    online = compiled(drawn.graph, "attention_online")
    drawn.check(run(online, drawn.values), budget)
    for kernel in online.program.kernels.values():
        assert not verify_kernel(kernel), "an index could not be proved"


def test_the_direct_form_agrees() -> None:
    drawn = Drawn(0, FLOAT32, 4)
    drawn.check(run(compiled(drawn.graph, "attention_direct"), drawn.values), 2e-6)


def test_float64() -> None:
    drawn = Drawn(7, FLOAT64, 4)
    drawn.check(run(compiled(drawn.graph, "attention_online"), drawn.values), 2e-14)


@pytest.mark.parametrize("cpu", ["x86-64-v2", "x86-64-v3"])
def test_other_levels(cpu: str) -> None:
    drawn = Drawn(11, FLOAT32, 3)
    drawn.check(run(compiled(drawn.graph, "attention_online", cpu=cpu), drawn.values), 2e-6)


def test_bits_do_not_depend_on_threads() -> None:
    drawn = Drawn(3, FLOAT32, 3)
    one, two, three = (
        run(compiled(drawn.graph, "attention_online", threads=n), drawn.values) for n in (1, 2, 3)
    )
    for a, b, c in zip(one, two, three, strict=True):
        assert a.tobytes() == b.tobytes() == c.tobytes()


@pytest.mark.parametrize("is_causal", [False, True])
def test_free_lengths_and_batches(is_causal: bool) -> None:
    n, length, keys = symbol("N", 1, 64), symbol("L", 1, 4096), symbol("S", 1, 4096)
    b = Builder("free")
    shapes = ((n, 2, length, 12), (n, 2, keys, 12), (n, 2, keys, 20), (n, 1, 1, keys))
    graph = b.build([b("attention",
                       *(b.input(TensorType(FLOAT32, s), x) for s,
                         x in zip(shapes, "qkvm", strict=True)),
                       is_causal=is_causal, scale=0.3)])  # fmt: skip
    made = compiled(graph, "attention_online", threads=2)
    assert not any(verify_kernel(kernel) for kernel in made.program.kernels.values())
    rng = np.random.default_rng(5)
    for samples, queries, count in ((1, 1, 1), (3, 7, 64), (2, 50, 141), (2, 33, 16)):
        shapes_ = (
            (samples, 2, queries, 12),
            (samples, 2, count, 12),
            (samples, 2, count, 20),
            (samples, 1, 1, count),
        )
        values = [rng.standard_normal(shape).astype(np.float32) for shape in shapes_]
        exact = expected(
            "attention", values, {"scale": 0.3, "is_causal": is_causal, "fill": -np.inf}
        )[0]
        (found,) = run(made, values)
        assert np.linalg.norm(found - exact) <= 2e-6 * np.linalg.norm(exact)


def test_special_values_are_those_of_the_direct_form() -> None:
    """Infinite and NaN scores, and rows whose first blocks are hidden: no NaN comes where the
    direct form has none.
    """
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((20, 130, 8)).astype(np.float32) for _ in range(3))
    mask = np.zeros((20, 130, 130), np.float32)
    mask[0, :, :64] = mask[1, :, :100] = mask[2, :, 64:] = mask[3, 5] = -np.inf
    mask[4, 3, 70], mask[5, 4, 2], mask[6, 4, 2], mask[7, 9] = np.inf, np.nan, -np.inf, -1e30
    mask[8, :, 128:] = 1e30
    k[9, 7] *= 1e4
    b = Builder("special")
    graph = b.build(
        [
            b(
                "attention",
                *(
                    b.input(TensorType(FLOAT32, x.shape), n)
                    for x, n in zip((q, k, v, mask), "qkvm", strict=True)
                ),
            )
        ]
    )
    (online,), (direct,) = (
        run(compiled(graph, f"attention_{name}"), [q, k, v, mask]) for name in ("online", "direct")
    )
    assert np.array_equal(np.isnan(online), np.isnan(direct))
    assert (
        np.isnan(direct[3, 5]).all()
        and np.isnan(direct[4, 3]).all()
        and np.isnan(direct[5, 4]).all()
    )
    assert np.allclose(online, direct, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_the_error_does_not_grow_with_the_keys() -> None:
    """The sum's factors cancel: 4096 keys in rising order of their scores raise the largest
    score in every block.
    """
    rng = np.random.default_rng(2)
    keys, v = 4096, rng.standard_normal((1, 4096, 16)).astype(np.float32)
    q, k = (
        np.ones((1, 6, 1), np.float32),
        np.linspace(0, 12, keys, dtype=np.float32).reshape(1, keys, 1),
    )
    b = Builder("rising")
    graph = b.build(
        [
            b(
                "attention",
                *(
                    b.input(TensorType(FLOAT32, x.shape), n)
                    for x, n in zip((q, k, v), "qkv", strict=True)
                ),
            )
        ]
    )
    exact = expected("attention", [q, k, v], {"scale": 1.0, "is_causal": False, "fill": -np.inf})[0]
    (found,) = run(compiled(graph, "attention_online"), [q, k, v])
    assert np.linalg.norm(found - exact) <= 2e-6 * np.linalg.norm(exact)


# -- what is made ----------------------------------------------------------------------------------


@nl.network
def transformer(x: Any) -> Any:
    """A pre-norm block with four heads."""
    n, length, width = x.shape
    normal = nl.layer_norm(x)
    heads = [
        nl.transpose(nl.reshape(nl.dense(normal, width), (n, length, 4, width // 4)), (0, 2, 1, 3))
        for _ in range(3)
    ]
    met = nl.reshape(
        nl.transpose(nl.attention(*heads, causal=True), (0, 2, 1, 3)), (n, length, width)
    )
    x = x + nl.dense(met, width)
    return x + nl.dense(nl.gelu(nl.dense(nl.layer_norm(x), 2 * width)), width)


@pytest.mark.parametrize("shape", [(2, 200, 64), ("N", "L", 64)], ids=str)
def test_no_scores_in_memory(shape: tuple[Any, ...]) -> None:
    """The direct form has buffers of heads x l x l; the online one none, and its attention is
    two kernels.
    """
    graph = transformer.graph(x=nl.tensor(*shape))
    online, direct = (
        plan_graph(graph, Options(override=name)) for name in ("auto", "attention_direct")
    )
    assert [decision.strategy for decision in online.decisions] == ["attention_online"]
    ops = [
        [n.op.name for n in node.attrs.body.nodes]
        for node in online.graphs["run"].nodes
        if node.op.name == "kernel"
    ]
    assert (
        sum("key_panels" in names for names in ops)
        == sum("attention_online" in names for names in ops)
        == 1
    )
    values = {"N": 2, "L": 200}
    scores = 2 * 4 * 200 * 200

    def largest(made: Compiled) -> int:
        return max(value.type.elements if isinstance(value.type.elements,
                                                     int) else int(np.prod(value.type.evaluate(values)))
                   for node in made.graphs["run"].nodes for value in node.outputs)  # fmt: skip

    assert largest(direct) >= scores > largest(online) * 2


def test_a_transformer_agrees_with_its_direct_form() -> None:
    graph = transformer.graph(x=nl.tensor("N", "L", 64))
    x = np.random.default_rng(0).standard_normal((2, 150, 64)).astype(np.float32)
    online, direct = (
        nl.compile(graph, conv_strategy=f"attention_{name}")(x) for name in ("online", "direct")
    )
    assert np.linalg.norm(online - direct) <= 2e-6 * np.linalg.norm(direct)


def test_attention_trains() -> None:
    @nl.network
    def looking_back(x: Any) -> Any:
        return nl.attention(nl.dense(x, 8), x, x, causal=True)

    x = np.random.default_rng(0).standard_normal((2, 9, 8)).astype(np.float32)
    trainer = nl.compile_training(looking_back.graph(x=nl.tensor(2, 9, 8)),
                                  loss=nl.losses.mean_squared_error,
                                  optimizer=nl.optimizers.SGD(0.5))  # fmt: skip
    losses = [trainer.step(x, x)["loss"] for _ in range(5)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("form", ["plain", "mask", "causal", "fewer heads of keys", "packed heads"])
def test_attention_of_the_onnx_standard(form: str) -> None:
    """A row that sees no key is zeros there."""
    rng = np.random.default_rng(4)
    heads = {"Q": 4, "K": 2, "V": 2} if form == "fewer heads of keys" else dict.fromkeys("QKV", 4)
    arrays = [rng.standard_normal((2, count, 70, 8)).astype(np.float32) for count in heads.values()]
    attributes: dict[str, int] = {"is_causal": 1} if form == "causal" else {}
    if form == "packed heads":
        arrays, attributes = (
            [x.reshape(2, 70, 32) for x in arrays],
            {"q_num_heads": 4, "kv_num_heads": 4},
        )
    if form == "mask":
        arrays.append(
            np.where(rng.random((70, 70)) < 0.7, rng.standard_normal((70, 70)), -np.inf).astype(
                np.float32
            )
        )
        arrays[-1][3] = -np.inf
    names = list("QKVM")[: len(arrays)]
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape)
        for n, x in zip(names, arrays, strict=True)
    ]
    inner = helper.make_graph(
        [helper.make_node("Attention", names, ["Y"], **attributes)],
        "g",
        ports,
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(inner, opset_imports=[helper.make_opsetid("", 23)])
    (found,) = run(compiled(nl.from_onnx(model), "attention_online"), arrays)
    exact = ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))[0]
    # the evaluator works in float32 too
    assert np.linalg.norm(found - exact) <= 4e-6 * np.linalg.norm(exact)
    assert form != "mask" or (not found[:, :, 3].any() and not exact[:, :, 3].any())


def decided(*shapes: tuple[int, ...], dtype: DType = FLOAT32, cpu: str = "host") -> Any:
    """What is chosen for queries, keys and values of these shapes."""
    b = Builder("shape")
    q, k, v = (
        b.input(TensorType(dtype, shape), name) for shape, name in zip(shapes, "qkv", strict=True)
    )
    graph = b.build([b("attention", q, k, v, label="node")])
    (decision,) = plan_graph(graph, Options(cpu=cpu)).decisions
    return decision


MEASURED = [  # heads, queries, keys, depth, and what takes less time on one core of a Zen 4
    (16, 8, 8, 32, "attention_direct"),
    (12, 1, 512, 64, "attention_direct"),
    (12, 2, 200, 64, "attention_direct"),
    (12, 6, 384, 64, "attention_direct"),
    (8, 16, 77, 40, "attention_online"),
    (12, 32, 32, 64, "attention_online"),
    (64, 49, 49, 32, "attention_online"),
    (12, 64, 64, 64, "attention_online"),
    (12, 197, 197, 64, "attention_online"),
    (4, 1024, 1024, 64, "attention_online"),
]


@pytest.mark.parametrize(("heads", "queries", "keys", "depth", "faster"), MEASURED)
def test_the_faster_form_is_chosen(
    heads: int, queries: int, keys: int, depth: int, faster: str
) -> None:
    other = (heads, keys, depth)
    decision = decided((heads, queries, depth), other, other, cpu="x86-64-v4")
    assert decision.strategy == faster, decision.seconds


def test_selection_says_why() -> None:
    """Long sequences go by blocks; one query does not pay for putting the keys into panels; what
    it cannot do it says.
    """
    long, one = (
        decided((8, 512, 64), (8, 512, 64), (8, 512, 64)),
        decided((8, 1, 64), (8, 512, 64), (8, 512, 64)),
    )
    assert (
        long.strategy == "attention_online"
        and long.seconds["attention_direct"] > long.seconds["attention_online"]
    )
    assert (
        one.strategy == "attention_direct"
        and one.seconds["attention_online"] > one.seconds["attention_direct"]
    )
    deep = decided((1, 64, CHAIN + 1), (1, 64, CHAIN + 1), (1, 64, 16))
    assert deep.strategy == "attention_direct" and "deep" in deep.rejected["attention_online"]
    half = decided(*[(8, 512, 64)] * 3, dtype=DType.FLOAT16)  # computed in float32
    assert half.strategy == "attention_online"


def test_chains_are_short() -> None:
    """Registers add up a head's depth or a block's keys; blocks add to what is kept in memory."""
    drawn = Drawn(2, FLOAT32, 4)
    for kernel in plan_graph(
        drawn.graph, Options(override="attention_online")
    ).program.kernels.values():
        stored = {s.buffer for s in walk(kernel.body) if isinstance(s, Store)}
        if not any(buffer.is_local for buffer in stored):
            continue
        loops = [s for s in walk(kernel.body) if getattr(s, "kind", None) is Kind.SERIAL]
        assert all(
            _most(s.extent) <= max(KEYS, MOST_TILES, *DEPTHS)
            for s in loops
            if s.variable.name in ("d", "j", "t")
        )


def _most(extent: Any) -> int:
    high = bounds(extent)[1]
    assert isinstance(high, int)
    return high
