"""Layers against SciPy and plain NumPy loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.signal import correlate

from netloom.compiler.interpret import interpret, interpret_step
from netloom.errors import ShapeError, UsageError
from netloom.frontends import dsl as nl

Array = np.ndarray


def run(function: Callable[[nl.Symbolic], nl.Symbolic], x: Array) -> tuple[Array, dict[str, Array]]:
    """(what the layer gives, its states: biases count from 0 and scales from 1, so that no element
    can stand for another one)
    """
    made = nl.network(lambda x: function(x)).graph(
        x=nl.tensor(*x.shape, dtype=x.dtype.name), seed=4
    )
    states = {state.name: np.array(state.initial.array) for state in made.states}
    states |= {n: np.arange(a.size, dtype=a.dtype) for n, a in states.items() if n.endswith("bias")}
    states |= {n: 1 + np.arange(a.size, dtype=a.dtype).reshape(a.shape) for n, a in states.items()
               if n.endswith("scale")}  # fmt: skip
    return interpret(made, {"x": x}, states)[0], states


def convolved(
    x: Array,
    w: Array,
    bias: Array,
    stride: int,
    pads: list[tuple[int, int]],
    dilation: int,
    groups: int,
) -> Array:
    """The sum over channels of SciPy's correlation, with the dilated kernel written out."""
    spatial = x.ndim - 2
    spread = np.zeros((*w.shape[:2], *((k - 1) * dilation + 1 for k in w.shape[2:])))
    spread[(..., *(slice(None, None, dilation),) * spatial)] = w
    x = np.pad(x, [(0, 0), (0, 0), *pads])
    per, out = w.shape[1], w.shape[0] // groups
    rows = [
        [
            sum(correlate(x[n, o // out * per + c], spread[o, c], "valid") for c in range(per))
            + bias[o]
            for o in range(len(w))
        ]
        for n in range(len(x))
    ]
    return np.array(rows)[(..., *(slice(None, None, stride),) * spatial)]


@pytest.mark.parametrize(
    ("rank", "stride", "padding", "pads", "dilation", "groups"),
    [
        (1, 1, "valid", [(0, 0)], 1, 1),
        (1, 2, "same", [(1, 1)], 1, 2),
        (2, 1, "same", [(1, 1), (1, 1)], 1, 1),
        (2, 2, "same", [(1, 1), (0, 1)], 1, 1),
        (2, 1, [(2, 0), (0, 1)], [(2, 0), (0, 1)], 1, 2),
        (2, 2, (1, 2), [(1, 1), (2, 2)], 2, 1),
        (3, 1, 1, [(1, 1)] * 3, 1, 1),
    ],
)
def test_convolution(
    rank: int, stride: int, padding: Any, pads: list[tuple[int, int]], dilation: int, groups: int
) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, *(7, 8, 5)[:rank]))
    layer = {1: nl.conv1d, 2: nl.conv2d, 3: nl.conv3d}[rank]
    y, s = run(
        lambda v: layer(v, 6, 3, stride=stride, padding=padding, dilation=dilation, groups=groups),
        x,
    )
    expected = convolved(x, s["conv1.weight"], s["conv1.bias"], stride, pads, dilation, groups)
    np.testing.assert_allclose(y, expected, atol=1e-12)


def test_transposed_convolution_is_the_adjoint() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 5))
    y, s = run(lambda v: nl.conv_transpose2d(v, 2, 3, stride=2, padding=1, extra=1, bias=False), x)
    assert y.shape == (1, 2, 8, 10)
    z = np.random.default_rng(1).standard_normal(y.shape)
    w = s["conv_transpose1.weight"]
    forward = convolved(z, w, np.zeros(3), 2, [(1, 1), (1, 1)], 1, 1)
    np.testing.assert_allclose(np.vdot(y, z), np.vdot(x, forward), rtol=1e-12)


def test_dense_embedding_and_layer_norm() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    y, s = run(lambda v: nl.dense(v, 5), x)
    np.testing.assert_allclose(y, x @ s["dense1.weight"] + s["dense1.bias"], atol=1e-12)
    indices = np.array([[0, 2], [1, 1]])
    y, s = run(lambda v: nl.embedding(v, 3, 4), indices)
    np.testing.assert_array_equal(y, s["embedding1.weight"][indices])
    y, s = run(lambda v: nl.layer_norm(v), x)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(
        y, expected * s["layer_norm1.scale"] + s["layer_norm1.bias"], atol=1e-12
    )


