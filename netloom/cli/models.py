"""MODEL and PROGRAM arguments -> graphs and sessions.

MODEL is ``file.onnx``, ``file.py:function``, ``zoo:name`` or ``light:name`` (a light model of the
onnx package, whose weights are constants); PROGRAM is a shared object that ``netloom compile``
wrote.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netloom.errors import NetloomError, UsageError

from .options import Binding, Build
from .output import displayable

if TYPE_CHECKING:
    from netloom.compiler.driver import Compiled, Options
    from netloom.compiler.graph import Graph
    from netloom.compiler.passes.select_strategies import Decision
    from netloom.frontends.onnx.model_bytes import Reading
    from netloom.runtime.session import Session

_NAMED = 8  # names that a message lists


def is_program(name: str) -> bool:
    return name.endswith(".so")


def begin_reading(model: str) -> Reading | None:
    """A MODEL's file, which a thread reads while the caller goes on; None if it is no ONNX file."""
    if model.startswith("zoo:") or model.endswith(".py") or ".py:" in model:
        return None
    from netloom.frontends.onnx.model_bytes import read_ahead

    return read_ahead(_light(model[6:]) if model.startswith("light:") else Path(model))


def load_graph(model: str, binding: Binding, begun: Reading | None = None) -> Graph:
    """The graph of a MODEL with its dims bound; UsageError if there is no such model or dim.
    ``begun``: what ``begin_reading`` gave for it before.
    """
    if model.startswith("zoo:"):
        return _bound(_from_zoo(model[4:]), binding)
    if model.endswith(".py"):
        raise UsageError(
            f"{model[:80]!r} names a file, but no function in it.",
            hint="Write FILE.py:FUNCTION; the function returns a graph.",
        )
    if ".py:" in model:
        path, _, name = model.rpartition(":")
        return _from_file(path, name, binding)
    file = begun or begin_reading(model)
    assert file is not None
    from netloom.frontends.onnx.importer import from_onnx  # takes as long as reading

    return from_onnx(file, dims=dict(binding.dims) or None, shapes=dict(binding.shapes) or None)


def load_for_timing(name: str, binding: Binding, folder: Path) -> tuple[Graph, Path | None]:
    """The graph, and the file that other engines may read as it is (None: export the graph for
    them).

    A light model gets random weights, for constant ones would make some of the work vanish; its
    file is in ``folder``.
    """
    if name.startswith("light:"):
        from netloom.benchmarks.comparison import load_model

        return load_model(name, folder)
    is_file = binding.is_empty and not name.startswith("zoo:") and ".py:" not in name
    return load_graph(name, binding), Path(name) if is_file else None


def load_session(name: str, build: Build, binding: Binding) -> Session:
    """A session of a PROGRAM, or of a MODEL compiled in this process."""
    if not is_program(name):
        from netloom.runtime.session import Session

        compiled = compile_model(load_graph(name, binding), build)
        return Session.in_process(compiled.image, threads=build.threads)
    if binding.shapes or (build.accuracy, build.conv_strategy) != (
        Build.accuracy,
        Build.conv_strategy,
    ):
        raise UsageError(
            "how a program computes was decided when it was compiled.",
            hint="Give --shape, --accuracy and --conv-strategy to netloom compile.",
        )
    from netloom.runtime.session import load

    return load(name, threads=build.threads)


def dims_of_inputs(name: str, binding: Binding) -> Mapping[str, int]:
    """The free dims that a program's inputs bind; those of a MODEL were bound in its graph."""
    return binding.numbers if name.endswith((".so", ".nlc")) else {}


def inference_form(graph: Graph) -> Graph:
    """The graph without dropout and with running statistics, if it was traced."""
    return graph.inference_form()


def compile_model(graph: Graph, build: Build) -> Compiled:
    """An inference program with its code."""
    from netloom.compiler.driver import compile_graph

    compiled = compile_graph(inference_form(graph), compiler_options(build))
    check_override(compiled.decisions, build.conv_strategy)
    return compiled


def compiler_options(build: Build) -> Options:
    from netloom.compiler.driver import Options

    if build.tuned is not None:
        raise UsageError(
            "the cpu target takes no times of a device.",
            hint="Give --target cuda, or --tune SECONDS without --tuned.",
        )
    return Options(build.cpu, build.threads, build.accuracy, build.conv_strategy, tune=build.tune)


def check_override(decisions: Sequence[Decision], override: str) -> None:
    """UsageError if NODE=STRATEGY names no convolution, or a strategy that does not apply to it."""
    node, _, strategy = override.rpartition("=")
    if not node:
        return
    found = [decision for decision in decisions if decision.node == node]
    if not found:
        raise UsageError(
            f"there is no convolution {node[:80]!r}.",
            hint=f"The convolutions are {listed([d.node for d in decisions])}.",
        )
    if reason := found[0].rejected.get(strategy):
        raise UsageError(f"{strategy} does not apply: {reason}.", node=node[:80])


