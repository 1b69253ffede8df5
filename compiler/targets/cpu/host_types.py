"""The structs of the host code and the library functions that it calls; the public ones come
from netloom/abi.py.
"""

from __future__ import annotations

from llvmlite import ir

from netloom import abi

from .host import I8, I16, I32, I64, PTR, VOID, Function, Record, Struct, Word
from .host_pool import LIBRARY as POOL_LIBRARY
from .host_pool import POOL

DATA_SYMBOL = "nl_host_data"  # a program's tables
DATA_BASE = "nl_host_data_base"  # a variable with their address
UNBOUND = -(1 << 63)  # a symbol without a value
TEXT_BYTES = 512  # of a described tensor

_SCALARS = {"char": I8, "uint8_t": I8, "uint16_t": I16, "int32_t": I32, "uint32_t": I32,
            "int64_t": I64, "uint64_t": I64, "size_t": I64, "void": VOID}  # fmt: skip
_HOOKS = {hook.name: hook for hook in abi.HOOKS}
_RECORDS = {record.name: record for record in (*abi.DLPACK_RECORDS, abi.OPTIONS)}


def llvm_type(spelling: str) -> ir.Type | Struct:
    """The LLVM type of a C spelling of abi.py."""
    if spelling.endswith("*"):
        return PTR
    if spelling in _HOOKS:
        return function_type(_HOOKS[spelling]).as_pointer()
    if spelling in _RECORDS:
        return Struct({field.name: llvm_type(field.type) for field in _RECORDS[spelling].fields})
    return _SCALARS[spelling]


def function_type(signature: abi.Signature) -> ir.FunctionType:
    return ir.FunctionType(
        llvm_type(signature.result), [llvm_type(argument.type) for argument in signature.arguments]
    )


def _struct(record: abi.Record) -> Struct:
    struct = llvm_type(record.name)
    assert isinstance(struct, Struct)
    return struct


def hook_type(name: str) -> ir.Type:
    return function_type(_HOOKS[name]).as_pointer()


TENSOR, OPTIONS = _struct(abi.TENSOR), _struct(abi.OPTIONS)
# the last two: of the level in use
MODEL = Struct({"api": PTR, "constants": PTR, "memory": PTR, "entries": PTR, "metadata": PTR})
STATE = Struct({"api": PTR, "model": PTR, "step": I64, "memory": PTR})
# what a context keeps of an entry from call to call. pool: the entry's words (entry_plan.py), no pool of
# threads; words: those of all launches; symbols: what they stood for in the last call; sizes: bytes
# of the caller's tensors; prepared: 1 if the pool has the sizes for these symbols, 2: addresses too
RUN = Struct({"pool": PTR, "words": PTR, "symbols": PTR, "sizes": PTR, "prepared": I64})


def context_type(entries: int) -> Struct:
    """A context of a program with that many entries."""
    return Struct({
        "api": PTR, "model": PTR, "busy": I64, "error_flag": I64, "user": PTR, "log": hook_type("nl_log"),
        "alloc": hook_type("nl_alloc"), "free": hook_type("nl_free"), "arena": PTR, "arena_bytes": I64, "owned": I64,
        "block": PTR, "runs": ir.ArrayType(RUN.type, max(1, entries)), "pool": POOL,
        "error": ir.ArrayType(I8, abi.ERROR_CAPACITY),
    })  # fmt: skip


LIBRARY = {
    **POOL_LIBRARY,
    "calloc": ir.FunctionType(PTR, [I64, I64]),
    "free": ir.FunctionType(VOID, [PTR]),
    "getenv": ir.FunctionType(PTR, [PTR]),
    "posix_memalign": ir.FunctionType(I32, [PTR, I64, I64]),
    "madvise": ir.FunctionType(I32, [PTR, I64, I32]),
    "mmap": ir.FunctionType(PTR, [PTR, I64, I32, I32, I32, I64]),
    "mprotect": ir.FunctionType(I32, [PTR, I64, I32]),
    "munmap": ir.FunctionType(I32, [PTR, I64]),
    "memcpy": ir.FunctionType(PTR, [PTR, PTR, I64]),
    "strcmp": ir.FunctionType(I32, [PTR, PTR]),
    "snprintf": ir.FunctionType(I32, [PTR, I64, PTR], var_arg=True),
}


def size_of(code: Function, struct: Struct) -> Word:
    """sizeof(struct)."""
    return code.null().record(struct, 1).word.to(I64)


def dtype_of(tensor: Record) -> Word:
    """The DLDataType as one number."""
    return tensor.address("dtype").array(I32)[0]
