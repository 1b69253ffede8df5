"""The command line: ``netloom VERB``. Every fault is one sentence on standard error and the error's exit code."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netloom.errors import ComparisonError, InputError, NetloomError, UsageError

if TYPE_CHECKING:
    from netloom.api import CompiledNetwork
    from netloom.compiler.graph import Graph
    from netloom.runtime.session import Session


class _Verbs(click.Group):
    """A group that turns netloom's errors into messages and exit codes."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except NetloomError as error:
            click.echo(f"netloom: {error}", err=True)
            raise SystemExit(error.exit_code) from None


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="netloom")
def main() -> None:
    """Compile neural networks to native code."""


# -- models and programs -----------------------------------------------------------------------------------


def _graph(model: str, dims: tuple[str, ...] = ()) -> Graph:
    """MODEL: file.onnx, file.py:function, or zoo:name."""
    bound = dict(_dim(text) for text in dims)
    if model.startswith("zoo:"):
        graph = _from_zoo(model[4:])
    elif ".py:" in model:
        graph = _from_file(*model.rsplit(":", 1))
    else:
        from netloom.frontends.onnx.importer import from_onnx

        return from_onnx(Path(model), dims=bound or None)
    if bound:
        from netloom.compiler.passes.bind_dims import bind_dims

        graph = bind_dims(graph, bound)
    return graph


