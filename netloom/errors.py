"""Every error that netloom raises on purpose: one class per kind of fault, one exit code per class.

An error says in whole sentences what is wrong, which node or port it concerns, and (``hint``) what
the user can do about it. The command line prints ``str(error)`` and exits with ``error.exit_code``.
"""

from __future__ import annotations

from collections.abc import Iterable


class NetloomError(Exception):
    """The root of all errors; ``exit_code`` is what the command line returns for it."""

    exit_code = 5

    def __init__(self, message: str, *, node: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.node = node
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.node}: " if self.node else ""
        end = "" if self.message.endswith((".", "!", "?")) else "."
        advice = f"{end} {self.hint}" if self.hint else ""
        return f"{where}{self.message}{advice}"


class UsageError(NetloomError):
    """The caller asked for something that does not exist or cannot be combined."""

    exit_code = 2


class ModelError(NetloomError):
    """The model is not a valid model: malformed file, undefined name, impossible attribute."""

    exit_code = 3


class UnsupportedOpError(ModelError):
    """The model is valid, but holds ops (or attribute values) that netloom does not know."""


class ShapeError(ModelError):
    """Shapes or dtypes do not fit together, in a model or in a call."""


class MemoryBudgetError(ModelError):
    """A tensor or an arena would be larger than the budget."""


class VerificationError(NetloomError):
    """An IR broke one of its own rules: a defect in netloom, not in the model."""


class ToolchainError(NetloomError):
    """Something that netloom needs on this machine is missing."""

    exit_code = 4


class LinkError(ToolchainError):
    """No linker was found, or the linker failed."""


class CpuFeatureError(ToolchainError):
    """The program needs a CPU feature that this machine lacks."""


class DeviceError(ToolchainError):
    """The device that the program was compiled for is not there, or does not do what it is asked."""


class DeviceMemoryError(DeviceError):
    """The device has no room for what is asked of it now."""


class ProgramError(NetloomError):
    """A program, checkpoint or cache entry is damaged, foreign, or of another version."""


class ModelWarning(UserWarning):
    """A model was imported, but not quite as it says: it gives a wrong shape, or holds no tensors."""


class InputError(NetloomError):
    """A run-time input does not fit the program: name, count, dtype, rank or shape."""


class ComparisonError(NetloomError):
    """Two results that should agree do not."""

    exit_code = 1


def quoted(names: Iterable[str], most: int | None = None) -> str:
    """Names for a message, the first ``most`` of them; "none" if there are none."""
    every = list(names)
    shown = ", ".join(f'"{name}"' for name in every[:most]) or "none"
    more = len(every) - len(every[:most])
    return f"{shown} and {more} more" if more else shown
