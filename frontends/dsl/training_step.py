"""Network + loss + optimizer -> one graph that does a whole training step.

The step's inputs are those of the network, the target and the learning rate; its outputs are the
loss and, for classifiers, the number of right answers. Parameters, optimizer tensors, running
statistics and the generator's key are states under the names that the network's own graph gives
them, so one set of states serves step and inference.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Collection

from netloom.arguments import real, whole
from netloom.compiler.graph import Builder, Graph, State, Value, rebuilder
from netloom.compiler.passes.differentiate import differentiate
from netloom.compiler.tensor_type import FLOAT32, TensorType
from netloom.errors import UsageError

from .functions import cast, minimum, reduce_sum, sqrt, square
from .losses import Loss, Mixed
from .network import TracedGraph
from .optimizers import Grouped, Optimizer
from .trace import Symbolic, Trace, tracing
from .update import Update

LOSS, CORRECT = "loss", "correct"


def training_graph(
    graph: Graph,
    loss: Loss | Mixed | Callable[..., Symbolic],
    optimizer: Optimizer | Grouped,
    *,
    trainable: str | Collection[str] | Callable[[str], bool] | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    average: float | None = None,
    labels: str = "labels",
    rate: str = "rate",
) -> Graph:
    """The training step of a network.

    A graph traced in its inference form is traced anew in its training form. ``loss`` gets all its
    outputs and the target, which has the first output's type unless the loss says otherwise.
    ``trainable`` names the states that the optimizer changes, or is true of their names; unless
    given, all parameters. Gradients whose Euclidean norm, over all of them, is above ``clip_norm``
    are scaled down to it (Pascanu et al. 2013, algorithm 1). Of ``accumulate`` steps, the last one
    updates the parameters, by the mean of their gradients. With ``average``, each parameter p has a
    state ``p.average`` that becomes average * itself + (1 - average) * p after an update. ``labels``
    and ``rate`` name the added inputs. UsageError if there is nothing to train, or for what is no
    optimizer.
    """
    _check_optimizer(optimizer)
    whole(accumulate, "the number of accumulated steps", least=1)
    if average is not None:
        real(average, "average", least=0, below=1)
    _check_graph(graph, {labels, rate})
    form = graph.training_form() if isinstance(graph, TracedGraph) else graph
    _check_outputs(form, loss)
    chosen = _trainable(form, trainable)
    b = _copy(form)
    trace = Trace(b, training=True)
    with tracing(trace):
        measured = _loss(trace, form, loss, labels)
        _check_dependence(b, measured[LOSS].value, chosen)
        gradients = differentiate(b, measured[LOSS].value, [state.input for state in chosen])
        update = Update(trace, accumulate)
        gradients = update.accumulated(chosen, gradients)
        if clip_norm is not None:
            gradients = _clipped(trace, gradients, clip_norm)
        step_rate = Symbolic(b.input(TensorType(FLOAT32, ()), rate), trace)
        update.apply(optimizer, chosen, gradients, step_rate, average)
    return b.build([value.value for value in measured.values()], measured.keys())


def _check_optimizer(optimizer: object) -> None:
    own = optimizer.optimizer if isinstance(optimizer, Grouped) else optimizer
    if isinstance(own, type) or not hasattr(own, "build_update"):
        raise UsageError(
            f"the optimizer is {own!r}, which cannot build an update.",
            hint="Give one of nl.optimizers, such as nl.optimizers.Adam(1e-3).",
        )


def _check_graph(graph: object, added: Collection[str]) -> None:
    """UsageError unless it is a graph that has no input of the names that the step adds."""
    if not isinstance(graph, Graph):
        raise UsageError(
            f"a {type(graph).__name__} cannot be trained; a graph can.",
            hint="Give what network.graph(x=nl.tensor(...)) returns.",
        )
    for name in {value.label for value in graph.inputs}.intersection(added):
        raise UsageError(
            f"the step has an input {name!r} of its own, and the network has one of that name.",
            hint="Give the network's another name.",
        )


def _check_outputs(form: Graph, loss: object) -> None:
    """UsageError unless the loss is of as many outputs as the network has."""
    if isinstance(loss, Mixed):
        loss.check(form.outputs)
    elif isinstance(loss, Loss) and len(form.outputs) != 1:
        raise UsageError(
            f"the loss {loss.name} is of one output, and the network has {len(form.outputs)}.",
            hint="Give a function of all outputs and the target.",
        )


def _clipped(trace: Trace, gradients: list[Value], most: float) -> list[Value]:
    """Gradients times min(1, most / their norm)."""
    real(most, "clip_norm")
    if not most > 0:
        raise UsageError(
            f"gradients cannot be clipped to the norm {most}.", hint="Give one above 0."
        )
    found = [Symbolic(gradient, trace) for gradient in gradients]
    squares = [reduce_sum(square(cast(gradient, FLOAT32))) for gradient in found]
    norm = sqrt(functools.reduce(operator.add, squares))
    # of a norm that is 0 or small the quotient may be inf, and the factor is 1
    factor = minimum(most / norm, 1.0)
    return [(gradient * cast(factor, gradient.dtype)).value for gradient in found]


def _check_dependence(b: Builder, loss: Value, chosen: list[State]) -> None:
    """UsageError unless the loss is made of what is trained."""
    reached = {state.input for state in chosen}
    for node in b.nodes:
        if not reached.isdisjoint(node.inputs):
            reached.update(node.outputs)
    if loss not in reached:
        raise UsageError(
            "the loss depends on no parameter that is trained.",
            hint="Make it of the network's output and the target.",
        )


def _trainable(
    form: Graph, names: str | Collection[str] | Callable[[str], bool] | None
) -> list[State]:
    """The states to train: those named, else the traced network's parameters, else every
    unchanged float state.
    """
    known = {s.name: s for s in form.states if s.is_unchanged and s.input.dtype.is_float}
    if names is None or callable(names):
        parameters = _parameters(form)
        names = parameters if names is None else [name for name in parameters if names(name)]
    names = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    if not names:
        raise UsageError(
            "the network has no parameters to train.",
            hint="Of a graph that holds its weights as constants (from_onnx), train "
            "nl.trainable(graph).",
        )
    for name in names:
        if name not in known:
            raise UsageError(
                f"there is no parameter {name!r} to train.", hint=f"There are: {', '.join(known)}."
            )
    return [known[name] for name in names]


def _parameters(form: Graph) -> list[str]:
    if isinstance(form, TracedGraph):
        return list(form.trainable)
    return [
        state.name for state in form.states if state.is_unchanged and state.input.dtype.is_float
    ]


def _copy(form: Graph) -> Builder:
    """A builder that holds all of ``form``, values and all."""
    b, _ = rebuilder(form)
    b.nodes = list(form.nodes)
    return b


def _loss(
    trace: Trace, form: Graph, loss: Loss | Mixed | Callable[..., Symbolic], labels: str
) -> dict[str, Symbolic]:
    """The step's outputs by name: the loss, and the count of right answers if the loss knows it; or
    the loss and its terms.
    """
    output, *_ = outputs = [Symbolic(value, trace) for value in form.outputs]
    if isinstance(loss, Mixed):
        types = [one.target(y.type) for one, y in zip(loss.losses, outputs, strict=True)]
        names = [f"{labels}.{name}" for name in form.output_names]
        targets = [
            Symbolic(trace.b.input(type, name), trace)
            for type, name in zip(types, names, strict=True)
        ]
        total, terms = loss(outputs, targets)
        for term in terms:
            _check_loss(term)
        named = zip(form.output_names, terms, strict=True)
        return {LOSS: total, **{f"{LOSS}.{name}": term for name, term in named}}
    type = loss.target(output.type) if isinstance(loss, Loss) else output.type
    target = Symbolic(trace.b.input(type, labels), trace)
    result = loss(output, target) if isinstance(loss, Loss) else _called(loss, *outputs, target)
    _check_loss(result)
    if isinstance(loss, Loss) and loss.correct is not None:
        return {LOSS: result, CORRECT: loss.correct(output, target)}
    return {LOSS: result}


def _called(loss: Callable[..., Symbolic], *values: Symbolic) -> Symbolic:
    """The loss of the outputs and the target; UsageError unless it takes so many."""
    try:
        inspect.signature(loss).bind(*values)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the loss {loss!r} does not take the {len(values) - 1} outputs and the target.",
            hint="Give one of nl.losses, or a function of these that returns a scalar.",
        ) from error
    return loss(*values)


def _check_loss(loss: object) -> None:
    """UsageError for what cannot be minimised."""
    if not isinstance(loss, Symbolic):
        raise UsageError(
            f"the loss is {loss!r}, not a float scalar.", hint="Return a symbolic value."
        )
    if loss.rank != 0 or not loss.dtype.is_float:
        raise UsageError(
            f"the loss is {loss.type}, not a float scalar.", hint="Reduce it with reduce_mean."
        )
