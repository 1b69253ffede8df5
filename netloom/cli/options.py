"""Option types, and the options that several verbs share.

Each group of options becomes one frozen record that the verb receives: ``Binding`` (what free dims
are) and ``Build`` (how to compile). Wrong values are usage errors that name the option.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from .output import Output, displayable

Verb = TypeVar("Verb", bound=Callable[..., Any])


@dataclass(frozen=True)
class Binding:
    """What is known of the inputs' shapes: free dims by name, and whole shapes by the input's
    name.
    """

    dims: tuple[tuple[str, int | range], ...] = ()
    shapes: tuple[tuple[str, tuple[int | str, ...]], ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.dims and not self.shapes

    @property
    def numbers(self) -> Mapping[str, int]:
        """The dims that are bound to one number."""
        return {name: value for name, value in self.dims if isinstance(value, int)}


@dataclass(frozen=True)
class Build:
    """How to compile; the names are those of ``netloom.compile``."""

    target: str = "cpu"
    cpu: str = "host"
    threads: int | None = None
    precision: str = "f32"
    accuracy: str = "default"
    conv_strategy: str = "auto"
    tune: float | None = None
    tuned: Path | None = None


class DimType(click.ParamType[tuple[str, int | range]]):
    """NAME=NUMBER, NAME=LO..HI, or NAME=LO..HI:STEP for the multiples of STEP."""

    name = "NAME=N|LO..HI[:STEP]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | range]:
        name, _, extent = str(value).rpartition("=")
        lo, dots, rest = extent.partition("..")
        hi, colon, step = rest.partition(":")
        numbers = (lo, *((hi,) if dots else ()), *((step,) if colon else ()))
        if (
            not name
            or not all(_is_number(number) for number in numbers)
            or (colon and int(step) == 0)
        ):
            self.fail(
                f"{_shown(value)} is not NAME=NUMBER, NAME=LO..HI or NAME=LO..HI:STEP.", param, ctx
            )
        return name, range(int(lo), int(hi) + 1, int(step) if colon else 1) if dots else int(lo)


class ShapeType(click.ParamType[tuple[str, tuple[int | str, ...]]]):
    """INPUT:EXTENTxEXTENT...; an extent is a number or the name of a free dim."""

    name = "INPUT:AxBxC"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int | str, ...]]:
        name, colon, extents = str(value).rpartition(":")
        parts = extents.split("x")
        if (
            not name
            or not colon
            or not all(_is_number(part) or part.isidentifier() for part in parts)
        ):
            self.fail(f"{_shown(value)} is not INPUT:AxBxC, such as x:1x3x224x224.", param, ctx)
        return name, tuple(int(part) if _is_number(part) else part for part in parts)


class FileType(click.ParamType[Path]):
    """A path. Whether a file can be there is looked at by the verb, which knows what it will do
    with it.
    """

    name = "FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(value)


class PairType(click.ParamType[tuple[str, str]]):
    """NAME=VALUE."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        name, _, rest = str(value).partition("=")
        if not name or not rest:
            self.fail(f"{_shown(value)} is not {self.name}.", param, ctx)
        return name, rest


class NamesType(click.ParamType[tuple[str, ...]]):
    """Names of a list with commas between them, each once."""

    name = "NAME,NAME"

    def __init__(self, known: Sequence[str]) -> None:
        self.known = tuple(known)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(str(value).split(",")))
        if unknown := [name for name in names if name not in self.known]:
            self.fail(f"{_shown(unknown[0])} is none of {', '.join(self.known)}.", param, ctx)
        return names


class NumbersType(click.ParamType[tuple[int, ...]]):
    """Positive whole numbers with commas between them, each once."""

    name = "N,N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(_is_number(part) and int(part) > 0 for part in parts):
            self.fail(f"{_shown(value)} is not a list of positive whole numbers.", param, ctx)
        return tuple(dict.fromkeys(map(int, parts)))


class JsonType(click.ParamType[Path]):
    """A .json file, or ``-`` for standard output. Any other name is more likely a model's than
    meant.
    """

    name = "FILE.json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if str(value) != "-" and not str(value).endswith(".json"):
            self.fail(f"{_shown(value)} is neither a .json file nor -.", param, ctx)
        return Path(value)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _shown(value: Any) -> str:
    text = displayable(str(value))
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def printing(verb: Verb) -> Verb:
    """Add --json, --quiet and --verbose; the verb receives an ``Output`` first."""
    return _speaking(_flag("as_json", "--json", help="Print JSON.")(verb))


