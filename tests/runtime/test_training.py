"""The trainer over a session that interprets: order of data, metrics, checkpoints, resuming,
interruption.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netloom.compiler.graph import Graph
from netloom.compiler.interpret import interpret, interpret_step
from netloom.errors import InputError, ProgramError, UsageError
from netloom.frontends import dsl as nl
from netloom.runtime.program import PortInfo
from netloom.runtime.training import Trainer
from netloom.runtime.training_data import shuffled

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Ports:
    inputs: tuple[PortInfo, ...]
    outputs: tuple[PortInfo, ...]


def ports(graph: Graph) -> Ports:
    def port(name: str, value: Any) -> PortInfo:
        return PortInfo(
            name, value.dtype.value, tuple(e if isinstance(e, int) else str(e) for e in value.shape)
        )

    outputs = zip(graph.output_names, graph.outputs, strict=True)
    return Ports(
        tuple(port(v.label, v) for v in graph.inputs), tuple(port(n, v) for n, v in outputs)
    )


@dataclass
class InterpretedState:
    tensors: Arrays
    step: int = 0

    @property
    def names(self) -> Sequence[str]:
        return tuple(self.tensors)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[name]

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        self.tensors[name][...] = value


@dataclass
class InterpretedSession:
    """The training session's contract, by the graph interpreter."""

    network: Graph
    training: Graph
    seen: list[Arrays] = field(default_factory=list)

    def entry(self, name: str) -> Ports:
        return ports({"run": self.network, "train_step": self.training}[name])

    def create_state(self) -> InterpretedState:
        return InterpretedState(
            {state.name: np.array(state.initial.array) for state in self.training.states}
        )

    def train_step(self, state: InterpretedState, *inputs: np.ndarray) -> list[np.ndarray]:
        named = {
            value.label: array for value, array in zip(self.training.inputs, inputs, strict=True)
        }
        self.seen.append(named)
        outputs, after = interpret_step(self.training, named, state.tensors)
        state.tensors = {name: np.array(array) for name, array in after.items()}
        state.step += 1
        return outputs

    def evaluate(self, state: InterpretedState, *inputs: np.ndarray) -> Any:
        named = {
            value.label: array for value, array in zip(self.network.inputs, inputs, strict=True)
        }
        own = {s.name: state.tensors[s.name] for s in self.network.states}
        found = interpret(self.network, named, own)
        return found[0] if len(found) == 1 else tuple(found)


@nl.network
def model(x: nl.Symbolic) -> nl.Symbolic:
    return nl.dense(nl.dropout(nl.relu(nl.batch_norm(nl.dense(x, 16))), 0.2), 3)


GRAPH = model.graph(x=nl.tensor("N", 4))
STEP = nl.training_graph(GRAPH, nl.losses.cross_entropy, nl.optimizers.Adam())


def trainer(**options: Any) -> Trainer:
    return Trainer(InterpretedSession(GRAPH, STEP), **{"rate": 0.01, **options})


def blobs(samples: int = 150, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three clouds of points around corners of a cube."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, samples)
    return (np.eye(4)[y] * 3 + rng.standard_normal((samples, 4))).astype(np.float32), y


def same(first: Trainer, second: Trainer) -> bool:
    one, two = first.tensors(), second.tensors()
    return one.keys() == two.keys() and all(
        one[name].tobytes() == two[name].tobytes() for name in one
    )


def test_fit_learns_and_reports() -> None:
    made = trainer()
    history = made.fit(blobs(), epochs=8, batch=16, validation=blobs(60, seed=1))
    assert [record["epoch"] for record in history] == list(range(8))
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1]["accuracy"] > 0.85 and history[-1]["validation"] > 0.85
    assert made.evaluate(*blobs(60, seed=1), batch=7) == history[-1]["validation"]


def test_order_is_philox_of_seed_and_epoch_and_the_last_batch_is_partial() -> None:
    made = trainer()
    x, y = np.arange(40, dtype=np.float32).reshape(10, 4), np.arange(10) % 3
    made.fit((x, y), epochs=2, batch=4, seed=7)
    seen = [step["x"][:, 0] / 4 for step in made.session.seen]  # type: ignore[attr-defined]
    assert [len(rows) for rows in seen] == [4, 4, 2] * 2
    for epoch in range(2):
        generator = np.random.Generator(np.random.Philox(key=np.array([7, epoch], np.uint64)))
        np.testing.assert_array_equal(
            np.concatenate(seen[3 * epoch : 3 * epoch + 3]), generator.permutation(10)
        )
    assert not np.array_equal(shuffled(10, 7, 0), shuffled(10, 8, 0))


