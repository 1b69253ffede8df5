"""Files that verbs write: looked at before the work, and put in place whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from netloom.errors import UsageError

from .output import displayable


def check_target(path: Path) -> None:
    """UsageError unless a file can be put at the path."""
    name = displayable(str(path))
    if "\0" in str(path):
        raise UsageError(
            f"{name!r} cannot be written: no name of a file holds NUL.", hint="Choose another path."
        )
    if name == "-":
        raise UsageError(
            "files are not written to standard output.",
            hint="Leave -o out: a single form in text goes there.",
        )
    try:
        mode = path.stat().st_mode if path.exists() else stat.S_IFREG
        has_folder = path.parent.is_dir()
    except OSError as error:
        raise UsageError(
            f"{name!r} cannot be written: {error.strerror}.", hint="Choose another path."
        ) from error
    if not has_folder:
        raise UsageError(
            f"{name!r} cannot be written: its folder does not exist.", hint="Make the folder first."
        )
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise UsageError(f"{name!r} cannot be written: it is {kind}.", hint="Choose another path.")
    if len(os.fsencode(path.name)) > os.pathconf(path.parent, "PC_NAME_MAX"):
        raise UsageError(
            f"{name!r} cannot be written: its name is too long.", hint="Choose another path."
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(
            f"{name!r} cannot be written: its folder is read-only.", hint="Choose another path."
        )


def replace_file(path: Path, data: bytes) -> None:
    """Put the data at the path: whole or not at all."""
    from netloom.compiler.targets.cpu import whole_files

    whole_files.replace_file(path, data)
