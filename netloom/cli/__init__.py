"""The command line: ``netloom VERB``. Every fault is one message on standard error and an exit code
(output.py).

One file per verb or small group of them. Verbs import the compiler, the frontends and the runtime
when they run, so that ``netloom --help`` answers at once.
"""

from __future__ import annotations

import atexit
import errno
import gc
import traceback
import warnings
from typing import Any

import click

from netloom.errors import ModelWarning, NetloomError

from .bench import bench
from .cache import cache
from .check import check
from .compare import compare
from .compile import compile_
from .describe import inspect
from .doctor import doctor
from .explain import explain
from .export import export
from .lists import ops, passes, strategies, targets
from .machine import machine
from .output import EXIT_CODES, RUN_TIME, STOPPED, Output
from .profiling import profile
from .run import run
from .train import train

# objects after which cyclic garbage is looked for: most of what a command makes lives to its end
COLLECTED = 100_000


class _Verbs(click.Group):
    """A group that turns every fault into one message and an exit code."""

    def invoke(self, context: click.Context) -> Any:
        output = context.ensure_object(Output)
        try:
            with warnings.catch_warnings(action="always", category=ModelWarning):
                warnings.showwarning = lambda message, *_: output.warn(str(message))
                return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except NetloomError as error:
            output.fault(error, error.exit_code)
            code = error.exit_code
        except KeyboardInterrupt as error:
            output.fault(error, STOPPED, "stopped.")
            code = STOPPED
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            output.fault(error, RUN_TIME, _text_of(error))
            code = RUN_TIME
        raise SystemExit(code)


def _text_of(error: Exception) -> str:
    """What to say about an exception that is not netloom's own."""
    match error:
        case MemoryError():
            return f"there is not enough memory. {error}".rstrip()
        case OSError():
            return f"{error.filename or 'a file'}: {error.strerror or error}."
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (f"a defect in netloom: {type(error).__name__}: {error} ({place.name}, line "
            f"{place.lineno}). "
            "Run again with -v and report what it prints.")  # fmt: skip


def _show_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    """A checkout that is not installed runs too; only an installed package has a number."""
    if not value:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("netloom")
    except PackageNotFoundError:
        number = "of a checkout that is not installed"
    click.echo(f"netloom, version {number}")
    context.exit()


_EPILOG = (
    "Exit codes: " + ", ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."
)


@click.group(cls=_Verbs, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
    help="Show the version and exit.",
)  # fmt: skip
def main() -> None:
    """Compile neural networks to native code."""
    gc.set_threshold(COLLECTED)
    atexit.register(gc.freeze)  # a last search for garbage would free what the process's end frees


for _verb in (bench, cache, check, compare, compile_, doctor, explain, export, inspect, machine,
              ops, passes, profile, run,
              strategies, targets, train):  # fmt: skip
    main.add_command(_verb)

__all__ = ["main"]
