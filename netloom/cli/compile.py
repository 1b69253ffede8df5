"""``netloom compile``: a model -> a shared object and its header, or one of the forms on the way
there.

``EMITTERS`` lists every form with the suffix of its file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from netloom.errors import UsageError

from .cuda import compile_for_device, write_device_candidates
from .explain import summary_of, tuned
from .files import check_target, replace_file
from .models import begin_reading, check_override, compiler_options, inference_form, load_graph
from .options import Binding, Build, FileType, binding_options, build_options, printing
from .output import Output, displayable

if TYPE_CHECKING:
    from netloom.compiler.driver import Compiled
    from netloom.compiler.graph import Graph
    from netloom.compiler.targets.cpu.link import Linker
    from netloom.frontends.onnx.model_bytes import Reading

    from .kept_programs import Request


@dataclass(frozen=True)
class Emitter:
    """A form: the suffix of its file and what makes its contents (None: the shared object, which
    is linked).
    """

    suffix: str
    contents: Callable[[Compiled], str | bytes] | None


def _text(form: str) -> Callable[[Compiled], str]:
    return lambda compiled: compiled.as_text(form)


def _header(compiled: Compiled) -> str:
    from netloom.compiler.targets.cpu.header import model_header

    return model_header(compiled.program)


def _object(compiled: Compiled) -> bytes:
    from netloom.compiler.targets.cpu.relocatable import relocatable_object

    return relocatable_object(compiled.variants)


def _onnx(compiled: Compiled) -> bytes:
    from netloom.frontends.onnx.exporter import to_onnx

    return bytes(to_onnx(compiled.sources["run"]).SerializeToString(deterministic=True))


def _dot(compiled: Compiled) -> str:
    from .dot import as_dot

    return "".join(as_dot(graph, name) for name, graph in compiled.graphs.items())


EMITTERS: Final = {
    "graph": Emitter(".graph.txt", _text("graph")),
    "kernels": Emitter(".kernels.txt", _text("kernels")),
    "loops": Emitter(".loops.txt", _text("loops")),
    "llvm": Emitter(".ll", _text("llvm")),
    "asm": Emitter(".s", _text("asm")),
    "obj": Emitter(".o", _object),
    "so": Emitter(".so", None),
    "header": Emitter(".h", _header),
    "onnx": Emitter(".onnx", _onnx),
    "dot": Emitter(".dot", _dot),
}
_BY_SUFFIX: Final = {emitter.suffix: (name,) for name, emitter in EMITTERS.items()} | {
    ".o": ("obj", "header")
}


@click.command("compile")
@click.argument("model")
@click.option(
    "-o", "--output", "path", type=FileType(), help="The file to write; its suffix says what."
)
@click.option(
    "--emit",
    metavar="FORM,FORM...",
    help=f"Write these forms beside each other: {', '.join(EMITTERS)}.",
)
@click.option("--dump", type=FileType(), help="Folder for the graph's text after each pass.")
@click.option(
    "--tune-candidates",
    "candidates",
    type=FileType(),
    metavar="FILE",
    help="With --target cuda, write programs for a machine with a device to time.",
)
@click.option(
    "--train", "training", metavar="loss=NAME,optimizer=NAME", help="Compile a training step too."
)
@binding_options
@build_options
@printing
def compile_(
    output: Output, model: str, path: Path | None, emit: str | None, dump: Path | None, candidates: Path | None,
    training: str | None, binding: Binding, build: Build,
) -> None:  # fmt: skip
    """Compile MODEL to a shared object and its C header, or to another form.

    MODEL is file.onnx, file.py:function or zoo:name. Without -o, one form in text goes to standard
    output. With --target cuda, it becomes a program file (.nlc) for CUDA devices.
    """
    if candidates is not None:
        if build.target != "cuda" or path is not None or emit is not None:
            raise UsageError("candidates are of a network for --target cuda, and a file of their own.",
                             hint="Leave out -o and --emit.")  # fmt: skip
        write_device_candidates(output, model, candidates, training, binding, build)
        return
    if build.target == "cuda":
        compile_for_device(output, model, path, emit, dump, training, binding, build)
        return
    forms = _forms(emit, path)
    begun = begin_reading(model)  # beside the imports that the next lines need
    targets = _targets(forms, path)
    _check_choices(build, dump)
    start = time.perf_counter()
    linker = _linker(build.cpu) if "so" in targets else None
    request = None
    if linker is not None and not output.verbose:
        request = _request(begun, forms, dump, training, binding, build, linker)
    if request is not None and (said := request.answer(targets["so"])) is not None:
        for warning in said["warnings"]:
            output.warn(warning)
        _say_how(output, build, said)
        _say_result(output, said, targets, start)
        return
    compiled = _plan(load_graph(model, binding, begun), build, dump, training)
    check_override(compiled.decisions, build.conv_strategy)
    if path is None:
        contents = EMITTERS[forms[0]].contents
        assert contents is not None
        click.echo(contents(compiled), nl=False)
        return
    said = {"cpu": compiled.levels, "kernels": len(compiled.program.kernels), "kept": False,
            "tuning": summary_of(compiled), "warnings": output.warnings}  # fmt: skip
    _say_how(output, build, said)
    for step in compiled.reports.values():
        output.remark(str(step))
    for form, target in targets.items():
        digest = _write(compiled, form, target)
        if request is not None and digest is not None:
            request.keep(target, digest, {**said, "kept": True})
    _say_result(output, said, targets, start)


def _check_choices(build: Build, dump: Path | None) -> None:
    """UsageError for what the cpu target does not offer, and for a dump that has no folder."""
    if build.precision != "f32":
        raise UsageError(
            f"the cpu target has no precision {build.precision}.",
            hint="Give --target cuda, or --precision f32.",
        )
    if dump is not None and dump.exists() and not dump.is_dir():
        raise UsageError(
            f"{displayable(str(dump))!r} is not a folder.", hint="Choose another place for --dump."
        )


def _request(
    begun: Reading | None, forms: tuple[str, ...], dump: Path | None, training: str | None, binding: Binding,
    build: Build, linker: Linker,
) -> Request | None:  # fmt: skip
    """What a program may be kept for: a model's file and options that decide it. A tuned program
    depends on the machine's times besides, and one from Python on whatever its code does.
    """
    if begun is None or forms != ("so",) or dump is not None or training is not None:
        return None
    if build.tune is not None:
        return None
    from .kept_programs import Request

    return Request(begun, (repr(binding), repr(build), *linker.identity))


def _say_how(output: Output, build: Build, said: Mapping[str, Any]) -> None:
    """Precision, CPU levels, accuracy, and what was measured."""
    output.say(
        f"precision float32, target {said['cpu']}, accuracy {build.accuracy}{tuned(said['tuning'])}"
    )


def _say_result(
    output: Output, said: Mapping[str, Any], targets: Mapping[str, Path], start: float
) -> None:
    """The files, and how long they took."""
    seconds = time.perf_counter() - start
    files = [
        {"form": form, "file": str(target), "bytes": target.stat().st_size}
        for form, target in targets.items()
    ]
    text = "\n".join(f"{item['file']}: {_size(int(str(item['bytes'])))}" for item in files)
    kept = ", as compiled before" if said["kept"] else ""
    output.result(
        {**said, "seconds": seconds, "files": files},
        f"{text}\n{said['kernels']} kernels, {seconds:.2f} s{kept}",
    )


def _forms(emit: str | None, path: Path | None) -> tuple[str, ...]:
    """The forms to write; UsageError unless they are known and have a place to go."""
    if emit is not None:
        forms = tuple(dict.fromkeys(emit.split(",")))
        if unknown := [form for form in forms if form not in EMITTERS]:
            raise UsageError(
                f"there is no form {unknown[0][:80]!r}.", hint=f"Choose from {', '.join(EMITTERS)}."
            )
    elif path is not None and path.suffix == ".nlc":
        raise UsageError(
            "files .nlc are programs for CUDA devices.", hint="Give --target cuda, or -o model.so."
        )
    elif path is not None:
        forms = _BY_SUFFIX.get(path.suffix, ("so",))
    else:
        raise UsageError(
            "nothing says where to write.", hint="Give -o model.so, or --emit with a form in text."
        )
    if path is None and (len(forms) > 1 or forms[0] in ("so", "obj", "onnx")):
        raise UsageError(f"{', '.join(forms)} cannot go to standard output.", hint="Give -o FILE.")
    return forms


def _targets(forms: tuple[str, ...], path: Path | None) -> dict[str, Path]:
    """A file for each form, checked before the work; the header comes with the shared object."""
    if path is None:
        return {}
    if not path.name:  # "." and "/", which take no suffix
        check_target(path)
    targets = {
        form: path if len(forms) == 1 else path.with_suffix(EMITTERS[form].suffix) for form in forms
    }
    if "so" in targets:
        targets["header"] = targets["so"].with_suffix(".h")
    for target in targets.values():
        check_target(target)
    if len(set(targets.values())) < len(targets):
        raise UsageError(
            f"several forms would be written to {str(path)!r}.",
            hint="Give the shared object the suffix .so.",
        )
    return targets


def _linker(cpu: str) -> Linker:
    """The one for the CPU levels' architecture; LinkError, before the work, if there is none."""
    from netloom.compiler.targets.cpu.architecture import AARCH64, X86_64
    from netloom.compiler.targets.cpu.link import find_linker

    if cpu == "host":  # without what names the levels, whose import takes longer than a copy
        return find_linker(X86_64 if X86_64.is_native else AARCH64)
    from netloom.compiler.targets.cpu.machine import cpus_named

    return find_linker(cpus_named(cpu)[0].architecture)


def _plan(graph: Graph, build: Build, dump: Path | None, training: str | None) -> Compiled:
    from netloom.compiler.driver import plan_entries, plan_graph

    options = compiler_options(build)
    if training is None:
        return plan_graph(inference_form(graph), options, dump)
    from netloom.frontends.dsl.training_step import training_graph

    from .recipes import parse_recipe

    loss, optimizer = parse_recipe(training)
    return plan_entries(
        training_graph(graph, loss, optimizer), inference_form(graph), options, dump
    )


def _write(compiled: Compiled, form: str, target: Path) -> bytes | None:
    """Writes a form; the digest that a shared object records of itself."""
    contents = EMITTERS[form].contents
    if contents is None:
        return compiled.save(target)
    data = contents(compiled)
    replace_file(target, data if isinstance(data, bytes) else data.encode())
    return None


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
