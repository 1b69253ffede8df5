"""One contender in a process of its own: ``python -m netloom.benchmarks.contender ENGINE FILE FEEDS
THREADS``.

It loads FILE (a shared object for netloom, a model for the peers), prints a line of JSON, and then
answers lines of its input: ``block CALLS SECONDS`` times calls of one inference each (SECONDS idle
first, two calls discarded) and prints the times in seconds; ``outputs FILE`` writes the outputs and
prints how much memory the process has held at most. Peers run in float32 with as many threads as
netloom. A fault is one line of JSON with the key ``fault``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .child import kilobytes

Arrays = dict[str, npt.NDArray[Any]]
Call = Callable[[], Any]
DISCARDED = 2


def _netloom(file: str, feeds: Arrays, threads: int) -> tuple[Call, Callable[[], Arrays], str]:
    from netloom import __version__
    from netloom.runtime.session import load

    session = load(file, threads=threads)
    inputs = {port.name: feeds[port.name] for port in session.inputs}
    call = session.bind(**inputs)
    call()
    return call, lambda: dict(call.outputs), __version__


def _netloom_training(
    file: str, feeds: Arrays, threads: int
) -> tuple[Call, Callable[[], Arrays], str]:
    """A call is one training step; the outputs are those of the last one."""
    from netloom import __version__
    from netloom.runtime.session import load

    session = load(file, threads=threads)
    state = session.create_state()
    call = session.bind_train_step(
        state, **{port.name: feeds[port.name] for port in session.entry("train_step").inputs}
    )
    return call, lambda: dict(call.outputs), __version__


def _onnxruntime(file: str, feeds: Arrays, threads: int) -> tuple[Call, Callable[[], Arrays], str]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = (
        threads,
        1,
        3,
    )
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return (
        (lambda: session.run(None, feeds)),
        lambda: dict(zip(names, session.run(None, feeds), strict=True)),
        ort.__version__,
    )


def _openvino(file: str, feeds: Arrays, threads: int) -> tuple[Call, Callable[[], Arrays], str]:
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = core.read_model(file)
    model.reshape({port.any_name: feeds[port.any_name].shape for port in model.inputs})
    request = core.compile_model(model, "CPU", options).create_infer_request()
    tensors = {name: openvino.Tensor(array, shared_memory=True) for name, array in feeds.items()}
    request.set_tensors(tensors)

    def outputs() -> Arrays:
        request.infer()
        return {
            port.any_name: request.get_tensor(port).data.copy() for port in request.model_outputs
        }

    return request.infer, outputs, str(openvino.__version__)


def _zoo_training(file: str, feeds: Arrays, threads: int) -> tuple[Call, Callable[[], Arrays], str]:
    from netloom import __version__, api
    from netloom.frontends.dsl import losses, optimizers, zoo

    task = json.loads(Path(file).read_text())
    graph = getattr(zoo, task["network"])(batch=task["batch"], **task["options"])
    optimizer = optimizers.SGD(1e-3, momentum=0.9)
    trainer = api.compile_training(
        graph, loss=losses.cross_entropy, optimizer=optimizer, threads=threads
    )
    x, target = feeds["x"], feeds["target"]
    return (
        (lambda: trainer.step(x, target)),
        lambda: {"loss": np.asarray(trainer.step(x, target)["loss"])},
        __version__,
    )


def _torch_training(
    is_compiled: bool, file: str, feeds: Arrays, threads: int
) -> tuple[Call, Callable[[], Arrays], str]:
    import torch

    from netloom.benchmarks.torch_networks import NETWORKS

    torch.set_num_threads(threads)
    module = NETWORKS[json.loads(Path(file).read_text())["network"]]()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    loss_of = torch.nn.CrossEntropyLoss()
    x, target = torch.from_numpy(feeds["x"]), torch.from_numpy(feeds["target"])
    forward = torch.compile(module) if is_compiled else module

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(forward(x), target)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step, lambda: {"loss": np.asarray(step())}, str(torch.__version__)


def _torch(file: str, feeds: Arrays, threads: int) -> tuple[Call, Callable[[], Arrays], str]:
    import torch

    from netloom.benchmarks.torch_model import TorchModel

    torch.set_num_threads(threads)
    model = TorchModel(file)
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}

    def call() -> dict[str, Any]:
        with torch.inference_mode():
            return model(tensors)

    return (
        call,
        lambda: {name: value.numpy() for name, value in call().items()},
        str(torch.__version__),
    )


Engine = Callable[[str, Arrays, int], tuple[Call, Callable[[], Arrays], str]]
ENGINES: dict[str, Engine] = {
    "netloom": _netloom,
    "netloom_training": _netloom_training,
    "zoo_training": _zoo_training,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torch,
    "torch_training": partial(_torch_training, False),
    "torch_compiled_training": partial(_torch_training, True),
}
MODULES = {
    "netloom": "netloom.runtime.session",
    "netloom_training": "netloom.runtime.session",
    "zoo_training": "netloom.api",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "torch": "netloom.benchmarks.torch_model",
    "torch_training": "netloom.benchmarks.torch_networks",
    "torch_compiled_training": "netloom.benchmarks.torch_networks",
}  # imported before a contender's loading is timed


def main(engine: str, file: str, feeds_file: str, threads: str) -> None:
    """Serve one contender over standard input and output."""
    try:
        feeds = dict(np.load(feeds_file, allow_pickle=False))
        # what every process pays once is no part of loading a model
        importlib.import_module(MODULES[engine])
        start = time.perf_counter()
        call, outputs, version = ENGINES[engine](file, feeds, int(threads))
        call()
    # whatever an engine may raise: it is told to whoever waits for the first line
    except Exception as error:
        print(json.dumps({"fault": f"{type(error).__name__}: {error}"}), flush=True)
        return
    print(json.dumps({"ready_s": time.perf_counter() - start, "version": version}), flush=True)
    for line in sys.stdin:
        word, *rest = line.split(maxsplit=1)
        if word == "outputs":
            peak = kilobytes(Path("/proc/self/status"), "VmHWM:")
            np.savez(rest[0].strip(), **outputs())  # type: ignore[arg-type]
            print(json.dumps({"peak_bytes": peak << 10}), flush=True)
        else:
            calls, idle = rest[0].split()
            print(json.dumps(_block(call, int(calls), float(idle))), flush=True)


def _block(call: Call, calls: int, idle: float) -> list[float]:
    time.sleep(idle)
    for _ in range(DISCARDED):
        call()
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    # nobody waits for answers any more; at exit Python would flush once again
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
