"""LLVM text -> optimised machine code for a CPU level. It imports LLVM alone, so that worker processes start at once.

The object depends on the text, the level and LLVM's version only.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import llvmlite
import llvmlite.binding as llvm

TRIPLE = "x86_64-unknown-linux-gnu"


def object_of_text(text: str, cpu: str, features: str) -> bytes:
    """A relocatable object; ``cpu`` and ``features`` are LLVM's names of a level and of what it has beyond that."""
    machine = _target_machine(cpu, features)
    return bytes(machine.emit_object(_optimised(text, machine)))


def assembly_of_text(text: str, cpu: str, features: str) -> str:
    """The same code in the assembler's language."""
    machine = _target_machine(cpu, features)
    return str(machine.emit_assembly(_optimised(text, machine)))


@cache
def llvm_version() -> str:
    """The versions of LLVM and of its binding."""
    return f"llvmlite {llvmlite.__version__}, LLVM {'.'.join(map(str, llvm.llvm_version_info))}"


def _optimised(text: str, machine: Any) -> Any:
    parsed = llvm.parse_assembly(text)
    parsed.verify()
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_vectorization = tuning.slp_vectorization = tuning.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(parsed, builder)
    return parsed


@cache
def _target_machine(cpu: str, features: str) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_triple(TRIPLE).create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small"
    )
