"""The environment variables that netloom reads. Nothing else reads any.

``NETLOOM_THREADS``: the most threads that a session uses by default. ``NETLOOM_DATA``: the folder with data sets.
``NO_COLOR``: not empty for plain text. ``PATH``, ``HOME``, ``TMPDIR`` go to called tools.
"""

from __future__ import annotations

import os

from .errors import UsageError


def most_threads() -> int | None:
    """NETLOOM_THREADS, or None; UsageError unless it is a positive whole number."""
    text = os.environ.get("NETLOOM_THREADS", "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(f"NETLOOM_THREADS must be a positive whole number, but is {text[:40]!r}.")
    return int(text)


def data_folder() -> str | None:
    """NETLOOM_DATA, or None."""
    return os.environ.get("NETLOOM_DATA") or None


def wants_color() -> bool:
    """Whether NO_COLOR (no-color.org) is absent or empty."""
    return not os.environ.get("NO_COLOR")


def tool_environment() -> dict[str, str]:
    """What a called tool may know: where tools and its own caches lie. Variables that steer linkers stay out."""
    return {"LC_ALL": "C"} | {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
