"""Training through the whole compiler: the compiled step against the interpreter, learning,
saving, inference.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

import netloom as nl
from netloom.compiler.driver import Compiled, compile_entries
from netloom.compiler.graph import Graph
from netloom.compiler.interpret import interpret, interpret_step
from netloom.frontends import datasets
from netloom.runtime.checkpoint import read_checkpoint
from netloom.runtime.session import Session
from netloom.runtime.training import Trainer
from netloom.runtime.training_data import shuffled
from tests.cli.calling import call

Array: TypeAlias = npt.NDArray[Any]
ROOT = Path(__file__).parents[2]
LENET = nl.zoo.lenet5(size=32)
STEP = nl.training_graph(LENET, nl.losses.cross_entropy, nl.optimizers.Adam())


@pytest.fixture(scope="module")
def lenet() -> Compiled:
    """LeNet-5's training program, for any batch."""
    return compile_entries(STEP, LENET)


def trainer_of(program: Compiled, threads: int = 2) -> Trainer:
    """A trainer with a state of its own."""
    return Trainer(Session.in_process(program.image, threads), rate=1e-3)


def same(first: Trainer, second: Trainer) -> bool:
    """Whether two states are equal, bit for bit."""
    one, two = first.tensors(), second.tensors()
    return one.keys() == two.keys() and all(
        one[name].tobytes() == two[name].tobytes() for name in one
    )


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    return datasets.digits(size=32)


@nl.network
def with_everything(x: nl.Symbolic) -> nl.Symbolic:
    # No bias before the batch norm: its gradient is zero but for rounding, and Adam would make
    # steps of that noise.
    x = nl.relu(nl.batch_norm(nl.conv2d(x, 8, 3, stride=2, padding="same", bias=False)))
    x = nl.max_pool2d(nl.lrn(x), 2)
    return nl.dense(nl.dropout(nl.relu(nl.dense(nl.flatten(x), 16)), 0.3), 3)


