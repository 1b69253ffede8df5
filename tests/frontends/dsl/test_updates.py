"""Groups of parameters, gradients added up over steps, averages of parameters, and losses of several
outputs: against the same arithmetic written with NumPy in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import netloom as nl
from netloom.compiler.interpret import interpret_step
from netloom.errors import UsageError

Arrays = dict[str, Any]
ONE = np.float32(1)


@nl.network
def line(x: nl.Symbolic) -> nl.Symbolic:
    return nl.dense(x, 2, name="line")


GRAPH = line.graph(x=nl.tensor("N", 3))


def gradients(p: Arrays, x: Any, y: Any) -> Arrays:
    """Of the mean squared error of x weight + bias."""
    slope = 2 * (x @ p["line.weight"] + p["line.bias"] - y) / y.size
    return {"line.weight": x.T @ slope, "line.bias": slope.sum(axis=0)}


def batches(count: int, seed: int = 0) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal((4, 3)).astype(np.float32), rng.standard_normal((4, 2)).astype(np.float32))
        for _ in range(count)
    ]  # fmt: skip


def start(step: Any) -> Arrays:
    return {state.name: np.array(state.initial.array) for state in step.states}


def run(step: Any, given: list[tuple[Any, Any]], rate: float = 1.0) -> Arrays:
    states = start(step)
    for x, y in given:
        feeds = {"x": x, "labels": y, "rate": np.float32(rate)}
        _, after = interpret_step(step, feeds, states)
        states |= after
    return states


def step_of(optimizer: Any, **options: Any) -> Any:
    return nl.training_graph(GRAPH, nl.losses.mean_squared_error, optimizer, **options)


def test_groups_have_options_and_rates_of_their_own() -> None:
    def is_bias(name: str) -> bool:
        return name.endswith(".bias")

    plain = nl.optimizers.SGD(weight_decay=0.5)
    optimizer = nl.optimizers.Grouped(
        plain, nl.optimizers.Group(is_bias, factor=3.0, weight_decay=0.0)
    )
    given = batches(3)
    step = step_of(optimizer)
    p = {name: start(step)[name].astype(np.float64) for name in ("line.weight", "line.bias")}
    for x, y in given:
        g = gradients(p, x, y)
        p["line.weight"] = p["line.weight"] - 0.1 * (g["line.weight"] + 0.5 * p["line.weight"])
        p["line.bias"] = p["line.bias"] - 0.3 * g["line.bias"]
    found = run(step, given, 0.1)
    for name, expected in p.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


def test_each_group_keeps_shared_tensors_of_its_own() -> None:
    group = nl.optimizers.Group(["line.bias"], beta1=0.5)
    step = step_of(nl.optimizers.Grouped(nl.optimizers.Adam(), group))
    found = run(step, batches(2))
    assert found["optimizer.correction1"] == pytest.approx(1 - 0.9**2)
    assert found["optimizer.group1.correction1"] == pytest.approx(1 - 0.5**2)


class Descent:
    """An optimizer of one's own, which is no dataclass: p -= rate * gradient."""

    rate = 0.1

    def slots(self, parameter: Any) -> Arrays:
        return {}

    def shared(self) -> Arrays:
        return {}

    def advance(self, shared: Any) -> Arrays:
        return {}

    def build_update(
        self, parameter: Any, gradient: Any, slots: Any, shared: Any, rate: Any
    ) -> Any:
        return parameter - rate * gradient, {}


def test_a_group_of_one_name_and_any_optimizer() -> None:
    group = nl.optimizers.Group("line.bias", factor=2.0)
    found, expected = (
        run(step_of(nl.optimizers.Grouped(own, group)), batches(2), 0.1)
        for own in (Descent(), nl.optimizers.SGD())
    )
    assert all(np.array_equal(found[name], array) for name, array in expected.items())
    with pytest.raises(UsageError, match="Descent has no option 'momentum'"):
        step_of(nl.optimizers.Grouped(Descent(), nl.optimizers.Group("line.bias", momentum=0.5)))


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (nl.optimizers.Group(lambda name: False), "holds no parameter"),
        (nl.optimizers.Group(["line.bias", "line.scale"]), 'group1 names "line.scale"'),
        (nl.optimizers.Group("bias"), 'group1 names "bias", which is not trained'),
        (nl.optimizers.Group(["line.bias"], decay=1.0), "no option 'decay'"),
        (nl.optimizers.Group(["line.bias"], rate=1.0), "factor="),
    ],
)
def test_a_group_that_says_nothing_is_refused(group: Any, message: str) -> None:
    with pytest.raises(UsageError) as error:
        step_of(nl.optimizers.Grouped(nl.optimizers.Adam(), group))
    assert message in f"{error.value} {error.value.hint}"