@dataclass
class CountingSession(InterpretedSession):
    """Takes every batch and computes nothing."""

    sizes: list[int] = field(default_factory=list)

    def train_step(self, state: InterpretedState, *inputs: np.ndarray) -> list[np.ndarray]:
        self.sizes.append(len(inputs[0]))
        state.step += 1
        return [np.float32(len(inputs[0])), np.int64(1)]  # type: ignore[list-item]


def test_60000_samples_are_937_batches_of_64_and_one_of_32() -> None:
    session = CountingSession(GRAPH, STEP)
    made = Trainer(session)
    (record,) = made.fit(
        (np.zeros((60_000, 4), np.float32), np.zeros(60_000, np.int64)), epochs=1, batch=64
    )
    assert session.sizes == [64] * 937 + [32] and made.state.step == 938
    assert (
        record["loss"] == (937 * 64 * 64 + 32 * 32) / 60_000 and record["accuracy"] == 938 / 60_000
    )


def test_the_epochs_loss_is_the_mean_over_samples() -> None:
    made, losses = trainer(), []
    history = made.fit(
        blobs(10), epochs=1, batch=4, on_step=lambda step, loss: losses.append((step, loss))
    )
    assert [step for step, _ in losses] == [1, 2, 3]
    assert history[0]["loss"] == (4 * losses[0][1] + 4 * losses[1][1] + 2 * losses[2][1]) / 10


def test_schedule_and_explicit_rate() -> None:
    made = trainer(rate=lambda step: 0.5 ** (step + 1))
    made.fit(blobs(12), epochs=1, batch=4)
    made.step(*blobs(4), rate=0.75)
    rates = [float(step["rate"]) for step in made.session.seen]  # type: ignore[attr-defined]
    assert rates == [0.5, 0.25, 0.125, 0.75]


def test_loaders_and_functions_of_the_epoch() -> None:
    x, y = blobs(12)
    batches = [(x[:8], y[:8]), (x[8:], y[8:])]
    listed, made = trainer(), trainer()
    listed.fit(batches, epochs=2)
    epochs: list[int] = []
    made.fit(lambda epoch: epochs.append(epoch) or batches, epochs=2)  # type: ignore[func-returns-value]
    assert epochs == [0, 1] and same(listed, made)
    with pytest.raises(UsageError, match="iterated once"):
        trainer().fit(iter(batches), epochs=1)


def stop_after(steps: int) -> Callable[[int, float], None]:
    def stop(step: int, loss: float) -> None:
        if step == steps:
            os.kill(os.getpid(), signal.SIGINT)

    return stop


# in the first epoch, at its last step, and in the second
@pytest.mark.parametrize("stop", [1, 4, 5, 7])
def test_interrupted_and_resumed_is_bit_identical(stop: int, tmp_path: Path) -> None:
    whole, curve = trainer(), []
    expected = whole.fit(
        blobs(66), epochs=3, batch=16, seed=3, on_step=lambda *item: curve.append(item)
    )
    file = tmp_path / "state.safetensors"
    first, parts = trainer(), []
    before = signal.getsignal(signal.SIGINT)

    def note(step: int, loss: float) -> None:
        parts.append((step, loss))
        stop_after(stop)(step, loss)

    with pytest.raises(KeyboardInterrupt):
        first.fit(blobs(66), epochs=3, batch=16, seed=3, checkpoint=file, on_step=note)
    assert signal.getsignal(signal.SIGINT) is before
    assert parts[-1][0] == stop
    second = trainer()
    history = second.fit(
        blobs(66),
        epochs=3,
        batch=16,
        seed=3,
        checkpoint=file,
        resume=True,
        on_step=lambda *item: parts.append(item),
    )
    assert parts == curve and history == expected and same(whole, second)
    assert os.listdir(tmp_path) == ["state.safetensors"]


def test_checkpoints_every_few_steps(tmp_path: Path) -> None:
    file, found = tmp_path / "c.safetensors", []
    trainer().fit(
        blobs(64),
        epochs=1,
        batch=16,
        checkpoint=file,
        every=2,
        on_step=lambda *_: found.append(file.exists()),
    )
    assert found == [False, False, True, True]


