"""``netloom cache show | clear``: the kernels and programs that are kept for the next compile."""

from __future__ import annotations

import time

import click

from .options import printing
from .output import Output, columns


@click.command()
@click.argument("action", type=click.Choice(["show", "clear"]))
@printing
def cache(output: Output, action: str) -> None:
    """Show how many compiled kernels and programs are kept for the next compile, and where; or
    clear them away.
    """
    if action == "show":
        _show(output)
    else:
        _clear(output)


def _show(output: Output) -> None:
    from netloom.compiler.cache import LIMIT, default_cache

    from . import kept_programs

    store = default_cache()
    entries, programs = store.entries(), kept_programs.programs_of(store).entries()
    size, program_size = (sum(entry.size for entry in some) for some in (entries, programs))
    data = {
        "folder": None if store.folder is None else str(store.folder),
        "usable": store.is_usable,
        "entries": len(entries),
        "bytes": size,
        "limit": LIMIT,
        "programs": len(programs),
        "program_bytes": program_size,
        "program_limit": kept_programs.LIMIT,
        "oldest": entries[0].used if entries else None,
    }
    rows = [
        ["folder", "none: NETLOOM_CACHE is off" if store.folder is None else str(store.folder)],
        ["entries", str(len(entries))],
        ["size", f"{size / 1e6:.1f} MB of at most {LIMIT / 1e6:.0f} MB"],
        [
            "programs",
            f"{len(programs)}, {program_size / 1e6:.1f} MB of at most {kept_programs.LIMIT / 1e6:.0f} MB",
        ],
        [
            "last used",
            f"between {_day(entries[0].used)} and {_day(entries[-1].used)}" if entries else "never",
        ],
    ]
    if store.folder is not None and not store.is_usable:
        rows.append(
            ["state", "not used: the folder belongs to another user, or others may write to it"]
        )
    output.result(data, columns(rows))


def _clear(output: Output) -> None:
    from netloom.compiler.cache import default_cache

    from .kept_programs import programs_of

    store = default_cache()
    removed = [*store.clear(), *programs_of(store).clear()]
    size = sum(entry.size for entry in removed)
    output.result(
        {"entries": len(removed), "bytes": size},
        f"{len(removed)} entries removed, {size / 1e6:.1f} MB",
    )


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
