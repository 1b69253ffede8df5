"""Plausible mistakes in a network: one sentence that says what is wrong, never a wrong number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from netloom.compiler.driver import plan_graph
from netloom.compiler.interpret import interpret
from netloom.errors import NetloomError, ShapeError, UsageError
from netloom.frontends import dsl as nl

ROWS, IMAGE, WORDS = nl.tensor("N", 6), nl.tensor("N", 3, 8, 8), nl.tensor("N", 5, dtype="int64")


def traced(function: Callable[[Any], Any], x: Any = ROWS, **options: Any) -> Any:
    return nl.network(lambda x: function(x)).graph(x=x, **options)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda x: nl.conv2d(x, "8", 3), "conv1: the number of filters is '8', not a whole number"),
        (lambda x: nl.conv2d(x, 8.0, 3), "conv1: the number of filters is 8.0"),
        (lambda x: nl.conv2d(x, 8, 3.0), "conv1: kernel 3.0 is not 2 ints"),
        (lambda x: nl.conv2d(x, 8, 3, groups=0), "conv1: the number of groups is 0"),
        (lambda x: nl.conv2d(x, 8, 3, padding=1.0), "conv1: padding 1.0 is not 2 pairs"),
        (lambda x: nl.conv2d(x, 8, 3, padding=None), "conv1: padding None is not 2 pairs"),
        (lambda x: nl.conv2d(x, 8, 3, padding=[(1, 1, 1)] * 2), "conv1: padding .* is not 2 pairs"),
        (lambda x: nl.conv2d(8, x, 3), "8 is no symbolic value"),
        (lambda x: nl.conv2d(np.zeros((1, 3, 8, 8)), 8, 3), "is no symbolic value"),
        (lambda x: nl.conv2d(nl.cast(x, "uint8"), 8, 3), "are floats, not uint8.* Cast what"),
        (lambda x: nl.conv_transpose2d(x, 0, 3), "the number of filters is 0"),
        (lambda x: nl.conv_transpose2d(x, 2, 3, padding=20), "padding 20 leaves nothing"),
        (lambda x: nl.max_pool2d(x, 2, padding=2), "padding 2 is wider than a window of"),
        (lambda x: nl.average_pool2d(x, 3, padding=(0, 3)), "padding .* is wider than a window"),
        (lambda x: nl.group_norm(x, 1.5), "group_norm1: the number of groups is 1.5"),
        (lambda x: nl.lrn(x, 0), "the size of lrn is 0"),
    ],
)
def test_layers_of_images(layer: Any, message: str) -> None:
    with pytest.raises(NetloomError, match=message):
        traced(layer, IMAGE)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda x: nl.dense(x, 8.0), "dense1: the number of units is 8.0, not a whole number >= 0"),
        (
            lambda x: nl.dense(x, 3, weight_initializer="he"),
            "dense1.weight: the initializer is 'he'",
        ),
        (lambda x: nl.dense(x, 3, name=3), "a layer cannot be named 3"),
        (lambda x: nl.dense(x, 3, name=" "), "cannot be named ' '"),
        (
            lambda x: nl.dense((x, x), 3),
            r"\(<symbolic x.*is no symbolic value. .*an LSTM's, give one",
        ),
        (lambda x: nl.dropout(x, "0.5"), "a dropout rate of '0.5'"),
        (lambda x: nl.layer_norm(x, axis=(1,)), r"layer_norm1: axis is \(1,\)"),
        (lambda x: nl.lrn(x[:, 0]), r"lrn takes \[n, c, ...\], not float32\[N\]"),
        (lambda x: np.mean(x), "is no array while"),
        (lambda x: nl.where(x == 1, x, 0.0), "symbolic condition, not False. Compare by"),
        (lambda x: x[[0, 1]], r"\[0, 1\] is not an index"),
        (lambda x: x[..., 0], "Ellipsis is not an index"),
        (lambda x: x[:, 0:1.5], "is not a slice of ints"),
        (lambda x: sum(x), "its first axis is not fixed"),
        (lambda x: nl.concat(x, x), "concat takes a list of symbolic values.* Write"),
        (lambda x: nl.reshape(x, (-1, 3.0)), "an extent is 3.0"),
        (lambda x: nl.transpose(x, 1), "permutation is 1, not one whole number for each axis"),
        (lambda x: nl.pad(x, 1, 1), "lo is 1, not one"),
        (lambda x: nl.reduce_sum(x, "1"), "an axis is '1'"),
        (lambda x: nl.clip(x, 1, -1), "between 1 and -1"),
        (lambda x: nl.cast(x, "float"), "'float' is not a dtype. Known"),
        (lambda x: nl.random_normal((6,), "f4"), "'f4' is not a dtype"),
        (lambda x: nl.relu([x]), "is no symbolic value"),
        (lambda x: x + None, "None holds no real numbers"),
        (lambda x: x + "1", "'1' holds no real numbers"),
        (lambda x: x * np.array([1j] * 6), "holds no real numbers"),
        (lambda x: x * nl.parameter("a", (6.0,)), "an extent of a is 6.0"),
        (lambda x: {1: x}, "a dict of them by names"),
    ],
)
def test_layers_of_rows(layer: Any, message: str) -> None:
    with pytest.raises(NetloomError, match=message):
        traced(layer)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 0.5, lambda x: 0.7 + x, lambda x: x < 1.5, lambda x: nl.maximum(x, 0.5),
        lambda x: x * np.full(5, 0.5), lambda x: nl.where(x > 1, x, 0.5), lambda x: x + np.inf,
        lambda x: nl.cast(x, "int8") + 300, lambda x: nl.cast(x, "uint8") * -1,
    ],
)  # fmt: skip
def test_integers_take_no_fractions(function: Any) -> None:
    """0.5 as an integer is 0: what a user would see is a network of zeros."""
    with pytest.raises(UsageError, match="without loss. Cast the symbolic value"):
        traced(function, WORDS)


def test_integers_have_no_mean_no_dropout_and_no_random_weights() -> None:
    for layer in (nl.reduce_mean, nl.dropout, lambda x: nl.dense(x, 3)):
        with pytest.raises(ShapeError, match="float"):
            traced(layer, WORDS)
    with pytest.raises(ShapeError, match="r: lstm takes floats"):
        traced(lambda x: nl.lstm(x, 3, name="r")[0], nl.tensor("N", 5, 4, dtype="int64"))


def test_a_seed_is_a_whole_number() -> None:
    for seed in (-1, "a", 0.5):
        with pytest.raises(UsageError, match="the seed is"):
            traced(nl.relu, seed=seed)


def test_what_is_meant_is_taken() -> None:
    """NumPy's integers and dtypes, numbers and arrays on either side, and iteration."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    ones = np.ones((2, 2), np.float32)

    def network(x: Any) -> Any:
        first, second = x
        total = sum([first, second]) * np.float64(2) + [1, 2, 3]
        return total, nl.maximum(2.5, x), ones @ x, x[np.int64(1)], nl.cast(x, np.float64)

    graph = traced(network, nl.tensor(np.int64(2), 3, dtype=np.float32))
    expected = 2 * x.sum(0) + [1, 2, 3], np.maximum(2.5, x), ones @ x, x[1], x.astype(np.float64)
    for found, wanted in zip(interpret(graph, {"x": x}), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert traced(lambda x: nl.dense(x, np.int64(4))).outputs[0].type == nl.tensor("N", 4)


# -- training steps --------------------------------------------------------------------------------

LINE = traced(lambda x: nl.dense(x, 3, name="line"))
TWO = traced(lambda x: (nl.dense(x, 3), nl.dense(x, 2)))
L, O = nl.losses, nl.optimizers


def step(
    graph: Any = LINE, loss: Any = L.cross_entropy, optimizer: Any = None, **options: Any
) -> Any:
    return nl.training_graph(graph, loss, O.SGD() if optimizer is None else optimizer, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: step(nl.network(nl.relu)), "a Network cannot be trained; a graph can"),
        (lambda: step(loss=L.huber), "does not take the 1 outputs and the target"),
        (lambda: step(loss=L.weighted_cross_entropy), "a smoothing of <symbolic"),
        (lambda: step(loss=lambda y: y), "does not take the 1 outputs"),
        (lambda: step(TWO, lambda y, t: nl.reduce_mean(y)), "does not take the 2 outputs"),
        (lambda: step(loss=lambda y, t: None), "the loss is None, not a float scalar"),
        (lambda: step(loss=lambda y, t: nl.reduce_mean(t)), "depends on no parameter"),
        (lambda: L.weighted_cross_entropy("abc"), "a weight is 'a', not a number >= 0"),
        (lambda: L.weighted_cross_entropy([1, -1]), "a weight is -1"),
        (lambda: L.weighted_cross_entropy(smoothing="0.1"), "a smoothing of '0.1'"),
        (lambda: L.huber(-1), "delta of huber is -1"),
        (lambda: L.Mixed(L.hinge, weights="a"), "a weight is 'a'"),
        (lambda: O.SGD(momentum=1.5), "momentum of SGD is 1.5, not a number >= 0 and < 1"),
        (lambda: O.Adam(beta1=1.0), "beta1 of Adam is 1.0"),
        (lambda: O.AdamW(weight_decay="a"), "weight_decay of AdamW is 'a'"),
        (lambda: O.RMSprop(epsilon=-1), "epsilon of RMSprop is -1, not a number >= 0"),
        (lambda: O.Group(None), "names or a function of them, not None"),
        (lambda: O.Group("line.bias", "2"), "factor of a group is '2'"),
        (lambda: O.Grouped(O.SGD(), {"names": []}), "is no group"),
        (lambda: O.CosineDecay(0.1, 0), "steps of CosineDecay is 0"),
        (lambda: O.StepDecay(0.1, 0), "every of StepDecay is 0"),
        (lambda: O.Warmup(5, 0.1), "goes on with a schedule, not 0.1. Give"),
        (lambda: O.Warmup(O.ConstantRate(0.1), 5), "steps of Warmup is"),
        (lambda: step(traced(lambda x: nl.batch_norm(nl.dense(x, 3))),
                      trainable="batch_norm1.running_mean"), "no parameter 'batch_norm1.running"),
        (lambda: step(nl.network(lambda rate: nl.dense(rate, 3)).graph(rate=ROWS)),
         "an input 'rate' of its own"),
    ],
)  # fmt: skip
def test_training_steps(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_one_name_is_trained_once() -> None:
    for names in ("line.bias", ["line.bias", "line.bias"]):
        made = step(trainable=names)
        assert [s.name for s in made.states if not s.is_unchanged] == ["line.bias"]
    weighted = step(loss=L.weighted_cross_entropy(np.array([1.0, 2.0, 0.5])))
    assert weighted.output_names == ("loss", "correct")


def test_an_inference_draws_the_same_numbers_and_changes_no_state() -> None:
    """The key moves on in training only, so that evaluating does not change what follows."""
    graph = traced(lambda x: nl.dense(x, 3) + nl.random_normal((3,)))
    assert all(state.is_unchanged for state in graph.states)
    assert not plan_graph(graph).program.states
    moving = [s.name for s in graph.training_form().states if not s.is_unchanged]
    assert moving == ["generator.key"]
    with pytest.raises(UsageError, match='the graph changes "line.weight", "line.bias"'):
        plan_graph(step())