def test_pooling() -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 6, 6))
    blocks = x.reshape(1, 2, 3, 2, 3, 2)
    np.testing.assert_array_equal(run(lambda v: nl.max_pool2d(v, 2), x)[0], blocks.max((3, 5)))
    np.testing.assert_allclose(
        run(lambda v: nl.average_pool2d(v, 2), x)[0], blocks.mean((3, 5)), atol=1e-12
    )
    np.testing.assert_allclose(run(nl.global_average_pool, x)[0], x.mean((2, 3)), atol=1e-12)
    shifted = run(lambda v: nl.max_pool2d(v, 3, stride=2, padding=1), x)[0]
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    np.testing.assert_array_equal(shifted[0, 1, 2, 0], padded[0, 1, 4:7, 0:3].max())
    corner = run(lambda v: nl.average_pool2d(v, 2, padding=1), x)[0]
    np.testing.assert_allclose(corner[..., 0, 0], x[..., 0, 0], atol=1e-12)
    counted = run(lambda v: nl.average_pool2d(v, 2, padding=1, count_padding=True), x)[0]
    np.testing.assert_allclose(counted[..., 0, 0], x[..., 0, 0] / 4, atol=1e-12)


def test_local_response_normalization() -> None:
    x = np.random.default_rng(0).standard_normal((1, 7, 2, 2))
    y, _ = run(lambda v: nl.lrn(v, size=5, alpha=0.3, beta=0.75, bias=2.0), x)
    squares = [np.square(x[:, max(c - 2, 0) : c + 3]).sum(1) for c in range(7)]
    np.testing.assert_allclose(y, x / (2 + 0.3 / 5 * np.stack(squares, 1)) ** 0.75, atol=1e-12)


# -- normalizations, attention, tables -------------------------------------------------------------


def standardized(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    x = x.astype(np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


@pytest.mark.parametrize("layer", ["group_norm", "instance_norm", "rms_norm"])
def test_normalizations(layer: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 6, 4, 5)).astype(np.float32)
    own = {"groups": 3} if layer == "group_norm" else {}
    found, states = run(lambda v: getattr(nl, layer)(v, epsilon=0.1, **own), x)
    if layer == "rms_norm":
        expected = x / np.sqrt(np.mean(x.astype(np.float64) ** 2, -1, keepdims=True) + 0.1)
    elif layer == "group_norm":
        expected = standardized(x.reshape(2, 3, 2, 4, 5), (2, 3, 4), 0.1).reshape(x.shape)
    else:
        expected = standardized(x, (2, 3), 0.1)
    along = (-1,) if layer == "rms_norm" else (-1, 1, 1)
    expected = expected * states[f"{layer}1.scale"].reshape(along)
    if layer != "rms_norm":
        expected = expected + states[f"{layer}1.bias"].reshape(along)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ShapeError, match="4 groups do not divide 6"):
        run(lambda v: nl.group_norm(v, 4), np.zeros((1, 6, 2), np.float32))