def printing_or_writing(verb: Verb) -> Verb:
    """Like ``printing``, but --json may name a file, and the text is printed then; the verb
    receives ``json_file``.
    """
    option = click.option(
        "--json",
        "json_file",
        is_flag=False,
        flag_value="-",
        type=JsonType(),
        is_eager=True,
        callback=_noted_file,
        help="Print JSON, or write it to a .json file.",
    )
    return _speaking(option(verb))


def _speaking(verb: Verb) -> Verb:
    verb = _flag("quiet", "-q", "--quiet", help="Print errors only.")(verb)
    verb = _flag("verbose", "-v", "--verbose", help="Print more, and the traceback of errors.")(
        verb
    )
    result: Verb = click.make_pass_decorator(Output, ensure=True)(verb)  # type: ignore[assignment]
    return result


def _flag(name: str, *flags: str, help: str) -> Callable[[Verb], Verb]:
    """A flag that is noted in the ``Output``."""
    return click.option(
        *flags, name, is_flag=True, expose_value=False, is_eager=True, callback=_noted, help=help
    )


def _noted_file(
    context: click.Context, _parameter: click.Parameter, value: Path | None
) -> Path | None:
    """The file for JSON; None if there is none, or if JSON is to be printed."""
    if value == Path("-"):
        context.ensure_object(Output).as_json = True
        return None
    return value


def _noted(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and parameter.name is not None:
        setattr(context.ensure_object(Output), parameter.name, True)


def _packed(
    record: type[Any], argument: str, *options: Callable[[Verb], Verb]
) -> Callable[[Verb], Verb]:
    """Add options whose values become one record; fields that have no option keep their
    defaults.
    """

    def decorate(verb: Verb) -> Verb:
        @wraps(verb)
        def packing(*arguments: Any, **values: Any) -> Any:
            taken = {
                field.name: values.pop(field.name)
                for field in fields(record)
                if field.name in values
            }
            return verb(*arguments, **{argument: record(**taken)}, **values)

        for option in reversed(options):
            packing = option(packing)  # type: ignore[assignment, type-var]
        return packing  # type: ignore[return-value]

    return decorate


_dims = click.option(
    "--dim", "dims", multiple=True, type=DimType(), help="Fix a free dim, or narrow it."
)
_shapes = click.option(
    "--shape", "shapes", multiple=True, type=ShapeType(), help="Give an input's shape."
)
_target = click.option(
    "--target", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"])
)
_cpu = click.option(
    "--cpu",
    default="host",
    show_default=True,
    metavar="LEVEL,LEVEL",
    help="host, or levels (see targets).",
)
_threads = click.option(
    "--threads", type=click.IntRange(1, 1024), help="Threads of the pool (default: all cores)."
)
_precision = click.option("--precision", default="f32", show_default=True,
                          type=click.Choice(["f32", "3xtf32", "tf32", "bf16"]),
                          help="Of products; all but f32 need --target cuda.")  # fmt: skip
_accuracy = click.option(
    "--accuracy", default="default", show_default=True, help="strict, default or fast."
)
_strategy = click.option(
    "--conv-strategy", default="auto", show_default=True, help="auto, a strategy, or NODE=STRATEGY."
)

_tune = click.option(
    "--tune",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Measure strategies whose estimates are close, for at most so long.",
)
_tuned = click.option(
    "--tuned",
    type=FileType(),
    metavar="TIMES.json",
    help="Take times that a device measured (--target cuda; see docs/gpu.md).",
)

binding_options: Callable[[Verb], Verb] = _packed(Binding, "binding", _dims, _shapes)
build_options: Callable[[Verb], Verb] = _packed(
    Build, "build", _target, _cpu, _threads, _precision, _accuracy, _strategy, _tune, _tuned
)
timed_options: Callable[[Verb], Verb] = _packed(Build, "build", _accuracy)
profile_options: Callable[[Verb], Verb] = _packed(Build, "build", _accuracy, _strategy)
in_process_options: Callable[[Verb], Verb] = _packed(Build, "build", _threads, _accuracy, _strategy)
