"""The environment variables that netloom reads. Nothing else reads any.

``NETLOOM_THREADS``: the most threads that a session uses by default. ``NETLOOM_DATA``: the folder
with data sets. ``NETLOOM_CACHE``: the folder of compiled kernels, or ``off``; else it is
``netloom`` in ``XDG_CACHE_HOME`` (``~/.cache``). ``NETLOOM_WORKERS``: the most processes that
compile kernels; 1 compiles in the calling process. ``NETLOOM_CPU`` is read by programs themselves,
when they are opened (compiler/targets/cpu/host_model.py): which of several CPU levels to use.
``NO_COLOR``: not empty for plain text. ``PATH``, ``HOME``, ``TMPDIR`` go to called tools.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .errors import UsageError


def most_threads() -> int | None:
    """NETLOOM_THREADS, or None; UsageError unless it is a positive whole number."""
    return _positive("NETLOOM_THREADS")


def most_workers() -> int | None:
    """NETLOOM_WORKERS, or None; UsageError unless it is a positive whole number."""
    return _positive("NETLOOM_WORKERS")


def _positive(name: str) -> int | None:
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise UsageError(f"{name} must be a positive whole number, but is {text[:40]!r}.")
    return int(text)


def cache_folder() -> Path | None:
    """Where compiled kernels are kept; None if NETLOOM_CACHE is ``off``, or if there is no home
    to keep them in.
    """
    own = os.environ.get("NETLOOM_CACHE", "")
    if own:
        return None if own == "off" else Path(own).absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(shared):  # relative ones are to be ignored (XDG Base Directory Specification)
        return Path(shared, "netloom")
    home = os.path.expanduser("~")
    return Path(home, ".cache", "netloom") if os.path.isabs(home) else None


def data_folder() -> str | None:
    """NETLOOM_DATA, or None."""
    return os.environ.get("NETLOOM_DATA") or None


def wants_color() -> bool:
    """Whether NO_COLOR (no-color.org) is absent or empty."""
    return not os.environ.get("NO_COLOR")


def tool_environment() -> dict[str, str]:
    """What a called tool may know: where tools and its own caches lie. Variables that steer
    linkers stay out.
    """
    return {"LC_ALL": "C"} | {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ
    }


def worker_environment() -> dict[str, str]:
    """What a process that compiles kernels may know: as a tool, and where this process finds its
    modules.
    """
    return {
        **tool_environment(),
        "PYTHONPATH": os.pathsep.join(os.path.abspath(folder) for folder in sys.path),
    }
