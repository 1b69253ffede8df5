"""Network + loss + optimizer -> one graph that does a whole training step.

The step's inputs are those of the network, the target and the learning rate; its outputs are the
loss and, for classifiers, the number of right answers. Parameters, optimizer tensors, running
statistics and the generator's key are states under the names that the network's own graph gives
them, so one set of states serves step and inference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from netloom.compiler.graph import Builder, Graph, State, Value, rebuilder
from netloom.compiler.passes.differentiate import differentiate
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.errors import UsageError

from .functions import cast
from .losses import Loss
from .network import TracedGraph
from .optimizers import Optimizer
from .trace import Symbolic, Trace, tracing

LOSS, CORRECT = "loss", "correct"


def training_graph(
    graph: Graph,
    loss: Loss | Callable[[Symbolic, Symbolic], Symbolic],
    optimizer: Optimizer,
    *,
    trainable: Collection[str] | None = None,
    labels: str = "labels",
    rate: str = "rate",
) -> Graph:
    """The training step of a network with one output.

    A graph traced in its inference form is traced anew in its training form. ``trainable`` names
    the states that the optimizer changes; unless given, all parameters. ``labels`` and ``rate``
    name the added inputs. UsageError if there is nothing to train, or not one output, or for what
    is no optimizer.
    """
    _check_optimizer(optimizer)
    form = graph.training_form() if isinstance(graph, TracedGraph) else graph
    if len(form.outputs) != 1:
        raise UsageError(
            f"a training step needs a network with one output, not {len(form.outputs)}."
        )
    chosen = _trainable(form, trainable)
    b = _copy(form)
    trace = Trace(b, training=True)
    with tracing(trace):
        measured = _loss(trace, form, loss, labels)
        gradients = differentiate(b, measured[LOSS].value, [state.input for state in chosen])
        step_rate = Symbolic(b.input(TensorType(FLOAT32, ()), rate), trace)
        _update(trace, optimizer, chosen, gradients, step_rate)
    return b.build([value.value for value in measured.values()], measured.keys())


def _check_optimizer(optimizer: object) -> None:
    if isinstance(optimizer, type) or not hasattr(optimizer, "build_update"):
        raise UsageError(
            f"the optimizer is {optimizer!r}, which cannot build an update.",
            hint="Give one of nl.optimizers, such as nl.optimizers.Adam(1e-3).",
        )


def _trainable(form: Graph, names: Collection[str] | None) -> list[State]:
    """The states to train: those named, else the traced network's parameters, else every
    unchanged float state.
    """
    known = {state.name: state for state in form.states}
    if names is None and isinstance(form, TracedGraph):
        names = form.trainable
    if names is None:
        names = [
            name
            for name, state in known.items()
            if state.is_unchanged and state.input.dtype.is_float
        ]
    if not names:
        raise UsageError("the network has no parameters to train.")
    for name in names:
        if name not in known:
            raise UsageError(
                f"there is no parameter {name!r} to train.", hint=f"There are: {', '.join(known)}."
            )
    return [known[name] for name in names]


def _copy(form: Graph) -> Builder:
    """A builder that holds all of ``form``, values and all."""
    b, _ = rebuilder(form)
    b.nodes = list(form.nodes)
    return b


def _loss(
    trace: Trace, form: Graph, loss: Loss | Callable[[Symbolic, Symbolic], Symbolic], labels: str
) -> dict[str, Symbolic]:
    """The step's outputs by name: the loss, and the count of right answers if the loss knows it."""
    output = Symbolic(form.outputs[0], trace)
    type = loss.target(output.type) if isinstance(loss, Loss) else output.type
    target = Symbolic(trace.b.input(type, labels), trace)
    result = loss(output, target)
    if result.rank != 0 or not result.dtype.is_float:
        raise UsageError(
            f"the loss is {result.type}, not a float scalar.", hint="Reduce it with reduce_mean."
        )
    if isinstance(loss, Loss) and loss.correct is not None:
        return {LOSS: result, CORRECT: loss.correct(output, target)}
    return {LOSS: result}


def _update(
    trace: Trace, optimizer: Optimizer, chosen: list[State], gradients: list[Value], rate: Symbolic
) -> None:
    """Add the optimizer's states, and make every trained state become its updated value."""
    b = trace.b
    before = {
        name: Symbolic(b.state(f"optimizer.{name}", c), trace)
        for name, c in optimizer.shared().items()
    }
    shared = optimizer.advance(before)
    for name, value in shared.items():
        trace.update_state(before[name], value)
    for state, gradient in zip(chosen, gradients, strict=True):
        b.label = f"{state.name}.update"
        initial = optimizer.slots(state.input.type)
        slots = {
            name: Symbolic(b.state(f"{state.name}.{name}", c), trace) for name, c in initial.items()
        }
        parameter = Symbolic(state.input, trace)
        updated, moved = optimizer.build_update(
            parameter, Symbolic(gradient, trace), slots, shared, cast(rate, parameter.dtype)
        )
        trace.update_state(parameter, updated)
        for name, value in moved.items():
            trace.update_state(slots[name], value)
    b.label = ""
