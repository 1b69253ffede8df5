"""A program's code for one CPU level. The variants of one program go into one file, which picks one
when it is opened.

They share ports, free dims, states and constants (layouts do not depend on the level); kernels and
launches are each one's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netloom.errors import VerificationError

from ...program import Program
from .architecture import X86_64, Architecture


@dataclass(frozen=True)
class Variant:
    """``objects`` define the program's kernels; ``features`` (LLVM's names) are what they use
    beyond the baseline.
    """

    program: Program
    objects: Sequence[bytes]
    features: Sequence[str] = ()
    level: str = ""
    architecture: Architecture = X86_64


def check_variants(variants: Sequence[Variant]) -> None:
    """VerificationError unless the variants can be one file."""
    first = variants[0]
    kernels: set[str] = set()
    for variant in variants:
        if _shared(variant) != _shared(first):
            raise VerificationError(
                f"The program's code for {variant.level} does not fit that for {first.level}."
            )
        own = {launch.kernel for entry in variant.program.entries for launch in entry.launches}
        if own & kernels:
            raise VerificationError(
                f"Two levels have a kernel of one name: {min(own & kernels)[:100]!r}."
            )
        kernels |= own


def _shared(variant: Variant) -> object:
    program = variant.program
    ports = [(entry.name, entry.inputs, entry.outputs, entry.bounds) for entry in program.entries]
    return (
        variant.architecture,
        program.name,
        program.symbols,
        ports,
        program.states,
        program.constants,
    )