def test_resume_starts_afresh_without_a_file_and_refuses_another_run(tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    one = trainer()
    one.fit(blobs(32), epochs=1, batch=16, checkpoint=file, resume=True)
    assert one.progress.step == 2
    for changed in ({"seed": 1}, {"batch": 8}):
        with pytest.raises(UsageError, match="the checkpoint is of a run with"):
            trainer().fit(
                blobs(32),
                **{"epochs": 2, "batch": 16, "checkpoint": file, "resume": True, **changed},
            )
    with pytest.raises(UsageError, match="samples 32, not 48"):
        trainer().fit(blobs(48), epochs=2, batch=16, checkpoint=file, resume=True)
    with pytest.raises(UsageError, match="resume needs a checkpoint"):
        trainer().fit(blobs(), epochs=1, resume=True)


def test_save_and_load_by_hand(tmp_path: Path) -> None:
    one, two = trainer(), trainer()
    for _ in range(3):
        one.step(*blobs(8))
    one.save(tmp_path / "a.safetensors")
    two.load(tmp_path / "a.safetensors")
    assert same(one, two) and two.state.step == 3
    assert one.step(*blobs(8)) == two.step(*blobs(8)) and same(one, two)


def test_loading_of_foreign_files_changes_nothing(tmp_path: Path) -> None:
    from netloom.runtime.checkpoint import Checkpoint, write_checkpoint

    one = trainer()
    before = one.tensors()
    file = tmp_path / "a.safetensors"
    one.save(file)
    cases: list[tuple[Arrays, dict[str, Any], str]] = [
        ({}, {}, "lacks"),
        ({**before, "more": np.zeros(1)}, {}, 'holds "more"'),
        (
            {**before, "dense2.bias": np.zeros(4, np.float32)},
            vars(one.progress),
            "dense2.bias: .*float32\\[4\\]",
        ),
        (
            {**before, "dense2.bias": np.zeros(3)},
            vars(one.progress),
            "dense2.bias: .*float64\\[3\\]",
        ),
        (before, {}, "no progress"),
        (before, {**vars(one.progress), "epoch": "1"}, "epoch = '1'"),
    ]
    for tensors, metadata, message in cases:
        write_checkpoint(file, Checkpoint(tensors, metadata))
        with pytest.raises(ProgramError, match=message):
            one.load(file)
        assert all(np.array_equal(before[name], array) for name, array in one.tensors().items())


def test_parameters_from_npz(tmp_path: Path) -> None:
    one = trainer()
    np.savez(tmp_path / "w.npz", **{"dense2.bias": np.array([1, 2, 3], np.float32)})
    one.load_parameters(tmp_path / "w.npz")
    np.testing.assert_array_equal(one.tensors()["dense2.bias"], [1, 2, 3])
    np.savez(tmp_path / "w.npz", other=np.zeros(3))
    with pytest.raises(ProgramError, match='"other"'):
        one.load_parameters(tmp_path / "w.npz")


def test_averages_start_from_the_parameters_that_are_loaded(tmp_path: Path) -> None:
    step = nl.training_graph(GRAPH, nl.losses.cross_entropy, nl.optimizers.SGD(), average=0.9)
    one = Trainer(InterpretedSession(GRAPH, step))
    weight = one.tensors()["dense2.weight.average"]
    given = np.array([1, 2, 3], np.float32)
    np.savez(tmp_path / "w.npz", **{"dense2.bias": given})
    one.load_parameters(tmp_path / "w.npz")
    with one.averaged():
        np.testing.assert_array_equal(one.state["dense2.bias"], given)
    np.testing.assert_array_equal(one.state["dense2.weight.average"], weight)
    np.savez(tmp_path / "w.npz", **{"dense2.bias": given, "dense2.bias.average": given / 2})
    one.load_parameters(tmp_path / "w.npz")
    np.testing.assert_array_equal(one.state["dense2.bias.average"], given / 2)


@nl.network
def heads(x: nl.Symbolic) -> dict[str, nl.Symbolic]:
    return {"kind": nl.dense(x, 3), "size": nl.dense(x, 2)}


def test_evaluation_of_several_targets() -> None:
    graph = heads.graph(x=nl.tensor("N", 4))
    mixed = nl.losses.Mixed(nl.losses.cross_entropy, nl.losses.mean_squared_error)
    step = nl.training_graph(graph, mixed, nl.optimizers.SGD())
    made = Trainer(InterpretedSession(graph, step))
    (x, kind), size = blobs(20), np.ones((20, 2), np.float32)
    logits, sizes = made.predict(x)

    def metric(found: tuple[np.ndarray, np.ndarray], *targets: np.ndarray) -> float:
        return float(sum(np.abs(y - t).sum() for y, t in zip(found[1:], targets[1:], strict=True)))

    (record,) = made.fit((x, kind, size), epochs=1, validation=(x, kind, size), schedule=0.0)
    assert record["validation"] == np.mean(logits.argmax(1) == kind)
    assert made.evaluate(x, kind, size, metric=metric) == pytest.approx(np.abs(sizes - 1).sum())
    with pytest.raises(InputError, match="1 inputs and a target, but 1 arrays"):
        made.evaluate(x)


def test_measures_of_other_shapes_are_refused() -> None:
    """NumPy would broadcast [n] against [n, 1], and measure all pairs of samples."""
    (x, labels), made = blobs(6), trainer()
    with pytest.raises(InputError, match="accuracy takes .* not \\[6, 3\\] and \\[6, 1\\]"):
        made.evaluate(x, labels[:, None])
    graph = nl.network(lambda x: nl.dense(x, 1)).graph(x=nl.tensor("N", 4))
    step = nl.training_graph(graph, nl.losses.mean_squared_error, nl.optimizers.SGD())
    line = Trainer(InterpretedSession(graph, step))
    with pytest.raises(InputError, match="squared error .* not \\[6, 1\\] and \\[6\\]"):
        line.evaluate(x, labels)
    expected = np.mean((line.predict(x) - labels[:, None]) ** 2)
    assert line.evaluate(x, labels[:, None]) == pytest.approx(expected)  # integers, but no classes


def test_wrong_arrays_are_told(tmp_path: Path) -> None:
    x, y = blobs(8)
    with pytest.raises(InputError, match="takes 2 arrays \\(x, labels\\), but 1"):
        trainer().step(x)
    with pytest.raises(InputError, match="labels"):
        trainer().step(x, y.astype(np.float32))
    with pytest.raises(UsageError, match="lengths"):
        trainer().fit((x, y[:4]), epochs=1)
    for arrays, message in [
        ((x, y), "1 arrays \\(x\\), but 2"),
        ((np.float32(1),), "a single number holds no"),
    ]:
        with pytest.raises(InputError, match=message):
            trainer().predict(*arrays)
    with pytest.raises(InputError, match="lengths \\[4, 8\\] do not"):
        trainer().evaluate(x, y[:4])
    with pytest.raises(UsageError, match="no checkpoint can be written"):
        trainer().fit((x, y), epochs=1, checkpoint=tmp_path / "missing" / "c.safetensors")
    with pytest.raises(UsageError, match="cannot compile"):
        trainer().to_inference()


def test_to_inference_gets_the_present_tensors() -> None:
    made = trainer(to_inference=lambda tensors: nl.with_states(GRAPH, tensors))
    made.step(*blobs(8))
    x, _ = blobs(8)
    np.testing.assert_array_equal(interpret(made.to_inference(), {"x": x})[0], made.predict(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": "1"}, "epochs is '1', not a whole number"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"every": -1}, "every is -1"),
        ({"every": 2}, "every needs a checkpoint"),
        ({"seed": 0.5}, "the seed is 0.5"),
        ({"batch": 8.0}, "batch is 8.0"),
        ({"schedule": "cosine"}, "the learning rate is 'cosine'"),
        ({"schedule": lambda step: None}, "the learning rate is None"),
        ({"schedule": lambda step: float("nan")}, "the learning rate is nan"),
        ({"checkpoint": 3}, "cannot be named 3"),
        ({"data": None}, "the data is None, which holds no batches"),
        ({"data": lambda epoch: None}, "the data is None"),
        ({"data": lambda epoch: []}, "no batch for epoch 0"),
        ({"data": (np.zeros((2, 4)), np.array(1))}, "a single number holds no samples"),
        ({"metric": "accuracy"}, "the metric is 'accuracy', which is no function"),
        ({"metric": lambda found, labels: found}, "which is no number"),
    ],
)
def test_wrong_options_of_fit(options: dict[str, Any], message: str) -> None:
    """A rate that is no number would make NaN of every parameter, and no data a loss of 0."""
    made = trainer()
    before = made.tensors()
    with pytest.raises(UsageError, match=message):
        made.fit(**{"data": blobs(8), "epochs": 1, "validation": blobs(8), **options})
    if "metric" not in options:
        assert all(np.array_equal(before[name], array) for name, array in made.tensors().items())


def test_numbers_of_numpy_go_into_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    options: dict[str, Any] = {"batch": np.int64(8), "seed": np.int32(3), "checkpoint": file}
    made = trainer()
    (record,) = made.fit(blobs(16), epochs=np.int64(1), validation=blobs(8), **options,
                         metric=lambda found, labels: np.float32(0.5))  # fmt: skip
    assert record["validation"] == 0.5
    again = trainer()
    assert again.fit(blobs(16), epochs=2, resume=True, **options)[0] == record
    assert made.evaluate(*blobs(8), batch=3, metric=lambda found, labels: np.array(2)) == 2.0


def test_lists_of_several_lengths_are_told() -> None:
    with pytest.raises(InputError, match='the input "x" must be float32.* inhomogeneous'):
        trainer().step([[1, 2], [3]], [0, 1])  # type: ignore[arg-type]