@pytest.mark.parametrize(
    "optimizer",
    [nl.optimizers.SGD(momentum=0.9, nesterov=True), nl.optimizers.Adam(), nl.optimizers.RMSprop()],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_steps_follow_the_interpreter(optimizer: nl.optimizers.Optimizer) -> None:
    """Same batches, three of them, the last one smaller: states agree to rounding, the
    generator's key exactly.
    """
    graph = with_everything.graph(x=nl.tensor("N", 2, 12, 12))
    trainer = nl.compile_training(graph, loss=nl.losses.cross_entropy, optimizer=optimizer)
    step: Graph = nl.training_graph(graph, nl.losses.cross_entropy, optimizer)
    rng = np.random.default_rng(0)
    states = trainer.tensors()
    assert set(states) == {state.name for state in step.states}
    for samples in (8, 8, 5):
        x, y = (
            rng.standard_normal((samples, 2, 12, 12)).astype(np.float32),
            rng.integers(0, 3, samples),
        )
        (loss, correct), states = interpret_step(
            step, {"x": x, "labels": y, "rate": np.float32(0.01)}, states
        )
        found = trainer.step(x, y, rate=0.01)
        assert found["loss"] == pytest.approx(float(loss), rel=1e-5) and found["correct"] == correct
    for name, array in trainer.tensors().items():
        if array.dtype.kind == "f":
            assert np.linalg.norm(array - states[name]) <= 1e-4 * np.linalg.norm(states[name]), name
        else:
            np.testing.assert_array_equal(array, states[name], err_msg=name)


def test_lenet_learns_digits_and_goes_out_as_a_shared_object(
    data: datasets.Dataset, tmp_path: Path
) -> None:
    trainer = nl.compile_training(
        LENET, loss=nl.losses.cross_entropy, optimizer=nl.optimizers.Adam(1e-3)
    )
    history = trainer.fit(data.training, epochs=4, batch=32, validation=data.test)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"] and history[-1]["validation"] > 0.93
    trainer.to_inference().save(tmp_path / "lenet.so")
    logits = nl.load(tmp_path / "lenet.so")(data.test_x)
    correct = np.sum(logits.argmax(1) == data.test_y)
    # rounding may turn one close call
    assert abs(correct - history[-1]["validation"] * len(data.test_y)) < 1.5
    (expected,) = interpret(nl.with_states(LENET, trainer.tensors()), {"x": data.test_x})
    assert np.linalg.norm(logits - expected) <= 1e-5 * np.linalg.norm(expected)


def test_saved_and_loaded_it_goes_on_with_the_same_bits(
    lenet: Compiled, data: datasets.Dataset, tmp_path: Path
) -> None:
    one, two = trainer_of(lenet), trainer_of(lenet)
    x, y = data.x[:32], data.y[:32]
    one.step(x, y)
    one.save(tmp_path / "c.safetensors")
    two.load(tmp_path / "c.safetensors")
    assert one.step(x, y) == two.step(x, y) and same(one, two)


def test_the_last_partial_batch_follows_the_interpreter(
    lenet: Compiled, data: datasets.Dataset
) -> None:
    """160 samples are batches of 64, 64 and 32, as 60,000 are 937 of 64 and one of 32."""
    x, y = data.x[:160], data.y[:160]
    trainer, losses = trainer_of(lenet), []
    (record,) = trainer.fit(
        (x, y), epochs=1, batch=64, seed=5, on_step=lambda step, loss: losses.append(loss)
    )
    states = {state.name: np.array(state.initial.array) for state in STEP.states}
    order, right = shuffled(160, 5, 0), 0
    for chosen, loss in zip((order[:64], order[64:128], order[128:]), losses, strict=True):
        inputs = {"x": x[chosen], "labels": y[chosen], "rate": np.float32(1e-3)}
        (expected, correct), states = interpret_step(STEP, inputs, states)
        assert loss == pytest.approx(float(expected), rel=1e-5)
        right += int(correct)
    assert (
        record["loss"] == (64 * losses[0] + 64 * losses[1] + 32 * losses[2]) / 160
        and record["accuracy"] == right / 160
    )
    for name, array in trainer.tensors().items():
        differs = array != states[name]
        excused = differs & only_rounding(states, name)
        found = np.where(excused, states[name], array)
        assert np.linalg.norm(found - states[name]) <= 1e-4 * np.linalg.norm(states[name]), name
        assert np.mean(excused) <= 0.02 and np.abs(array - states[name]).max() <= 3 * 2 * 1e-3, name


def only_rounding(states: Mapping[str, Array], name: str) -> Array:
    """Where Adam divides gradients that are nothing but rounding by their own size: it may step
    either way, by at most the rate."""
    sizes = np.sqrt(states.get(f"{name}.moment2", np.ones(1)))
    return np.asarray(sizes < 1e-6 * sizes.max())


def test_any_number_of_threads_gives_the_same_bits(lenet: Compiled, data: datasets.Dataset) -> None:
    """Losses, counts and states after three steps, the last of them on a partial batch."""
    x, y = data.x[:160], data.y[:160]

    def trained(threads: int, order: tuple[int, ...]) -> tuple[list[dict[str, float]], Trainer]:
        trainer = trainer_of(lenet, threads)
        return [
            trainer.step(x[start : start + 64], y[start : start + 64]) for start in order
        ], trainer

    results, trainer = trained(1, (0, 64, 128))
    for threads in (2, 3, 8):
        others, other = trained(threads, (0, 64, 128))
        assert others == results and same(trainer, other), threads
    assert not same(trainer, trained(1, (64, 0, 128))[1])  # states that differ are told apart


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_one_program_runs_every_batch(lenet: Compiled, data: datasets.Dataset, batch: int) -> None:
    """The program of a free batch against the network compiled for one: dense and direct layers
    keep 2e-6 (relative L2).
    """
    x = data.x[:batch]
    free, fixed = (
        trainer_of(lenet).predict(x, batch=batch),
        nl.compile(nl.zoo.lenet5(size=32, batch=batch))(x),
    )
    assert free.shape == fixed.shape == (batch, 10)
    assert np.linalg.norm(free - fixed) <= 2e-6 * np.linalg.norm(fixed)


def test_a_free_batch_trains_as_a_fixed_one(lenet: Compiled, data: datasets.Dataset) -> None:
    """One step on 3 samples. The first moments are then a tenth of the gradients, each of which
    went through at most ten layers, forth and back, that keep 2e-6. (The parameters move by g /
    |g|, which rounding decides where g is nearly 0.)"""
    graph = nl.zoo.lenet5(size=32, batch=3)
    fixed = nl.compile_training(graph, loss=nl.losses.cross_entropy, optimizer=nl.optimizers.Adam())
    free = trainer_of(lenet)
    for trainer in (free, fixed):
        trainer.step(data.x[:3], data.y[:3])
    ours, expected = free.tensors(), fixed.tensors()
    moments = [name for name in expected if name.endswith(".moment1")]
    assert len(moments) == len(graph.trainable)
    for name in moments:
        assert np.linalg.norm(expected[name]) > 1e-5
        assert np.linalg.norm(ours[name] - expected[name]) <= 10 * 2e-6 * np.linalg.norm(
            expected[name]
        ), name


ALTERNATING = """
import numpy as np, netloom as nl
network = nl.network(lambda x: nl.dense(nl.relu(nl.dense(x, 8)), 3))
trainer = nl.compile_training(network.graph(x=nl.tensor("N", 4)), loss=nl.losses.cross_entropy,
                              optimizer=nl.optimizers.Adam(), threads=4)
x, y = np.zeros((8, 4), np.float32), np.zeros(8, np.int64)
for _ in range(300):
    trainer.predict(x)
    trainer.step(x, y)
"""


def test_steps_and_evaluations_alternate_on_one_pool() -> None:
    """The two have different numbers of launches; a worker that is late out of one must not take
    the other's.
    """
    subprocess.run(
        [sys.executable, "-c", ALTERNATING],
        check=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


class Interrupted:
    """Notes each step's loss, and sends SIGINT after one of them."""

    def __init__(self, after: int) -> None:
        self.after, self.curve = after, list[tuple[int, float]]()

    def __call__(self, step: int, loss: float) -> None:
        self.curve.append((step, loss))
        if step == self.after:
            os.kill(os.getpid(), signal.SIGINT)


# within an epoch, at its last, partial batch, and in the next one
@pytest.mark.parametrize("stop", [2, 3, 4])
def test_interrupted_and_resumed_the_loss_curve_goes_on(
    lenet: Compiled, data: datasets.Dataset, tmp_path: Path, stop: int
) -> None:
    """Bit for bit, also when the two parts run on other numbers of threads."""
    settings = {
        "epochs": 2,
        "batch": 64,
        "seed": 3,
        "validation": (data.test_x[:50], data.test_y[:50]),
    }
    arrays, file = (data.x[:160], data.y[:160]), tmp_path / "c.safetensors"
    whole, note = trainer_of(lenet, 2), Interrupted(after=0)
    history = whole.fit(arrays, **settings, on_step=note)

    first, part = trainer_of(lenet, 1), Interrupted(stop)
    with pytest.raises(KeyboardInterrupt):
        first.fit(arrays, **settings, checkpoint=file, on_step=part)
    noted = read_checkpoint(file).metadata
    assert (noted["seed"], noted["epoch"], noted["position"], noted["step"]) == (
        3,
        stop // 4,
        stop - 3 * (stop // 4),
        stop,
    )

    second, rest = trainer_of(lenet, 3), Interrupted(after=0)
    assert second.fit(arrays, **settings, checkpoint=file, resume=True, on_step=rest) == history
    assert part.curve + rest.curve == note.curve and len(part.curve) == stop and same(whole, second)


# -- stopped by SIGINT and resumed, in processes of their own --------------------------------------


def stop_once_saved(command: list[str], file: Path, **environment: str) -> dict[str, Any]:
    """Send SIGINT to a training after its first checkpoint, wherever that finds it; what the
    checkpoint then notes.
    """
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen(
        [sys.executable, *command], env=variables, text=True, stderr=subprocess.PIPE
    )
    while not file.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "--resume" in said and "Traceback" not in said, said
    return dict(read_checkpoint(file).metadata)


NETWORK = """
import netloom as nl

def graph():
    return nl.network(lambda x: nl.dense(nl.dropout(nl.relu(nl.dense(x, 16))), 3)).graph(x=nl.tensor("N", 4))
"""


def test_the_command_line_resumes_with_the_same_bits(tmp_path: Path) -> None:
    """The last checkpoint is the same file, byte for byte, as that of a run which never stopped."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 150)
    np.savez(
        tmp_path / "data.npz",
        x=(np.eye(4)[y] + rng.standard_normal((150, 4))).astype(np.float32),
        y=y,
    )
    (tmp_path / "net.py").write_text(NETWORK)
    part, whole = tmp_path / "part.safetensors", tmp_path / "whole.safetensors"
    train = ["train", f"{tmp_path}/net.py:graph", "--data", f"{tmp_path}/data.npz", "--seed", "7"]
    stopped = stop_once_saved(
        ["-m", "netloom", *train, "--epochs", "1000000", "--checkpoint", str(part)], part
    )
    assert stopped["seed"] == 7 and stopped["step"] == 3 * stopped["epoch"] + stopped["position"]
    last = str(stopped["epoch"] + 2)
    call(*train, "--epochs", last, "--checkpoint", part, "--resume")
    call(*train, "--epochs", last, "--checkpoint", whole)
    assert part.read_bytes() == whole.read_bytes()


def write_idx(path: Path, array: np.ndarray) -> None:
    """A file of MNIST's format: 0, 0, 8, rank, the extents as big-endian int32, the bytes."""
    path.write_bytes(
        bytes([0, 0, 8, array.ndim])
        + np.array(array.shape, ">i4").tobytes()
        + array.astype(np.uint8).tobytes()
    )


def test_the_mnist_example_resumes_with_the_same_bits(lenet: Compiled, tmp_path: Path) -> None:
    """LeNet-5 on 160 images in MNIST's format; the run that never stopped is the trainer's own,
    on other threads.
    """
    rng, place = np.random.default_rng(0), tmp_path / "mnist"
    place.mkdir()
    for name, samples in (("train", 160), ("t10k", 20)):
        write_idx(place / f"{name}-images-idx3-ubyte", rng.integers(0, 256, (samples, 28, 28)))
        write_idx(place / f"{name}-labels-idx1-ubyte", rng.integers(0, 10, samples))
    example = [
        str(ROOT / "examples" / "mnist.py"),
        "--seeds",
        "0",
        "--checkpoint",
        str(tmp_path / "part.safetensors"),
    ]
    part, whole = tmp_path / "part-0.safetensors", tmp_path / "whole.safetensors"
    stopped = stop_once_saved(
        [*example, "--epochs", "1000000"], part, NETLOOM_DATA=str(tmp_path), NETLOOM_THREADS="1"
    )
    epochs = stopped["epoch"] + 2
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NETLOOM_DATA": str(tmp_path)}
    again = [sys.executable, *example, "--epochs", str(epochs), "--resume"]
    said = subprocess.run(
        again, check=True, capture_output=True, text=True, timeout=120, env=environment
    ).stdout
    data = datasets.mnist(place, size=32)
    history = trainer_of(lenet).fit(
        data.training, epochs=epochs, seed=0, validation=data.test, checkpoint=whole
    )
    assert part.read_bytes() == whole.read_bytes()
    assert f"epoch {epochs}  loss {history[-1]['loss']:.4f}" in said and "median" in said
