"""``@network``: a Python function over symbolic values -> Graph, in training or inference form.

``Network.graph`` calls the function once with symbolic values (trace.py). The graph remembers where
it came from, so that the training form can be traced from the inference form.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import netloom.compiler.ops  # noqa: F401  (fills the table of ops)
from netloom.arguments import whole
from netloom.compiler.constant import Constant
from netloom.compiler.graph import Builder, Graph, State
from netloom.compiler.tensor_type import TensorType
from netloom.errors import ShapeError, UsageError

from .initializers import Initializer
from .trace import Symbolic, Trace, is_tracing, tracing


@dataclass(frozen=True, eq=False)
class TracedGraph(Graph):
    """A Graph that knows the network it came from, so that its other form can be traced."""

    trainable: tuple[str, ...] = ()
    training: bool = False
    retrace: Callable[[bool], TracedGraph] | None = None

    def training_form(self) -> TracedGraph:
        """The same network with dropout and with batch norm over the batch; states have the same
        names.
        """
        return self if self.training or self.retrace is None else self.retrace(True)

    def inference_form(self) -> TracedGraph:
        """The same network without dropout and with the running statistics."""
        return self.retrace(False) if self.training and self.retrace is not None else self


@dataclass(frozen=True)
class Network:
    """A traceable function of symbolic values; layers called in it own their parameters."""

    function: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    given_name: str = ""

    @property
    def name(self) -> str:
        """The name of its graphs: that of the function unless given."""
        return self.given_name or self.function.__name__

    def named(self, name: str) -> Network:
        """The network under another name."""
        return dataclasses.replace(self, given_name=name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Use the network as part of another one; UsageError outside of a network."""
        if not is_tracing():
            raise UsageError(
                f"network {self.name} was called, but no network is being traced.",
                hint="To run it, call nl.compile(network.graph(x=nl.tensor(...))).",
            )
        return self.function(*arguments, **{**self.options, **options})

    def with_options(self, **options: Any) -> Network:
        """The network with keyword arguments of its function fixed."""
        return dataclasses.replace(self, options={**self.options, **options})

    def graph(
        self,
        *unnamed: object,
        training: bool = False,
        seed: int = 0,
        initializer: Initializer | None = None,
        **inputs: TensorType,
    ) -> TracedGraph:
        """Trace the function, its arguments being tensors of the given types, by name.

        ``initializer`` replaces the initializer of every trainable parameter. The function returns
        a symbolic value, a tuple of them, or a dict that names the outputs.
        """
        if unnamed:
            raise UsageError(
                f"the inputs of network {self.name} were given without names.",
                hint="Write graph(x=nl.tensor('N', 3, 32, 32)).",
            )
        for name, type in inputs.items():
            if not isinstance(type, TensorType):
                raise UsageError(
                    f"input {name!r} is {type!r}, not a tensor.",
                    hint="Write nl.tensor('N', 3, 32, 32).",
                )
        self._check_arguments(inputs)
        seed = whole(seed, "the seed", least=0)
        b = Builder(self.name)
        trace = Trace(b, training=training, seed=seed, initializer=initializer)
        with tracing(trace):
            arguments = {
                name: Symbolic(b.input(type, name), trace) for name, type in inputs.items()
            }
            results = _named_results(self.function(**arguments, **self.options))
        built = b.build([r.value for r in results.values()], results.keys())
        retrace = functools.partial(self._retrace, seed, initializer, inputs)
        return TracedGraph(
            built.name, built.inputs, built.nodes, built.outputs, built.output_names, built.states,
            tuple(trace.trainable), training, retrace,
        )  # fmt: skip

    def _check_arguments(self, inputs: Mapping[str, TensorType]) -> None:
        signature = inspect.signature(self.function)
        try:
            signature.bind(**inputs, **self.options)
        except TypeError as error:
            raise UsageError(
                f"network {self.name}{signature}: {error}.", hint="Name each input of the network."
            ) from error

    def _retrace(
        self,
        seed: int,
        initializer: Initializer | None,
        inputs: Mapping[str, TensorType],
        training: bool,
    ) -> TracedGraph:
        return self.graph(training=training, seed=seed, initializer=initializer, **inputs)


def _named_results(results: Any) -> dict[str, Symbolic]:
    match results:
        case Symbolic():
            named = {"y": results}
        case dict():
            named = results
        case tuple() | list():
            named = {f"y{position}": result for position, result in enumerate(results)}
        case _:
            named = {}
    is_named = all(isinstance(name, str) and name for name in named)
    if not named or not is_named or not all(isinstance(r, Symbolic) for r in named.values()):
        raise UsageError(
            f"a network returned {results!r}.",
            hint="Return a symbolic value, a tuple of them, or a dict of them by names.",
        )
    return named


def network(function: Callable[..., Any]) -> Network:
    """Make a traceable network of a function over symbolic values."""
    return Network(function)


def with_states(graph: Graph, values: Mapping[str, npt.NDArray[Any]]) -> Graph:
    """The graph with the initial values of its states replaced by name; ShapeError where types
    differ.

    Names that the graph has not (an optimizer's tensors, say) are passed over. The other form of a
    traced graph starts from the same values.
    """
    states = tuple(_with_initial(state, values.get(state.name)) for state in graph.states)
    if isinstance(graph, TracedGraph) and graph.retrace is not None:
        return dataclasses.replace(
            graph, states=states, retrace=functools.partial(_retrace_with, graph.retrace, values)
        )
    return dataclasses.replace(graph, states=states)


def _retrace_with(
    retrace: Callable[[bool], TracedGraph], values: Mapping[str, npt.NDArray[Any]], training: bool
) -> TracedGraph:
    traced = with_states(retrace(training), values)
    assert isinstance(traced, TracedGraph)
    return traced


def _with_initial(state: State, array: npt.NDArray[Any] | None) -> State:
    if array is None:
        return state
    constant = Constant(np.array(array))
    if constant.type != state.initial.type:
        raise ShapeError(
            f"the state is {state.initial.type}, but the new value is {constant.type}",
            node=state.name,
        )
    return dataclasses.replace(state, initial=constant)