@pytest.mark.parametrize("causal", [False, True])
def test_multi_head_attention(causal: bool) -> None:
    n, length, width, heads = 2, 5, 12, 3
    x = np.random.default_rng(1).standard_normal((n, length, width)).astype(np.float32)
    hidden = np.array([True, True, False, True, True])

    def layer(v: nl.Symbolic) -> nl.Symbolic:
        mask = v.trace.constant(hidden)
        return nl.multi_head_attention(v, heads, mask=mask, causal=causal, rotary_base=100.0)

    found, p = run(layer, x)

    def part(of: str) -> Array:
        made = x @ p[f"attention1.{of}.weight"].astype(np.float64) + p[f"attention1.{of}.bias"]
        return made.reshape(n, length, heads, width // heads)

    def rotated(v: Array) -> Array:  # as complex numbers (Su et al. 2021, section 3.1)
        z = v[..., : width // heads // 2] + 1j * v[..., width // heads // 2 :]
        powers = 100.0 ** -(np.arange(z.shape[-1]) / z.shape[-1])
        z = z * np.exp(1j * np.arange(length)[:, None, None] * powers)
        return np.concatenate([z.real, z.imag], axis=-1)

    scores = np.einsum("nlhd,nshd->nhls", rotated(part("query")), rotated(part("key")))
    seen = hidden & (np.tri(length, dtype=bool) if causal else True)
    weights = np.where(seen, np.exp(scores / np.sqrt(width // heads)), 0)
    weights /= weights.sum(-1, keepdims=True)
    joined = np.einsum("nhls,nshd->nlhd", weights, part("value")).reshape(n, length, width)
    expected = joined @ p["attention1.output.weight"] + p["attention1.output.bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda x: nl.multi_head_attention(x[0], 2, name="a"), "a: .*not float32\\[4, 6\\]"),
        (lambda x: nl.multi_head_attention(x[0, 0, 0], 2, name="a"), "a: .*not float32\\[\\]"),
        (lambda x: nl.multi_head_attention(x, 2, context=x[0], name="a"), "and float32\\[4, 6\\]"),
        (lambda x: nl.multi_head_attention(x, 2, context=x[:2], name="a"), "a: .*\\[2, 4, 6\\]"),
        (lambda x: nl.multi_head_attention(nl.cast(x, "int64"), 2, name="a"), "a: .*takes floats"),
        (lambda x: nl.multi_head_attention(x, 4, name="a"), "a: 4 heads cannot share a width of 6"),
        (lambda x: nl.multi_head_attention(x, 2, width=0, name="a"), "a: .*width of 0"),
        (lambda x: nl.multi_head_attention(x, 2, width=-2, name="a"), "a: .*width of -2"),
        (lambda x: nl.multi_head_attention(x, 2, rotary_base=1e4, name="a"), "a: heads of width 3"),
        (lambda x: nl.rotary(nl.cast(x, "int64")), "rotary takes floats"),
        (lambda x: nl.rotary(x[:, :, :3]), "even d"),
    ],
)
def test_attention_that_does_not_fit_is_refused(layer: Any, message: str) -> None:
    with pytest.raises((ShapeError, UsageError), match=message):
        run(layer, np.zeros((3, 4, 6), np.float32))


def test_rotations_of_float64_have_its_precision() -> None:
    x = np.random.default_rng(0).standard_normal((3000, 4))
    found, _ = run(nl.rotary, x)
    z = (x[:, :2] + 1j * x[:, 2:]) * np.exp(1j * np.arange(3000)[:, None] * [1, 0.01])
    np.testing.assert_allclose(found, np.concatenate([z.real, z.imag], -1), atol=1e-12)


@pytest.mark.parametrize(("padding", "dtype"), [(100, "int64"), (-1, "int32"), (-200, "int8")])
def test_the_padding_is_found_from_either_end(padding: int, dtype: str) -> None:
    x = np.array([0, 100, -1, 1, 2], dtype)
    found, s = run(lambda v: nl.embedding(v, 300, 4, padding=padding), x)
    places = np.arange(300)[x]
    expected = np.where((places == padding % 300)[:, None], 0, s["embedding1.weight"][places])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda x: nl.embedding(nl.cast(x, "int64"), 3, 4, padding=3, name="e"), "e: .*index of 3"),
        (lambda x: nl.embedding(nl.cast(x, "int64"), 3, 4, padding=-4, name="e"), "e: .*of -4"),
        (lambda x: nl.embedding(nl.cast(x, "int64"), 0, 4, name="e"), "e: the number of rows is 0"),
        (lambda x: nl.layer_norm(x, axis=2, name="l"), "l: layer_norm over axes 2"),
        (lambda x: nl.rms_norm(x, axis=-3, name="l"), "l: rms_norm over axes -3"),
        (lambda x: nl.rms_norm(x[0, 0], name="l"), "l: .* of float32\\[\\]"),
    ],
)
def test_indices_and_axes_that_are_none_are_refused(layer: Any, message: str) -> None:
    with pytest.raises((ShapeError, UsageError), match=message):
        run(layer, np.zeros((3, 4), np.float32))


def test_the_padding_of_an_embedding_is_zeros_without_a_gradient() -> None:
    @nl.network
    def network(x: nl.Symbolic) -> nl.Symbolic:
        return nl.embedding(x, 4, 3, padding=2, name="table")

    graph = network.graph(x=nl.tensor("N", 2, dtype="int64"))
    step = nl.training_graph(graph, lambda y, _: nl.reduce_sum(y), nl.optimizers.SGD())
    table = {state.name: np.array(state.initial.array) for state in graph.states}
    x = np.array([[0, 2], [2, 3], [3, 2]])
    feeds = {"x": x, "labels": np.zeros((3, 2, 3), np.float32), "rate": np.float32(1)}
    (loss,), after = interpret_step(step, feeds, table)
    before = table["table.weight"]
    assert loss == pytest.approx(before[[0, 3, 3]].sum(), rel=1e-5)
    moved = before - after["table.weight"]
    np.testing.assert_allclose(moved, [[1] * 3, [0] * 3, [0] * 3, [2] * 3], atol=1e-6)