def _dim(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not name or not value.isdigit():
        raise UsageError(f"--dim {text!r} is not NAME=NUMBER.")
    return name, int(value)


def _from_zoo(name: str) -> Graph:
    from netloom.frontends.dsl import zoo

    if name not in zoo.NETWORKS:
        raise UsageError(f"the zoo has no network {name[:80]!r}.", hint=f"It has {', '.join(zoo.NETWORKS)}.")
    graph: Graph = zoo.NETWORKS[name]()
    return graph


def _from_file(path: str, function: str) -> Graph:
    """A function in the user's own file that returns a graph. The file is run: it is the user's code."""
    if not Path(path).is_file():
        raise UsageError(f"there is no file {path!r}.")
    spec = importlib.util.spec_from_file_location("netloom_user_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise UsageError(f"{path} has no function {function!r}.")
    graph: Graph = getattr(module, function)()
    return graph


def _is_program(name: str) -> bool:
    return name.endswith(".so")


def _session(name: str, threads: int | None, dims: tuple[str, ...] = ()) -> Session:
    """A session of a shared object, or of a model compiled in this process."""
    if _is_program(name):
        from netloom.runtime.session import load

        return load(name, threads=threads)
    return _compiled(name, threads, dims).session


def _compiled(model: str, threads: int | None, dims: tuple[str, ...], **options: Any) -> CompiledNetwork:
    from netloom.api import compile as compile_network

    return compile_network(_graph(model, dims), threads=threads, **options)


_threads = click.option("--threads", type=click.IntRange(1, 1024), help="Threads of the pool (default: all cores).")
_dims = click.option("--dim", "dims", multiple=True, metavar="NAME=NUMBER", help="Fix a free dim.")
_cpu = click.option("--cpu", default="host", show_default=True, help="host, x86-64-v2, x86-64-v3 or x86-64-v4.")
_accuracy = click.option("--accuracy", default="default", show_default=True, help="strict, default or fast.")
_strategy = click.option("--conv-strategy", default="auto", show_default=True, help="auto, a strategy, or NODE=STRATEGY.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_quiet = click.option("-q", "--quiet", is_flag=True, help="Print errors only.")


# -- verbs -------------------------------------------------------------------------------------------------


@main.command("compile")
@click.argument("model")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The shared object to write.")
@_cpu
@_dims
@_accuracy
@_strategy
@click.option("--dump", type=click.Path(path_type=Path), help="Folder for the graph's text after each pass.")
@_quiet
def compile_(
    model: str, output: Path, cpu: str, dims: tuple[str, ...], accuracy: str, conv_strategy: str, dump: Path | None, quiet: bool
) -> None:
    """Compile MODEL to a shared object and its C header."""
    from netloom.compiler.driver import Options, compile_graph
    from netloom.compiler.targets.cpu.shared_object import check_writable

    check_writable(output)
    start = time.perf_counter()
    compiled = compile_graph(_graph(model, dims), Options(cpu, None, accuracy, conv_strategy), dump)
    if not quiet:
        click.echo(f"precision float32, target {compiled.cpu.name}")
    compiled.save(output)
    if not quiet:
        size = output.stat().st_size
        click.echo(f"{output}: {len(compiled.program.kernels)} kernels, {size / 1e6:.2f} MB, {time.perf_counter() - start:.2f} s")


@main.command()
@click.argument("program")
@click.option("--in", "inputs", multiple=True, metavar="NAME=FILE.npy|rand", help="An input (default: all random).")
@click.option("--out", "outputs", multiple=True, metavar="NAME=FILE.npy", help="Where to write an output.")
@_threads
@_dims
@_json
def run(
    program: str, inputs: tuple[str, ...], outputs: tuple[str, ...], threads: int | None, dims: tuple[str, ...], as_json: bool
) -> None:
    """Run a PROGRAM (.so) or a model; print what comes out."""
    import numpy as np

    targets = dict(_pair(text, "--out") for text in outputs)
    session = _session(program, threads, dims)
    feeds = _feeds(session, dict(_pair(text, "--in") for text in inputs))
    names = [port.name for port in session.outputs]
    unknown = set(targets) - set(names)
    if unknown:
        raise InputError(f"the program has no output {sorted(unknown)[0][:80]!r}.", hint=f"It has {', '.join(names)}.")
    results = dict(zip(names, session.run(None, feeds), strict=True))
    for name, path in targets.items():
        np.save(path, results[name], allow_pickle=False)
    rows = [_summary(name, value) for name, value in results.items()]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo("  ".join(f"{key} {value}" for key, value in row.items()))


def _pair(text: str, option: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise UsageError(f"{option} {text[:80]!r} is not NAME=FILE.")
    return name, value


def _feeds(session: Session, given: dict[str, str]) -> dict[str, Any]:
    """Arrays for all inputs: from files, or random (free dims 1)."""
    import numpy as np

    from netloom.runtime.buffer import numpy_dtype

    generator = np.random.default_rng(0)
    feeds: dict[str, Any] = {}
    for port in session.inputs:
        source = given.pop(port.name, "rand")
        if source != "rand":
            try:
                feeds[port.name] = np.load(source, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise InputError(f"input {port.name[:80]!r} cannot be read from {source}: {error}") from error
            continue
        shape = [extent if isinstance(extent, int) else 1 for extent in port.shape]
        dtype = numpy_dtype(port.dtype)
        is_float = dtype.kind not in "iub"
        feeds[port.name] = (generator.standard_normal(shape) if is_float else generator.integers(0, 2, shape)).astype(dtype)
    if given:
        raise InputError(f"the program has no input {sorted(given)[0][:80]!r}.",
                         hint=f"It has {', '.join(port.name for port in session.inputs)}.")  # fmt: skip
    return feeds


def _summary(name: str, value: Any) -> dict[str, Any]:
    import numpy as np

    row: dict[str, Any] = {"name": name, "dtype": str(value.dtype), "shape": list(value.shape)}
    if value.size:
        wide = value.astype(np.float64)
        row |= {"min": float(wide.min()), "mean": float(wide.mean()), "max": float(wide.max()), "nan": int(np.isnan(wide).sum())}
        if value.ndim == 2 and value.shape[0] == 1:
            row["top5"] = [int(i) for i in np.argsort(-wide[0], kind="stable")[:5]]
    return row


@main.command()
@click.argument("model")
@_dims
@_accuracy
@_strategy
@_json
def explain(model: str, dims: tuple[str, ...], accuracy: str, conv_strategy: str, as_json: bool) -> None:
    """Say how MODEL is computed: each convolution's strategy and why, fusions, memory, pass times."""
    compiled = _compiled(model, None, dims, accuracy=accuracy, conv_strategy=conv_strategy).compiled
    if as_json:
        rows = [{"node": d.node, "shape": d.shape, "strategy": d.strategy, "seconds": dict(d.seconds), "rejected": dict(d.rejected)}
                for d in compiled.decisions]  # fmt: skip
        click.echo(json.dumps(rows))
        return
    for decision in compiled.decisions:
        click.echo(f"{decision.node or 'conv'}  {decision.shape}\n  chosen: {decision.strategy}")
        for name, seconds in sorted(decision.seconds.items(), key=lambda item: item[1]):
            click.echo(f"  {name:12} estimated {seconds * 1e3:9.3f} ms" + ("" if name == decision.strategy else ", not the least"))
        for name, reason in decision.rejected.items():
            click.echo(f"  {name:12} rejected: {reason}")
    for entry, graph in compiled.graphs.items():
        kernels = [node for node in graph.nodes if node.op.name == "kernel"]
        click.echo(f"\n{entry}: {len(kernels)} kernels launched, {len(compiled.program.kernels)} different")
        for node in kernels:
            click.echo(f"  {node.output.type}  " + " > ".join(n.op.name for n in node.attrs.body.nodes if n.op.name != "constant"))
        click.echo(f"\n{compiled.reports[entry]}")
    for program_entry in compiled.program.entries:
        click.echo(f"\narena of {program_entry.name}: {len(program_entry.slots)} slots of {', '.join(map(str, program_entry.slots))} bytes")


@main.command()
@click.argument("model")
@_dims
@_json
def check(model: str, dims: tuple[str, ...], as_json: bool) -> None:
    """List every op of an ONNX MODEL: supported or not, with a remedy."""
    from netloom.frontends.onnx import check as check_model

    report = check_model(Path(model))
    click.echo(json.dumps(report.as_json()) if as_json else str(report))
    if not report.is_supported:
        raise SystemExit(3)


@main.command()
@click.argument("program")
@_dims
@_json
def inspect(program: str, dims: tuple[str, ...], as_json: bool) -> None:
    """Show inputs, outputs and metadata of a PROGRAM (.so), or inputs, outputs and ops of a model."""
    if _is_program(program):
        session = _session(program, 1)
        facts: dict[str, Any] = dict(session.metadata)
    else:
        graph = _graph(program, dims)
        counts: dict[str, int] = {}
        for _, node in graph.walk():
            counts[node.op.name] = counts.get(node.op.name, 0) + 1
        facts = {
            "name": graph.name,
            "inputs": {value.label: str(value.type) for value in graph.inputs},
            "outputs": {name: str(value.type) for name, value in zip(graph.output_names, graph.outputs, strict=True)},
            "states": len(graph.states),
            "ops": dict(sorted(counts.items(), key=lambda item: -item[1])),
        }
    click.echo(json.dumps(facts, indent=None if as_json else 2, default=str))


@main.command()
@click.argument("model")
@_threads
@_dims
@click.option("--tolerance", default=5e-5, show_default=True, help="Largest relative L2 distance.")
def compare(model: str, threads: int | None, dims: tuple[str, ...], tolerance: float) -> None:
    """Compare MODEL's compiled code with the graph's interpreter on random inputs."""
    import numpy as np

    from netloom.compiler.interpret import interpret

    graph = _graph(model, dims)
    session = _session(model, threads, dims)
    feeds = _feeds(session, {})
    worst = 0.0
    for port, found, expected in zip(session.outputs, session.run(None, feeds), interpret(graph, feeds), strict=True):
        scale = float(np.linalg.norm(expected.astype(np.float64)))
        distance = float(np.linalg.norm(found.astype(np.float64) - expected)) / max(scale, 1e-30)
        click.echo(f"{port.name}: relative L2 distance {distance:.2e}")
        worst = max(worst, float(distance) if np.isfinite(distance) else float("inf"))
    if worst > tolerance:
        raise ComparisonError(f"the largest distance {worst:.2e} is above {tolerance:.2e}.")


@main.command()
@click.argument("program")
@_threads
@_dims
@click.option("--seconds", default=2.0, show_default=True, help="How long to measure.")
@_json
def bench(program: str, threads: int | None, dims: tuple[str, ...], seconds: float, as_json: bool) -> None:
    """Time a PROGRAM (.so) or a model in this process, on random inputs and bound buffers."""
    import numpy as np

    session = _session(program, threads, dims)
    feeds = _feeds(session, {})
    outputs = {port.name: np.empty_like(value) for port, value in zip(session.outputs, session.run(None, feeds), strict=True)}
    call = session.bind(**feeds, **outputs)
    for _ in range(2):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    low, middle, high = (float(np.percentile(times, p)) for p in (10, 50, 90))
    row = {"threads": session.threads, "calls": len(times), "min_ms": min(times), "p10_ms": low, "p50_ms": middle, "p90_ms": high}
    click.echo(json.dumps(row) if as_json else "  ".join(f"{k} {v:.4g}" for k, v in row.items()))


@main.command()
@click.argument("model")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def export(model: str, output: Path) -> None:
    """Write MODEL as ONNX."""
    from netloom.frontends.onnx.exporter import to_onnx

    to_onnx(_graph(model), output)
    click.echo(str(output))


@main.command()
@click.argument("model")
@click.option("--data", required=True, help="digits, mnist or cifar10 (the last two from NETLOOM_DATA).")
@click.option("--epochs", default=3, show_default=True, type=click.IntRange(1))
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1))
@click.option("--rate", default=1e-3, show_default=True, help="Learning rate of Adam.")
@click.option("--seed", default=0, show_default=True)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="File that holds the training's whole state.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint.")
@_threads
def train(
    model: str, data: str, epochs: int, batch: int, rate: float, seed: int, checkpoint: Path | None, resume: bool, threads: int | None
) -> None:
    """Train a classifier MODEL (zoo:name or file.py:function) with Adam and cross entropy."""
    from netloom.api import compile_training
    from netloom.frontends import datasets
    from netloom.frontends.dsl import losses, optimizers

    if data not in datasets.DATASETS:
        raise UsageError(f"there is no data set {data[:80]!r}.", hint=f"Choose {', '.join(datasets.DATASETS)}.")
    loaded = datasets.DATASETS[data]()
    trainer = compile_training(_graph(model), loss=losses.cross_entropy, optimizer=optimizers.Adam(rate), threads=threads)
    records = trainer.fit(loaded.training, epochs=epochs, batch=batch, seed=seed, validation=loaded.test,
                          checkpoint=checkpoint, resume=resume)  # fmt: skip
    for record in records:
        click.echo("  ".join(f"{key} {value:.6g}" for key, value in record.items()))


@main.command()
@_json
def doctor(as_json: bool) -> None:
    """Show what netloom finds on this machine."""
    from importlib.metadata import version

    from netloom.compiler.targets.cpu.machine import host_cpu

    packages = {name: version(name) for name in ("numpy", "llvmlite", "onnx", "networkx")}
    facts = {"python": sys.version.split()[0], "cpu": host_cpu().name, "cores": len(os.sched_getaffinity(0)), **packages}
    click.echo(json.dumps(facts) if as_json else "\n".join(f"{key}: {value}" for key, value in facts.items()))


@main.command()
@_json
def ops(as_json: bool) -> None:
    """List every op."""
    import netloom.compiler.graph  # noqa: F401  (fills OPS)
    from netloom.compiler.op import OPS

    rows = {name: op.doc for name, op in sorted(OPS.items())}
    click.echo(json.dumps(rows) if as_json else "\n".join(f"{name:24} {doc}" for name, doc in rows.items()))


@main.command()
def strategies() -> None:
    """List the ways of computing a convolution."""
    from netloom.compiler.strategies import STRATEGIES

    for strategy in STRATEGIES:
        click.echo(f"{strategy.name:12} {strategy.doc}; error budget {strategy.budget:.0e}, from --accuracy {strategy.accuracy}")


@main.command()
def passes() -> None:
    """List the passes in order, and why they stand there."""
    from netloom.compiler.driver import PIPELINE

    for item in PIPELINE.passes:
        click.echo(f"{item.name:24} {item.why}")
