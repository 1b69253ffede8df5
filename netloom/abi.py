"""The C interface of a program, as one table of data: error codes, structs, and the functions of
the API table.

From it are generated the LLVM types of the host code, the ctypes binding of the runtime, and
``netloom.h``. A program exports one symbol, ``nl_get_api(version)``, which returns the table, or
NULL if it does not know the version. The first word of every handle (model, context, state) is the
address of that table.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

ABI_VERSION: Final = 1
ENTRY_POINT: Final = "nl_get_api"
ERROR_CAPACITY: Final = 1024  # bytes of error text that a context keeps
MAX_RANK: Final = 16  # of a tensor at the border
TRAILER_MAGIC: Final = (
    # the last 64 bytes of a .so: magic, version, 0 (u32), file size (u64), sha256 of the rest, 0
    b"netloom\n"
)
TRAILER_FORMAT: Final = "<8sIIQ32s8x"
TRAILER_SIZE: Final = struct.calcsize(TRAILER_FORMAT)
# numbers of the architectures, by the names that Linux gives them
ELF_MACHINES: Final = {"x86_64": 62, "aarch64": 183}


def trailer(size: int, digest: bytes) -> bytes:
    """The last bytes of a program whose contents are ``size`` bytes of this SHA-256."""
    row = (TRAILER_MAGIC, ABI_VERSION, 0, size + TRAILER_SIZE, digest)
    return struct.pack(TRAILER_FORMAT, *row)


@dataclass(frozen=True)
class Code:
    """An error code."""

    name: str
    value: int
    doc: str


@dataclass(frozen=True)
class Member:
    """A field of a struct or an argument of a function; ``type`` is its C spelling."""

    type: str
    name: str
    doc: str = ""


@dataclass(frozen=True)
class Record:
    """A C struct."""

    name: str
    doc: str
    fields: tuple[Member, ...]


@dataclass(frozen=True)
class Signature:
    """A function (of the table), or a function type (of a hook)."""

    name: str
    result: str
    arguments: tuple[Member, ...]
    doc: str


CODES: Final = (
    Code("NL_OK", 0, "Success."),
    Code(
        "NL_ERROR_ARGUMENT",
        1,
        "An argument of the call itself is wrong: null handle, unknown name, options of an unknown size.",
    ),
    Code(
        "NL_ERROR_INPUT",
        2,
        "A tensor does not fit the program: count, dtype, rank, shape, layout, alignment or a null pointer.",
    ),
    Code("NL_ERROR_MEMORY", 3, "Memory could not be had, or the caller's arena is too small."),
    Code("NL_ERROR_CPU", 4, "The machine lacks a feature that the program needs."),
    Code(
        "NL_ERROR_INDEX", 5, "A run-time index was out of range; the outputs hold nothing of use."
    ),
    Code("NL_ERROR_BUSY", 6, "The context is in use by another thread."),
    Code(
        "NL_ERROR_UNSUPPORTED",
        7,
        "The program was not built for this call (for example train_step of an inference build).",
    ),
)
CODE: Final = {code.name: code.value for code in CODES}

DEVICE: Final = Record(
    "DLDevice",
    "Where a tensor lives.",
    (Member("int32_t", "device_type", "1: CPU memory."), Member("int32_t", "device_id")),
)
DATA_TYPE: Final = Record(
    "DLDataType",
    "The element type.",
    (
        Member("uint8_t", "code", "0 int, 1 unsigned, 2 float, 4 bfloat, 6 bool."),
        Member("uint8_t", "bits"),
        Member("uint16_t", "lanes", "Always 1."),
    ),
)
TENSOR: Final = Record(
    "DLTensor",
    "A tensor, as DLPack defines it.",
    (
        Member("void *", "data"),
        Member("DLDevice", "device"),
        Member("int32_t", "ndim"),
        Member("DLDataType", "dtype"),
        Member("int64_t *", "shape"),
        Member(
            "int64_t *",
            "strides",
            "In elements; NULL: compact, row-major. Anything else is refused.",
        ),
        Member("uint64_t", "byte_offset"),
    ),
)
DLPACK_RECORDS: Final = (DEVICE, DATA_TYPE, TENSOR)

HOOKS: Final = (
    Signature(
        "nl_body",
        "void",
        (Member("void *", "argument"), Member("int64_t", "index")),
        "One share of a parallel loop.",
    ),
    Signature(
        "nl_parallel_for",
        "void",
        (
            Member("void *", "user"),
            Member("nl_body", "body"),
            Member("void *", "argument"),
            Member("int64_t", "count"),
        ),
        "Calls body(argument, index) for every 0 <= index < count, in any order, and returns when all are done.",
    ),
    Signature(
        "nl_alloc",
        "void *",
        (Member("void *", "user"), Member("size_t", "bytes")),
        "Returns memory aligned to 64 bytes, or NULL.",
    ),
    Signature(
        "nl_free",
        "void",
        (Member("void *", "user"), Member("void *", "memory")),
        "Gives back what nl_alloc returned.",
    ),
    Signature(
        "nl_log",
        "void",
        (Member("void *", "user"), Member("const char *", "text")),
        "Receives each error text.",
    ),
)

OPTIONS: Final = Record(
    "nl_options",
    "Options of a context. Fill it with zeros, then set size = sizeof(nl_options) and what you need.",
    (
        Member("uint32_t", "size", "sizeof(nl_options): later versions only append."),
        Member(
            "int32_t",
            "threads",
            "Number of threads, the caller's included; 0: as many as the process may run on.",
        ),
        Member(
            "void *",
            "arena",
            "Memory for intermediate results, aligned to 64 bytes; NULL: the context allocates it.",
        ),
        Member("uint64_t", "arena_bytes"),
        Member("void *", "user", "Handed to the hooks."),
        Member(
            "nl_parallel_for", "parallel_for", "Replaces the context's own threads; may be NULL."
        ),
        Member("nl_alloc", "alloc", "Allocates the arena; may be NULL, then free is too."),
        Member("nl_free", "free"),
        Member("nl_log", "log", "May be NULL."),
    ),
)

HANDLES: Final = {
    "nl_model": "Code and read-only weights; shared by all contexts and threads.",
    "nl_context": "Intermediate memory and threads; one per concurrent caller.",
    "nl_state": "Parameters, optimizer state, generator key and step count (training builds).",
}

_MODEL = Member("nl_model *", "model")
_CONTEXT = Member("nl_context *", "context")
_STATE = Member("nl_state *", "state")
_ERROR = (
    Member("char *", "error", "Receives the text of an error; may be NULL."),
    Member("uint64_t", "capacity"),
)
_TENSORS = (
    Member("const DLTensor *", "inputs"),
    Member("int32_t", "input_count"),
    Member("DLTensor *", "outputs"),
    Member("int32_t", "output_count"),
)

FUNCTIONS: Final = (
    Signature(
        "open",
        "int32_t",
        (Member("nl_model **", "model"), *_ERROR),
        "Opens the program: checks the CPU and prepares the weights.",
    ),
    Signature(
        "close", "void", (_MODEL,), "Closes the program; its contexts and states must be gone."
    ),
    Signature(
        "metadata_json",
        "const char *",
        (_MODEL,),
        "The manifest: inputs, outputs, dims, states, features, options, as JSON.",
    ),
    Signature(
        "arena_bytes",
        "int64_t",
        (_MODEL, Member("const int64_t *", "dims"), Member("int32_t", "dim_count")),
        "The arena that any entry needs, given the free dims in the manifest's order; -1 if they are out of range.",
    ),
    Signature(
        "context_create",
        "int32_t",
        (
            _MODEL,
            Member("const nl_options *", "options", "May be NULL."),
            Member("nl_context **", "context"),
            *_ERROR,
        ),
        "Makes a context and starts its threads.",
    ),
    Signature(
        "context_destroy", "void", (_CONTEXT,), "Ends the context's threads and frees its memory."
    ),
    Signature(
        "set_arena",
        "int32_t",
        (_CONTEXT, Member("void *", "arena"), Member("uint64_t", "bytes")),
        "Uses the caller's memory (aligned to 64 bytes) for intermediate results; NULL: the context's own again.",
    ),
    Signature(
        "last_error",
        "const char *",
        (_CONTEXT,),
        "What was wrong with the last failed call, in whole sentences.",
    ),
    Signature(
        "output_shapes",
        "int32_t",
        (_CONTEXT, Member("int32_t", "entry", "Position in the manifest's entries."), *_TENSORS),
        "Writes rank, dtype and shape (room for 16 extents each) of the outputs of such inputs; data is not read. "
        "An extent that data decide is given as the most that it can be.",
    ),
    Signature(
        "run",
        "int32_t",
        (_CONTEXT, *_TENSORS),
        "Computes the outputs from the inputs. Where data decide an output's extents, its shape "
        "says before the call what there is room for (see output_shapes), and after it what there "
        "is: its elements lie one after another.",
    ),
    Signature(
        "state_create",
        "int32_t",
        (_MODEL, Member("nl_state **", "state"), *_ERROR),
        "Makes a state with the initial parameters.",
    ),
    Signature(
        "state_copy",
        "int32_t",
        (_STATE, Member("nl_state **", "copy"), *_ERROR),
        "Makes a copy of a state.",
    ),
    Signature("state_destroy", "void", (_STATE,), "Frees a state."),
    Signature(
        "parameter_count",
        "int32_t",
        (_MODEL,),
        "The number of tensors in a state; 0 for inference builds.",
    ),
    Signature(
        "parameter_name",
        "const char *",
        (_MODEL, Member("int32_t", "index")),
        "The name of tensor number index, or NULL.",
    ),
    Signature(
        "parameter",
        "int32_t",
        (_STATE, Member("int32_t", "index"), Member("DLTensor *", "view")),
        "A view of tensor number index, which may be read and written while no call uses the state.",
    ),
    Signature(
        "parameter_by_name",
        "int32_t",
        (_STATE, Member("const char *", "name"), Member("DLTensor *", "view")),
        "A view of the tensor of that name.",
    ),
    Signature("step", "int64_t", (_STATE,), "How many training steps the state has behind it."),
    Signature(
        "set_step",
        "void",
        (_STATE, Member("int64_t", "step")),
        "Sets that number, as after reading a checkpoint.",
    ),
    Signature(
        "train_step",
        "int32_t",
        (_CONTEXT, _STATE, *_TENSORS),
        "One training step: updates the state, computes the outputs.",
    ),
    Signature(
        "evaluate",
        "int32_t",
        (_CONTEXT, _STATE, *_TENSORS),
        "Computes the outputs with the state's parameters.",
    ),
)

DLPACK_CODES: Final = {  # name of a dtype: (code, bits)
    "int8": (0, 8),
    "int16": (0, 16),
    "int32": (0, 32),
    "int64": (0, 64),
    "uint8": (1, 8),
    "uint16": (1, 16),
    "uint32": (1, 32),
    "uint64": (1, 64),
    "float16": (2, 16),
    "float32": (2, 32),
    "float64": (2, 64),
    "bfloat16": (4, 16),
    "bool": (6, 8),
}
