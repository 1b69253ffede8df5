"""LLVM text -> optimised machine code for a CPU level. It imports LLVM alone, so that worker
processes start at once.

The object depends on the text, the level and LLVM's version only.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import llvmlite.binding as llvm


def object_of_text(text: str, cpu: str, features: str) -> bytes:
    """A relocatable object for the text's triple (without one, this machine's); ``cpu`` and
    ``features`` are LLVM's names of a level and of what it has beyond that."""
    module = _parsed(text)
    machine = _target_machine(module.triple, cpu, features)
    _optimise(module, machine)
    return bytes(machine.emit_object(module))


def assembly_of_text(text: str, cpu: str, features: str) -> str:
    """The same code in the assembler's language."""
    module = _parsed(text)
    machine = _target_machine(module.triple, cpu, features)
    _optimise(module, machine)
    return str(machine.emit_assembly(module))


def target_of(triple: str) -> Any:
    """LLVM's code generator for a triple; the others are set up only if the triple is not this
    machine's.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    if not triple.startswith(llvm.get_process_triple().partition("-")[0]):
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    return llvm.Target.from_triple(triple)


def _parsed(text: str) -> Any:
    module = llvm.parse_assembly(text)
    module.triple = module.triple or llvm.get_process_triple()
    module.verify()
    return module


def _optimise(module: Any, machine: Any) -> None:
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_vectorization = tuning.slp_vectorization = tuning.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)


@cache
def _target_machine(triple: str, cpu: str, features: str) -> Any:
    return target_of(triple).create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small"
    )