@pytest.mark.parametrize("optimizer", [nl.optimizers.SGD(momentum=0.9), nl.optimizers.Adam()])
def test_accumulated_steps_are_one_step_of_the_whole_batch(optimizer: Any) -> None:
    given = batches(6)
    found = run(step_of(optimizer, accumulate=3, clip_norm=0.1), given, 0.05)
    whole = [tuple(np.concatenate(of) for of in zip(*given[i : i + 3])) for i in (0, 3)]  # noqa: B905
    expected = run(step_of(optimizer, clip_norm=0.1), whole, 0.05)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-5, atol=1e-6)
    assert found["optimizer.accumulated"] == 0 and not found["line.weight.gradient"].any()


def test_nothing_moves_before_the_last_of_the_steps() -> None:
    step = step_of(nl.optimizers.Adam(), accumulate=3, average=0.5)
    before, after = start(step), run(step, batches(2))
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {"line.weight.gradient", "line.bias.gradient", "optimizer.accumulated"}


def test_averages_follow_the_parameters() -> None:
    given = batches(4)
    step = step_of(nl.optimizers.SGD(), average=0.75)
    p = {name: start(step)[name].astype(np.float64) for name in ("line.weight", "line.bias")}
    kept = dict(p)
    for x, y in given:
        g = gradients(p, x, y)
        p = {name: p[name] - 0.1 * g[name] for name in p}
        kept = {name: 0.75 * kept[name] + 0.25 * p[name] for name in p}
    found = run(step, given, 0.1)
    for name, expected in kept.items():
        np.testing.assert_allclose(found[f"{name}.average"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "steps is 0"),
        ({"accumulate": 1.5}, "steps is 1.5"),
        ({"average": 1.0}, "average"),
        ({"average": "0.9"}, "average is '0.9', not a number >= 0 and < 1"),
        ({"clip_norm": "1"}, "clip_norm is '1'"),
        ({"trainable": "line"}, "no parameter 'line' to train"),
    ],
)
def test_wrong_options_are_refused(options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        step_of(nl.optimizers.SGD(), **options)


@pytest.mark.parametrize("name", ["w.average", "w.moment1", "w.gradient", "optimizer.correction1"])
def test_a_parameter_named_as_a_state_of_the_step_is_refused(name: str) -> None:
    @nl.network
    def taken(x: nl.Symbolic) -> nl.Symbolic:
        return x * nl.parameter("w", (3,)) + nl.parameter(name, (3,))

    graph = taken.graph(x=nl.tensor("N", 3))
    loss, adam = nl.losses.mean_squared_error, nl.optimizers.Adam()
    with pytest.raises(UsageError, match=f"keeps a state '{name}'"):
        nl.training_graph(graph, loss, adam, accumulate=2, average=0.9)


# -- losses of several outputs ---------------------------------------------------------------------


@nl.network
def heads(x: nl.Symbolic) -> dict[str, nl.Symbolic]:
    return {"kind": nl.dense(x, 3, name="kind"), "size": nl.dense(x, 2, name="size")}


def test_each_output_has_a_loss_and_a_target() -> None:
    parts = nl.losses.cross_entropy, nl.losses.mean_squared_error
    loss = nl.losses.Mixed(*parts, weights=[1.0, 0.25])
    graph = heads.graph(x=nl.tensor("N", 3))
    step = nl.training_graph(graph, loss, nl.optimizers.SGD())
    assert [v.label for v in step.inputs] == ["x", "labels.kind", "labels.size", "rate"]
    rng = np.random.default_rng(3)
    x, size = (rng.standard_normal((5, n)).astype(np.float32) for n in (3, 2))
    kind = np.array([0, 2, 1, 1, 0])
    feeds = {"x": x, "labels.kind": kind, "labels.size": size, "rate": ONE}
    outputs, _ = interpret_step(step, feeds, start(step))
    p = {name: array.astype(np.float64) for name, array in start(step).items()}
    logits = x @ p["kind.weight"] + p["kind.bias"]
    of_kind = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(5), kind])
    of_size = np.mean((x @ p["size.weight"] + p["size.bias"] - size) ** 2)
    found = dict(zip(step.output_names, outputs, strict=True))
    assert found["loss"] == pytest.approx(of_kind + 0.25 * of_size, rel=1e-6)
    assert found["loss.kind"] == pytest.approx(of_kind, rel=1e-6)
    assert found["loss.size"] == pytest.approx(of_size, rel=1e-6)


