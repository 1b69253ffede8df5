"""Program -> its host code as two objects: every function of netloom/abi.py's table, written in the
structured layer of host.py, and the tables that these read.

The code runs on any machine of its architecture (features are checked when a program is opened),
uses libc and pthread only, keeps no thread-local or static state, and exports ``nl_get_api`` alone.
Text of the model occurs as data only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from functools import cache
from itertools import chain

import llvmlite.binding as llvm
from llvmlite import ir

from netloom import abi
from netloom.errors import VerificationError

from ...program import Program
from .architecture import Architecture
from .host import I32, PTR, Function
from .host_checks import Checks
from .host_context import Contexts
from .host_data import write_data
from .host_features import emit_missing_feature
from .host_model import Models
from .host_module import HostModule
from .host_pool import Pool
from .host_run import Runner
from .host_shape import HostShape
from .host_state import States
from .host_types import DATA_BASE, DATA_SYMBOL, LIBRARY, llvm_type
from .object_code import target_of
from .segments import WEIGHTS_SYMBOL, Weights
from .variant import Variant


@cache
def compile_functions(shape: HostShape) -> bytes:
    """The host code's functions as an ELF object."""
    host = HostModule(shape)
    _write_api(host, _write_functions(host))
    return _object_of(host.module, {DATA_SYMBOL, DATA_BASE}, shape.architecture)


def compile_data(
    variants: Sequence[Variant], weights: Weights, metadata: Sequence[str], image: bool
) -> bytes:
    """The program's tables as an ELF object; arguments and errors are those of
    ``build_host_objects`` (host_object.py).
    """
    for variant in variants:
        check_names(variant.program)
    module = write_data(variants, weights, metadata, image)
    programs = [variant.program for variant in variants]
    shared = {launch.kernel for p in programs for entry in p.entries for launch in entry.launches}
    shared |= {DATA_SYMBOL} | ({WEIGHTS_SYMBOL} & module.globals.keys())
    return _object_of(module, shared, variants[0].architecture)


def _write_functions(host: HostModule) -> dict[str, Function]:
    """All functions of the table, in its order. The method ``api_NAME`` of a part writes the function
    NAME.
    """
    missing_features = []
    for level, (_, features) in enumerate(host.shape.levels):
        texts = {name: host.text(name) for name in features}
        missing_features.append(emit_missing_feature(host.module, level, features, texts))
    threads = Pool(host.module, host.library, host.shape.architecture)
    runner = Runner(host, Checks(host), threads)
    writers: dict[str, object] = {}
    for part in (
        Models(host, missing_features),
        Contexts(host, runner, threads),
        runner,
        States(host),
    ):
        writers |= {
            name.removeprefix("api_"): getattr(part, name)
            for name in dir(part)
            if name.startswith("api_")
        }
    return {
        signature.name: _write_function(host, signature, writers[signature.name])
        for signature in abi.FUNCTIONS
    }


def _write_function(host: HostModule, signature: abi.Signature, write: object) -> Function:
    assert callable(write)
    arguments = {argument.name: llvm_type(argument.type) for argument in signature.arguments}
    code = Function(host.module, f"api_{signature.name}", llvm_type(signature.result), arguments)
    write(code)
    return code


def _write_api(host: HostModule, functions: dict[str, Function]) -> None:
    head = [ir.Constant(I32, abi.ABI_VERSION), ir.Constant(I32, 8 + 8 * len(abi.FUNCTIONS))]
    host.api.initializer = ir.Constant(
        host.api_type, head + [code.function for code in functions.values()]
    )
    code = Function(host.module, abi.ENTRY_POINT, PTR, {"version": I32}, exported=True)
    address = code.select(
        code["version"].equals(abi.ABI_VERSION), code.address_of(host.api), 0, PTR
    )
    code.return_(address)


def check_names(program: Program) -> None:
    """VerificationError for an unknown entry, or a kernel whose name is no identifier or that of
    another function.
    """
    if unknown := {entry.name for entry in program.entries} - {"run", "train_step"}:
        raise VerificationError(f"The C interface has no entry {', '.join(sorted(unknown))}.")
    taken = {*LIBRARY, abi.ENTRY_POINT, WEIGHTS_SYMBOL, DATA_SYMBOL, DATA_BASE}
    for name in {launch.kernel for entry in program.entries for launch in entry.launches}:
        if name in taken or re.fullmatch(r"[A-Za-z_][A-Za-z_0-9]*", name) is None:
            raise VerificationError(f"A kernel cannot be named {name[:100]!r}.")


def _object_of(module: ir.Module, shared: Set[str], architecture: Architecture) -> bytes:
    """The module compiled; ``shared``: the symbols that other objects of the program define or read.

    No passes run before instructions are chosen. They save 10 ns of a call, take twice as long as all else here,
    and seconds on the tables of thousands of sizes.
    """
    llvm.initialize_native_asmparser()
    parsed = llvm.parse_assembly(str(module))
    for value in chain(parsed.functions, parsed.global_variables):
        if value.name in shared:
            value.visibility = "hidden"
    parsed.verify()
    machine = target_of(architecture.triple).create_target_machine(
        cpu=architecture.baseline, opt=2, reloc="pic", codemodel="small"
    )
    return bytes(machine.emit_object(parsed))