def listed(names: list[str]) -> str:
    """Some names for a message."""
    shown = ", ".join(repr(name[:80]) for name in names[:_NAMED]) or "none"
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def _light(name: str) -> Path:
    from netloom.benchmarks.models import light_models

    models = light_models()
    if name not in models:
        raise UsageError(
            f"there is no light model {name[:80]!r}.", hint=f"Choose {', '.join(models)}."
        )
    return models[name]


# -- graphs that do not come from ONNX -------------------------------------------------------------


def _from_zoo(name: str) -> Graph:
    from netloom.frontends.dsl import zoo

    if name not in zoo.NETWORKS:
        raise UsageError(
            f"the zoo has no network {name[:80]!r}.", hint=f"It has {', '.join(zoo.NETWORKS)}."
        )
    return zoo.NETWORKS[name]()


def _from_file(path: str, name: str, binding: Binding) -> Graph:
    """A network, or a function that returns a graph, of the user's own file. The file is run: it
    is the user's code.
    """
    from netloom.compiler.graph import Graph
    from netloom.frontends.dsl.network import Network
    from netloom.frontends.dsl.trace import tensor

    found = _attribute(path, name)
    if isinstance(found, Network):
        if not binding.shapes:
            raise UsageError(
                f"{name} is a network, whose inputs have no shapes yet.",
                hint="Give --shape x:Nx3x32x32.",
            )
        inputs: dict[str, Any] = {key: tensor(*shape) for key, shape in binding.shapes}
        traced = _called(path, name, lambda: found.graph(**inputs))
        return _bound(traced, replace(binding, shapes=()))
    if not callable(found):
        raise UsageError(f"{name} in {path} is neither a network nor a function.")
    graph = _called(path, name, found)
    if not isinstance(graph, Graph):
        raise UsageError(f"{name} in {path} returned a {type(graph).__name__}, not a graph.",
                         hint="Return what network.graph(x=...) gives.")  # fmt: skip
    return _bound(graph, binding)


def _attribute(path: str, name: str) -> Any:
    try:
        is_there = Path(path).is_file()
    except OSError:  # such as a name that is too long
        is_there = False
    if not is_there:
        raise UsageError(f"there is no file {displayable(path)!r}.", hint="Check the path.")
    spec = importlib.util.spec_from_file_location("netloom_user_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    _called(path, "the file", lambda: loader.exec_module(module))
    if not hasattr(module, name):
        raise UsageError(f"{path} has no function {name!r}.")
    return getattr(module, name)


def _called(path: str, name: str, function: Any) -> Any:
    """What the user's code returns; its own exceptions become usage errors, netloom's stay what
    they are.
    """
    try:
        return function()
    except NetloomError:
        raise
    except (Exception, SystemExit) as error:  # a file that ends the process when it is read
        raise UsageError(f"{name} in {path} failed: {type(error).__name__}: {displayable(str(error))}",
                         hint="Run again with -v for the traceback.") from error  # fmt: skip


def _bound(graph: Graph, binding: Binding) -> Graph:
    if binding.is_empty:
        return graph
    from netloom.compiler.passes.bind_dims import bind_dims

    bounds: dict[str, int | range | tuple[int, int | None]] = dict(binding.dims)
    for name, shape in binding.shapes:
        bounds |= _dims_of_shape(graph, name, shape)
    return bind_dims(graph, bounds) if bounds else graph


def _dims_of_shape(graph: Graph, name: str, shape: tuple[int | str, ...]) -> dict[str, int]:
    """The free dims that make an input's shape the one given."""
    port = next((value for value in graph.inputs if value.label == name), None)
    if port is None:
        raise UsageError(
            f"the model has no input {name[:80]!r}.",
            hint=f"It has {listed([v.label for v in graph.inputs])}.",
        )
    if len(shape) != port.type.rank:
        raise UsageError(
            f"the shape {list(shape)} does not fit the input {name[:80]!r}: {port.type}."
        )
    bounds: dict[str, int] = {}
    for extent, wanted in zip(port.shape, shape, strict=True):
        if str(extent) == str(wanted):
            continue
        if isinstance(wanted, str) or str(extent) not in {symbol.name for symbol in graph.symbols}:
            raise UsageError(
                f"the extent {extent} of the input {name[:80]!r} cannot become {wanted}."
            )
        bounds[str(extent)] = wanted
    return bounds
