"""Names that come from a model: shown in messages and kept as labels, never as code.

``printable`` makes any text safe to show; ``identifier`` makes a symbol's name out of it.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Final

LONGEST: Final = 80


def printable(name: str) -> str:
    """The name on one line, control characters escaped, at most ``LONGEST`` characters."""
    shown = (
        name
        if name.isprintable()
        else "".join(
            c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
            for c in name
        )
    )
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 3]}..."


def identifier(name: str, taken: Container[str] = ()) -> str:
    """A name of the form [A-Za-z_][A-Za-z0-9_]* like the given one, other than those taken."""
    kept = re.sub(r"[^A-Za-z0-9_]", "_", name)[:LONGEST] or "dim"
    start = kept if not kept[0].isdigit() else f"d{kept}"
    result, count = start, 1
    while result in taken:
        count += 1
        result = f"{start}_{count}"
    return result
