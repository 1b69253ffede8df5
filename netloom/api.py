"""The calls that join the compiler to the runtime: compile, compile_training."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from netloom.compiler.driver import Compiled, Options, compile_entries, compile_graph
from netloom.compiler.graph import Graph
from netloom.errors import UsageError
from netloom.frontends.dsl.network import with_states
from netloom.frontends.dsl.optimizers import Grouped, Optimizer
from netloom.frontends.dsl.training_step import training_graph
from netloom.runtime.session import Bound, Session, check_threads
from netloom.runtime.training import Trainer


class CompiledNetwork:
    """An inference program: call it in this process, or save it as a shared object."""

    def __init__(self, compiled: Compiled) -> None:
        self.compiled = compiled
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """The program, loaded into this process on first use."""
        if self._session is None:
            self._session = Session.in_process(self.compiled.image, threads=self.compiled.threads)
        return self._session

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The outputs for NumPy arrays (or anything with ``__dlpack__``): one array, or a tuple."""
        return self.session(*inputs, **named)

    def bind(self, **buffers: Any) -> Bound:
        """A call over fixed input and output buffers, without overhead."""
        return self.session.bind(**buffers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the shared object PATH and its C header."""
        self.compiled.save(path)

    def as_text(self, form: str = "graph") -> str:
        """The program as text: graph, kernels, loops, llvm or asm."""
        return self.compiled.as_text(form)


def compile(  # noqa: A001
    graph: Graph,
    *,
    target: str = "cpu",
    cpu: str | Sequence[str] = "host",
    threads: int | None = None,
    accuracy: str = "default",
    conv_strategy: str = "auto",
    tune: float | None = None,
) -> CompiledNetwork:
    """Compile a graph for inference. ``cpu`` is host or a level such as x86-64-v3, or several, of
    which the program uses the highest that its machine has; ``threads`` the pool's size;
    ``accuracy`` strict, default or fast; ``conv_strategy`` auto, a strategy's name, or NODE=NAME;
    ``tune`` seconds for measuring on this machine which strategies are best."""
    if target != "cpu":
        raise UsageError(f"there is no target {target!r}.", hint="Choose cpu.")
    _check_graph(graph)
    check_threads(threads)
    options = Options(_names(cpu), threads, accuracy, conv_strategy, tune=tune)
    return CompiledNetwork(compile_graph(graph.inference_form(), options))


def _check_graph(graph: object) -> None:
    if not isinstance(graph, Graph):
        raise UsageError(
            f"a {type(graph).__name__} cannot be compiled; a graph can.",
            hint="Give what network.graph(x=nl.tensor(...)) or nl.from_onnx(path) returns.",
        )


def _names(cpu: str | Sequence[str]) -> str:
    return cpu if isinstance(cpu, str) else ",".join(cpu)


def compile_training(
    graph: Graph,
    *,
    loss: Any,
    optimizer: Optimizer | Grouped,
    trainable: str | Collection[str] | Callable[[str], bool] | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    average: float | None = None,
    cpu: str | Sequence[str] = "host",
    threads: int | None = None,
    accuracy: str = "default",
    conv_strategy: str = "auto",
    tune: float | None = None,
) -> Trainer:
    """Compile forward, backward and the optimizer's update as one step; returns the trainer that
    runs it. ``trainable`` names the parameters to train, or is true of their names (None: all), so
    that the others stay as they are; gradients are scaled down where their norm, over all of them,
    is above ``clip_norm``; ``accumulate`` steps make one update, by the mean of their gradients;
    ``average`` keeps averages of the parameters (``Trainer.averaged``). Other options are those of
    ``compile``."""
    _check_graph(graph)
    if not callable(loss):
        raise UsageError(
            f"the loss is {loss!r}, which is no function.",
            hint="Give one of nl.losses, or a function of two symbolic values.",
        )
    check_threads(threads)
    step = training_graph(
        graph, loss, optimizer, trainable=trainable, clip_norm=clip_norm, accumulate=accumulate,
        average=average,
    )  # fmt: skip
    options = Options(_names(cpu), threads, accuracy, conv_strategy, tune=tune)
    compiled = compile_entries(step, graph.inference_form(), options)
    session = Session.in_process(compiled.image, threads=threads)

    def to_inference(tensors: Mapping[str, Any]) -> CompiledNetwork:
        return compile(
            with_states(graph, tensors), cpu=cpu, threads=threads, accuracy=accuracy,
            conv_strategy=conv_strategy,
        )  # fmt: skip

    return Trainer(session, rate=optimizer.rate, to_inference=to_inference, accumulate=accumulate)


__all__ = ["CompiledNetwork", "compile", "compile_training", "with_states"]