def test_losses_that_do_not_fit_the_outputs_are_refused() -> None:
    with pytest.raises(UsageError, match="2 outputs"):
        nl.training_graph(
            heads.graph(x=nl.tensor("N", 3)), nl.losses.Mixed(nl.losses.cross_entropy), nl.optimizers.SGD()
        )  # fmt: skip
    with pytest.raises(UsageError, match="weights"):
        nl.losses.Mixed(nl.losses.cross_entropy, weights=[1, 2])
    for wrong in (nl.reduce_mean, [nl.losses.hinge], "hinge"):
        with pytest.raises(UsageError, match="is not a loss that knows"):
            nl.losses.Mixed(nl.losses.cross_entropy, wrong)


@pytest.mark.parametrize(
    ("dtypes", "widest"),
    [(("float64",) * 2, "float64"), (("float16", "bfloat16"), "float32"), (("float16",) * 2, "float16")],
)  # fmt: skip
def test_the_sum_of_losses_has_the_widest_dtype(dtypes: Any, widest: str) -> None:
    """In float32, the differences of a float64 network's loss would drown in rounding."""
    square = nl.losses.mean_squared_error

    @nl.network
    def both(x: nl.Symbolic) -> tuple[nl.Symbolic, ...]:
        return tuple(nl.dense(nl.cast(x, dtype), 2) for dtype in dtypes)

    graph = both.graph(x=nl.tensor("N", 3, dtype=dtypes[0]))
    step = nl.training_graph(graph, nl.losses.Mixed(square, square), nl.optimizers.SGD())
    assert step.outputs[0].type == nl.tensor(dtype=widest)


# -- the trainer -----------------------------------------------------------------------------------


def trainer() -> nl.Trainer:
    optimizer = nl.optimizers.Grouped(
        nl.optimizers.AdamW(nl.optimizers.Warmup(2, nl.optimizers.CosineDecay(0.1, 4))),
        nl.optimizers.Group(["line.bias"], weight_decay=0.0),
    )
    return nl.compile_training(
        GRAPH, loss=nl.losses.mean_squared_error, optimizer=optimizer, accumulate=2, average=0.9
    )


def test_all_of_it_resumes_from_a_checkpoint_bit_for_bit(tmp_path: Any) -> None:
    data = tuple(np.concatenate(of) for of in zip(*batches(3), strict=True))
    whole = trainer()
    part, resumed = (nl.Trainer(whole.session, rate=whole.rate, accumulate=2) for _ in range(2))
    whole.fit(data, epochs=3, batch=4)
    part.fit(data, epochs=1, batch=4, checkpoint=tmp_path / "c")  # 3 steps: within an update
    resumed.fit(data, epochs=3, batch=4, checkpoint=tmp_path / "c", resume=True)
    expected = whole.tensors()
    for name, array in resumed.tensors().items():
        assert np.array_equal(array, expected[name]), name
    before = expected["line.weight"]
    with whole.averaged():
        assert np.array_equal(whole.state["line.weight"], expected["line.weight.average"])
        found = whole.predict(data[0])
    weight, bias = expected["line.weight.average"], expected["line.bias.average"]
    np.testing.assert_allclose(found, data[0] @ weight + bias, rtol=1e-5, atol=1e-6)
    assert np.array_equal(whole.state["line.weight"], before)
